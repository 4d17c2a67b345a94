"""The launchers that are files for other programs: Slurm's script, GKE's JobSet, SkyPilot's task."""

import copy
import json
import os
import re
import shlex
import subprocess
import tomllib
from math import prod
from pathlib import Path

import jsonschema
import pytest
import yaml
from stubs import RECORD, ROOT, SRUN, calls, install

from bertjax import verbs
from bertjax.config import Pretrain
from bertjax.supervise import IN_VAIN
from bertjax.train.cluster import HostsConfig

JOBSET = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())
SKY = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())


AGAIN = [["requeue", "7"]]


@pytest.mark.parametrize(
    ("codes", "after", "queued"),
    [
        ("0 0", 0, []),
        ("42 42", 0, AGAIN),
        ("75 75", 0, AGAIN),
        ("134 42", 0, AGAIN),
        ("1 1", 0, AGAIN),
        ("2 2", 2, []),
        ("3 3", 3, []),  # no room to begin
        ("42 3", 0, AGAIN),  # one could not save: the next start looks for room
        ("130 130", 130, []),
    ],
)
def test_slurm_starts_again_what_may_go_better_and_nothing_else(tmp_path, codes, after, queued):
    environment = {**install(tmp_path, srun=SRUN, scontrol=RECORD), "SLURM_JOB_ID": "7", "SRUN_EXITS": codes}
    command = ["pretrain", "a recipe.py", "--out", "/shared/run"]
    done = subprocess.run(
        ["bash", ROOT / "launch/slurm.sbatch", *command], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == after and bool(done.stderr) == bool(queued), done.stderr
    assert calls(tmp_path, "srun") == [["bertjax", *command]] and calls(tmp_path, "scontrol") == queued
    assert (tmp_path / "bertjax-7.restarts").exists() == bool(queued)


def test_slurm_names_the_gpus_unless_another_platform_is_named(tmp_path):
    environment = {**install(tmp_path, srun=SRUN, scontrol=RECORD), "SLURM_JOB_ID": "7", "SRUN_EXITS": "0"}
    del environment["JAX_PLATFORMS"]
    for named in ({}, {"JAX_PLATFORMS": "rocm"}):
        subprocess.run(["bash", ROOT / "launch/slurm.sbatch"], env=environment | named, check=True, cwd=tmp_path)
        assert (tmp_path / "platforms").read_text() == named.get("JAX_PLATFORMS", "cuda,cpu")


# Exits with SRUN_EXIT, after it has made the checkpoint or shard SRUN_MAKES.
SRUN_THAT_SAVES = """
import os, sys
from pathlib import Path
assert os.environ["SRUN_CPUS_PER_TASK"] == os.environ["SLURM_CPUS_PER_TASK"]
if os.environ["SRUN_MAKES"]:
    (Path(sys.argv[sys.argv.index("--out") + 1]) / os.environ["SRUN_MAKES"]).mkdir(parents=True)
sys.exit(int(os.environ["SRUN_EXIT"]))
"""
STEPS = [f"checkpoints/{step}" for step in (5, 10, 15)]


@pytest.mark.parametrize(
    ("makes", "queued"),
    [
        ([""] * 4, 3),  # the first and three more
        (["", "", "", STEPS[0], "", "", STEPS[1], "", "", ""], 9),  # what is new gives three more
        (["mnli/seed-0/checkpoints/5", "", "", ""], 3),
        ([STEPS[0], "checkpoints/5/deeper", "checkpoints/6.orbax-checkpoint-tmp", "mesh/7"], 3),  # none of these is new
        ([f"train-{shard}.array_record" for shard in range(6)], 6),
        (STEPS, 3),
    ],
)
def test_slurm_gives_up_after_three_restarts_in_vain(tmp_path, makes, queued):
    run = tmp_path / "a run"
    (tmp_path / "disk/checkpoints/1").mkdir(parents=True)  # of another job
    run.symlink_to(tmp_path / "disk")
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "base", "SLURM_CPUS_PER_TASK": "8"}
    environment = {**install(tmp_path, srun=SRUN_THAT_SAVES, scontrol=RECORD), **job}
    for number, made in enumerate(makes):
        done = subprocess.run(
            ["bash", ROOT / "launch/slurm.sbatch", "pretrain", "r.py", "--out", run],
            env={**environment, "SRUN_EXIT": str((42, 75)[number % 2]), "SRUN_MAKES": made},
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        last = number == queued
        assert done.returncode == (1 if last else 0), done
        told = f"3 restarts in a row made no new checkpoint in {run}: gives up"
        assert (told in done.stderr) == last and (tmp_path / "base-7.restarts").exists() != last
    assert calls(tmp_path, "scontrol") == [["requeue", "7"]] * queued


@pytest.mark.parametrize(
    ("count", "told"),
    [("[]", "is not what was written there"), ("", "is not what was written there"), (None, "Is a directory")],
)
def test_slurm_does_not_queue_what_it_cannot_count(tmp_path, count, told):
    file = tmp_path / "bertjax-7.restarts"
    file.mkdir() if count is None else file.write_text(count)
    environment = {**install(tmp_path, srun=SRUN, scontrol=RECORD), "SLURM_JOB_ID": "7", "SRUN_EXITS": "42"}
    done = subprocess.run(
        ["bash", ROOT / "launch/slurm.sbatch", "pretrain"],
        env=environment,
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 2 and told in done.stderr, done.stderr
    assert not calls(tmp_path, "srun") and not calls(tmp_path, "scontrol")


def test_slurm_gives_the_run_more_time_to_stop_than_others_wait_for_it():
    options = dict(
        line.removeprefix("#SBATCH --").partition("=")[::2]
        for line in (ROOT / "launch/slurm.sbatch").read_text().splitlines()
        if line.startswith("#SBATCH --")
    )
    name, _, seconds = options["signal"].partition("@")
    assert name == "TERM" and int(seconds) >= 60  # no B: in front: to the processes, not to the script
    assert "requeue" in options and options["open-mode"] == "append"
    assert options["ntasks-per-node"] == options["gpus-per-node"] and "gpus-per-task" not in options


def test_the_jobset_is_one():
    jsonschema.validate(JOBSET, SCHEMA)


@pytest.mark.parametrize(
    ("path", "wrong", "told"),
    [
        ([], {"paralelism": 4}, "paralelism"),
        (["template", "spec"], {"toleration": []}, "toleration"),
        (["template", "spec", "tolerations", 0], {"effect": "NoScheduling"}, "NoScheduling"),
        (["template", "spec", "tolerations", 0], {"operator": "Exists"}, "'true'"),  # which has no value
        (["template", "spec", "volumes", 0], {"hostPath": {"path": "/dev/shm"}}, "too many properties"),
        (["template", "spec", "volumes", 0, "emptyDir"], {"medium": "memory"}, "'memory' is not one of"),
        (["podFailurePolicy", "rules", 0, "onExitCodes"], {"values": [0]}, "0 should not be valid"),
    ],
)
def test_what_kubernetes_would_refuse_is_no_jobset(path, wrong, told):
    jobset = copy.deepcopy(JOBSET)
    at = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    for name in path:
        at = at[name]
    at |= wrong
    with pytest.raises(jsonschema.ValidationError, match=told):
        jsonschema.validate(jobset, SCHEMA)


def test_the_jobset_has_a_pod_for_every_host_and_volumes_for_every_mount():
    job = JOBSET["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    chips = prod(map(int, pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"].split("x")))
    hosts = chips // container["resources"]["limits"]["google.com/tpu"]
    assert job["parallelism"] == job["completions"] == hosts and job["completionMode"] == "Indexed"
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    # Restarts in vain, a wrong command and a full disk fail all; any other end, such as 42, starts all again.
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [IN_VAIN, 2, 3] and job["backoffLimit"] == 0
    assert pod["terminationGracePeriodSeconds"] > HostsConfig().heartbeat


