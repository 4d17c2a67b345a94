"""Fine-tuning beside transformers + torch: the same weights, rows, order, seeds and recipe; scores, time and memory.

    python bench/finetune.py --model HF_DIR --data GLUE --peer PYTHON
        [--tasks mrpc cola rte stsb] [--rows 1000] [--epochs 2] [--length 96] [--lr 5e-5] [--seeds 0 1 2]

HF_DIR is a BERT encoder in Hugging Face's format, GLUE the folder of the published files, PYTHON one of an environment
of its own with torch and transformers. Both sides are given the batches that `bertjax finetune` makes, and so differ in
their numerics, their dropout and the first values of the classifier. They run in turn (A B A B ...), each in a process
of its own: seconds of an epoch after the first step (ours: after compiling), peak memory of the process. The metric is
that of the task on its whole dev set after the last epoch.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

SIDES = ("bertjax", "torch")
WEIGHT_DECAY, WARMUP, CLIP, DROPOUT, BATCH = 0.01, 0.1, 1.0, 0.1, 16


def main() -> None:
    """Runs every task and seed on both sides and prints a line for each task and side."""
    arguments = _arguments()
    if arguments.worker:
        work = {"write": write, "bertjax": train_ours, "torch": train_theirs}[arguments.worker]
        print(json.dumps(work(arguments)))
        return
    for task in arguments.tasks:
        found: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
        for seed in arguments.seeds:
            with tempfile.TemporaryDirectory() as folder:
                about = [*sys.argv, "--task", task, "--seed", str(seed), "--folder", folder]
                subprocess.run([sys.executable, *about, "--worker", "write"], check=True, stdout=subprocess.DEVNULL)
                for side in SIDES:
                    python = sys.executable if side == "bertjax" else arguments.peer
                    run = json.loads(subprocess.check_output([python, *about, "--worker", side]).splitlines()[-1])
                    run["score"] = score(arguments, task, np.load(f"{folder}/{side}.npy"))
                    found[side].append(run)
        report(task, found)


def report(task: str, found: dict[str, list[dict[str, float]]]) -> None:
    """A line for each side: median and range of the scores, medians of seconds and memory."""
    for side, runs in found.items():
        scores = sorted(run["score"] for run in runs)
        seconds, mib = (statistics.median(run[key] for run in runs) for key in ("seconds", "mib"))
        spread = f"{statistics.median(scores):.4f} ({scores[0]:.4f} to {scores[-1]:.4f})"
        print(f"{task:<6} {side:<8} {spread}  {seconds:.1f} s an epoch  peak {mib:,.0f} MiB", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--peer", required=True)
    parser.add_argument("--tasks", nargs="+", default=["mrpc", "cola", "rte", "stsb"])
    parser.add_argument("--rows", type=int, default=1_000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--length", type=int, default=96)
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    for name in ("--worker", "--task", "--folder"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def score(arguments: argparse.Namespace, name: str, logits: np.ndarray) -> float:
    """The task's first metric on its dev set."""
    from bertjax import tasks

    task = tasks.find(name)
    rows = task.read(arguments.data, "dev")
    predictions = task.decode(list(logits[: len(rows)]), [{}] * len(rows), rows, {})
    return task.score(predictions, rows)[task.metrics[0]]


def write(arguments: argparse.Namespace) -> None:
    """The batches of `bertjax finetune`, in order, and those of the dev set."""
    from bertjax import scoring, tasks
    from bertjax.config import Finetune
    from bertjax.data.examples import ExampleSource
    from bertjax.data.sources import Position
    from bertjax.saved import open_run

    task, tokenizer = tasks.find(arguments.task), open_run(arguments.model).tokenizer
    config = Finetune(task=arguments.task, batch_size=BATCH, length=arguments.length, seed=arguments.seed)
    rows = scoring.draw(task.read(arguments.data, "train"), arguments.rows, arguments.seed)
    train = scoring.training_batches(task, rows, tokenizer, config)
    examples = task.encode(task.read(arguments.data, "dev"), tokenizer, arguments.length)
    shape = {"batch_size": BATCH, "length": arguments.length, "pad": tokenizer.pad_id}
    dev = ExampleSource(examples, **shape, shuffle=False, drop_last=False)
    for name, source, epochs in (("train", train, arguments.epochs), ("dev", dev, 1)):
        places = [Position(epoch, 0, batch) for epoch in range(epochs) for batch in range(source.batches(0, 0))]
        for number, place in enumerate(places):
            np.savez(f"{arguments.folder}/{name}-{number:05d}.npz", **source.batch(place))


