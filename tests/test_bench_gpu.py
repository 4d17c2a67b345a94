"""bench/gpu.py at toy size on a CPU, with nothing installed but what it says it needs; and where something fails."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.late

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "bench" / "workers")]

import gpu  # noqa: E402
import gpu_pretraining  # noqa: E402
import gpu_shared  # noqa: E402
import gpu_speed  # noqa: E402
import gpu_ways  # noqa: E402

# What bertjax needs elsewhere, and torch, cannot be imported.
BARE = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names}:
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Absent())
"""
ABSENT = ["tokenizers", "grain", "array_record", "safetensors", "sentencepiece", "scipy", "seqeval", "sklearn", "tyro"]
ABSENT += ["zstandard", "google_crc32c", "xxhash", "torch"]
SIZE = gpu_shared.Size("tiny", 64, 128)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bare")
    (folder / "sitecustomize.py").write_text(BARE.format(names=ABSENT))
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, ROOT / "bench" / "gpu.py", "--toy", "--out", folder / "out"]
    done = subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "## pretraining" in (folder / "out/gpu.md").read_text()
    parts = json.loads((folder / "out/gpu.json").read_text())["parts"]
    assert not any(part["ended"] for part in parts.values())
    return {name: part["lines"] for name, part in parts.items()}


def test_every_way_that_is_there_is_right(found):
    right = {(line["way"], line["dtype"], line["queries"], line["window"]) for line in found["ways"] if "right" in line}
    assert right == {
        (way, dtype, *asked)
        for way in ("einsum", "splash")
        for dtype in ("bfloat16", "float32")
        for asked in ((128, "none"), (37, "none"), (128, "16 before, 8 after"))
    }
    assert all("needs an NVIDIA GPU" in line["not_here"] for line in found["ways"] if line["way"] == "cudnn")


def test_speed(found):
    sizes = [line for part in ("speed", "speed-more") for line in found[part] if "model" in line]
    assert [(line["attention"], line["repeatable"]) for line in sizes] == [
        ("einsum", kind) for kind in (True, False, True)
    ]
    assert all(line["same_twice"] and line["right"] for line in sizes)  # as on a CPU all are
    assert all(line["tokens_per_second"] > 0 and line["tflops_per_second"] > 0 for line in sizes)


def test_without_torch_it_is_left_out(found):
    assert found["torch"] == found["torch-more"] == [{"not_here": "torch is not installed"}]


def test_a_model_learns(found):
    *lines, last = found["pretraining"]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps)) and steps[-1] == last["step"] >= 60
    assert last["right"] and last["best_held_out"] == min(line["held_out"] for line in lines)
    assert last["best_held_out"] < lines[0]["held_out"] - gpu_pretraining.LESS


def said(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]


def test_a_kernel_that_fails_costs_nothing_else(monkeypatch, capsys):
    def broken(*heads, **how):
        raise RuntimeError("no such kernel\na remark")

    monkeypatch.setattr(gpu_ways.attend, "cudnn", broken)
    monkeypatch.setattr(gpu_ways.attend, "choose", lambda *asked, **how: None)
    monkeypatch.setattr(gpu_ways, "KINDS", ("cudnn", "einsum"))
    gpu_ways.ways(time.time() + 1e3, toy=True)
    assert [line.get("failed", line.get("right")) for line in said(capsys)] == [
        *["RuntimeError: no such kernel"] * 2,
        *[True] * 2,
    ] * len(gpu_ways.TOY)


def test_a_way_that_sees_too_much_or_reads_at_another_place_is_wrong(monkeypatch, capsys):
    def beside(*heads, read, window, mesh):
        return gpu_ways.attend.einsum(*heads, read=None if read is None else (read + 64) % 128)

    monkeypatch.setattr(gpu_ways.attend, "cudnn", beside)
    monkeypatch.setattr(gpu_ways.attend, "choose", lambda *asked, **how: None)
    monkeypatch.setattr(gpu_ways, "KINDS", ("cudnn",))
    monkeypatch.setattr(gpu_ways, "MOST", {"float32": 5e-3})
    gpu_ways.ways(time.time() + 1e3, toy=True)
    assert [line["right"] for line in said(capsys)] == [True, False, False]


