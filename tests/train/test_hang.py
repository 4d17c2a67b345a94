"""Where nothing moves, a process ends with all its stacks; where something does, or is compiled, it goes on."""

import subprocess
import sys

import pytest

PROGRAM = """
import sys, time
from pathlib import Path
from bertjax.train.hang import moved, watched
from bertjax.train.stop import REQUEST

def stuck():
    {what}

REQUEST.command, REQUEST.out = ["pretrain", "recipe.py"], sys.argv[1]
with watched({seconds}, Path(sys.argv[1]), 3):
    stuck()
time.sleep(1)
print("done")
"""
IN_COMPILER = "exec(compile('time.sleep(2)', '/x/jax/_src/compiler.py', 'exec'))"


def run(folder, what, seconds=0.5):
    program = PROGRAM.format(what=what, seconds=seconds)
    return subprocess.run([sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=60)


def test_the_stacks_of_all_threads_and_how_to_go_on(tmp_path):
    (tmp_path / "checkpoints/7").mkdir(parents=True)
    done = run(tmp_path, "time.sleep(60)")
    assert done.returncode == 75 and done.stdout == ""
    stacks = (tmp_path / "stacks-3.txt").read_text()
    assert " in stuck" in stacks and stacks.count("most recent call first") >= 2 and " in stuck" in done.stderr
    assert done.stderr.endswith(
        "bertjax pretrain: no step, batch of an evaluation or save for 0.5 seconds: it hangs; where every thread stood "
        f"is in {tmp_path}/stacks-3.txt; the last checkpoint is of step 7 in {tmp_path}: go on with\n"
        "  bertjax pretrain recipe.py\n"
    )


def test_a_folder_that_is_gone(tmp_path):
    done = run(tmp_path / "gone", "time.sleep(60)")
    assert (
        done.returncode == 75 and "stacks-3.txt cannot be written: see above; there is no checkpoint yet" in done.stderr
    )


@pytest.mark.parametrize(
    ("what", "seconds"),
    [("[(time.sleep(0.2), moved()) for _ in range(10)]", 1), ("time.sleep(2)", 0), (IN_COMPILER, 0.5)],
    ids=["it moves", "off", "it compiles"],
)
def test_what_is_no_hang(tmp_path, what, seconds):
    done = run(tmp_path, what, seconds)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    assert not list(tmp_path.iterdir())
