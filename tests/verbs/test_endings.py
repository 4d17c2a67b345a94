"""Asked to stop at any moment: saved or not, the process ends in time, says where it stands, and can go on."""

import os
import pty
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from processes import free_port
from test_resume import equal_runs
from zygote import Zygote

from bertjax import run
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.log import read_metrics

# STUCK holds the main thread in C, as a compilation does: no handler of Python's runs there.
STUCK = """
import ctypes
def stuck():
    lock = ctypes.create_string_buffer(64)
    for _ in range(2):
        ctypes.CDLL(None).pthread_mutex_lock(lock)
"""
# In each of these `late()` is called at a place, once, after HERE was touched.
STEP = """
from bertjax import session
make = session.make_train_step
def wrapped(*arguments, **options):
    step = make(*arguments, **options)
    def counted(state, batch):
        if int(state.step) == 7:
            here()
            late()
        return step(state, batch)
    return counted
session.make_train_step = wrapped
"""
EVALUATION = """
from bertjax import pretraining
mean = pretraining.mean_metrics
def wrapped(step, state, batches, mesh):
    def slow():
        for number, batch in enumerate(batches):
            if int(state.step) == 8 and number == 1:
                here()
                late()
            yield batch
    return mean(step, state, slow(), mesh)
pretraining.mean_metrics = wrapped
"""
SAVE = """
from bertjax.train.saver import Saver
save = Saver.save
def wrapped(self, state, **options):
    if int(state.step) == 10:
        here()
        late()
    save(self, state, **options)
Saver.save = wrapped
"""
# Orbax saves in the background: what is to stand must be whole first.
WAITS = """
import pathlib, sys, time
def here():
    while not (pathlib.Path(sys.argv[sys.argv.index("--out") + 1]) / "checkpoints" / "{}").exists():
        time.sleep(0.01)
    HERE.touch()
"""
FIFTH = WAITS.format(5)
SHORT, LONG = "late = lambda: time.sleep(0.5)\n", STUCK + "late = stuck\n"


@pytest.fixture(scope="module")
def zygote(tmp_path_factory):
    made = Zygote(tmp_path_factory.mktemp("zygote"))
    yield made
    made.close()


def pretrain(home, tiny, out, *more):
    return ["pretrain", home / "pretrain.py", "--data", *tiny.data, "--out", out, *more]


SLOW = pytest.mark.slow
STOPPED = {
    "evaluation": (FIFTH + EVALUATION + SHORT, 60, signal.SIGTERM, 8),
    "long evaluation": (FIFTH + EVALUATION + LONG, 1, signal.SIGINT, 5),
    "step": (FIFTH + STEP + SHORT, 60, signal.SIGINT, 8),
    "long step": (FIFTH + STEP + LONG, 1, signal.SIGTERM, 5),
    "save": (FIFTH + SAVE + SHORT, 60, signal.SIGTERM, 11),
    "long save": (WAITS.format(8) + SAVE + LONG, 1, signal.SIGTERM, 8),
}


@pytest.mark.parametrize("where", [pytest.param(name, marks=() if name == "evaluation" else SLOW) for name in STOPPED])
def test_stopped_anywhere_in_a_run(zygote, tiny, home, pretrained, tmp_path, where):
    before, grace, number, stands = STOPPED[where]
    out = tmp_path / "run"
    child = zygote.start(*pretrain(home, tiny, out, "--grace", grace), before=before)
    child.reached()
    child.send_signal(number)
    code, seconds = child.ended()
    assert code == 42 and seconds < (10 if "long" in where else 60), child.err
    assert Checkpoints(out).latest == stands
    if "long" in where:
        told = (
            f"{number.name}: stopped, as its step took longer than 1 seconds; the last checkpoint is of step {stands}"
        )
        assert f"{told} in {out}: go on with\n  bertjax pretrain " in child.err, child.err
    else:
        assert f"{number.name}: stopped after step {stands} and saved it; the same command goes on" in child.err
    run.pretrain(replace(tiny, out=str(out)))
    equal_runs(pretrained, out)