def test_a_size_that_fails_is_told_one_that_is_too_large_is_halved_and_the_rest_goes_on(capsys):
    def measure(size):
        if size.model == "base":
            raise ValueError("nothing of that kind\na remark")
        if size.rows > 16:
            raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return {"rate": 1}

    sizes = [SIZE._replace(model="base", attention="einsum"), SIZE]
    gpu_shared.each(sizes, time.time() + 1e3, 0, measure, gpu_speed.too_large)
    assert said(capsys) == [
        {"model": "base", "batch": "64 x 128", "attention": "einsum", "failed": "ValueError: nothing of that kind"},
        {"model": "tiny", "batch": "16 x 128", "rate": 1},
    ]


def test_memory_that_does_not_do_for_one_row_ends_there_and_time_that_is_over_is_no_failure(capsys):
    def measure(size):
        if size.model == "large":
            raise TimeoutError
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    for model, until in (("base", time.time() + 1e3), ("large", time.time() + 1e3), ("base", time.time())):
        gpu_shared.each([SIZE._replace(model=model)], until, 1, measure, gpu_speed.too_large)
    lines = said(capsys)
    assert (lines[0]["batch"], lines[0]["failed"]) == ("1 x 128", "RuntimeError: RESOURCE_EXHAUSTED: Out of memory")
    assert all(
        line == {"model": line["model"], "batch": "64 x 128", "left_out": "no time was left"} for line in lines[1:]
    )
    assert [fails(line) for line in lines] == [True, False, False]


def test_a_size_that_cannot_be_compiled_does_not_keep_the_others(monkeypatch):
    class Program:
        def __init__(self, size):
            self.size = size

        def compile(self):
            if self.size.rows == 32:
                raise RuntimeError("not compiled")
            return "a step"

    def lowered(size, toy):
        if size.rows == 16:
            raise ValueError("not traced")
        return Program(size)

    monkeypatch.setattr(gpu_speed, "lowered", lowered)
    monkeypatch.setattr(gpu_speed, "_begin", lambda *preset: 1 / 0)
    sizes = [SIZE._replace(rows=rows) for rows in (64, 32, 16)]
    ahead = gpu_speed.compiling(sizes, toy=True)
    assert ahead[sizes[0]].result()[0] == "a step"
    assert [str(ahead[size].exception()) for size in sizes[1:]] == ["not compiled", "not traced"]


def test_learning_ends_by_itself_before_its_time(monkeypatch, capsys):
    learn, ends = gpu_pretraining.learn, []

    def shortly(train, until, block, enough):  # from when it is compiled, which takes what it takes
        ends.append(time.time() + 3)
        return learn(train, ends[0], 0.5, float("inf"))

    monkeypatch.setattr(gpu_pretraining, "learn", shortly)
    gpu_pretraining.pretraining(time.time() + 1e3, toy=True)
    assert time.time() < ends[0] + gpu.SLACK / 2
    *lines, last = said(capsys)
    steps = [line["step"] for line in lines]
    assert len(steps) >= 2 and steps == sorted(set(steps)) and last["ended"] == "its time was over"


def test_blocks_follow_the_time_of_a_step_and_none_is_begun_that_would_not_fit(monkeypatch, capsys):
    now, counts = [0.0], []

    def train(count):
        counts.append(count)
        now[0] += 0.02 * count
        return {"loss": 1.0, "held_out": 2.0}

    monkeypatch.setattr(gpu_pretraining.time, "time", lambda: now[0])
    gpu_pretraining.learn(train, 13.0, 5.0, float("inf"))
    assert counts == [10, 250, 250]
    assert now[0] == pytest.approx(10.2)
    assert said(capsys)[-1] == {"step": 510, "seconds": 10.2, "loss": 1.0, "held_out": 2.0}


def learnt(*held_out, loss=1.0):
    """The summary of a training that sees these held-out losses, and why it ended."""
    comes = iter(held_out)
    train = lambda count: {"loss": loss, "held_out": next(comes)}  # noqa: E731
    why, seen = gpu_pretraining.learn(train, time.time() + 1e3, 0.0, len(held_out) + 9)
    return gpu_pretraining.summary(seen), why


