"""The launchers that are files for other programs: Slurm's script, GKE's JobSet, SkyPilot's task."""

import copy
import json
import os
import re
import shlex
import subprocess
from math import prod
from pathlib import Path

import jsonschema
import pytest
import yaml
from stubs import RECORD, ROOT, calls, install

from bertjax import cli
from bertjax.config import Pretrain
from bertjax.supervise import IN_VAIN
from bertjax.train.hosts import HostsConfig

JOBSET = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())
SKY = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())


AGAIN = [["requeue", "7"]]


@pytest.mark.parametrize(
    ("code", "after", "queued"),
    [
        (0, 0, []),
        (42, 0, AGAIN),
        (75, 0, AGAIN),
        (134, 0, AGAIN),
        (1, 0, AGAIN),
        (2, 2, []),
        (3, 3, []),
        (130, 130, []),
    ],
)
def test_slurm_starts_again_what_may_go_better_and_nothing_else(tmp_path, code, after, queued):
    environment = {**install(tmp_path, srun=RECORD, scontrol=RECORD), "SLURM_JOB_ID": "7", "SRUN_EXIT": str(code)}
    command = ["pretrain", "a recipe.py", "--out", "/shared/run"]
    done = subprocess.run(
        ["bash", ROOT / "launch/slurm.sbatch", *command], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == after and bool(done.stderr) == bool(queued), done.stderr
    assert calls(tmp_path, "srun") == [["bertjax", *command]] and calls(tmp_path, "scontrol") == queued
    assert (tmp_path / "bertjax-7.restarts").exists() == bool(queued)


# Exits with SRUN_EXIT, after it has made the checkpoint or shard SRUN_MAKES.
SRUN = """
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
    environment = {**install(tmp_path, srun=SRUN, scontrol=RECORD), **job}
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
    environment = {**install(tmp_path, srun=RECORD, scontrol=RECORD), "SLURM_JOB_ID": "7", "SRUN_EXIT": "42"}
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
    wrong = copy.deepcopy(JOBSET)
    wrong["spec"]["replicatedJobs"][0]["template"]["spec"]["paralelism"] = 4
    with pytest.raises(jsonschema.ValidationError, match="paralelism"):
        jsonschema.validate(wrong, SCHEMA)


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
    default, options = cli._preset(cli._recipe(recipe, Pretrain), options)
    config, process = cli._parse(Pretrain, default, options, verb)
    assert verb == "pretrain" and config.out == "/shared/run" and process.start_timeout == 1200


def test_skypilot_tells_every_process_who_it_is(tmp_path):
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    alone = '#!/bin/sh\nshift 2\nexec "$@"\n'  # without the supervisor, which would look for the bucket
    environment = {**install(tmp_path, python=alone), **nodes, "HOME": str(tmp_path)}
    done = subprocess.run(["bash", "-e", "-c", SKY["run"]], env=environment, cwd=tmp_path, capture_output=True)
    assert done.returncode == 0, done.stderr
    ((_, arguments, cluster),) = calls(tmp_path, "bertjax")
    assert arguments[0] == "pretrain"
    for name, value in {"COORDINATOR_ADDRESS": "10.0.0.1:8476", "NUM_PROCESSES": "2", "PROCESS_ID": "1"}.items():
        assert cluster[f"JAX_{name}"] == value
    assert SKY["num_nodes"] == 2 and "gcs" in SKY["setup"]


def test_scripts_pass_shellcheck():
    scripts = [*(ROOT / "launch").glob("*.sh"), ROOT / "launch/slurm.sbatch", ROOT / ".ci/run"]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True, env=os.environ)
    assert done.returncode == 0, done.stdout
    assert "launch/slurm.sbatch" in (ROOT / "launch/test.sh").read_text()
