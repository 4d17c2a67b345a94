"""The launchers that are files for other programs: Slurm's script, GKE's JobSet, SkyPilot's task."""

import copy
import json
import os
import subprocess
from math import prod
from pathlib import Path

import jsonschema
import pytest
import yaml
from stubs import RECORD, ROOT, calls, install

from bertjax.train.hosts import HostsConfig

JOBSET = yaml.safe_load((ROOT / "launch/jobset.yaml").read_text())
SKY = yaml.safe_load((ROOT / "launch/skypilot.yaml").read_text())
SCHEMA = json.loads((Path(__file__).parent / "jobset.schema.json").read_text())


@pytest.mark.parametrize(
    ("code", "after", "queued"),
    [(0, 0, []), (42, 0, [["requeue", "7"]]), (75, 0, [["requeue", "7"]]), (2, 2, []), (134, 134, [])],
)
def test_slurm_starts_a_stopped_run_again_and_no_other(tmp_path, code, after, queued):
    environment = {**install(tmp_path, srun=RECORD, scontrol=RECORD), "SLURM_JOB_ID": "7", "SRUN_EXIT": str(code)}
    command = ["pretrain", "a recipe.py", "--out", "/shared/run"]
    done = subprocess.run(
        ["bash", ROOT / "launch/slurm.sbatch", *command], env=environment, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == after and not done.stderr
    assert calls(tmp_path, "srun") == [["bertjax", *command]] and calls(tmp_path, "scontrol") == queued
    assert (tmp_path / "bertjax-7.restarts").exists() == bool(queued)


# Exits with SRUN_EXIT, after it has made the checkpoint or shard SRUN_MAKES.
SRUN = """
import os, sys
from pathlib import Path
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
    (run / "checkpoints/1").mkdir(parents=True)  # of another job
    environment = {**install(tmp_path, srun=SRUN, scontrol=RECORD), "SLURM_JOB_ID": "7", "SLURM_JOB_NAME": "base"}
    for number, made in enumerate(makes):
        done = subprocess.run(
            ["bash", ROOT / "launch/slurm.sbatch", "pretrain", "r.py", "--out", run],
            env={**environment, "SRUN_EXIT": str((42, 75)[number % 2]), "SRUN_MAKES": made},
            capture_output=True, text=True, cwd=tmp_path,
        )  # fmt: skip
        last = number == queued
        assert done.returncode == ((42, 75)[number % 2] if last else 0), done
        told = f"3 restarts in a row made no new checkpoint in {run}: job 7 is not queued again"
        assert (told in done.stderr) == last and (tmp_path / "base-7.restarts").exists() != last
    assert calls(tmp_path, "scontrol") == [["requeue", "7"]] * queued


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
    # A wrong command or a full disk fails all; any other end, such as 42 after a signal, starts all again.
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3] and job["backoffLimit"] == 0
    assert pod["terminationGracePeriodSeconds"] > HostsConfig().heartbeat


def test_the_command_of_every_launcher_is_one_of_ours(tmp_path):
    from bertjax.config import Pretrain
    from bertjax.recipe import load_recipe

    container = JOBSET["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]
    said = " ".join(container["command"] + container["args"])
    assert said.replace("/shared/", "gs://$BUCKET/") in SKY["run"] and said in (ROOT / "launch/jobset.yaml").read_text()
    load_recipe(str(ROOT / container["command"][2]), Pretrain)


def test_skypilot_tells_every_process_who_it_is(tmp_path):
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    environment = {**install(tmp_path), **nodes, "HOME": str(tmp_path)}
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