def test_what_is_known_by_heart_is_not_learnt_on_and_the_best_is_told():
    found, why = learnt(9.7, 7.0, 6.5, 6.6, 6.9, 7.5, 8.0, 9.0, 9.5)
    assert found == {"step": 17, "best_step": 12, "best_held_out": 6.5, "right": True}
    assert why == "held-out loss not lower for 5 lines"


def test_a_model_that_does_not_learn_is_wrong(capsys):
    assert learnt(9.7, 9.5, 9.4)[0]["right"] is False
    assert learnt(9.7, 6.0, 5.0, loss=math.nan)[0]["right"] is False
    assert learnt(9.7, 6.0, math.nan, 5.0)[0] == {"step": 13, "best_step": 13, "best_held_out": 5.0, "right": False}
    assert learnt(*[math.nan] * 4)[0]["right"] is False
    assert '"held_out": "nan"' in capsys.readouterr().out
    assert learnt(9.7)[0] == {"left_out": "no time was left"}


def test_steps_that_are_compiled_to_be_repeatable_have_to_be():
    judged = gpu_speed.judged
    assert judged(True, True, 9.0, 1.0) == {"loss": 9.0, "same_twice": True, "right": True}
    assert judged(False, False, 9.0, 1.0)["right"] and not judged(True, False, 9.0, 1.0)["right"]
    assert not judged(True, True, math.nan, 1.0)["right"] and not judged(True, True, 9.0, math.inf)["right"]


@pytest.mark.parametrize("length", [128, 512])
def test_the_work_that_torch_is_measured_by_is_that_of_ours(length):
    masked = gpu_shared.slots(length) / length
    assert gpu_shared.slots(length) == gpu_speed.CONFIG.masking.slots(length)
    ours = gpu_speed.CONFIG.flops_per_token(gpu_speed.bert.PRESETS["base"], length)
    assert gpu_shared.flops_per_token(12, 768, 30_522, length, masked, masked) == pytest.approx(ours, rel=1e-3)
    whole = gpu_shared.flops_per_token(12, 768, 30_522, length, masked)
    assert 1.03 < whole / ours < 1.08
    rates = gpu_shared.rates(SIZE, 1.0, 0.0, whole, "NVIDIA H100 80GB HBM3", ours=ours)
    assert rates["mfu"] >= rates["mfu_by_ours"]
    with_ours = {"parts": {"torch": {"lines": [rates], "ended": ""}}} | gpu.results.origin({})
    assert gpu.UNLIKE in gpu.table(with_ours)


def test_every_part_has_its_share_and_together_they_fit():
    ends = gpu.deadlines(list(gpu.PARTS), 1_000.0, 1_560.0)
    begins = [1_000.0, *ends.values()]
    assert [end - begin for begin, end in zip(begins, ends.values(), strict=False)] == pytest.approx(
        [part.share for part in gpu.PARTS.values()]
    )
    assert list(ends) == list(gpu.PARTS) and list(ends).index("pretraining") < list(ends).index("torch")
    assert gpu.deadlines(["ways"], 0.0, 560.0) == {"ways": pytest.approx(560.0)}


SAYS = "import json, sys, time\nprint(json.dumps({'right': True}), flush=True)\n"
CRASHES = SAYS + "print('what came before', file=sys.stderr)\nraise RuntimeError('a kernel is missing')\n"
SLEEPS = SAYS + "time.sleep(600)\n"


@pytest.fixture
def workers(tmp_path, monkeypatch):
    """Makes workers of these texts, the other parts being done at once; they have a second, or longer."""

    def make(seconds=1, **texts):
        for part in gpu.PARTS.values():
            (tmp_path / part.worker).write_text(texts.get(part.worker.removesuffix(".py"), SAYS))
        monkeypatch.setattr(gpu, "WORKERS", tmp_path)
        until = lambda names, begin, end: {name: begin + (1 + i) * seconds for i, name in enumerate(names)}  # noqa: E731
        monkeypatch.setattr(gpu, "deadlines", until)
        monkeypatch.setattr(gpu, "LEAST", 0)
        monkeypatch.setattr(gpu, "SLACK", 0)

    return make


