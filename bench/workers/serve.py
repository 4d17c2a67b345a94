"""How a worker of `bench/peers.py` talks: one JSON line when its first step is done, then one for each number it reads.

Needs the standard library alone, so that every peer can use it in an environment of its own.
"""

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

Spec = dict[str, Any]
SIZES = {  # of transformers' BertConfig, by our names
    "vocab_size": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "mlp_width": "intermediate_size",
}


def their_sizes(spec: Spec) -> dict[str, int]:
    """What BertConfig is made with."""
    return {theirs: spec["model"][ours] for ours, theirs in SIZES.items()}


def serve(make: Callable[[Spec], Callable[[], Any]]) -> None:
    """`make(spec)` gives a function that does one whole step and waits for it; lines on stdin say how many to time."""
    spec = json.loads(sys.argv[1])
    os.sched_setaffinity(0, set(spec["cores"]))
    step = make(spec)
    step()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)  # that have compiled
    _say(wall=time.time() - spec["began"], cpu=time.process_time() + children.ru_utime + children.ru_stime)
    for line in sys.stdin:
        count = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(count):
            step()
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        _say(cpu=cpu / count, wall=wall / count)


def _say(**figures: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**figures, "peak_mib": peak}), flush=True)
