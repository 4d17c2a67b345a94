"""The loop: a run that was stopped or killed ends as if it had not been, down to the bits of its log."""

import errno
import gzip
import json
import signal
import time
from dataclasses import replace
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from disks import fill_up
from helpers import DROPOUT, abstract_state, logged, make_batch, parts

from bertjax.errors import DataError, StorageError
from bertjax.train import manifest, spent
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.guard import Diverged, Guard
from bertjax.train.log import Writer, averages, read_metrics
from bertjax.train.loop import Every, Fit, fit, mean_metrics
from bertjax.train.optim import Optimizer
from bertjax.train.profile import Profiler
from bertjax.train.saver import Saver
from bertjax.train.step import TOKENS, WATCHED, make_eval_step
from bertjax.train.stop import Interrupted
from bertjax.train.window import Rates

STEPS = 14
OPTIMIZER = Optimizer(peak_lr=2e-3, warmup=5)  # the program is that of test_golden.py: compiled once
GUARD = Guard(spike=0)
EVERY = Every(log=5, evaluate=6, save=4)  # windows of the log begin and end between saves


class Batches:
    """Batches made from their number; `before` may raise or send a signal first."""

    def __init__(self, start=((0, 0, 0),), before=lambda number: None, change=lambda number, batch: batch):
        self.places, self.before, self.change = start, before, change

    def numbers(self, step, before):
        assert before[0][-1] == step - 1
        return [[step, 100 + step]]

    def __next__(self):
        number = self.places[0][-1]
        self.before(number)
        self.places = ((0, 0, number + 1),)
        return self.change(number, make_batch(number))


@pytest.fixture(scope="module")
def run():
    return parts(replace(DROPOUT, layers=1), update=OPTIMIZER.build(20), micro_batches=2)


@pytest.fixture(scope="module")
def evaluate(run):
    step = make_eval_step(run.objective)

    def figures(state):
        held_out = iter([make_batch(1000), make_batch(1001)])
        return averages(mean_metrics(step, state, held_out, run.mesh), run.objective.loss_terms)

    return figures


@pytest.fixture(scope="module")
def train(run, evaluate):
    """train(folder, batches options) begins or resumes a run, as the verbs do."""

    def go(folder, *, every=EVERY, steps=STEPS, hook=evaluate, step=None, profile=(0, 0), guard=GUARD, **options):
        state, extra, number = run.state, {"loader": ((0, 0, 0),)}, 0
        if (folder / "checkpoints").is_dir():
            checkpoints = Checkpoints(folder)
            number = checkpoints.latest
            extra = checkpoints.extra(number)
            state = checkpoints.state(number, abstract_state(state))
        saver = Saver(folder, keep_last=9, best="-loss", constant={})
        writer = Writer(folder, total_steps=steps, start_step=number, title="test")
        rates = Rates(OPTIMIZER.schedule(20), peak_flops=0)
        profiler = Profiler(*profile, folder / "profile")
        terms = run.objective.loss_terms
        per_token = lambda length: 1e3 * length  # noqa: E731
        fixed = Fit(step or run.step, run.mesh, terms, hook, every, steps, rates, per_token, profiler, guard)
        try:
            with profiler:
                return fit(fixed, state, Batches(extra["loader"], **options), begun=extra, saver=saver, writer=writer)
        finally:
            writer.close()
            saver.close()

    return go


@pytest.fixture(scope="module")
def undisturbed(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, jax.tree.map(np.array, train(folder))


def assert_same_run(folder, state, undisturbed):
    assert logged(folder) == logged(undisturbed[0])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), undisturbed[1])


def test_what_a_run_writes(undisturbed, run):
    folder, state = undisturbed
    written = [(line["step"], line["split"]) for line in logged(folder)]
    # Steps that are logged, evaluated at 0, every 6, and at the end.
    assert written == [(0, "dev"), (5, "train"), (6, "dev"), (10, "train"), (12, "dev"), (14, "train"), (14, "dev")]
    assert sorted(int(p.name) for p in (folder / "checkpoints").iterdir()) == [4, 6, 8, 12, 14]
    assert int(state.step) == STEPS
    for line in logged(folder):
        assert {"loss", "mlm_loss", "nsp_loss", "mlm_accuracy", "nsp_accuracy"} <= set(line)
        assert line["loss"] == pytest.approx(line["mlm_loss"] + line["nsp_loss"])
    rates = [line["lr"] for line in logged(folder) if line["split"] == "train"]
    np.testing.assert_allclose(rates, [float(OPTIMIZER.schedule(20)(s)) for s in (4, 9, 13)])
    assert all(line["tokens_per_second"] > 0 for line in read_metrics(folder) if line["split"] == "train")


