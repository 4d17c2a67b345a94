"""launch/tpu_vm.sh against a gcloud that replays what happens to TPUs: the commands issued, and nothing left behind."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import time

import pytest
from stubs import ROOT, calls, install

SCRIPT = ROOT / "launch/tpu_vm.sh"
SETTINGS = {"ZONE": "us-west4-a", "TYPE": "v5litepod-16", "VERSION": "v2-alpha-tpuv5-lite", "POLL": "0.2", "SPOT": "1"}
COMMAND = ["bertjax", "pretrain", "a recipe.py", "--out", "/mnt/share/it's a run", "--steps", "$HOME"]


def script(environment, *arguments):
    return subprocess.run(
        [SCRIPT, *arguments], env={**environment, **SETTINGS}, capture_output=True, text=True, timeout=120
    )


def issued(folder):
    """What was asked of gcloud, in a word each; `describe` is left out, and the same question again."""
    words = []
    for arguments in calls(folder, "gcloud"):
        word = next(word for word in ("create", "describe", "delete", "scp", "ssh") if word in arguments)
        if word == "ssh":
            command = arguments[-1]
            kinds = {"uv pip": "install", "setsid": "run", "bertjax-exit": "ended?", "pkill": "stop", "tail": "log"}
            word = next(kind for text, kind in kinds.items() if text in command)
            assert "--worker=all" in arguments
        if word != "describe" and words[-1:] != [word]:
            words.append(word)
    return words


BEGIN = ["create", "scp", "install", "run"]
SEQUENCES = {
    "done": (["MISSING", "WAITING_FOR_RESOURCES", "ACTIVE"], [0], 0, [*BEGIN, "ended?", "delete"]),
    "there already": (["ACTIVE"], [0], 0, [*BEGIN[1:], "ended?", "delete"]),
    "preempted": (
        ["MISSING", "ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "MISSING", "PROVISIONING", "ACTIVE"],
        ["wait", 0], 0, [*BEGIN, "ended?", "delete", *BEGIN, "ended?", "delete"],
    ),
    "preempted twice": (
        ["MISSING", *["ACTIVE", "ACTIVE", "SUSPENDED", "MISSING"] * 2, "ACTIVE"],
        ["wait", "wait", 0], 0, [*[*BEGIN, "ended?", "delete"] * 2, *BEGIN, "ended?", "delete"],
    ),
    "before it began": (["MISSING", "SUSPENDED", "MISSING", "ACTIVE"], [0], 0,
                        ["create", "delete", *BEGIN, "ended?", "delete"]),
    "failed once": (["MISSING", "FAILED", "MISSING", "ACTIVE"], [0], 0,
                    ["create", "delete", *BEGIN, "ended?", "delete"]),
    "always fails": (["FAILED"], [0], 1, ["delete"]),
    "told to stop": (["MISSING", "ACTIVE"], [42, 0], 0, [*BEGIN, "ended?", *BEGIN[1:], "ended?", "delete"]),
    "a wrong command": (["MISSING", "ACTIVE"], [2], 2, [*BEGIN, "ended?", "log", "delete"]),
    "a full disk": (["MISSING", "ACTIVE"], [3], 3, [*BEGIN, "ended?", "log", "delete"]),
    "crashes": (["MISSING", "ACTIVE"], [1, 134, 1], 1,
                [*BEGIN, "ended?", "log", *[*BEGIN[1:], "ended?", "log"] * 2, "delete"]),
    "crashes once": (["MISSING", "ACTIVE"], [1, 0], 0, [*BEGIN, "ended?", "log", *BEGIN[1:], "ended?", "delete"]),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_run_is_kept_going_and_nothing_is_left(tmp_path, name):
    states, exits, code, expected = SEQUENCES[name]
    done = script(install(tmp_path, states=states, exits=exits), "keep", "mine", *COMMAND)
    assert done.returncode == code, done.stderr
    assert issued(tmp_path) == expected, done.stderr
    for _, arguments, _ in calls(tmp_path, "bertjax"):
        assert arguments == COMMAND[1:]  # word for word, through two shells, and the same each time
    assert not any((worker / "bertjax.pid").exists() for worker in tmp_path.glob("worker-*"))


def test_ctrl_c_saves_the_run_and_gives_the_tpu_back(tmp_path):
    environment = {**install(tmp_path, states=["MISSING", "ACTIVE"], exits=["wait"]), **SETTINGS}
    process = subprocess.Popen([SCRIPT, "keep", "mine", *COMMAND], env=environment, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while len(calls(tmp_path, "bertjax")) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "gives the TPU back" in err
    assert issued(tmp_path)[-2:] == ["stop", "delete"]


def test_start_stop_and_start_again(tmp_path):
    environment = install(tmp_path, states=["ACTIVE"], exits=["wait", 0])
    assert script(environment, "run", "mine", *COMMAND).returncode == 0
    end = time.monotonic() + 30
    while len(calls(tmp_path, "bertjax")) < 2 and time.monotonic() < end:
        time.sleep(0.05)
    again = script(environment, "run", "mine", *COMMAND)
    assert again.returncode == 3 and "it runs already" in again.stdout
    assert script(environment, "stop", "mine").returncode == 0
    assert [(worker / "bertjax.exit").read_text() for worker in tmp_path.glob("worker-*")] == ["42\n"] * 2
    assert script(environment, "run", "mine", *COMMAND).returncode == 0


def test_the_commands_word_for_word(tmp_path):
    environment = {**install(tmp_path, states=["ACTIVE"]), "PROJECT": "ours", "SHARE": "10.0.0.2:/share"}
    for arguments in (["create"], ["install"], ["delete"]):
        assert script(environment, arguments[0], "mine").returncode == 0
    where = ["--zone", "us-west4-a", "--project", "ours"]
    queued, node = ["compute", "tpus", "queued-resources"], ["compute", "tpus", "tpu-vm"]
    create, describe, scp, ssh, delete = calls(tmp_path, "gcloud")
    kind = ["--node-id", "mine", "--accelerator-type", "v5litepod-16", "--runtime-version", "v2-alpha-tpuv5-lite"]
    assert create == [*queued, "create", "mine", *where, *kind, "--spot"]
    assert describe == [*queued, "describe", "mine", *where, "--format=value(state.state)"]
    assert scp[:3] == node and scp[5:] == ["mine:bertjax.tar.gz", *where, "--worker=all"]
    assert ssh[:-1] == [*node, "ssh", "mine", *where, "--worker=all"] and "sudo mount 10.0.0.2:/share" in ssh[-1]
    assert subprocess.run(["bash", "-n", "-c", ssh[-1].removeprefix("--command=")]).returncode == 0
    assert delete == [*queued, "delete", "mine", *where, "--force", "--quiet"]


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_gcloud_knows_every_command_and_flag(tmp_path):
    environment = {**install(tmp_path, states=["ACTIVE"], exits=["wait"]), "PROJECT": "ours"}
    for verb in ("create", "install", "run", "stop", "delete"):
        script(environment, verb, "mine", *(COMMAND if verb == "run" else []))
    commands = [shlex.join(["gcloud", *arguments]) for arguments in calls(tmp_path, "gcloud")]
    commands.append("gcloud compute tpus queued-resources delete mine --forse")
    (tmp_path / "commands.json").write_text(json.dumps([{"command_string": command} for command in commands]))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path}/commands.json"]
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path / "config")}
    done = subprocess.run(lint, env=environment, capture_output=True, text=True)
    *ours, wrong = json.loads(done.stdout)
    assert [answer["error_message"] for answer in ours if not answer["success"]] == []
    assert len(ours) >= 6 and not wrong["success"]


@pytest.mark.parametrize(
    ("arguments", "changed", "told"),
    [
        ([], {}, "launch/tpu_vm.sh create  NAME"),
        (["create"], {}, "launch/tpu_vm.sh keep    NAME"),
        (["run", "mine"], {}, "give the command"),
        (["sotp", "mine"], {}, "there is no sotp"),
        (["create", "mine"], {"ZONE": ""}, "name the zone"),
        (["create", "mine"], {"TYPE": ""}, "TYPE=v5litepod-16"),
    ],
)
def test_what_is_missing_is_told(tmp_path, arguments, changed, told):
    environment = {**install(tmp_path, states=["ACTIVE"]), **SETTINGS, **changed}
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2) and told in done.stderr
    assert not calls(tmp_path, "gcloud")
