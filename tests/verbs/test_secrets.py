"""Passwords and keys, of the environment or of URLs, stand in no file and no message."""

import re

import pytest

from bertjax import cli
from bertjax.config import Finetune
from bertjax.errors import DataError, redacted, without_passwords
from bertjax.jsonio import to_json
from bertjax.train import stop

CANARIES = {
    name: f"canary-{number}-of-the-{name.lower()}"
    for number, name in enumerate(
        [
            *("WANDB_API_KEY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"),
            *("GITHUB_TOKEN", "DB_PASSWORD", "PGPASSWORD", "GOOGLE_APPLICATION_CREDENTIALS", "MY_CLIENT_SECRET"),
        ]
    )
}
FOUND = re.compile("canary|hunter2")
URLS = ["https://user:hunter2@example.com/x", "s3://hunter2id:hunter2@bucket/x", "https://e.com/x?a=b&token=hunter2"]
URLS += ["https://example.com/x?X-Amz-Signature=hunter2&v=1", "https://account.blob/x?sv=1&sig=hunter2"]


@pytest.fixture
def planted(monkeypatch):
    for name, value in CANARIES.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def said(capfd):
    """said(verb, ...) -> exit code and all that was said, by libraries too."""

    def call(*arguments):
        capfd.readouterr()
        try:
            code = cli.run(list(map(str, arguments)))
        except SystemExit as stopped:
            code = stopped.code
        captured = capfd.readouterr()
        return code, captured.out + captured.err

    return call


def files(folder):
    """What is in the files of a folder, and their names."""
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.late
def test_no_verb_tells_or_writes_them(planted, said, home, tmp_path):
    (tmp_path / "p.txt").write_text("see you later\nwin a prize\n")
    data, run, tuned, hf = (tmp_path / name for name in ("data", "run", "tuned", "hf"))
    corpus = ["--corpus", home / "corpus.txt", "--vocab-size", 120, "--held-out", 0.15]
    pretrain = ["pretrain", home / "pretrain.py", "--data", data, "--out", run, "--steps", 2, "--eval-every", 2]
    finetune = ["finetune", home / "finetune.py", "--from", run, "--epochs", 1]
    for arguments in (
        ["prepare", *corpus, "--out", data],
        [*pretrain, "--profile", "1:2"],
        [*finetune, "--task", "sms_spam", "--data", home, "--out", tuned],
        ["evaluate", tuned, "--data", home],
        ["predict", tuned, "--input", tmp_path / "p.txt", "--out", tmp_path / "p.tsv"],
        ["embed", run, "--input", tmp_path / "p.txt", "--out", tmp_path / "v.npy"],
        ["convert", "--from", tuned, "--to", hf],
        ["report", run, tuned, "--out", tmp_path / "report.txt"],
        ["inspect", run],
        ["plan", home / "pretrain.py", "--topology", "local", "--out", tmp_path / "plan.json"],
        ["doctor", "--out", run, "--data", data],
    ):
        code, text = said(*arguments)
        assert code == 0, (arguments, text)
        assert text and not FOUND.search(text), (arguments, text)
    code, text = said(*finetune, "--task", "cola", "--data", f"tfds:glue@{URLS[1]}", "--out", tuned / "x")
    assert code == 2 and "tfds:" in text and not FOUND.search(text), text
    written = files(tmp_path)
    assert len(written) > 40 and any("profile" in name for name in written)
    assert not [name for name, content in written.items() if FOUND.search(content.decode("latin1") + name)]


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize(
    "command",
    [
        "prepare --out {new} --corpus {url}",
        "prepare --out {new} --corpus {home}/corpus.txt --tokenizer {url}",
        "prepare --out {url} --corpus {home}/corpus.txt",
        "pretrain {home}/pretrain.py --data {url} --out {new}",
        "finetune {home}/finetune.py --task sms_spam --from {url} --data {home} --out {new}",
        "evaluate {url} --data {home}",
        "convert --from {url} --to {new}",
        "report {url}",
        "inspect {url}",
        "plan {home}/pretrain.py --topology local --data {url} --out {new}",
        "plan {home}/pretrain.py --topology local --out {url}",
        "doctor --data {url}",
        "prepare --out {new} --corpus tfds:a:1.0.0 --data-dir {url}",
    ],
)
def test_a_url_that_is_refused_is_told_without_them(said, home, tmp_path, command, url):
    words = command.split()
    code, text = said(*(word.format(url=url, home=home, new=tmp_path / "new") for word in words))
    assert code == 2 and "***" in text and not FOUND.search(text), text
    assert not files(tmp_path)


def test_what_is_stored_of_a_url():
    config = Finetune(task="cola", source="a", data=f"tfds:glue@{URLS[1]}", out="b")
    assert to_json(config)["data"] == "tfds:glue@s3://***@bucket/x"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (URLS[0], "https://***@example.com/x"),
        (URLS[2], "https://e.com/x?a=b&token=***"),
        (URLS[3], "https://example.com/x?X-Amz-Signature=***&v=1"),
        ("me@example.com, tfds:glue@/data, a?key=1", "me@example.com, tfds:glue@/data, a?key=1"),
        ("gs://bucket/a@b", "gs://bucket/a@b"),
        ("http://localhost:8080/x and ssh://u:p@h", "http://localhost:8080/x and ssh://***@h"),
    ],
)
def test_urls(text, shown):
    assert without_passwords(text) == redacted(text) == str(DataError(text)) == shown


def test_values_of_the_environment(planted, monkeypatch):
    text = " ".join(CANARIES.values())
    assert redacted(text) == " ".join(["***"] * len(CANARIES)) and without_passwords(text) == text
    monkeypatch.setenv("KEYBOARD", "a-keyboard")
    monkeypatch.setenv("SHORT_KEY", "data")
    assert redacted("a-keyboard with data") == "a-keyboard with data"


def test_a_fault_of_ours_and_a_signal(planted, monkeypatch, capsys):
    def fail(arguments):
        raise RuntimeError(f"{CANARIES['HF_TOKEN']} at {URLS[0]}")

    monkeypatch.setattr(cli, "run", fail)
    monkeypatch.setattr("sys.argv", ["bertjax", "list"])
    with pytest.raises(SystemExit):
        cli.main()
    error = capsys.readouterr().err
    assert "RuntimeError: *** at https://***@example.com/x" in error and not FOUND.search(error.partition("raise ")[2])
    request = stop.Request()
    request.command = ["pretrain", "c.py", "--data", URLS[0]]
    assert "https://***@example.com/x" in request.kept() and not FOUND.search(request.kept())
    request.command[0] = "evaluate"  # which keeps nothing
    assert not request.kept()
