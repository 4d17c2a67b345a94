"""Several processes as one run: the same examples and losses as one, one log, one end, and any number may go on."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from helpers import logged
from processes import batches, drive, finish, free_port, start

from bertjax import lock, run
from bertjax.errors import ConfigError
from bertjax.train import cluster, hosts, loop
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.log import read_metrics
from bertjax.train.mesh import MeshConfig


def losses(folder):
    """Of every line; of evaluations of a task the score."""
    return [(line["step"], line["split"], line.get("loss", line.get("f1"))) for line in logged(folder)]


def same_losses(one, two, rtol=1e-6):
    one, two = losses(one), losses(two)
    assert [line[:2] for line in one] == [line[:2] for line in two]
    np.testing.assert_allclose([line[2] for line in one], [line[2] for line in two], rtol=rtol)


@pytest.fixture
def kept(monkeypatch):
    """Tokens and targets of every batch that this process puts on its devices."""
    made, put = [], loop.put_batch

    def keep(batch, mesh):
        made.append([batch["tokens"], batch["masked_targets"]])
        return put(batch, mesh)

    monkeypatch.setattr(loop, "put_batch", keep)
    return made


def same_batches(one, two):
    assert len(one) == len(two)
    for (tokens, targets), (others, their_targets) in zip(one, two, strict=True):
        np.testing.assert_array_equal(tokens, others)
        np.testing.assert_array_equal(targets, their_targets)


def pretraining(home, data, out, *more):
    return ["pretrain", home / "pretrain.py", "--data", data, "--out", out, "--mesh.data", "-1", *more]


def after_step(processes, out, step):
    """Returns when a step is in the log."""
    end = time.monotonic() + 240
    while time.monotonic() < end and not any(line["step"] >= step for line in read_metrics(out)):
        assert all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.02)


@pytest.mark.slow
def test_processes_on_their_own_stop_after_the_same_step_and_one_goes_on(tiny, home, tmp_path):
    out = tmp_path / "run"
    few = {"steps": 160, "eval_every": 80, "save_every": 100, "log_every": 4}
    slow = replace(tiny, **few, optimizer=replace(tiny.optimizer, peak_lr=3e-4))  # no spikes, which differences grow in
    command = ["-m", "bertjax", *pretraining(home, *tiny.data, out, "--optimizer.peak-lr", 3e-4), *options(few)]
    processes = start([command, command])
    after_step(processes, out, 4)
    processes[1].send_signal(signal.SIGTERM)
    said = finish(processes)
    assert [one.code for one in said] == [42, 42], said
    stopped = Checkpoints(out).latest
    assert f"SIGTERM: stopped after step {stopped} and saved it; the same command goes on" in said[0].err
    assert "2 processes, 2 devices" in said[0].err and said[0].err.count("step 4/160") == 1
    assert not any(word in said[1].err + said[1].out for word in ("pretrain", "step", "mesh")), said[1]
    assert [line["step"] for line in read_metrics(out) if line["split"] == "train"] == list(range(4, stopped + 1, 4))
    assert not list(out.glob(".shared-*"))
    run.pretrain(replace(slow, out=str(out)))
    run.pretrain(replace(slow, out=str(tmp_path / "alone")))
    same_losses(out, tmp_path / "alone")


FLIPS = """
import jax
from helpers import flipped
from bertjax import cli, session

make = session.make_train_step

def wrapped(*arguments, **options):
    step = make(*arguments, **options)

    def flips(state, batch):
        state, metrics = step(state, batch)
        if jax.process_index() == 1 and int(state.step) == 3:
            state = flipped(state, "params/pooler/bias", jax.local_devices()[1], 77)
        return state, metrics

    return flips

