"""Fine-tuning beside transformers + torch: the same weights, rows, order, seeds and recipe; scores, time and memory.

    python bench/finetune.py --model HF_DIR --data TASKS --peer PYTHON [--tasks mrpc cola ...] [--rows 2000]
        [--lr 2e-4] [--seeds 0 1 2] [--out bench/results]

HF_DIR is a BERT encoder in Hugging Face's format; TASKS holds the published files in glue/, squad/, conll2003/ and
semeval2010_task8/; PYTHON is one of an environment of its own with torch and transformers. Both sides are given the
batches that `bertjax finetune` makes (with length buckets) and the same first values of the head, and so differ in
their numerics and their dropout. Ours keeps freed memory, as the command line does, which torch does not. They run in
turn (A B A B ...), each in a process of its own. Scored are `dev` rows after the last epoch. Seconds are those of an
epoch in which every shape has been seen before (ours: is compiled); `padded` is torch on the rows of the first seed all
padded to the length of the recipe, as its run_glue.py and run_qa.py do. The table goes to OUT/finetune.md, all figures
to OUT/finetune.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import results

WEIGHT_DECAY, WARMUP, CLIP, DROPOUT, BATCH = 0.01, 0.1, 1.0, 0.1, 32
PADDED_STEPS = 5  # that are timed of an epoch of padded rows


class Recipe(NamedTuple):
    """How much of a task, and how; 0 `dev` rows are all of them."""

    folder: str
    rows: int
    epochs: int
    length: int
    buckets: tuple[int, ...]
    dev: int = 0


RECIPES = {
    "mrpc": Recipe("glue", 640, 3, 128, (32, 48, 64, 96)),
    "cola": Recipe("glue", 1_280, 4, 128, (8, 16, 24, 48)),
    "rte": Recipe("glue", 480, 2, 256, (64, 96, 128)),
    "stsb": Recipe("glue", 800, 4, 128, (24, 32, 48, 64)),
    "squad": Recipe("squad", 320, 2, 384, (128, 192, 256), dev=200),
    "conll2003": Recipe("conll2003", 1_280, 2, 128, (16, 32, 64)),
    "semeval2010": Recipe("semeval2010_task8", 1_280, 4, 128, (24, 32, 48, 64)),
}
SIDES = ("bertjax", "torch", "padded")


def main() -> None:
    """Runs every task and seed on both sides; the table grows by a task at a time."""
    arguments = _arguments()
    if arguments.worker:
        print(json.dumps(WORKERS[arguments.worker](arguments)))
        return
    os.environ |= {
        "TRANSFORMERS_VERBOSITY": "error",
        "JAX_COMPILATION_CACHE_DIR": f"{tempfile.gettempdir()}/bertjax-bench",
    }
    versions = {"bertjax": results.versions(sys.executable), "torch": results.versions(arguments.peer)}
    tasks: dict[str, dict[str, list[dict[str, float]]]] = {}
    for task in arguments.tasks:
        found = {side: [] for side in SIDES}
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                given = [*sys.argv, "--task", task, "--seed", str(seed), "--folder", folder]
                _worker([sys.executable, *given, "--worker", "write"])
                for side in SIDES if seed == arguments.seeds[0] else SIDES[:2]:
                    python = sys.executable if side == "bertjax" else arguments.peer
                    run = _worker([python, *given, "--worker", side])
                    if side != "padded":
                        run["score"] = _worker([sys.executable, *given, "--worker", "score", "--side", side])
                    found[side].append(run)
        tasks[task] = found
        results.write(arguments.out, "finetune", lines(tasks), {"tasks": tasks}, versions)


def _worker(command: list[str]) -> Any:  # noqa: ANN401 (any JSON value)
    return json.loads(subprocess.check_output(command).splitlines()[-1])


def lines(tasks: dict[str, dict[str, list[dict[str, float]]]]) -> list[str]:
    """For each task and side: median and range of the scores, medians of seconds and memory."""
    rows = []
    for task, found in tasks.items():
        for side, runs in found.items():
            wall, cpu, mib = (statistics.median(run[key] for run in runs) for key in ("wall", "cpu", "mib"))
            scores = [run["score"] for run in runs if "score" in run]
            spread = results.spread(scores, 4) if scores else ""
            rows.append((task, side, spread, f"{wall:.1f}", f"{cpu:.1f}", f"{mib:,.0f}"))
    return results.table(("task", "side", "score, median (range)", "s an epoch", "CPU-s an epoch", "peak MiB"), rows)


def _arguments() -> argparse.Namespace:
    parser = results.parser(__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--tasks", nargs="+", default=list(RECIPES), choices=list(RECIPES))
    parser.add_argument("--rows", type=int, default=2_000, help="at most so many of a task are trained on")
    parser.add_argument("--lr", type=float, default=2e-4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name in ("--worker", "--task", "--folder", "--side"):
        parser.add_argument(name, help=results.HIDDEN)
    parser.add_argument("--seed", type=int, help=results.HIDDEN)
    return parser.parse_args()


def prepared(arguments: argparse.Namespace) -> tuple[Any, Any, list[Any], list[Any]]:
    """The task, the tokenizer of the model, rows to train on and dev rows."""
    from bertjax import scoring, tasks
    from bertjax.saved import open_run

    recipe, task = RECIPES[arguments.task], tasks.find(arguments.task)
    data = f"{arguments.data}/{recipe.folder}"
    rows, _ = scoring.trainable(task, task.read(data, "train"))
    train = scoring.draw(rows, min(recipe.rows, arguments.rows, len(rows)), arguments.seed)
    return task, open_run(arguments.model).tokenizer, train, scoring.draw(task.read(data, "dev"), recipe.dev, 0)


def write(arguments: argparse.Namespace) -> None:
    """The batches of `bertjax finetune`, in order, the same rows padded, and those of the dev set."""
    from bertjax import scoring
    from bertjax.config import Finetune
    from bertjax.data.examples import ExampleSource
    from bertjax.data.sources import Position
    from bertjax.saved import open_run

    recipe = RECIPES[arguments.task]
    task, tokenizer, rows, dev = prepared(arguments)
    settings = {"batch_size": BATCH, "length": recipe.length, "seed": arguments.seed}
    train = scoring.training_batches(task, rows, tokenizer, Finetune(buckets=recipe.buckets, **settings))
    padded = scoring.training_batches(task, rows, tokenizer, Finetune(**settings))
    shape = {"batch_size": BATCH, "length": recipe.length, "pad": tokenizer.pad_id, "buckets": recipe.buckets}
    scored = ExampleSource(task.encode(dev, tokenizer, recipe.length), **shape, shuffle=False, drop_last=False)
    np.save(f"{arguments.folder}/order.npy", scored.order(0))
    outputs = 2 if task.head == "span" else max(1, len(task.labels))
    width = open_run(arguments.model).model.width
    np.save(f"{arguments.folder}/head.npy", np.random.default_rng(arguments.seed).normal(0, 0.02, (width, outputs)))
    for name, source, epochs in (("train", train, recipe.epochs), ("padded", padded, 1), ("dev", scored, 1)):
        places = [Position(epoch, 0, batch) for epoch in range(epochs) for batch in range(source.batches(0, 0))]
        for number, place in enumerate(places):
            np.savez(f"{arguments.folder}/{name}-{number:05d}.npz", **source.batch(place))


def score(arguments: argparse.Namespace) -> float:
    """The task's first metric, from the logits a side has written."""
    task, tokenizer, _, rows = prepared(arguments)
    examples = task.encode(rows, tokenizer, RECIPES[arguments.task].length)
    files = sorted(Path(arguments.folder).glob(f"{arguments.side}-*.npy"))
    made = (row for file in files for row in np.load(file))
    outputs = dict(zip(np.load(f"{arguments.folder}/order.npy").tolist(), made, strict=False))
    predictions = task.decode([outputs[i] for i in range(len(examples))], examples, rows, {})
    return task.score(predictions, rows)[task.metrics[0]]


