"""Length buckets against rows of one length: seconds of an epoch of fine-tuning and of scoring, A B A B.

    python bench/buckets.py --data GLUE --vocab VOCAB.txt [--task mrpc] [--preset mini] [--rows 640] [--buckets 32 64]

What is compiled is compiled before the clock starts. Needs only the task's published files and a vocabulary.
"""

import argparse
import time
from pathlib import Path
from statistics import median

import jax

from bertjax import tasks
from bertjax.data.examples import ExampleSource
from bertjax.data.sources import Position
from bertjax.data.tokenizer import Tokenizer
from bertjax.models.bert import PRESETS
from bertjax.objectives import supervised
from bertjax.train.mesh import MeshConfig, make_mesh, put_batch
from bertjax.train.optim import Optimizer
from bertjax.train.state import init_state
from bertjax.train.step import make_train_step


def main() -> None:
    """Prints the seconds of each run and the ratio of the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--task", default="mrpc")
    parser.add_argument("--preset", default="mini")
    parser.add_argument("--rows", type=int, default=640)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--buckets", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    task, tokenizer = tasks.find(arguments.task), Tokenizer.load(arguments.vocab)
    rows = task.read(str(arguments.data), "train")[: arguments.rows]
    examples = task.encode(rows, tokenizer, arguments.length)
    mesh = make_mesh(MeshConfig(data=1))
    objective = supervised.Config(len(task.labels), 0.1, task.head).build(PRESETS[arguments.preset])
    optimizer = Optimizer(kind="adamw").build(1000)
    state = init_state(objective, optimizer, seed=0, mesh=mesh)
    step = make_train_step(objective, optimizer, mesh)
    logits = jax.jit(lambda params, batch: objective.apply({"params": params}, batch, method="logits"))

    def epoch(buckets: list[int], *, train: bool) -> float:
        nonlocal state
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
                state, _ = step(state, batch)
            else:
                logits(state.params, batch).block_until_ready()
        jax.block_until_ready(state.params)
        return time.perf_counter() - began

    for train in (True, False):
        ways = {"fixed": [], "buckets": arguments.buckets}
        for buckets in ways.values():
            epoch(buckets, train=train)  # compiles
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.rounds):
            for name, buckets in ways.items():
                times[name].append(epoch(buckets, train=train))
        what = "training" if train else "scoring"
        for name, seconds in times.items():
            print(f"{what} {name:<8}", *(f"{second:.2f}" for second in seconds), "s")
        print(f"{what}: {median(times['fixed']) / median(times['buckets']):.2f} times as fast with buckets")


if __name__ == "__main__":
    main()