session.make_train_step = wrapped
cli.main()
"""


@pytest.mark.late
def test_a_bit_that_flips_in_one_process_ends_all_and_names_it(tiny, home, tmp_path):
    out = tmp_path / "run"
    command = ["-c", FLIPS, *pretraining(home, *tiny.data, out, "--batch-size", 16, "--save-every", 2)]
    said = finish(start([command] * 2, devices=2, PYTHONPATH=str(Path(__file__).parent.parent)))
    assert [one.code for one in said] == [42, 42], said
    told = "after step 4 devices hold different copies of params/pooler/bias; at fault is "
    assert told in said[0].err and " of process 1, its memory or arithmetic" in said[0].err
    assert "different copies" not in said[1].err and Checkpoints(out).latest == 2


def options(fields):
    return [text for name, value in fields.items() for text in (f"--{name.replace('_', '-')}", value)]


@pytest.fixture(scope="module")
def two(tiny, pretrained, home, tmp_path_factory):
    """What two processes made of several commands, the first two of which only one of them can do."""
    folder = tmp_path_factory.mktemp("two")
    task = ["--task", "sms_spam", "--from", pretrained, "--data", home]
    both = ["--out", folder / "tuned", "--mesh.data", "-1"]
    wrong = pretraining(home, *tiny.data, folder / "wrong")
    commands = [
        [wrong if number == 0 else pretraining(home, folder / "nowhere", folder / "wrong") for number in range(2)],
        [[*wrong, "--seed", number] for number in range(2)],
        [[*wrong, "--mesh.data", "1"]] * 2,
        [["doctor", "--data", folder / "nowhere" if number else tiny.data[0], "--out", folder] for number in range(2)],
        [pretraining(home, *tiny.data, folder / "run", "--profile", "2:3")] * 2,
        [["finetune", home / "finetune.py", *task, *both]] * 2,
        [["evaluate", folder / "tuned", "--data", home]] * 2,
        [["predict", folder / "tuned", "--input", home / "texts.tsv", "--out", folder / "predictions.tsv"]] * 2,
        [pretraining(home, *tiny.data, folder / "stopped")] * 2,  # the last: jax does not forget a signal
    ]
    (home / "texts.tsv").write_text("text\nfree prize now\nsee you later\nthe cat\n")
    codes, said = drive(folder, [[command[number] for command in commands] for number in range(2)], stopped=8)
    return folder, codes, said


@pytest.mark.late
def test_an_error_of_one_process_ends_all_and_is_told_once(two):
    folder, codes, said = two
    assert [own[:3] for own in codes] == [[2, 2, 2]] * 2
    assert "process 1 of 2 stops all: " in said[0].err and "nowhere: not a prepared corpus" in said[0].err
    assert "nowhere: not a prepared corpus" not in said[1].err
    assert "process 1 of 2 stops all: it has another configuration" in said[0].err
    assert "each of 2 processes must have work: 1 of 2 devices have nothing to do: give --mesh.data 2" in said[0].err
    assert "mesh" not in said[1].err
    assert not (folder / "wrong/checkpoints").exists()


@pytest.mark.late
def test_the_doctor_of_process_0_sees_what_ails_the_others(two):
    _, codes, said = two
    assert [own[3] for own in codes] == [2, 2]
    assert "process 1: data" in said[0].out and "process 0 of 2" in said[0].out and "checks failed" in said[0].err
    assert "checks failed" not in said[1].err and "cure" not in said[1].out


@pytest.mark.late
def test_examples_masks_and_losses_are_those_of_one_process(two, pretrained, tiny, tmp_path, kept):
    folder, codes, _ = two
    assert [own[4] for own in codes] == [0, 0]
    same_losses(folder / "run", pretrained)
    run.pretrain(replace(tiny, out=str(tmp_path / "run")))
    assert len(kept) == tiny.steps + 3 * tiny.eval_batches * tiny.micro_batches
    same_batches(batches(folder, 2, command=4), kept)
    stored, ours = (json.loads((path / "config.json").read_text()) for path in (folder / "run", pretrained))
    assert stored["config"]["steps"] == ours["config"]["steps"] and "hosts" not in stored["config"]


@pytest.mark.late
def test_a_manifest_lists_what_all_processes_wrote(two, bertjax):
    folder, _, _ = two
    assert bertjax("inspect", folder / "run", "--verify").code == 0
    listed = json.loads((folder / "run/checkpoints/16/manifest.json").read_text())["files"]
    assert {f"train/ocdbt.process_{number}/manifest.ocdbt" for number in (0, 1)} <= listed.keys()


@pytest.mark.late
def test_each_process_has_a_trace_of_its_own(two):
    """Though the profiler calls its files by the host, which is the same."""
    folder, _, _ = two
    for number in (0, 1):
        assert len(list((folder / f"run/profile/process-{number}").rglob("*.xplane.pb"))) == 1


@pytest.mark.late
def test_a_signal_to_one_stops_all_after_the_same_step_and_one_process_goes_on(two, pretrained, tiny, tmp_path):
    folder, codes, said = two
    assert [own[8] for own in codes] == [42, 42]
    out = shutil.copytree(folder / "stopped", tmp_path / "run")
    stopped = Checkpoints(out).latest
    assert 3 <= stopped < tiny.steps
    assert f"SIGTERM: stopped after step {stopped} and saved it; the same command goes on" in said[0].err
    assert [line["step"] for line in read_metrics(out) if line["split"] == "train"] == list(range(1, stopped + 1))
    assert said[0].err.count("step 3/16") == 2 and "2 processes, 2 devices" in said[0].err
    assert not any(word in said[1].err + said[1].out for word in ("pretrain", "step", "mesh")), said[1]
    assert not list(folder.glob("**/.shared-*"))
    run.pretrain(replace(tiny, out=str(out)))
    same_losses(out, pretrained)


@pytest.mark.late
def test_fine_tuned_evaluated_and_predicted_together(two, finetuned):
    folder, codes, said = two
    assert [own[5:8] for own in codes] == [[0, 0, 0]] * 2
    same_losses(folder / "tuned", finetuned, rtol=1e-3)
    scores = [path / "scores.json" for path in (finetuned, folder / "tuned")] + [folder / "tuned/scores-dev.json"]
    first, *others = [json.loads(path.read_text())["metrics"] for path in scores]
    assert others == [first, first] and first["f1"] > 0
    assert len((folder / "predictions.tsv").read_text().splitlines()) == 4
    assert said[0].err.count("scores in") == 2 and "scores in" not in said[1].err


def test_who_waits_in_vain_says_what_to_do(tiny, home, tmp_path):
    address = ["--hosts.coordinator", f"localhost:{free_port()}", "--hosts.processes", 2, "--hosts.process", 1]
    command = ["-m", "bertjax", *pretraining(home, *tiny.data, tmp_path / "run"), *address, "--hosts.start-timeout", 2]
    began = time.monotonic()
    (said,) = finish(start([command], JAX_NUM_PROCESSES="", JAX_COORDINATOR_ADDRESS=""))
    assert said.code == 2 and time.monotonic() - began < 60, said
    for text in (
        "process 1 of 2",
        "did not find each other (nobody answers at localhost:",
        "--worker=all",
        "srun",
        "--hosts.start-timeout=2",
    ):
        assert text in said.err, said.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["--hosts.processes", 2], ["--hosts.coordinator or JAX_COORDINATOR_ADDRESS", "--hosts.process or JAX_PROC"]),
        (["--hosts.process", 0], ["--hosts.processes or JAX_NUM_PROCESSES"]),
        (["--hosts.coordinator", "localhost:1"], ["--hosts.processes or JAX_NUM_PROCESSES"]),
        (["--hosts.coordinator", "a:1", "--hosts.processes", 2, "--hosts.process", 2], ["from 0, below the number"]),
        (["--hosts.coordinator", "a", "--hosts.processes", 2, "--hosts.process", 1], ["--hosts.coordinator or JAX"]),
        (["--hosts.heartbeat", 0], ["heartbeat=0", "at least 1"]),
    ],
)
def test_half_a_cluster_is_refused(bertjax, tiny, home, tmp_path, given, told):
    outcome = bertjax(*pretraining(home, *tiny.data, tmp_path / "run"), *given)
    assert outcome.code == 2 and all(text in outcome.err for text in told), outcome.err


@pytest.mark.parametrize("mpi", ["OMPI_COMM_WORLD", "PMI"])
def test_mpirun_says_all_but_the_coordinator(bertjax, tiny, home, tmp_path, monkeypatch, mpi):
    monkeypatch.setenv(f"{mpi}_SIZE", "2")
    monkeypatch.setenv(f"{mpi}_RANK", "1")
    outcome = bertjax(*pretraining(home, *tiny.data, tmp_path / "run"))
    assert outcome.code == 2, outcome.err
    assert "without --hosts.coordinator or JAX_COORDINATOR_ADDRESS: give them" in " ".join(outcome.err.split())
    assert cluster.given(cluster.HostsConfig(coordinator="n0:8476")) == ("n0:8476", 2, 1)
    assert cluster.given(cluster.HostsConfig(processes=1)) == ("", 1, 0)


def test_a_number_in_the_environment_that_is_none(bertjax, tiny, home, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_PROCESS_ID", "one")
    outcome = bertjax(*pretraining(home, *tiny.data, tmp_path / "run"))
    assert outcome.code == 2 and "JAX_PROCESS_ID='one' in the environment is not a number" in outcome.err


SRUN = {"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "n1", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
POD = {"KUBERNETES_SERVICE_HOST": "10.0.0.1"}


@pytest.mark.parametrize(
    ("environment", "platforms", "found"),
    [
        ({}, "cpu", ""),
        ({**SRUN, "SLURM_NTASKS": "2"}, "cpu", "slurm"),
        ({**SRUN, "SLURM_NTASKS": "1"}, "cpu", ""),
        ({**SRUN, "SLURM_NTASKS": "8", "SLURM_STEP_NUM_TASKS": "1"}, "cpu", ""),  # a shell inside `salloc`
        ({"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8", "SLURM_PROCID": "0"}, "cpu", ""),  # the script of `sbatch`
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "4"}, "cpu", "ompi"),
        ({"OMPI_MCA_orte_hnp_uri": "1.0;tcp://h:1", "OMPI_COMM_WORLD_SIZE": "1"}, "cpu", ""),
        ({}, "tpu,cpu", "tpu"),  # only the metadata server of Google Cloud knows
        ({"TPU_SKIP_MDS_QUERY": "1"}, "tpu", ""),
        ({"TPU_WORKER_HOSTNAMES": "h0,h1"}, "tpu,cpu", "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, "tpu,cpu", ""),
        ({"TPU_WORKER_HOSTNAMES": "h0", "MEGASCALE_NUM_SLICES": "2"}, "tpu,cpu", "tpu"),
        ({"TPU_WORKER_HOSTNAMES": "h0,h1"}, "cpu", ""),
        (POD, "cpu", ""),
        ({**POD, "JOB_COMPLETION_INDEX": "1"}, "cuda", "kubernetes"),
    ],
)
def test_what_counts_as_one_of_several(monkeypatch, environment, platforms, found):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "OMPI_", "TPU_", "KUBERNETES_", "JOB_"))]:
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster, "find_spec", lambda name: name == "kubernetes")
    before = jax.config.jax_platforms
    jax.config.update("jax_platforms", platforms)
    try:
        assert cluster.cluster() == found
    finally:
        jax.config.update("jax_platforms", before)


@pytest.mark.parametrize("options", [{}, {"processes": 1}])
def test_a_pod_of_several_that_will_run_alone_is_told(monkeypatch, capsys, options):
    for name, value in {**POD, "JOB_COMPLETION_INDEX": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(cluster, "find_spec", lambda name: None)
    hosts.join(cluster.HostsConfig(**options))
    said = " ".join(capsys.readouterr().err.split())
    assert ("runs alone: pip install 'jax[k8s]'" in said) == (not options)


def test_a_run_that_is_being_written_is_not_joined(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("initialised"))
    monkeypatch.setattr(hosts, "_own", hosts.Own())
    monkeypatch.setattr(hosts, "SILENT", -lock.SIGN)
    again = cluster.HostsConfig(f"localhost:{free_port()}", 2, 0, start_timeout=1)
    with (
        lock.held(tmp_path / "run"),
        pytest.raises(ConfigError, match="run is being written by this process; end that"),
    ):
        hosts.join(again, writes=str(tmp_path / "run"))
    assert "waits up to 1 s for its end" in " ".join(capsys.readouterr().err.split())


def test_one_process_has_nothing_to_do_with_others(monkeypatch, tmp_path):
    monkeypatch.setattr(jax.distributed, "initialize", lambda *_, **__: pytest.fail("initialised"))
    hosts.join(cluster.HostsConfig())
    hosts.join(cluster.HostsConfig(processes=1))
    hosts.check_shared(tmp_path / "run")
    assert hosts.whose() == "" and not (tmp_path / "run").exists()


@pytest.mark.parametrize(("options", "code"), [([], 42), (["--hosts.coordinator", "localhost:1"], 2)])
@pytest.mark.parametrize("address", ["", "localhost:1"])
def test_a_cluster_that_does_not_answer_may_be_late(bertjax, tiny, home, tmp_path, monkeypatch, address, options, code):
    def fail(*_, **__):
        raise ConnectionError("no route to metadata.google.internal")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    for name, value in {**SRUN, "SLURM_NTASKS": "2", "JAX_COORDINATOR_ADDRESS": address}.items():
        monkeypatch.setenv(name, value)
    outcome = bertjax(*pretraining(home, *tiny.data, tmp_path / "run"), *options)
    assert outcome.code == code and "no route to metadata.google.internal" in outcome.err, outcome.err
    assert "--hosts.start-timeout" in outcome.err and "Traceback" not in outcome.err
    hosts.stopped_together()  # as at the beginning


def without_dropout(tiny, out, **more):
    model = replace(tiny.model, dropout=0.0, attention_dropout=0.0)
    slow = replace(tiny.optimizer, peak_lr=3e-4)
    return replace(tiny, model=model, optimizer=slow, batch_size=16, out=str(out), **more)


NO_DROPOUT = ["--model.dropout", 0, "--model.attention-dropout", 0, "--optimizer.peak-lr", 3e-4, "--batch-size", 16]


@pytest.mark.slow
@pytest.mark.parametrize("axes", [{"data": -1}, {"data": 2, "fsdp": 2, "tensor": 2}, {"data": 1, "tensor": 8}])
def test_four_processes_on_every_kind_of_mesh_and_resumed_on_one_and_on_eight_devices(tiny, home, tmp_path, axes):
    sizes = [text for name, size in axes.items() for text in (f"--mesh.{name}", size)]
    command = [*pretraining(home, *tiny.data, tmp_path / "run"), *NO_DROPOUT, "--micro-batches", 1, *sizes]
    codes, _ = drive(tmp_path, [[command]] * 4, devices=2)
    assert codes == [[0]] * 4
    run.pretrain(without_dropout(tiny, tmp_path / "alone", micro_batches=1))
    same_losses(tmp_path / "run", tmp_path / "alone")
    for name, mesh in {"one": MeshConfig(data=1), "eight": MeshConfig(data=4, tensor=2)}.items():
        shutil.copytree(tmp_path / "run", tmp_path / name)
        shutil.rmtree(tmp_path / name / "checkpoints/16")  # as if it had been stopped after step 15
        run.pretrain(without_dropout(tiny, tmp_path / name, micro_batches=1, mesh=mesh))
        same_losses(tmp_path / name, tmp_path / "alone")


@pytest.mark.slow
def test_one_process_stopped_and_four_go_on(tiny, home, tmp_path):
    run.pretrain(without_dropout(tiny, tmp_path / "run", micro_batches=1))
    shutil.copytree(tmp_path / "run", tmp_path / "alone")
    shutil.rmtree(tmp_path / "run/checkpoints/16")
    command = [*pretraining(home, *tiny.data, tmp_path / "run"), *NO_DROPOUT, "--micro-batches", 1, "--mesh.fsdp", 2]
    codes, _ = drive(tmp_path, [[command]] * 4)
    assert codes == [[0]] * 4
    same_losses(tmp_path / "run", tmp_path / "alone")