def test_stopped_before_there_is_anything_to_save(zygote, tiny, home, tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text((home / "pretrain.py").read_text() + f"\nopen({str(tmp_path / 'read')!r}, 'w')\nimport time\n")
    recipe.write_text(recipe.read_text() + "time.sleep(60)\n")
    child = zygote.start("pretrain", recipe, "--data", *tiny.data, "--out", tmp_path / "run")
    child.until((tmp_path / "read").exists)
    child.send_signal(signal.SIGTERM)
    code, seconds = child.ended()
    assert code == 42 and seconds < 10 and "SIGTERM: stopped; there is no checkpoint yet: go on with" in child.err


def test_a_second_ctrl_c_does_not_wait(zygote, tiny, home, tmp_path):
    child = zygote.start(*pretrain(home, tiny, tmp_path / "run", "--grace", 60), before=FIFTH + STEP + LONG)
    child.reached()
    child.send_signal(signal.SIGINT)
    child.send_signal(signal.SIGTERM)  # as schedulers do, to the process and to its group: it is one request
    with pytest.raises(AssertionError):
        child.until(lambda: False, seconds=1)
    assert child.code is None
    child.send_signal(signal.SIGINT)
    code, seconds = child.ended()
    assert code == 130 and seconds < 10 and child.err.endswith("bertjax pretrain: interrupted\n")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_to_all_processes_of_a_run_leaves_it_its_workers(zygote, tiny, home, pretrained, tmp_path, number):
    out = tmp_path / "run"
    child = zygote.start(*pretrain(home, tiny, out, "--workers", 1, "--grace", 60), before=FIFTH + STEP + SHORT)
    child.reached()
    os.killpg(child.pid, number)
    assert child.ended()[0] == 42 and "stopped after step 8 and saved it" in child.err, child.err


# The terminal of the process, which then says there all that it says.
TERMINAL = """
import fcntl, os, termios
terminal = os.open({!r}, os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
for number in range(3):
    os.dup2(terminal, number)
os.close(terminal)
"""


def test_a_run_whose_terminal_is_closed_is_saved(zygote, tiny, home, pretrained, tmp_path):
    """As when ssh is lost: what it would print then is an error of the terminal's."""
    ours, its = pty.openpty()
    out = tmp_path / "run"
    before = TERMINAL.format(os.ttyname(its)) + FIFTH + STEP + SHORT
    child = zygote.start(*pretrain(home, tiny, out, "--grace", 60), before=before)
    os.set_blocking(ours, False)
    said = bytearray()

    def read():
        with suppress(BlockingIOError):
            said.extend(os.read(ours, 4096))
        return Path(f"{child._err}.here").exists()

    child.until(read)
    os.close(its)
    os.close(ours)
    assert child.ended()[0] == 42 and Checkpoints(out).latest == 8, said.decode()
    run.pretrain(replace(tiny, out=str(out)))
    equal_runs(pretrained, out)


def test_a_preparation_ends_at_once_with_its_workers_and_goes_on(zygote, bertjax, home, tmp_path):
    options = ["--corpus", home / "corpus.txt", "--vocab-size", 120, "--shard-tokens", 50, "--workers", 1]
    out = tmp_path / "data"
    # The third shard is not followed by another one.
    before = """
import time
from bertjax.data.journal import Journal
add = Journal.add
def wrapped(self, entry):
    add(self, entry)
    if len(list(self.out.glob("train-*.array_record"))) > 2:
        HERE.touch()
        time.sleep(60)
Journal.add = wrapped
"""
    child = zygote.start("prepare", *options, "--out", out, before=before)
    child.reached()
    workers = children_of(child.pid)
    child.send_signal(signal.SIGTERM)
    code, seconds = child.ended()
    assert code == 42 and seconds < 10 and f"SIGTERM: stopped; whole shards in {out} are kept: go on" in child.err
    assert workers and not [pid for pid in workers if alive(str(pid))]
    outcome = bertjax("prepare", *options, "--out", out)
    assert outcome.code == 0 and "prepare: goes on from " in outcome.err
    assert bertjax("prepare", *options, "--out", tmp_path / "undisturbed").code == 0
    assert (out / "meta.json").read_bytes() == (tmp_path / "undisturbed/meta.json").read_bytes()


def alive(pid, seconds=5):
    """Whether a process is still there after so long."""
    end = time.monotonic() + seconds
    while (Path("/proc") / pid).exists() and time.monotonic() < end:
        time.sleep(0.05)
    return (Path("/proc") / pid).exists()


@pytest.mark.slow
def test_fine_tuning_names_the_checkpoint_that_stands(zygote, pretrained, home, tmp_path):
    command = ["--task", "sms_spam", "--from", pretrained, "--data", home, "--out", tmp_path / "run", "--grace", 1]
    child = zygote.start(
        "finetune", home / "finetune.py", *command, before=WAITS.format(8) + STEP.replace("== 7", "== 10") + LONG
    )
    child.reached()
    child.send_signal(signal.SIGTERM)
    code, seconds = child.ended()
    assert code == 42 and seconds < 10 and f"the last checkpoint is of step 8 in {tmp_path / 'run'}" in child.err


@pytest.mark.parametrize("long", [pytest.param(False, marks=pytest.mark.late), pytest.param(True, marks=SLOW)])
def test_several_processes_stop_after_the_same_step(zygote, tiny, home, tmp_path, long):
    out = tmp_path / "run"
    command = pretrain(home, tiny, out, "--mesh.data", -1, "--grace", 3 if long else 60)
    before = FIFTH + EVALUATION + (LONG if long else SHORT)
    children = zygote.several(2, *command, port=free_port(), before=before)
    children[1].reached()
    children[1].send_signal(signal.SIGTERM)
    ends = [child.ended() for child in children]
    said = [child.err for child in children]
    assert [code for code, _ in ends] == [42, 42] and sum(seconds for _, seconds in ends) < (10 if long else 60), said
    told = "the last checkpoint is of step 5" if long else "SIGTERM: stopped after step 8 and saved it"
    assert told in said[0] and "stopped" not in said[1] and Checkpoints(out).latest == (5 if long else 8), said
    if long:  # resumed after a save: test_several_hosts
        run.pretrain(replace(tiny, out=str(out)))
        assert [line["step"] for line in read_metrics(out) if line["split"] == "train"] == list(range(1, 17))


LOST = [pytest.param(2, 1, marks=pytest.mark.late), *(pytest.param(*more, marks=SLOW) for more in ((2, 0), (4, 3)))]


@pytest.mark.parametrize(("count", "killed"), LOST)
def test_where_a_process_is_lost_the_others_say_which_and_end(zygote, tiny, home, tmp_path, count, killed):
    out, heartbeat = tmp_path / "run", 4
    many = ["--mesh.data", -1, "--steps", 100_000, "--eval-every", 50_000, "--hosts.heartbeat", heartbeat]
    children = zygote.several(count, *pretrain(home, tiny, out, *many), port=free_port())
    children[0].until((out / "checkpoints/5").exists)
    began = time.monotonic()
    children[killed].send_signal(signal.SIGKILL)
    codes = [child.ended()[0] for child in children]
    seconds, said = time.monotonic() - began, [child.err for child in children]
    assert codes == [-signal.SIGKILL if number == killed else 42 for number in range(count)], said
    assert seconds < 2 * heartbeat, said
    first = said[0 if killed else 1]
    told = f"process {killed} of {count} is lost, and so this run ends; the last checkpoint is of step "
    assert told in first and f"{out}: go on with\n  bertjax pretrain " in first, first
    assert sum("is lost" in text for text in said) == 1, said


# Process 1 does not come to read a checkpoint with the other.
READS = """
import os, time
from bertjax.train.checkpoint import Checkpoints
restore = Checkpoints._restore
def wrapped(self, step, like):
    if os.environ["JAX_PROCESS_ID"] == "1":
        HERE.touch()
        time.sleep(60)
    return restore(self, step, like)
Checkpoints._restore = wrapped
"""


@SLOW
def test_where_a_process_is_lost_while_all_read_a_checkpoint_that_is_not_called_damaged(
    zygote, pretrained, home, tmp_path
):
    options = ["--task", "sms_spam", "--from", pretrained, "--data", home, "--out", tmp_path / "run"]
    many = ["--mesh.data", -1, "--hosts.heartbeat", 4]
    children = zygote.several(2, "finetune", home / "finetune.py", *options, *many, port=free_port(), before=READS)
    children[1].reached()
    time.sleep(3)  # the other waits for it
    children[1].send_signal(signal.SIGKILL)
    code, _ = children[0].ended()
    said = children[0].err
    assert code == 42 and "process 1 of 2 is lost, and so this run ends" in said, said
    assert "damaged" not in said and "Traceback" not in said, said


# One process alone lacks memory.
LACKS = """
import os, jax
def late():
    if os.environ["JAX_PROCESS_ID"] == "{}":
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Failed to allocate request for 1.2GiB")
"""


@pytest.mark.parametrize("number", [pytest.param(1, marks=pytest.mark.late), pytest.param(0, marks=SLOW)])
def test_all_end_with_the_code_of_one_that_ends_alone(zygote, tiny, home, tmp_path, number):
    """Or they would wait for it, and be started again in vain."""
    command = pretrain(home, tiny, tmp_path / "run", "--mesh.data", -1, "--hosts.heartbeat", 60)
    children = zygote.several(2, *command, port=free_port(), before=FIFTH + STEP + LACKS.format(number))
    children[number].reached()
    ends = [child.ended() for child in children]
    said = [child.err for child in children]
    assert [code for code, _ in ends] == [2, 2] and sum(seconds for _, seconds in ends) < 30, said
    assert f"(process {number} of 2): " in said[number] and "1.2GiB" in said[number], said
    told = f"process {number} of 2 has ended with exit code 2, and so this run ends; the last checkpoint is of step 5"
    assert told in said[1 - number] and not any("Traceback" in text for text in said), said


OF_THREE = "import os\nos.environ['JAX_NUM_PROCESSES'] = '23'[os.environ['JAX_PROCESS_ID'] == '1']\n"


@pytest.mark.late
def test_processes_that_were_told_of_different_counts(zygote, tiny, home, tmp_path):
    command = pretrain(home, tiny, tmp_path / "run", "--mesh.data", -1)
    children = zygote.several(2, *command, port=free_port(), before=OF_THREE)
    ends = [child.ended() for child in children]
    said = [child.err for child in children]
    assert [code for code, _ in ends] == [2, 2], said
    assert "(process 1 of 3): of 3 processes, process 0 of 2; give all the same --hosts.processes" in said[1]
    assert "process 1 of 2 has ended with exit code 2" in said[0] and not (tmp_path / "run").exists()


# Touches HERE when it is about to join the others, and never does.
LATE = """
import time
from bertjax.train import hosts
def join(config, **options):
    HERE.touch()
    time.sleep(60)
hosts.join = join
"""


@pytest.mark.parametrize("stopped", [2, pytest.param(0, marks=SLOW)])
def test_a_host_that_is_stopped_before_all_have_joined(zygote, tiny, home, tmp_path, stopped):
    """The others, of which each can reach process 0 or could, are to be started again with it."""
    command = pretrain(home, tiny, tmp_path / "run", "--mesh.data", -1, "--hosts.start-timeout", 8)
    before = {2: LATE, 0: "import threading\nthreading.Timer(4, HERE.touch).start()\n"}[stopped]
    cluster = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "3"}
    children = [  # without process 2 the others wait
        zygote.start(*command, before=before * (number == stopped), **cluster, JAX_PROCESS_ID=str(number))
        for number in range(max(2, stopped + 1))
    ]
    children[stopped].reached()
    children[stopped].send_signal(signal.SIGTERM)
    codes, said = [child.ended()[0] for child in children], [child.err for child in children]
    assert codes == [42] * len(children), said
    assert "SIGTERM: stopped; there is no checkpoint yet: go on with" in said[stopped]
    if stopped:
        assert "process 0: at most 2 of 3 processes have come in 8 seconds: the others were stopped" in said[0]
    assert "process 1: not all of 3 processes have come in 8 seconds: the others were stopped or never" in said[1]
    assert "--hosts.start-timeout=8" in said[1] and "go on with\n  bertjax pretrain " in said[1]


