"""launch/tpu_vm.sh against a gcloud that replays what happens to TPUs: the commands issued, and nothing left behind."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import tarfile
import time

import pytest
from stubs import ROOT, calls, install

SCRIPT = ROOT / "launch/tpu_vm.sh"
SETTINGS = {"ZONE": "us-west4-a", "TYPE": "v5litepod-16", "VERSION": "v2-alpha-tpuv5-lite", "SPOT": "1"}
SETTINGS |= {"POLL": "0.05", "GIVE_UP": "60"}
COMMAND = ["bertjax", "pretrain", "a recipe.py", "--out", "/mnt/share/it's a run", "--steps", "$HOME"]


def script(environment, *arguments, **settings):
    return subprocess.run(
        [SCRIPT, *arguments], env={**environment, **SETTINGS, **settings}, capture_output=True, text=True, timeout=120
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


BEGIN = ["create", "ended?", "scp", "install", "run"]
AGAIN = ["scp", "install", "run", "ended?"]
END = ["ended?", "delete"]
SEQUENCES = {
    "done": (["MISSING", "WAITING_FOR_RESOURCES", "ACTIVE"], [0], {}, 0, [*BEGIN, *END]),
    "there already": (["ACTIVE"], [0], {}, 0, [*BEGIN[1:], *END]),
    "preempted": (
        ["MISSING", "ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDING", "SUSPENDED", "MISSING", "PROVISIONING", "ACTIVE"],
        ["wait", 0], {}, 0, [*BEGIN, *END, *BEGIN, *END],
    ),
    "preempted twice": (
        ["MISSING", *["ACTIVE", "ACTIVE", "SUSPENDED", "MISSING"] * 2, "ACTIVE"],
        ["wait", "wait", 0], {}, 0, [*[*BEGIN, *END] * 2, *BEGIN, *END],
    ),
    "before it began": (["MISSING", "SUSPENDED", "MISSING", "ACTIVE"], [0], {}, 0, ["create", "delete", *BEGIN, *END]),
    "preempted, and not deleted at once": (
        ["ACTIVE", "SUSPENDED", "SUSPENDED", "SUSPENDED", "MISSING", "ACTIVE"], ["wait", 0], {"delete": 1}, 0,
        [*BEGIN[1:], "delete", *BEGIN, *END],
    ),
    "failed once": (["MISSING", "FAILED", "MISSING", "ACTIVE"], [0], {}, 0, ["create", "delete", *BEGIN, *END]),
    "always fails": (["FAILED"], [0], {}, 1, ["delete"]),
    "fails, runs and fails": (
        [*["FAILED"] * 4, "MISSING", *["ACTIVE"] * 22, "FAILED", "MISSING", "ACTIVE"], ["wait", 0], {}, 0,
        ["delete", *BEGIN, *END, *BEGIN, *END],
    ),
    "no quota after a preemption": (
        ["ACTIVE", "ACTIVE", "SUSPENDED", *["MISSING"] * 6, "ACTIVE"], ["wait", 0], {"create": 5}, 0,
        [*BEGIN[1:], *END, *BEGIN, *END],
    ),
    "asked for what there is not": (["MISSING"], [0], {"create": 99, "words": "INVALID_ARGUMENT: v5"}, 2,
                                    ["create", "delete"]),
    "called invalid later": (["ACTIVE", "SUSPENDED", "MISSING", "MISSING", "ACTIVE"], [0, 0],
                             {"create": 1, "words": "INVALID_ARGUMENT: v5"}, 0, [*BEGIN[1:], "delete", *BEGIN, *END]),
    "dead, and called active": (["ACTIVE", "ACTIVE", "DEAD", "MISSING", "ACTIVE"], ["wait", 0], {}, 0,
                                [*BEGIN[1:], *END, *BEGIN, *END]),
    "dead, and not deleted at once": (["ACTIVE", "ACTIVE", "DEAD", "SUSPENDED", "MISSING", "ACTIVE"], ["wait", 0],
                                      {"delete": 1}, 0, [*BEGIN[1:], *END, *BEGIN, *END]),
    "always dead": (["DEAD"], [0], {}, 1, ["ended?", "delete"] * 5),
    "told to stop by its machine": (["MISSING", "ACTIVE"], [42, 0], {}, 0, [*BEGIN, *END]),
    "a wrong command": (["MISSING", "ACTIVE"], [2], {}, 2, [*BEGIN, "ended?", "log", "delete"]),
    "a full disk": (["MISSING", "ACTIVE"], [3], {}, 3, [*BEGIN, "ended?", "log", "delete"]),
    "a full disk on one worker": (["ACTIVE"], [[3, 42], [3, 42], [3, 42], [3, 42]], {}, 3,
                                  [*BEGIN[1:], "ended?", "log", "delete"]),
    "always crashes": (["MISSING", "ACTIVE"], [1, 134, 42, 75], {}, 1, [*BEGIN, "ended?", "log", "delete"]),
    "one worker always crashes": (["ACTIVE"], [[137, 42]] * 4, {}, 1, [*BEGIN[1:], "ended?", "log", "delete"]),
    "crashes once": (["MISSING", "ACTIVE"], [1, 0], {}, 0, [*BEGIN, *END]),
    "one worker boots anew": (["ACTIVE"], [["vanish", "wait"], 0], {}, 0,
                              [*BEGIN[1:], "ended?", "log", "ended?", "stop", *AGAIN, "delete"]),
    "all workers boot anew": (["ACTIVE"], ["vanish", 0], {}, 0,
                              [*BEGIN[1:], "ended?", "log", "ended?", *AGAIN, "delete"]),
    "not sent at first": (["ACTIVE"], [0], {"scp": 1}, 0, ["ended?", "scp", "ended?", *AGAIN, "delete"]),
    "not reached for long": ([*["ACTIVE"] * 20, "MISSING", "ACTIVE"], [0], {"ssh": 20}, 0,
                             ["ended?", "delete", *BEGIN, *END]),
    "not deleted at once": (["ACTIVE"], [0], {"delete": 2}, 0, [*BEGIN[1:], *END]),
    "never deleted": (["ACTIVE"], [0], {"delete": 9}, 1, [*BEGIN[1:], *END]),
}  # fmt: skip


@pytest.mark.parametrize("name", SEQUENCES)
def test_a_run_is_kept_going_and_nothing_is_left(tmp_path, name):
    states, exits, fails, code, expected = SEQUENCES[name]
    done = script(install(tmp_path, states=states, exits=exits, fails=fails), "keep", "mine", *COMMAND)
    assert done.returncode == code, done.stderr
    assert issued(tmp_path) == expected, done.stderr
    for _, arguments, _ in calls(tmp_path, "bertjax"):
        assert arguments == COMMAND[1:]  # word for word, through two shells, and the same each time
    left = (
        "PERHAPS STILL THERE, AND PAID FOR: gcloud compute tpus queued-resources delete mine --zone us-west4-a --force"
    )
    assert (left in done.stderr) == (name == "never deleted")
    if name == "not reached for long":
        assert "ssh does not reach all workers: ERROR: (gcloud) 503: try again later" in done.stderr
    if name != "never deleted":
        assert not any((worker / "bertjax.pid").exists() for worker in tmp_path.glob("worker-*"))


def test_a_tpu_that_cannot_be_had_is_given_up_after_a_while(tmp_path):
    environment = install(tmp_path, states=["MISSING"], fails={"create": 99})
    done = script(environment, "keep", "mine", *COMMAND, GIVE_UP="2")
    assert done.returncode == 1 and "could not be created in 2 seconds: gives up" in done.stderr
    assert issued(tmp_path) == ["create", "delete"]
    assert 3 <= sum("create" in arguments for arguments in calls(tmp_path, "gcloud")) <= 7


def test_what_cannot_be_asked_about_is_given_up_after_a_while(tmp_path):
    """No account, no project, no service: all that `gcloud` says is an error."""
    gcloud = "#!/bin/sh\necho PERMISSION_DENIED: Cloud TPU API has not been used >&2\nexit 1\n"
    done = script(install(tmp_path, gcloud=gcloud), "keep", "mine", *COMMAND, GIVE_UP="2")
    assert done.returncode == 1 and "could not be asked about in 2 seconds: gives up" in done.stderr
    assert "mine IS PERHAPS STILL THERE, AND PAID FOR" in done.stderr


def test_without_gcloud_nothing_is_said_to_be_deleted(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("bash", "env", "dirname", "mktemp", "rm", "git", "grep", "cat"):
        (tools / name).symlink_to(shutil.which(name))
    environment = {"PATH": str(tools), "ZONE": "us-west4-a"}
    done = subprocess.run([SCRIPT, "delete", "mine"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and "gcloud is not on PATH" in done.stderr


def test_the_pause_doubles_with_every_failure_up_to_ten_minutes(tmp_path):
    environment = install(tmp_path, states=["FAILED"], sleep='#!/bin/sh\necho $1 >>"$STUBS/slept"\n')
    for poll in ("30", "150"):
        assert script(environment, "keep", "mine", *COMMAND, POLL=poll).returncode == 1
    slept = [int(seconds) for seconds in (tmp_path / "slept").read_text().split()]
    assert slept == [60, 120, 240, 480, 300, 600, 600, 600]


@pytest.fixture
def kept(tmp_path):
    """kept(*command): `keep` in the background once the run is under way on both workers."""
    processes = []

    def start(environment, *command, runs=2):
        process = subprocess.Popen(
            [SCRIPT, "keep", "mine", *command], env={**environment, **SETTINGS}, stderr=subprocess.PIPE, text=True
        )
        processes.append(process)
        until(lambda: len(calls(tmp_path, "bertjax")) >= runs)
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()
    for worker in tmp_path.glob("worker-*/bertjax.pid"):
        subprocess.run(["pkill", "-KILL", "-s", worker.read_text().strip()])


def until(condition):
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.05)
    assert condition()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_ctrl_c_saves_the_run_and_gives_the_tpu_back(tmp_path, kept, number):
    process = kept(install(tmp_path, states=["MISSING", "ACTIVE"], exits=["wait"]), *COMMAND)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "gives the TPU back" in err
    assert issued(tmp_path)[-2:] == ["stop", "delete"]


def test_the_same_command_again_looks_after_what_runs_and_another_one_leaves_it(tmp_path, kept):
    environment = install(tmp_path, states=["MISSING", "ACTIVE"], exits=["wait"])
    first = kept(environment, *COMMAND)
    until(lambda: issued(tmp_path)[-1] == "ended?")
    first.kill()
    first.wait()
    before = issued(tmp_path)
    other = script(environment, "keep", "mine", *COMMAND, "--seed", "1")
    assert other.returncode == 2 and "another command runs on mine" in other.stderr
    again = kept(environment, *COMMAND)
    assert "it runs: looks after it" in again.stderr.readline()
    assert issued(tmp_path) == before  # but for looking
    assert script(environment, "stop", "mine").returncode == 0
    _, err = again.communicate(timeout=60)
    assert again.returncode == 42 and "was stopped" in err
    assert issued(tmp_path)[len(before) :] == ["stop", "ended?", "delete"] and len(calls(tmp_path, "bertjax")) == 2


def test_what_is_sent_is_the_folder_as_it_is(tmp_path):
    environment = install(tmp_path, states=["ACTIVE"])
    folder = tmp_path / "a checkout"
    git = ["git", "-c", "user.name=me", "-c", "user.email=me@here", "-C", folder]
    (folder / "launch").mkdir(parents=True)
    shutil.copy(SCRIPT, folder / "launch")
    for name, text in {"kept.py": "old", "gone.py": "", ".gitignore": "runs/\n"}.items():
        (folder / name).write_text(text)
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "first"]):
        subprocess.run([*git, *command], check=True)
    (folder / "kept.py").write_text("new")
    (folder / "gone.py").unlink()
    (folder / "a recipe.py").touch()
    (folder / "runs").mkdir()
    (folder / "runs/large").touch()
    command = [folder / "launch/tpu_vm.sh", "install", "mine"]
    assert subprocess.run(command, env={**environment, **SETTINGS}, cwd=tmp_path).returncode == 0
    with tarfile.open(tmp_path / "bertjax.tar.gz") as sent:
        assert sorted(sent.getnames()) == [".gitignore", "a recipe.py", "kept.py", "launch/tpu_vm.sh"]
        assert sent.extractfile("kept.py").read() == b"new"
    shutil.rmtree(folder / ".git")
    done = subprocess.run(command, env={**environment, **SETTINGS}, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and "no checkout of git" in done.stderr


def test_what_is_installed_again_is_no_module_of_before_and_all_of_the_runs(tmp_path):
    environment = install(tmp_path, states=["ACTIVE"]) | SETTINGS
    folder, worker = tmp_path / "a checkout", tmp_path / "worker-1/bertjax"
    (folder / "launch").mkdir(parents=True)
    shutil.copy(SCRIPT, folder / "launch")
    subprocess.run(["git", "init", "-q", folder], check=True)
    for name in ("kept.py", "it's gone.py", "a run.json"):
        (folder / name).write_text("old")
    command = [folder / "launch/tpu_vm.sh", "install", "mine"]
    assert subprocess.run(command, env=environment).returncode == 0
    for name in ("runs/1/config.json", "my recipe.py", "build/lib/gone.py"):
        (worker / name).parent.mkdir(parents=True, exist_ok=True)
        (worker / name).touch()
    (folder / "kept.py").write_text("new")
    for name in ("it's gone.py", "a run.json"):
        (folder / name).unlink()
    assert subprocess.run(command, env=environment).returncode == 0
    there = {path.relative_to(worker).as_posix() for path in worker.rglob("*") if path.is_file()}
    assert there == {"kept.py", "a run.json", "launch/tpu_vm.sh", "runs/1/config.json", "my recipe.py"}
    assert (worker / "kept.py").read_text() == "new"


# Of a share only root may write what another user does not own.
TOUCH = (
    '#!/bin/sh\ncase "$1" in */share/*) grep -qs "chmod 1777" "$STUBS/sudo" || exit 1 ;; esac\nexec /bin/touch "$@"\n'
)


@pytest.mark.parametrize("squashed", [False, True])
def test_a_share_that_is_new_is_made_writable(tmp_path, squashed):
    touch = TOUCH.replace("grep -qs", "false") if squashed else TOUCH
    environment = install(tmp_path, states=["ACTIVE"], touch=touch) | {"SHARE": "10.0.0.2:/a share"}
    done = script(environment, "install", "mine")
    asked = (tmp_path / "sudo").read_text().splitlines()
    where = tmp_path / "share"
    first = ["apt-get update -qq", "apt-get install -qq -o DPkg::Lock::Timeout=600 nfs-common", f"mkdir -p {where}"]
    assert asked[:5] == [*first, f"mount 10.0.0.2:/a share {where}", f"chmod 1777 {where}"]
    assert done.returncode == (2 if squashed else 0), done.stderr
    assert (
        "cannot write 10.0.0.2:/a share, nor root allow it: give the share no_root_squash" in done.stdout
    ) == squashed
    assert not list(where.iterdir())
    if not squashed:
        assert where.stat().st_mode & 0o7777 == 0o1777


def exits_left(folder):
    return [path.read_text() for path in folder.glob("worker-*/bertjax.exit")]


def test_start_stop_and_start_again(tmp_path):
    environment = install(tmp_path, states=["ACTIVE"], exits=["wait", 0])
    assert script(environment, "run", "mine", *COMMAND).returncode == 0
    until(lambda: len(calls(tmp_path, "bertjax")) == 2)
    again = script(environment, "run", "mine", *COMMAND)
    assert again.returncode == 3 and "it runs already" in again.stdout
    assert script(environment, "stop", "mine").returncode == 0
    assert exits_left(tmp_path) == ["42\n"] * 2
    nothing = script(environment, "stop", "mine")
    assert nothing.returncode == 0 and "nothing runs" in nothing.stdout
    assert script(environment, "run", "mine", *COMMAND).returncode == 0
    until(lambda: exits_left(tmp_path) == ["0\n"] * 2)
    shutil.rmtree(tmp_path / "worker-1/bertjax")
    done = script(environment, "run", "mine", *COMMAND)
    assert done.returncode == 2 and "launch/tpu_vm.sh install mine" in done.stdout


def test_doctor_looks_on_all_workers_before_a_run_has_the_chips(tmp_path):
    environment = install(tmp_path, states=["ACTIVE"], exits=[0, 2, "wait"])
    options = ["--out", "gs://ours/a run", "--data", "gs://ours/data"]
    assert script(environment, "doctor", "mine", *options).returncode == 0
    assert script(environment, "doctor", "mine").returncode == 2
    seen = calls(tmp_path, "bertjax")
    assert [arguments for _, arguments, _ in seen] == [["doctor", *options]] * 2 + [["doctor"]] * 2
    assert {folder for folder, _, _ in seen} == {str(tmp_path / f"worker-{number}/bertjax") for number in range(2)}
    assert script(environment, "run", "mine", *COMMAND).returncode == 0
    until(lambda: len(calls(tmp_path, "bertjax")) == 6)
    done = script(environment, "doctor", "mine")
    assert done.returncode == 3 and "a run has the chips" in done.stdout
    assert script(environment, "stop", "mine").returncode == 0
    shutil.rmtree(tmp_path / "worker-1/bertjax")
    done = script(environment, "doctor", "mine")
    assert done.returncode == 2 and "launch/tpu_vm.sh install mine" in done.stdout


FLAGS = {
    "CREATE_FLAGS": "--network ours  --subnetwork=ours --internal-ips\n--reserved --valid-until-duration 6h",
    "SSH_FLAGS": "--internal-ip --ssh-key-file /my/key*",
}


def test_flags_go_to_gcloud_as_they_are(tmp_path):
    environment = install(tmp_path, states=["ACTIVE"]) | FLAGS
    for verb in ("create", "install"):
        assert script(environment, verb, "mine").returncode == 0
    create, _, *reached = calls(tmp_path, "gcloud")
    assert create[-8:] == ["--spot", *FLAGS["CREATE_FLAGS"].split()]
    assert script(environment | {"SSH_FLAGS": "--tunnel-through-iap"}, "install", "mine").returncode == 0
    tunnelled = calls(tmp_path, "gcloud")[4:]
    for track, asked, flags in ([], reached, FLAGS["SSH_FLAGS"]), (["alpha"], tunnelled, "--tunnel-through-iap"):
        for word, arguments in zip(("scp", "ssh"), asked, strict=True):
            node = [*track, "compute", "tpus", "tpu-vm", word]
            assert arguments[: len(node)] == node
            assert arguments[arguments.index("us-west4-a") + 1 : arguments.index("--worker=all")] == flags.split()


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
    assert delete == [*queued, "delete", "mine", *where, "--force", "--quiet"]


@pytest.mark.skipif(not shutil.which("gcloud"), reason="gcloud is not installed")
def test_gcloud_knows_every_command_and_flag(tmp_path):
    environment = {**install(tmp_path, states=["ACTIVE"], exits=["wait"]), "PROJECT": "ours"}
    for verb in ("create", "install", "run", "stop", "delete"):
        script(environment, verb, "mine", *(COMMAND if verb == "run" else []))
    for flags in (FLAGS, {"SSH_FLAGS": "--tunnel-through-iap"}):
        for verb in ("create", "install"):
            script(environment | flags, verb, "mine")
    commands = [shlex.join(["gcloud", *arguments]) for arguments in calls(tmp_path, "gcloud")]
    commands.append("gcloud compute tpus queued-resources delete mine --forse")
    (tmp_path / "commands.json").write_text(json.dumps([{"command_string": command} for command in commands]))
    lint = ["gcloud", "meta", "lint-gcloud-commands", f"--commands-file={tmp_path}/commands.json"]
    environment = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path / "config")}
    done = subprocess.run(lint, env=environment, capture_output=True, text=True)
    *ours, wrong = json.loads(done.stdout)
    assert [answer["error_message"] for answer in ours if not answer["success"]] == []
    assert len(ours) >= 12 and not wrong["success"]


@pytest.mark.parametrize(
    ("arguments", "changed", "told"),
    [
        ([], {}, "launch/tpu_vm.sh create  NAME"),
        (["create"], {}, "launch/tpu_vm.sh keep    NAME"),
        (["run", "mine"], {}, "give the command"),
        (["sotp", "mine"], {}, "there is no sotp"),
        (["create", "mine", "--spot"], {}, "SPOT=1 launch/tpu_vm.sh"),
        (["keep", "mine", "bertjax", "doctor"], {}, "has no --out"),
        (["create", "mine"], {"ZONE": ""}, "name the zone"),
        (["create", "mine"], {"TYPE": ""}, "TYPE=v5litepod-16"),
        (["keep", "mine", *COMMAND], {"VERSION": ""}, "VERSION=v2-alpha-tpuv5-lite"),
        (["create", "mine"], {"SPOT": "perhaps"}, "SPOT=perhaps: 1 or 0"),
        (["create", "mine"], {"POLL": "30sec"}, "POLL=30sec"),
        (["keep", "mine", *COMMAND], {"GIVE_UP": "1h"}, "GIVE_UP=1h: seconds"),
    ],
)
def test_what_is_missing_is_told(tmp_path, arguments, changed, told):
    environment = {**install(tmp_path, states=["ACTIVE"]), **SETTINGS, **changed}
    done = subprocess.run([SCRIPT, *arguments], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2 and told in done.stderr
    assert not calls(tmp_path, "gcloud")