def read(arguments: argparse.Namespace, name: str) -> list[dict[str, np.ndarray]]:
    """The batches of `write`."""
    return [dict(np.load(file)) for file in sorted(Path(arguments.folder).glob(f"{name}-*.npz"))]


class Clock:
    """Wall and CPU seconds of the steps whose shape has been seen before, as those of an epoch."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.spent: list[tuple[int, float, float]] = []

    def step(self, length: int, work: Any) -> None:  # noqa: ANN401 (a callable)
        """Runs one step of rows of `length` tokens."""
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        if length in self.seen:
            self.spent.append((length, time.perf_counter() - wall, time.process_time() - cpu))
        self.seen.add(length)

    def epoch(self, lengths: list[int], epochs: int) -> dict[str, float]:
        """The mean step of each length, as often as it comes in an epoch; and the peak of memory."""
        totals = {"wall": 0.0, "cpu": 0.0}
        for length in self.seen:
            steps = [spent[1:] for spent in self.spent if spent[0] == length] or [(0.0, 0.0)]
            for key, values in zip(totals, zip(*steps, strict=True), strict=True):
                totals[key] += statistics.mean(values) * lengths.count(length) / epochs
        return {**totals, "mib": results.peak_mib()}


def train_ours(arguments: argparse.Namespace) -> dict[str, float]:
    """As `bertjax finetune` does."""
    from bertjax.heap import collect_seldom, keep_freed

    keep_freed()
    collect_seldom()
    import jax
    from training import Training

    from bertjax import tasks
    from bertjax.objectives import supervised
    from bertjax.saved import open_run
    from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
    from bertjax.train.optim import Optimizer

    saved, mesh, batches = open_run(arguments.model), make_mesh(MeshConfig(data=1)), read(arguments, "train")
    task = tasks.find(arguments.task)
    dropout = 0.0 if task.head == "span" else DROPOUT  # as in BertForQuestionAnswering
    objective = supervised.Config(len(task.labels), dropout, task.head).build(saved.model)
    recipe = Optimizer("adamw", arguments.lr, WARMUP, weight_decay=WEIGHT_DECAY, clip_norm=CLIP)
    training = Training(objective, mesh, recipe=recipe, steps=len(batches), seed=arguments.seed)
    params = training.state.params
    params.update(saved.encoder_params(objective, mesh))
    head = params[task.head]
    head["kernel"] = jax.device_put(np.load(f"{arguments.folder}/head.npy").astype(np.float32), head["kernel"].sharding)
    clock = Clock()
    for batch in batches:
        clock.step(batch["tokens"].shape[1], lambda batch=batch: training.step(put_batch(batch, mesh)))
    figures = clock.epoch([batch["tokens"].shape[1] for batch in batches], RECIPES[arguments.task].epochs)
    logits = jax.jit(lambda params, batch: objective.apply({"params": params}, batch, method="logits"))
    for number, batch in enumerate(read(arguments, "dev")):
        np.save(f"{arguments.folder}/bertjax-{number:05d}.npy", logits(training.state.params, put_batch(batch, mesh)))
    return figures


def train_theirs(arguments: argparse.Namespace) -> dict[str, float]:
    """A BertFor... with torch's AdamW and the schedule of ours; on `padded` rows it is not scored."""
    import torch
    import transformers

    torch.manual_seed(arguments.seed)
    padded = arguments.worker == "padded"
    batches = read(arguments, "padded" if padded else "train")
    kind, answers = next((k, a) for a, k in PEERS.items() if a in batches[0])
    regression, head = batches[0][answers].dtype == np.float32, np.load(f"{arguments.folder}/head.npy")
    model = getattr(transformers, kind).from_pretrained(
        arguments.model, num_labels=head.shape[1], classifier_dropout=DROPOUT
    )
    layer = model.qa_outputs if answers == "spans" else model.classifier
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(head.T.copy()))
    plain = [p for name, p in model.named_parameters() if "LayerNorm" in name or name.endswith("bias")]
    decayed = [p for name, p in model.named_parameters() if not ("LayerNorm" in name or name.endswith("bias"))]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, eps=1e-6, fused=True)
    warmup, total = round(WARMUP * len(batches)), len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / max(1, warmup) if step < warmup else 1 - step / total
    )

    def apply(batch: dict[str, np.ndarray]) -> Any:  # noqa: ANN401 (a tensor)
        given = {"input_ids": "tokens", "token_type_ids": "types", "attention_mask": "sequence"}
        out = model(**{name: torch.from_numpy(batch[ours]).long() for name, ours in given.items()})
        return out.logits if "logits" in out else torch.stack([out.start_logits, out.end_logits], dim=-1)

    def work(batch: dict[str, np.ndarray]) -> None:
        logits, right = apply(batch), torch.from_numpy(batch[answers])
        if regression:
            loss = (logits[:, 0] - right).square().mean()
        else:
            classes_at = logits if logits.ndim == 2 else logits.transpose(1, 2)
            by_end = answers == "spans"  # [B,2,L] has its classes last
            classes_at = classes_at.flatten(0, 1) if by_end else classes_at
            right = right.flatten() if by_end else right
            loss = torch.nn.functional.cross_entropy(classes_at, right.long(), ignore_index=-1)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    model.train()
    clock = Clock()
    for batch in batches[:PADDED_STEPS] if padded else batches:
        clock.step(batch["tokens"].shape[1], lambda batch=batch: work(batch))
    epochs = 1 if padded else RECIPES[arguments.task].epochs
    figures = clock.epoch([batch["tokens"].shape[1] for batch in batches], epochs)
    model.eval()
    with torch.no_grad():
        for number, batch in enumerate([] if padded else read(arguments, "dev")):
            np.save(f"{arguments.folder}/torch-{number:05d}.npy", apply(batch).numpy())
    return figures


PEERS = {
    "labels": "BertForSequenceClassification",
    "spans": "BertForQuestionAnswering",
    "tags": "BertForTokenClassification",
}
WORKERS = {"write": write, "score": score, "bertjax": train_ours, "torch": train_theirs, "padded": train_theirs}

if __name__ == "__main__":
    main()