@SLOW
def test_a_data_pipe_that_stands_still_is_told_with_all_stacks(zygote, tiny, home, tmp_path):
    out = tmp_path / "run"
    many = ["--steps", 100_000, "--eval-every", 50_000, "--workers", 1, "--hang-timeout", 60]
    child = zygote.start(*pretrain(home, tiny, out, *many))
    child.until(lambda: "step 5/" in child.err)
    (worker,) = {pid for pid in children_of(child.pid) if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()}
    os.kill(worker, signal.SIGSTOP)
    code, seconds = child.ended()
    os.kill(worker, signal.SIGKILL)  # one that stands still cannot see that its parent has gone
    assert code == 75 and seconds < 70, child.err
    assert f"no step, batch of an evaluation or save for 60 seconds: it hangs; where every thread stood is in {out}/stacks-0.txt; the last" in child.err  # fmt: skip  # noqa: E501
    assert "go on with\n  bertjax pretrain " in child.err
    stacks = (out / "stacks-0.txt").read_text()
    assert "in __next__" in stacks and "loader.py" in stacks and "loop.py" in stacks and stacks.count("Thread 0x") > 1
    assert "loader.py" in child.err and "loop.py" in child.err


@SLOW
def test_a_beginning_that_stands_still_is_told_too(zygote, tiny, home, tmp_path):
    stands = STUCK + "from bertjax import session\nsession.init_state = lambda *_, **__: stuck()\n"
    child = zygote.start(*pretrain(home, tiny, tmp_path / "run", "--hang-timeout", 10), before=stands)
    code, _ = child.ended()
    assert code == 75 and "it hangs" in child.err and "in stuck" in (tmp_path / "run/stacks-0.txt").read_text()