def test_a_logged_loss_is_the_mean_over_its_window(undisturbed, run):
    _, metrics = run.train(make_batch(number) for number in range(5))
    first = next(line for line in logged(undisturbed[0]) if line["split"] == "train")
    for name in ("mlm_loss", "nsp_loss", "mlm_accuracy"):
        total, weight = np.sum([step[name] for step in metrics], axis=0)
        assert first[name] == pytest.approx(total / weight, rel=1e-6)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_stopped_by_a_signal(tmp_path, train, undisturbed, number):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(Interrupted, match=f"{number.name}: stopped after step 6 and saved it"):
        # While the seventh batch is fetched, which is ahead of its step.
        train(tmp_path, before=lambda n: signal.raise_signal(number) if n == 6 else None)
    assert Checkpoints(tmp_path).latest == 6
    assert signal.getsignal(signal.SIGINT) is before
    assert_same_run(tmp_path, train(tmp_path), undisturbed)


def test_one_ctrl_c_after_sigterm_is_the_first(tmp_path, train):
    both = (signal.SIGTERM, signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGTERM: stopped after step 6 and saved it"):
        train(tmp_path, before=lambda n: [signal.raise_signal(number) for number in both] if n == 6 else None)
    assert Checkpoints(tmp_path).latest == 6


def test_what_outlives_its_terminal_is_not_stopped_with_it(tmp_path, train, undisturbed):
    """As nohup starts it."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        state = train(tmp_path, before=lambda n: signal.raise_signal(signal.SIGHUP) if n == 6 else None)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
    assert_same_run(tmp_path, state, undisturbed)


def test_killed_between_saves(tmp_path, train, undisturbed):
    def die(number):
        if number == 11:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train(tmp_path, before=die)
    # The last save is of step 8; what was logged at step 10 comes again.
    assert Checkpoints(tmp_path).latest == 8
    assert logged(tmp_path)[-1]["step"] == 10
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "sp')
    assert_same_run(tmp_path, train(tmp_path), undisturbed)


def test_stopped_again_and_again(tmp_path, train, undisturbed):
    for stop in (1, 5, 12):
        with pytest.raises(Interrupted):
            train(tmp_path, before=lambda n, stop=stop: signal.raise_signal(signal.SIGTERM) if n == stop else None)
    assert_same_run(tmp_path, train(tmp_path), undisturbed)


def test_a_signal_in_the_last_step_stops_what_would_come_after_it(tmp_path, train, evaluate, undisturbed):
    def hook(state):
        if int(state.step) == STEPS:
            signal.raise_signal(signal.SIGTERM)
        return evaluate(state)

    with pytest.raises(Interrupted):
        train(tmp_path, hook=hook)
    assert_same_run(tmp_path, train(tmp_path), undisturbed)


def test_a_second_signal_stops_at_once(tmp_path, train):
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, before=lambda n: [signal.raise_signal(signal.SIGINT) for _ in range(2)] if n == 2 else None)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_failed_save_is_told_with_the_next_lines(tmp_path, train, undisturbed, monkeypatch, capsys):
    write, failed = manifest.write, []

    def fail_once(folder):
        if not failed:
            failed.append(folder.name)
            raise OSError(errno.ENOSPC, "No space left on device")
        write(folder)

    def until_failed(number):
        end = time.monotonic() + 60
        while number == 6 and not failed and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(0.5 if number == 6 else 0)

    monkeypatch.setattr(manifest, "write", fail_once)
    state = train(tmp_path, every=Every(log=1, evaluate=14, save=4), before=until_failed)
    said = capsys.readouterr().err.splitlines()
    told = next(number for number, line in enumerate(said) if "checkpoint 4 could not be saved" in line)
    assert any(line.startswith("step 7/14") for line in said[told:])  # long before the next save
    assert failed == ["4.orbax-checkpoint-tmp"]
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [8, 12, 14]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), undisturbed[1])


def test_a_log_that_cannot_be_written_is_told(tmp_path, train, capsys):
    def full(number):
        if number == 3:
            (tmp_path / "metrics.jsonl").unlink()
            (tmp_path / "metrics.jsonl").symlink_to("/dev/full")

    with pytest.raises(StorageError, match=r"checkpoint 9 .*metrics.jsonl: No space left on device; make room there"):
        train(tmp_path, every=Every(log=1, evaluate=14, save=3), before=full)
    (tmp_path / "metrics.jsonl").unlink()
    said = capsys.readouterr().err
    assert said.count("metrics.jsonl: No space left on device; make room there; its lines are kept") == 1
    assert said.count("metrics.jsonl: No space left on device; make room there; the next save tries again") == 2


def test_a_disk_that_is_full_for_a_save_costs_that_save_and_no_line(tmp_path, train, undisturbed, monkeypatch, capsys):
    full = fill_up(monkeypatch, "metrics.jsonl", kept=100)
    state = train(
        tmp_path,
        every=Every(log=1, evaluate=14, save=4),
        before=lambda number: full.append(True) if number == 6 else full.clear() if number == 11 else None,
    )
    said = capsys.readouterr().err
    assert "metrics.jsonl: No space left on device; make room there; its lines are kept" in said
    assert "checkpoint 8 could not be saved (checkpoint 4 is the last)" in said
    assert sorted(int(p.name) for p in (tmp_path / "checkpoints").iterdir()) == [4, 12, 14]
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [0, *range(1, 15), 14, 14]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), undisturbed[1])


def test_no_checkpoint_comes_before_its_lines(tmp_path, train, undisturbed, monkeypatch):
    with monkeypatch.context() as patch:
        full = fill_up(patch, "metrics.jsonl")

        def dies(number):
            full.append(True) if number == 6 else None
            if number == 10:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            train(tmp_path, before=dies)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["4"]
    assert_same_run(tmp_path, train(tmp_path), undisturbed)


def test_a_finished_run_stays_as_it_is(tmp_path, train):
    train(tmp_path, steps=4)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert int(train(tmp_path, steps=4).step) == 4
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def poisoned(*steps, values=np.nan):
    """Targets of these steps weigh as much as nothing can."""

    def change(number, batch):
        if number + 1 not in steps:
            return batch
        return dict(batch, masked_weights=np.where(batch["masked_weights"] > 0, np.float32(values), 0))

    return change


def test_a_state_that_is_no_number_is_never_saved(tmp_path, run, train):
    def overflows(state, batch):
        state, metrics = run.step(state, batch)
        infinite = jax.tree.map(lambda x: x + np.inf, state.params)
        return (replace(state, params=infinite) if int(state.step) == 3 else state), metrics

    with pytest.raises(DataError, match="the parameters after step 4 are not finite"):
        train(tmp_path, step=overflows, every=Every(log=5, evaluate=6, save=2))
    assert Checkpoints(tmp_path).latest == 2


def test_metrics_of_an_evaluation_are_summed_over_batches(run):
    step, state = make_eval_step(run.objective), run.state
    batches = [make_batch(seed) for seed in range(3)]
    batches[1]["masked_weights"][:] = 0  # an empty batch counts nothing
    total = mean_metrics(step, state, iter(batches), run.mesh)
    each = [step(state.params, batch) for batch in batches]
    for name in total:
        np.testing.assert_allclose(total[name], np.sum([m[name] for m in each], axis=0), rtol=1e-6)


NEVER = Every(log=100, evaluate=100, save=100)


def test_steps_wait_for_no_device_and_move_nothing_unasked(tmp_path, train, run, monkeypatch):
    fetched, taken = [], []
    monkeypatch.setattr(jax, "device_get", lambda tree, get=jax.device_get: (fetched.append(len(taken)), get(tree))[1])

    def step(state, batch):
        taken.append(int(state.step))
        with jax.transfer_guard("disallow"):  # batches are on the devices, and so is all that is summed up
            return run.step(state, batch)

    compiled = run.step._program._cache_size()
    train(tmp_path, step=step, every=replace(NEVER, log=5), steps=12, hook=lambda state: {"loss": 1.0, "mlm_loss": 1.0})
    assert taken == list(range(12))
    # Nothing but the windows of the log is fetched: that of step 5 when step 6 has been started, of 10 after 11; at
    # the end the last window, and the empty one that is saved.
    assert fetched == [6] * 3 + [11] * 3 + [12] * 4  # each time what is watched, the means, and the tokens
    assert run.step._program._cache_size() == max(1, compiled)


def test_compiling_evaluating_and_saving_are_not_in_the_tokens_a_second(tmp_path, train, monkeypatch):
    now, met = [0.0], set()

    def passes(seconds, returned=None):
        now[0] += seconds
        return returned

    def step(state, batch):  # the first of a shape compiles
        passes(0 if batch["tokens"].shape in met else 100)
        met.add(batch["tokens"].shape)
        one = np.ones((), np.float32)
        metrics = {"mlm_loss": (one, one), "nsp_loss": (one, one), WATCHED: (one, one), TOKENS: (10 * one, 10 * one)}
        return replace(state, step=state.step + 1), metrics

    monkeypatch.setattr(spent, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(Saver, "save", lambda *_, **about: passes(1_000))
    short = lambda number, batch: {**batch, "tokens": batch["tokens"][:, : 8 if number >= 7 else 16]}  # noqa: E731
    evaluates = lambda state: passes(10_000, {"loss": 1.0})  # noqa: E731
    train(tmp_path, step=step, hook=evaluates, change=short, before=lambda number: passes(1))  # batches alone take time
    written = [line for line in read_metrics(tmp_path) if line["split"] == "train"]
    rates = [line["tokens_per_second"] for line in written]
    # A window is written with the next batch but one at hand: 5 steps in 7 s; then 5 in 5, 4 in 2.
    assert met == {(16, 16), (16, 8)} and rates == pytest.approx([50 / 7, 10, 40 / 2], abs=0.1)
    # All that time goes to batches, the first two of which nothing waits for.
    assert [line["data_wait"] for line in written] == pytest.approx([5 / 7, 1, 1], abs=1e-3)
    parts = {"start": 0, "compile": 200, "data": 12, "evaluate": 40_000, "save": 5_000, "lost": 0, "steps": 2}
    assert read_metrics(tmp_path)[-1]["spent"] == parts


def test_a_line_that_waits_is_written_when_the_data_fail(tmp_path, train):
    def fail(number):
        if number == 6:
            raise DataError("no more")

    with pytest.raises(DataError, match="no more"):
        train(tmp_path, before=fail)
    assert logged(tmp_path)[-1]["step"] == 5


def test_a_profile_of_some_steps(tmp_path, train, undisturbed):
    assert_same_run(tmp_path, train(tmp_path, profile=(3, 4)), undisturbed)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 1000
    (events,) = (tmp_path / "profile").rglob("*.trace.json.gz")
    named = [e for e in json.loads(gzip.decompress(events.read_bytes()))["traceEvents"] if e.get("name") == "train"]
    assert {int(event["args"]["step_num"]) for event in named} == {3, 4}


def test_a_profile_that_the_end_of_the_run_cuts_off(tmp_path, train, capsys):
    train(tmp_path / "short", steps=3, profile=(4, 5))
    assert "no trace, as this start of the run ended before its step 4" in capsys.readouterr().err
    train(tmp_path, steps=3, profile=(2, 99))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    jax.profiler.start_trace(tmp_path / "another")  # the first one was ended
    jax.profiler.stop_trace()


def test_a_profile_that_cannot_be_begun_costs_the_run_nothing(tmp_path, train, undisturbed, capsys):
    (tmp_path / "profile").touch()
    assert_same_run(tmp_path, train(tmp_path, profile=(2, 4)), undisturbed)
    assert f"profile: no trace, as it cannot be made (FileExistsError: [Errno 17] File exists: '{tmp_path}" in (
        capsys.readouterr().err
    )


def test_nor_does_one_that_cannot_be_written(tmp_path, train, undisturbed, monkeypatch, capsys):
    stop = jax.profiler.stop_trace

    def full():
        stop()
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(jax.profiler, "stop_trace", full)
    assert_same_run(tmp_path, train(tmp_path, profile=(2, 4)), undisturbed)
    assert capsys.readouterr().err.count("profile: no trace, as it cannot be made (OSError: [Errno 28] No space") == 1


def steps_of(folder, what):
    return [line["step"] for line in read_metrics(folder) if line["split"] == what]


@pytest.mark.parametrize(("steps", "value"), [([1], np.nan), ([3], np.inf), ([1, 2], np.nan), ([4, 9, 10, 14], np.nan)])
def test_a_bad_step_costs_itself_alone(tmp_path, run, train, steps, value):
    """Not more than these, in the warm-up (5 steps) and after it: as a run whose data do not have them."""
    state = train(tmp_path, change=poisoned(*steps, values=value))
    assert steps_of(tmp_path, "skipped") == steps and int(state.step) == STEPS
    expected = run.state
    for number in range(STEPS):
        if number + 1 in steps:
            expected = replace(expected, step=expected.step + 1)
        else:
            expected, _ = run.train([make_batch(number)], expected)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, state), jax.tree.map(np.array, expected))
    told = next(line for line in read_metrics(tmp_path) if line["split"] == "skipped")
    assert told["examples"] == [[steps[0], 100 + steps[0]]] and told["places"] == [[0, 0, steps[0] - 1]]
    assert not np.isfinite(float(told["loss"]))
    assert all(np.isfinite(line["loss"]) for line in read_metrics(tmp_path) if line["split"] in ("train", "dev"))


def test_the_rate_in_the_log_is_that_of_the_last_update(tmp_path, train):
    """Skipped steps do not move the schedule, in this start of the run or the next."""
    every = Every(log=1, evaluate=99, save=3)
    train(tmp_path, change=poisoned(2, values=np.nan), steps=3, every=every)
    train(tmp_path, change=poisoned(2, 5, values=np.nan), steps=6, every=every)
    rates = [line["lr"] for line in read_metrics(tmp_path) if line["split"] == "train"]
    np.testing.assert_allclose(rates, [float(OPTIMIZER.schedule(20)(update)) for update in (0, 0, 1, 2, 2, 3)])


def test_the_log_of_good_steps_is_without_the_bad_one(tmp_path, train, run):
    train(tmp_path, change=poisoned(3), steps=3, every=Every(log=3, evaluate=6, save=4))
    _, metrics = run.train(make_batch(number) for number in (0, 1))
    first = next(line for line in read_metrics(tmp_path) if line["split"] == "train")
    assert first["step"] == 3
    assert first["grad_norm"] == pytest.approx(np.mean([step["grad_norm"][0] for step in metrics]))


def test_a_run_with_bad_steps_is_resumed_to_the_bit(tmp_path, train):
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    end = train(whole, change=poisoned(4, 6, 11)), whole
    for stop in (4, 10):
        stops = lambda n, stop=stop: signal.raise_signal(signal.SIGTERM) if n == stop else None  # noqa: E731
        with pytest.raises(Interrupted):
            train(parted, change=poisoned(4, 6, 11), before=stops)
    assert_same_run(parted, train(parted, change=poisoned(4, 6, 11)), (whole, jax.tree.map(np.array, end[0])))


@pytest.mark.parametrize("first", [1, 4, 7])
def test_many_bad_steps_running_stop_the_run(tmp_path, train, first):
    bad = range(first, first + 3)
    with pytest.raises(
        Diverged, match=rf"not finite \(loss nan, .*in 3 steps in a row \({first} to {first + 2}\)"
    ) as error:
        train(tmp_path, change=poisoned(*bad))
    assert (error.value.first, error.value.last, error.value.after) == (bad[0], bad[-1], ((0, 0, bad[-1]),))
    assert steps_of(tmp_path, "skipped") == list(bad)
    if first > 4:  # there is a checkpoint in the middle of them: the run counts on
        assert Checkpoints(tmp_path).latest == 8
        with pytest.raises(Diverged):
            train(tmp_path, change=poisoned(*bad))


def test_as_many_as_one_likes_are_skipped(tmp_path, train):
    state = train(tmp_path, change=poisoned(*range(2, 12)), guard=Guard(consecutive=11))
    assert steps_of(tmp_path, "skipped") == list(range(2, 12)) and int(state.step) == STEPS
