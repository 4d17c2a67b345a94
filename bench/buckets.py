"""Length buckets against rows of one length: seconds of an epoch of fine-tuning and of scoring, A B A B.

    python bench/buckets.py --data GLUE --vocab VOCAB.txt [--task mrpc] [--preset mini] [--rows 640] [--buckets 32 64]
        [--out bench/results]

What is compiled is compiled before the clock starts. Needs only the task's published files and a vocabulary. The
table goes to OUT/buckets-TASK.md, all figures to OUT/buckets-TASK.json.
"""

import time
from pathlib import Path
from statistics import median

import jax
import results
from training import Training

from bertjax import tasks
from bertjax.data.examples import ExampleSource
from bertjax.data.sources import Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.heap import collect_seldom, keep_freed
from bertjax.models.bert import PRESETS
from bertjax.objectives import supervised
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch


def main() -> None:
    """Measures both ways in turn and writes the table."""
    parser = results.parser(__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--preset", choices=results.PRESETS, default="mini")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--buckets", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rounds", type=results.count, default=3)
    arguments = parser.parse_args()
    keep_freed()  # as the command line does
    collect_seldom()
    task, tokenizer = tasks.find(arguments.task), Tokenizer.load(arguments.vocab)
    rows = task.read(str(arguments.data), "train")[: arguments.rows]
    examples = task.encode(rows, tokenizer, arguments.length)
    mesh = make_mesh(MeshConfig(data=1))
    objective = supervised.Config(len(task.labels), 0.1, task.head).build(PRESETS[arguments.preset])
    training = Training(objective, mesh)
    logits = jax.jit(lambda params, batch: objective.apply({"params": params}, batch, method="logits"))

    def epoch(buckets: list[int], *, train: bool) -> float:
        source = ExampleSource(
            examples,
            batch_size=32 if train else 64,
            length=arguments.length,
            pad=tokenizer.pad_id,
            shuffle=train,
            drop_last=train,
            buckets=buckets,
        )
        began = time.perf_counter()
        for number in range(source.batches(0, 0)):
            batch = put_batch(source.batch(Position(0, 0, number)), mesh)
            if train:
                training.step(batch)
            else:
                logits(training.state.params, batch).block_until_ready()
        return time.perf_counter() - began

    ways = {"fixed": [], "buckets": arguments.buckets}
    times: dict[str, dict[str, list[float]]] = {}
    for train, what in ((True, "training"), (False, "scoring")):
        for buckets in ways.values():
            epoch(buckets, train=train)  # compiles
        times[what] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, buckets in ways.items():
                times[what][name].append(epoch(buckets, train=train))
    rows = []
    for what, found in times.items():
        spreads = (results.spread(found[name], 2) for name in ways)
        rows.append((what, *spreads, f"{median(found['fixed']) / median(found['buckets']):.2f}"))
    head = ("an epoch of", "s, one length", f"s, buckets {' '.join(map(str, arguments.buckets))}", "times as fast")
    about = f"{arguments.task}, BERT-{arguments.preset}, {len(examples)} examples of at most {arguments.length} tokens."
    results.write(
        arguments.out, f"buckets-{arguments.task}", [about, "", *results.table(head, rows)], {"seconds": times}
    )


if __name__ == "__main__":
    main()