def children_of(pid):
    threads = Path(f"/proc/{pid}/task").glob("*/children")  # any of which may have started it
    found = [int(child) for thread in threads for child in thread.read_text().split()]
    return found + [below for child in found for below in children_of(child)]


# The first program takes the compiler longer than a hang may last.
COMPILATION = """
import time
from jax._src import compiler
compile = compiler.backend_compile_and_load
def slowly(*arguments, **options):
    if not HERE.exists():
        HERE.touch()
        time.sleep(50)
    return compile(*arguments, **options)
compiler.backend_compile_and_load = slowly
import jax
jax.config.update("jax_enable_compilation_cache", False)
"""


@SLOW
def test_a_compilation_is_no_hang(zygote, tiny, home, tmp_path):
    child = zygote.start(*pretrain(home, tiny, tmp_path / "run", "--hang-timeout", 40), before=COMPILATION)
    assert child.ended(600)[0] == 0, child.err
    assert Path(f"{child._err}.here").exists()


@SLOW
def test_a_process_that_stands_still_is_told_by_the_others(zygote, tiny, home, tmp_path):
    out = tmp_path / "run"
    many = [
        "--mesh.data",
        -1,
        "--steps",
        100_000,
        "--eval-every",
        50_000,
        "--hang-timeout",
        60,
        "--hosts.heartbeat",
        300,
    ]
    children = zygote.several(2, *pretrain(home, tiny, out, *many), port=free_port())
    children[0].until(lambda: "step 5/" in children[0].err)
    children[1].send_signal(signal.SIGSTOP)
    code, seconds = children[0].ended()
    assert code == 75 and seconds < 70, children[0].err
    assert (out / "stacks-0.txt").exists() and "it hangs" in children[0].err