def read(arguments: argparse.Namespace, name: str) -> list[dict[str, np.ndarray]]:
    """The batches of `write`."""
    return [dict(np.load(file)) for file in sorted(Path(arguments.folder).glob(f"{name}-*.npz"))]


def train_ours(arguments: argparse.Namespace) -> dict[str, float]:
    """As `bertjax finetune` does."""
    import jax

    from bertjax import tasks
    from bertjax.objectives import supervised
    from bertjax.saved import open_run
    from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
    from bertjax.train.optim import Optimizer
    from bertjax.train.step import init_state, make_train_step

    saved, mesh, batches = open_run(arguments.model), make_mesh(MeshConfig(data=1)), read(arguments, "train")
    objective = supervised.Config(len(tasks.find(arguments.task).labels), DROPOUT).build(saved.model)
    recipe = Optimizer("adamw", arguments.lr, WARMUP, weight_decay=WEIGHT_DECAY, clip_norm=CLIP)
    optimizer = recipe.build(len(batches))
    state = init_state(objective, optimizer, seed=arguments.seed, mesh=mesh)
    state.params.update(saved.encoder_params(objective, mesh))
    step = make_train_step(objective, optimizer, mesh, micro_batches=1)
    for number, batch in enumerate(batches):
        state, metrics = step(state, put_batch(batch, mesh))
        if number == 0:
            jax.block_until_ready(metrics)
            began = time.perf_counter()
    jax.block_until_ready(metrics)
    seconds = time.perf_counter() - began
    logits = jax.jit(lambda params, batch: objective.apply({"params": params}, batch, method="logits"))
    dev = [np.asarray(logits(state.params, put_batch(batch, mesh))) for batch in read(arguments, "dev")]
    np.save(f"{arguments.folder}/bertjax.npy", np.concatenate(dev))
    return {"seconds": seconds * len(batches) / (len(batches) - 1) / arguments.epochs, "mib": peak()}


def train_theirs(arguments: argparse.Namespace) -> dict[str, float]:
    """BertForSequenceClassification with torch's AdamW and the schedule of ours."""
    import torch
    from transformers import BertForSequenceClassification

    torch.manual_seed(arguments.seed)
    batches = read(arguments, "train")
    regression = batches[0]["labels"].dtype == np.float32
    classes = 1 if regression else int(max(batch["labels"].max() for batch in batches)) + 1
    model = BertForSequenceClassification.from_pretrained(
        arguments.model, num_labels=classes, classifier_dropout=DROPOUT, attn_implementation="sdpa"
    )
    plain = [p for name, p in model.named_parameters() if "LayerNorm" in name or name.endswith("bias")]
    decayed = [p for name, p in model.named_parameters() if not ("LayerNorm" in name or name.endswith("bias"))]
    groups = [{"params": decayed, "weight_decay": WEIGHT_DECAY}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.lr, eps=1e-6)
    warmup, total = round(WARMUP * len(batches)), len(batches)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: step / max(1, warmup) if step < warmup else 1 - step / total
    )

    def apply(batch: dict[str, np.ndarray]) -> torch.Tensor:
        inputs = {
            "input_ids": batch["tokens"],
            "token_type_ids": batch["types"],
            "attention_mask": batch["sequence"] > 0,
        }
        return model(**{name: torch.from_numpy(array).long() for name, array in inputs.items()}).logits

    model.train()
    for number, batch in enumerate(batches):
        logits, labels = apply(batch), torch.from_numpy(batch["labels"])
        loss = (
            (logits[:, 0] - labels).square().mean()
            if regression
            else torch.nn.functional.cross_entropy(logits, labels.long())
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if number == 0:
            began = time.perf_counter()
    seconds = time.perf_counter() - began
    model.eval()
    with torch.no_grad():
        dev = [apply(batch).numpy() for batch in read(arguments, "dev")]
    np.save(f"{arguments.folder}/torch.npy", np.concatenate(dev))
    return {"seconds": seconds * len(batches) / (len(batches) - 1) / arguments.epochs, "mib": peak()}


def peak() -> float:
    """MiB of memory this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
