"""How full rows are: real tokens over all tokens, one sequence a row and packed, for every kind of examples.

    python bench/fill.py --data DIR [--lengths 128 512]

DIR is made by `bertjax prepare`. The first epoch's plan is counted; nothing is timed.
"""

import argparse
from pathlib import Path

import numpy as np

from bertjax.data.packing import pack
from bertjax.data.shards import read_shard
from bertjax.objectives.mlm import PLANNERS


def main() -> None:
    """Prints a line for each length and kind."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    arguments = parser.parse_args()
    shards = [read_shard(path) for path in sorted(Path(arguments.data).glob("train-*.array_record"))]
    for length in arguments.lengths:
        for name, planner in PLANNERS.items():
            tokens = sequences = rows = 0
            for number, shard in enumerate(shards):
                sizes = planner(shard, length=length, rng=np.random.default_rng(number)).sizes
                tokens += int(sizes.sum())
                sequences += len(sizes)
                rows += len(pack(sizes, length=length, rng=np.random.default_rng(number)).bounds) - 1
            fill = f"padded {tokens / sequences / length:.3f}  packed {tokens / rows / length:.3f}"
            print(f"{length:>4} {name:<15} {fill}  {sequences / rows:.1f} sequences a row")


if __name__ == "__main__":
    main()
