"""Runs in a bucket (gs://), by a server on this machine: every verb, and whatever may be wrong with a bucket."""

import io
import json
import random
import signal
import sys
import time
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from processes import finish, start
from test_resume import equal_runs, logged
from test_several_hosts import same_losses

from bertjax import api, pretraining, suite
from bertjax.paths import as_path
from bertjax.supervise import kept
from bertjax.train import hang
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.log import read_metrics
from bertjax.train.saver import tidy
from bertjax.train.steps import steps_of
from bertjax.train.stop import last_step


def damage(store, prefix):
    """Changes a bit of the largest object whose name begins so; gives its name."""
    name, data = max(store.files("bkt", prefix).items(), key=lambda item: len(item[1]))
    changed = bytearray(data)
    changed[len(changed) // 2] ^= 16
    store.store("bkt", name, bytes(changed))
    return name


def test_stopped_and_resumed_there_is_the_run_on_a_disk(in_bucket, pretrained):
    equal_runs(pretrained, as_path("gs://bkt/run"))
    there = {name.split("/")[1] for name in in_bucket.files("bkt")}
    assert there == {"config.json", "metrics.jsonl", "tokenizer", "checkpoints"}, "no lock is left, and nothing else"
    steps = steps_of(as_path("gs://bkt/run"))
    assert steps == steps_of(pretrained) and last_step(as_path("gs://bkt/run")) == 16
    assert kept(as_path("gs://bkt/run")) == {f"checkpoints/{step}" for step in steps}


def test_who_may_read_and_no_more_can_use_a_run(bertjax, in_bucket, home, tmp_path):
    in_bucket.fault = lambda method, path: 403 if method != "GET" or path.endswith("/b/bkt") else None
    (tmp_path / "texts").write_text("a text\n")
    outcome = bertjax("embed", "gs://bkt/run", "--input", tmp_path / "texts", "--out", tmp_path / "v.npy")
    assert outcome.code == 0, outcome.err
    assert bertjax("inspect", "gs://bkt/run", "--verify").code == 0
    assert api.load_tokenizer("gs://bkt/run").vocabulary == api.load_tokenizer(home / "data").vocabulary


def test_what_else_is_written_in_a_run(cloud):
    folder = as_path("gs://bkt/suite")
    name = suite.SUBMISSION[0]
    (folder / "submission" / name).write_text("index\tprediction\n")
    suite._pack(folder)
    with zipfile.ZipFile(io.BytesIO((folder / "submission.zip").read_bytes())) as archive:
        assert archive.read(name) == b"index\tprediction\n"
    assert hang._write(folder / "stacks-0.txt")
    assert "test_what_else_is_written_in_a_run" in (folder / "stacks-0.txt").read_text()


@pytest.mark.slow
def test_every_verb_takes_such_a_run(bertjax, in_bucket, home, pretrained, tmp_path):
    arguments = ["--task", "sms_spam", "--data", home, "--epochs", "1"]
    for source, out in ((pretrained, tmp_path / "tuned"), ("gs://bkt/run", "gs://bkt/tuned")):
        outcome = bertjax("finetune", home / "finetune.py", *arguments, "--from", source, "--out", out)
        assert outcome.code == 0, outcome.err
        outcome = bertjax("evaluate", out, "--data", home)
        assert outcome.code == 0 and f"scores in {out}/scores-dev.json" in outcome.err, outcome.err
    for name in ("scores.json", "scores-dev.json"):
        local, there = (
            json.loads(data)
            for data in ((tmp_path / "tuned" / name).read_bytes(), in_bucket.files("bkt")[f"tuned/{name}"])
        )
        assert local["metrics"] == there["metrics"] and local["metrics"]
    again = bertjax("finetune", home / "finetune.py", *arguments, "--from", "gs://bkt/run", "--out", "gs://bkt/tuned")
    assert again.code == 0 and "resumes after step 8 of 8" in again.err

    (tmp_path / "texts").write_text("free prize now\nsee you at home\n")
    (tmp_path / "texts.tsv").write_text("text\nfree prize now\nsee you at home\n")
    made = []
    for source, tuned in ((pretrained, tmp_path / "tuned"), ("gs://bkt/run", "gs://bkt/tuned")):
        assert bertjax("embed", source, "--input", tmp_path / "texts", "--out", tmp_path / "v.npy").code == 0
        assert bertjax("predict", tuned, "--input", tmp_path / "texts.tsv", "--out", tmp_path / "p.tsv").code == 0
        shown = bertjax("inspect", source).out.split("best checkpoint")[1]
        made.append((np.load(tmp_path / "v.npy").tobytes(), (tmp_path / "p.tsv").read_bytes(), shown))
    assert made[0] == made[1]
    reported = bertjax("report", pretrained, "gs://bkt/run")
    assert reported.code == 0 and "gs://bkt/run" in reported.out
    assert bertjax("convert", "--from", "gs://bkt/run", "--to", tmp_path / "hf").code == 0


def upload(store, folder, name):
    """A folder of this machine into the bucket."""
    for file in folder.rglob("*"):
        if file.is_file():
            store.store("bkt", f"{name}/{file.relative_to(folder).as_posix()}", file.read_bytes())


def test_prepared_data_in_a_bucket(bertjax, cloud, data, tiny):
    upload(cloud, data, "data")
    made = []
    for folder in (str(data), "gs://bkt/data"):
        tokenizer, config = pretraining.resolve(replace(tiny, data=(folder,)))
        mixture = pretraining.mixture_of(config, tokenizer, "train", config.phases[0])
        made.append({name: array.tobytes() for name, array in mixture.batch(mixture.start()).items()})
    assert made[0] == made[1]
    assert bertjax("inspect", "gs://bkt/data", "--verify").code == 0
    name = damage(cloud, "data/train-").removeprefix("data/")
    outcome = bertjax("inspect", "gs://bkt/data", "--verify")
    assert outcome.code == 2 and f"{name}: other bytes than were written" in outcome.err


@pytest.mark.slow
def test_workers_read_such_data(bertjax, cloud, home, data, pretrained):
    upload(cloud, data, "data")
    outcome = bertjax(
        "pretrain", home / "pretrain.py", "--data", "gs://bkt/data", "--out", "gs://bkt/run", "--workers", "1"
    )
    assert outcome.code == 0, outcome.err
    equal_runs(pretrained, as_path("gs://bkt/run"))


@pytest.fixture
def worn(in_bucket):
    """The run with a step whose objects have changed, and one that is cut off; gives the name of what was changed."""
    name = damage(in_bucket, "run/checkpoints/15/train/")
    del in_bucket.buckets["bkt"]["run/checkpoints/15/extra/metadata"]
    # As it is where a process was killed: all that a step has but its last object.
    del in_bucket.buckets["bkt"]["run/checkpoints/16/commit_success.txt"]
    return name


def test_objects_are_compared_by_what_the_bucket_knows_of_them(bertjax, in_bucket):
    outcome = bertjax("inspect", "gs://bkt/run", "--verify")
    assert outcome.code == 0 and outcome.out.count("whole") == len(steps_of(as_path("gs://bkt/run")))
    assert in_bucket.calls["GET"] < len(in_bucket.files("bkt", "run/checkpoints/"))


def test_damaged_objects_and_cut_off_saves_are_passed_over(bertjax, in_bucket, worn):
    outcome = bertjax("inspect", "gs://bkt/run", "--verify")
    assert outcome.code == 2 and "2 files are damaged" in outcome.err
    for line in (f"{worn.removeprefix('run/')}: other bytes than were written", "15/extra/metadata: missing"):
        assert line in outcome.err
    doctor = bertjax("doctor", "--out", "gs://bkt/run")
    assert "last checkpoint of step 15" in doctor.out and "stale files" in doctor.out
    out = as_path("gs://bkt/run")
    found = Checkpoints(out).latest_good()
    assert (found.number, found.damaged) == (8, (15,))
    tidy(out, found.damaged)
    assert steps_of(out) == [8] and not in_bucket.files("bkt", "run/checkpoints/16")
    assert worn.replace("checkpoints", "damaged") in in_bucket.files("bkt")
    assert not in_bucket.files("bkt", "run/checkpoints/15")


@pytest.mark.slow
def test_a_run_goes_on_from_the_last_whole_checkpoint_there(bertjax, in_bucket, worn, home, data, pretrained):
    outcome = bertjax("pretrain", home / "pretrain.py", "--data", data, "--out", "gs://bkt/run")
    assert outcome.code == 0, outcome.err
    for line in ("15 is damaged and is passed over", "resumes after step 8 of 16", "moved to gs://bkt/run/damaged/15"):
        assert line in outcome.err
    equal_runs(pretrained, as_path("gs://bkt/run"))
    assert bertjax("inspect", "gs://bkt/run", "--verify").code == 0


def test_a_run_copied_from_a_bucket_or_into_one_is_as_good(bertjax, in_bucket, pretrained, tmp_path):
    for name, content in in_bucket.files("bkt", "run/").items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert bertjax("inspect", tmp_path / "run", "--verify").code == 0
    upload(in_bucket, pretrained, "copied")
    assert bertjax("inspect", "gs://bkt/copied", "--verify").code == 0
    name = damage(in_bucket, "copied/checkpoints/16/encoder")
    (tmp_path / damage(in_bucket, "run/checkpoints/16/encoder")).write_bytes(b"")
    assert name.removeprefix("copied/") in bertjax("inspect", "gs://bkt/copied", "--verify").err
    assert "16/encoder" in bertjax("inspect", tmp_path / "run", "--verify").err


def test_doctor(bertjax, in_bucket, data):
    upload(in_bucket, data, "data")
    before = in_bucket.files("bkt")
    outcome = bertjax("doctor", "--out", "gs://bkt/run", "--data", "gs://bkt/data")
    assert outcome.code == 0 and "last checkpoint of step 16" in outcome.out and "shards" in outcome.out, outcome.out
    assert in_bucket.files("bkt") == before
    assert bertjax("doctor", "--out", "gs://bkt/new").code == 0
    in_bucket.fault = lambda method, path: 403 if method == "POST" else None
    outcome = bertjax("doctor", "--out", "gs://bkt/run")
    assert outcome.code == 2 and "cannot be written" in outcome.out and "storage.objectUser" in outcome.out


PRETRAIN = "pretrain {home}/pretrain.py --data {data} --out gs://bkt/run"


@pytest.mark.parametrize(
    ("fault", "command", "code", "told"),
    [
        (403, PRETRAIN, 2, ["--out gs://bkt/run: the bucket forbids it", "roles/storage.objectUser"]),
        (401, PRETRAIN, 2, ["--out gs://bkt/run", "gcloud auth application-default login"]),
        (404, PRETRAIN, 2, ["--out gs://bkt/run", "there is no bucket bkt", "gcloud storage buckets create gs://bkt"]),
        (503, PRETRAIN, 75, ["gs://bkt/run: the bucket does not answer", "give the same command again"]),
        ("drop", PRETRAIN, 75, ["gs://bkt/run: the bucket does not answer"]),
        ("metadata", PRETRAIN, 2, ["--out gs://bkt/run: the bucket forbids it", "roles/storage.legacyBucketReader"]),
        (403, "evaluate gs://bkt/run --data {home}", 2, ["RUN gs://bkt/run: the bucket forbids it"]),
        (None, "evaluate gs://bkt/run --data {home}", 2, ["gs://bkt/run: no such run in the bucket"]),
        (None, "inspect gs://bkt/run --verify", 2, ["gs://bkt/run holds no checkpoints/"]),
        (None, "inspect gs://B_!/run", 2, ["no name of a bucket"]),
        (None, "inspect gs://bkt", 2, ["names the whole bucket"]),
        (None, PRETRAIN + " --profile 2:3", 2, ["--profile", "on this machine"]),
    ],
)
def test_what_may_be_wrong_with_a_bucket_is_told_in_one_line(bertjax, cloud, home, data, fault, command, code, told):
    cloud.fault = lambda method, path: fault
    if fault == "metadata":  # as it is for who may read and write objects, and no more
        cloud.fault = lambda method, path: 403 if path.endswith("/b/bkt") else None
    outcome = bertjax(*command.format(home=home, data=data).split())
    assert outcome.code == code and all(text in outcome.err for text in told), outcome.err
    assert outcome.err.count("\n") == 1 and not cloud.files("bkt")


def test_gcsfs_is_asked_for(bertjax, cloud, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    outcome = bertjax("inspect", "gs://bkt/run")
    assert outcome.code == 2 and "pip install 'bertjax[gcs]'" in outcome.err and outcome.err.count("\n") == 1


@pytest.fixture
def hasty(monkeypatch):
    """Tensorstore, too, tries again at once and not for long."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    tries = {"gcs_request_retries": {"max_retries": 2, "initial_delay": "1ms", "max_delay": "1ms"}}
    for name in ("_BASE_TS_CONTEXT", "_DEFAULT_OCDBT_TS_CONTEXT"):
        monkeypatch.setattr(tensorstore_utils, name, {**getattr(tensorstore_utils, name), **tries})


def cut(store, fault):
    """An action for `on_step`: from then on the bucket has a fault."""

    def act(state):
        store.fault = lambda method, path: fault
        return state

    return act


@pytest.mark.parametrize("fault", [503, "drop"])
@pytest.mark.parametrize("part", ["manifest.json", "metrics%2Fmetrics", "extra%2Fmetadata", "encoder%2F"])
def test_what_cannot_be_read_now_is_not_damaged(bertjax, in_bucket, hasty, tmp_path, part, fault):
    before = in_bucket.files("bkt")
    (tmp_path / "texts").write_text("a text\n")
    in_bucket.fault = lambda method, path: fault if method == "GET" and part in path else None
    outcome = bertjax("embed", "gs://bkt/run", "--input", tmp_path / "texts", "--out", tmp_path / "v.npy")
    assert outcome.code == 75 and "the bucket does not answer" in outcome.err, outcome.err
    assert "damaged" not in outcome.err and "Traceback" not in outcome.err
    assert in_bucket.files("bkt") == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "code", "told"), [(503, 75, "does not answer"), (403, 3, "forbids it"), ("drop", 75, "does not answer")]
)
def test_a_bucket_that_goes_away_ends_the_run(bertjax, cloud, hasty, on_step, home, data, fault, code, told):
    command = ("pretrain", home / "pretrain.py", "--data", data, "--out", "gs://bkt/run", "--save-every", "2")
    on_step(7, cut(cloud, fault))
    outcome = bertjax(*command)
    assert outcome.code == code and "Traceback" not in outcome.err, outcome.err
    assert "could not be saved" in outcome.err and told in outcome.err, outcome.err


@pytest.mark.slow
def test_a_bucket_that_is_away_for_a_save_costs_that_save(bertjax, cloud, hasty, on_step, home, data, pretrained):
    on_step(9, cut(cloud, 503))
    on_step(12, cut(cloud, None))
    outcome = bertjax("pretrain", home / "pretrain.py", "--data", data, "--out", "gs://bkt/run")
    assert outcome.code == 0 and "could not be saved" in outcome.err, outcome.err
    assert logged(pretrained) == logged(as_path("gs://bkt/run"))
    assert Checkpoints(as_path("gs://bkt/run")).latest == 16
    assert bertjax("inspect", "gs://bkt/run", "--verify").code == 0


def until(processes, condition):
    """Returns when a condition holds, while the processes go on."""
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end and all(process.poll() is None for process in processes), finish(processes)
        time.sleep(0.05)


@pytest.mark.slow
def test_two_processes_write_one_run_and_one_goes_on(bertjax, cloud, home, data, tmp_path):
    upload(cloud, data, "data")
    long = ("--steps", 160, "--eval-every", 80, "--save-every", 20, "--log-every", 4, "--optimizer.peak-lr", 3e-4)
    command = ["pretrain", home / "pretrain.py", "--data", "gs://bkt/data", *long]
    shared = ["-m", "bertjax", *command, "--out", "gs://bkt/run", "--mesh.data", "-1"]
    processes = start([shared, shared])
    until(processes, lambda: "run/checkpoints/20/commit_success.txt" in cloud.files("bkt"))
    processes[1].send_signal(signal.SIGTERM)
    said = finish(processes)
    assert [one.code for one in said] == [42, 42], said
    out = as_path("gs://bkt/run")
    stopped = Checkpoints(out).latest
    assert f"stopped after step {stopped} and saved it" in said[0].err and 20 <= stopped < 160
    assert not [name for name in cloud.files("bkt") if "run.lock" in name or ".shared" in name]
    assert [line["step"] for line in read_metrics(out) if line["split"] == "train"] == list(range(4, stopped + 1, 4))
    assert bertjax("inspect", out, "--verify").code == 0
    assert bertjax(*command, "--out", out).code == 0
    assert bertjax(*command, "--out", tmp_path / "alone").code == 0
    same_losses(out, tmp_path / "alone")


@pytest.mark.slow
def test_a_process_that_was_killed_is_followed_at_once(cloud, home, data, pretrained):
    command = [["-m", "bertjax", "pretrain", home / "pretrain.py", "--data", data, "--out", "gs://bkt/run"]]
    processes = start(command, JAX_NUM_PROCESSES="1")
    until(processes, lambda: "run/checkpoints/5/commit_success.txt" in cloud.files("bkt"))
    processes[0].kill()
    finish(processes)
    assert "run/run.lock" in cloud.files("bkt")
    (said,) = finish(start(command, JAX_NUM_PROCESSES="1"), seconds=50)
    assert said.code == 0 and "was left locked" not in said.err and "resumes after step" in said.err, said
    equal_runs(pretrained, as_path("gs://bkt/run"))


@pytest.mark.slow
def test_killed_at_random_moments_it_is_the_run_left_alone(bertjax, cloud, home, data, tmp_path):
    many = ("--steps", 120, "--eval-every", 40, "--save-every", 7, "--log-every", 3)
    command = ["pretrain", home / "pretrain.py", "--data", data, *many, "--out"]
    assert bertjax(*command, tmp_path / "alone").code == 0
    rng, lock, kills = random.Random(0), None, 0
    while kills < 5:
        (process,) = start([["-m", "bertjax", *command, "gs://bkt/run"]], JAX_NUM_PROCESSES="1")
        until([process], lambda before=lock: cloud.buckets["bkt"].get("run/run.lock") not in (before, None))
        lock = cloud.buckets["bkt"]["run/run.lock"]
        time.sleep(rng.uniform(1, 10))
        if process.poll() is not None:
            break
        process.kill()
        kills += 1
        finish([process])
    (said,) = finish(start([["-m", "bertjax", *command, "gs://bkt/run"]], JAX_NUM_PROCESSES="1"))
    assert said.code == 0 and "damaged" not in said.err, said
    equal_runs(tmp_path / "alone", as_path("gs://bkt/run"))
    assert bertjax("inspect", "gs://bkt/run", "--verify").code == 0