@pytest.mark.parametrize("option", ["grace", "hang-timeout"])
def test_no_negative_seconds(bertjax, tiny, home, tmp_path, option):
    outcome = bertjax(*pretrain(home, tiny, tmp_path / "run", f"--{option}", -1))
    assert outcome.code == 2 and f"{option.replace('-', '_')}=-1" in outcome.err


# Dies twice, in other ways.
DYING = """
import os, pathlib, signal, sys
from bertjax import cli, session
make = session.make_train_step
def wrapped(*arguments, **options):
    step = make(*arguments, **options)
    def dying(state, batch):
        for number, how in ((8, signal.SIGKILL), (13, signal.SIGABRT)):
            mark = pathlib.Path(f"died-{number}")
            if int(state.step) == number and not mark.exists():
                mark.touch()
                os.kill(os.getpid(), how)
        return step(state, batch)
    return dying
session.make_train_step = wrapped
cli.main()
"""


@SLOW
def test_a_supervised_run_that_dies_twice_is_the_run_left_alone(tiny, home, pretrained, tmp_path):
    command = [sys.executable, "-c", DYING, *pretrain(home, tiny, tmp_path / "run")]
    done = subprocess.run(
        [*map(str, (sys.executable, "-m", "bertjax.supervise", "--pause", 0.1, *command))],
        capture_output=True, text=True, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.findall("supervise: ended with (.*): starts again", done.stderr) == ["137", "134"]
    equal_runs(pretrained, tmp_path / "run")


LEAVES = """
import os, signal
from bertjax.train.stop import REQUEST
class Late:
    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGTERM):
        kill(process, number)
REQUEST.begin()
late = Late()  # freed when the interpreter takes itself apart
REQUEST.over(0)
"""


def test_a_signal_to_a_process_that_is_done_changes_nothing():
    assert subprocess.run([sys.executable, "-c", LEAVES], timeout=60).returncode == 0