def test_the_pods_may_run_on_spot_nodes_and_their_workers_share_memory():
    pod = JOBSET["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]
    (spot,) = [toleration for toleration in pod["tolerations"] if toleration["key"] in pod["nodeSelector"]]
    assert spot["value"] == pod["nodeSelector"][spot["key"]] == "true" and spot["effect"] == "NoSchedule"
    (name,) = [mount["name"] for mount in pod["containers"][0]["volumeMounts"] if mount["mountPath"] == "/dev/shm"]
    assert [volume["emptyDir"] for volume in pod["volumes"] if volume["name"] == name] == [{"medium": "Memory"}]


def test_the_command_of_every_launcher_is_one_of_ours(monkeypatch):
    container = JOBSET["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    command = container["command"] + container["args"]
    lines = (ROOT / "launch/jobset.yaml").read_text().splitlines(keepends=True)
    comment = "".join(line.lstrip("# ") for line in lines if line.startswith("#"))
    by_xpk = shlex.split(re.search(r'--command "(.*?)"', comment, re.DOTALL)[1].replace("\\\n", " "))
    by_skypilot = shlex.split(SKY["run"].splitlines()[-2].replace("\\", "") + SKY["run"].splitlines()[-1])
    assert command == by_xpk == [word.replace("gs://$BUCKET/", "/shared/") for word in by_skypilot]
    assert command[:4] == ["python", "-m", "bertjax.supervise", "bertjax"]
    monkeypatch.chdir(ROOT)
    verb, recipe, *options = command[4:]
    default, options = verbs.preset(verbs.recipe(recipe, Pretrain), options)
    config, process = verbs.parse(Pretrain, default, options, verb)
    assert verb == "pretrain" and config.out == "/shared/run" and process.start_timeout == 1200
    assert config.model.dtype == "bfloat16"


def test_skypilot_tells_every_process_who_it_is(tmp_path):
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    alone = '#!/bin/sh\nshift 2\nexec "$@"\n'  # without the supervisor, which would look for the bucket
    environment = {**install(tmp_path, python=alone), **nodes, "HOME": str(tmp_path)}
    del environment["JAX_PLATFORMS"]
    done = subprocess.run(["bash", "-e", "-c", SKY["run"]], env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    ((_, arguments, cluster),) = calls(tmp_path, "bertjax")
    assert arguments[0] == "pretrain"
    for name, value in {"COORDINATOR_ADDRESS": "10.0.0.1:8476", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}.items():
        assert cluster[f"JAX_{name}"] == value
    assert cluster["JAX_PLATFORMS"] == "cuda,cpu"
    assert SKY["num_nodes"] == 2 and "gcs" in SKY["setup"]


def test_what_is_told_to_be_installed_can_be():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    files = [ROOT / "README.md", *(ROOT / "launch").iterdir(), *(ROOT / "bertjax").rglob("*.py")]
    text = "".join(file.read_text() for file in files)
    told = re.findall(r"(?:bertjax|'\.)\[([a-z0-9,]+)\]'|EXTRA=([a-z0-9,]+)", text)
    asked = {extra for pair in told for extra in "".join(pair).split(",")}
    assert {"tpu", "cuda", "cuda12", "gcs", "parquet"} <= asked <= set(extras)


def test_scripts_pass_shellcheck():
    scripts = [*(ROOT / "launch").glob("*.sh"), ROOT / "launch/slurm.sbatch", ROOT / ".ci/run"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout
    assert "launch/slurm.sbatch" in (ROOT / "launch/test.sh").read_text()
