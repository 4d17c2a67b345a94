import os
import subprocess
import sys

import pytest

FAULTS = """
from bertjax.heap import keep_freed
keep_freed()
import resource, threading
import numpy as np

def work():
    np.ones(25_000_000)  # 190 MiB, as the temporary arrays of a step

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

faults()
print(faults())
"""


def faults(**environment):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    kept = {**kept, "JAX_PLATFORMS": "cpu", "NUMPY_MADVISE_HUGEPAGE": "0", **environment}
    return int(subprocess.check_output([sys.executable, "-c", FAULTS], env=kept, text=True))


def test_a_step_takes_the_memory_of_the_one_before():
    assert faults() < 1_000


@pytest.mark.parametrize("chosen", [{"MALLOC_TOP_PAD_": "0"}, {"GLIBC_TUNABLES": ""}, {"JAX_PLATFORMS": "tpu"}])
def test_what_a_user_chose_and_other_devices_are_left_alone(chosen):
    assert faults(**chosen) > 10_000  # pages of 4 KiB


SEARCHES = """
import gc
from bertjax.heap import SELDOM, collect_seldom
collect_seldom()
before = gc.get_stats()[0]["collections"]
kept = [[] for _ in range(SELDOM // 2)]
print(gc.get_stats()[0]["collections"] - before)
kept += [[] for _ in range(SELDOM)]
print(gc.get_stats()[0]["collections"] - before)
"""


def test_objects_that_stay_are_searched_seldom():
    few, more = map(int, subprocess.check_output([sys.executable, "-c", SEARCHES], text=True).split())
    assert few <= 1 and 1 <= more <= 2