def run(tmp_path, *parts):
    code = gpu.main(["--toy", "--out", str(tmp_path / "out"), "--parts", *(parts or gpu.PARTS)])
    return code, json.loads((tmp_path / "out/gpu.json").read_text())["parts"]


@pytest.mark.parametrize("crashes", ["gpu_ways", "gpu_speed", "gpu_torch", "gpu_pretraining"])
def test_a_part_that_crashes_is_told_fails_the_whole_and_keeps_nothing_else(crashes, tmp_path, workers):
    workers(seconds=60, **{crashes: CRASHES})
    code, parts = run(tmp_path)
    assert code == 1 and list(parts) == list(gpu.PARTS)
    for name, part in parts.items():
        why = (
            "crashed, exit code 1: RuntimeError: a kernel is missing"
            if gpu.PARTS[name].worker == f"{crashes}.py"
            else ""
        )
        assert part == {"lines": [{"right": True}], "ended": why, "broken": bool(why)}
    assert "what came before" in (tmp_path / "out/gpu.log").read_text()


def test_a_part_that_is_killed_keeps_what_it_said_fails_the_whole_and_costs_nothing_else(tmp_path, workers):
    workers(seconds=5, gpu_speed=SLEEPS)
    code, parts = run(tmp_path, "speed", "ways")
    assert code == 1 and parts["ways"] == {"lines": [{"right": True}], "ended": "", "broken": False}
    assert parts["speed"]["lines"] == [{"right": True}] and parts["speed"]["ended"].startswith("killed after")


def fails(*lines, part="speed", ended=""):
    return gpu.failed(part, {"lines": list(lines), "ended": ended, "broken": False})


def test_a_line_that_failed_or_is_wrong_fails_the_whole():
    assert [fails(line) for line in ({"right": False}, {"failed": "why"}, {"right": True}, {})] == [
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize("part", gpu.CHECKS)
def test_what_checks_something_has_to_come_to_it(part):
    right, left_out = {"right": True}, {"left_out": "no time was left"}
    assert fails(part=part) and fails(ended="no time was left", part=part)
    assert not fails(right, {"not_here": "no such device"}, part=part) and fails(right, left_out, part=part)
    assert not fails(right, left_out) and not fails(ended="no time was left")


def test_killed_in_the_middle_it_leaves_what_was_said_and_no_worker(tmp_path):
    (tmp_path / "gpu_ways.py").write_text(
        f"import os\nopen({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid()))\n" + SLEEPS
    )
    program = f"import sys; sys.path.insert(0, {str(ROOT / 'bench')!r}); import gpu, pathlib; "
    program += f"gpu.WORKERS = pathlib.Path({str(tmp_path)!r}); gpu.run_to_the_end()"
    command = [sys.executable, "-c", program, "--toy", "--out", str(tmp_path / "out")]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        out = tmp_path / "out/gpu.json"
        while not (out.exists() and json.loads(out.read_text())["parts"]["ways"]["lines"]):
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 143
    assert json.loads(out.read_text())["parts"]["ways"]["lines"] == [{"right": True}]
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_reason_is_the_exception_and_not_what_a_library_adds():
    errors = (
        "Traceback:\n  a()\njax.errors.JaxRuntimeError: INTERNAL: no kernel\n--------------------\nFor simplicity, "
    )
    assert (
        gpu.reason(errors + "JAX has removed its internal frames.\n")
        == "jax.errors.JaxRuntimeError: INTERNAL: no kernel"
    )
    assert gpu.reason("torch._dynamo.exc.Unsupported: a call\nSet TORCHDYNAMO_VERBOSE=1\n").endswith(
        "Unsupported: a call"
    )
    assert gpu.reason("one\ntwo\n") == "two" and gpu.reason("") == "it wrote nothing"


def test_without_an_accelerator_it_says_so_at_once(tmp_path):
    command = [sys.executable, str(ROOT / "bench" / "gpu.py"), "--out", str(tmp_path / "out")]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "JAX_PLATFORMS": "cpu"}, timeout=60
    )
    assert done.returncode == 2 and list((tmp_path / "out").iterdir()) == []
    assert done.stderr == "bench/gpu.py: JAX finds no accelerator here, only a CPU; --toy runs on one\n"
