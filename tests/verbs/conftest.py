"""A corpus, a task and runs so small that every verb takes seconds; made once a session, by the verbs themselves."""

import os
import random
import re
import signal
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from bertjax import cli, run, session
from bertjax.config import Prepare, Pretrain
from bertjax.paths import as_path
from bertjax.preparation import prepare
from bertjax.recipe import load_recipe
from bertjax.train.checkpoint import Checkpoints
from bertjax.train.stop import Interrupted

WORDS = re.findall(
    r"\w+", "the a cat dog bird sat ran flew saw heard on under over mat tree house red small loud quickly"
)
SPAM = ["free", "prize", "win", "cash", "claim", "call", "now", "urgent"]
HAM = ["home", "dinner", "see", "you", "later", "mum", "okay", "soon"]
RECIPES = {
    "pretrain.py": """
from bertjax.config import Pretrain
from bertjax.models import bert
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer

def config() -> Pretrain:
    return Pretrain(
        model=bert.Config(width=32, layers=1, heads=2, mlp_width=64, max_length=40),
        optimizer=Optimizer(peak_lr=3e-3), mesh=MeshConfig(data=1), steps=16, batch_size=8, length=32,
        micro_batches=2, log_every=1, eval_every=8, eval_batches=2, save_every=5,
    )
""",
    "finetune.py": """
from bertjax.config import Finetune
from bertjax.train.mesh import MeshConfig
from bertjax.train.optim import Optimizer

def config() -> Finetune:
    return Finetune(
        epochs=6, batch_size=8, length=24, log_every=4, mesh=MeshConfig(data=1),
        optimizer=Optimizer(kind="adamw", peak_lr=1e-2, warmup=0.1),
    )
""",
}


class Outcome(NamedTuple):
    """What a command gave back."""

    code: int
    out: str
    err: str


def sentence(rng, words=WORDS, least=3, most=9):
    return " ".join(rng.choices(words, k=rng.randint(least, most)))


def documents(seed=0, count=40):
    """`count` documents of 4 to 12 sentences, a blank line between them."""
    rng = random.Random(seed)
    made = ["\n".join(sentence(rng) + "." for _ in range(rng.randint(4, 12))) for _ in range(count)]
    return "\n\n".join(made) + "\n"


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The folder with recipes, corpus and task files."""
    folder = tmp_path_factory.mktemp("home")
    for name, text in RECIPES.items():
        (folder / name).write_text(text)
    (folder / "corpus.txt").write_text(documents())
    rng = random.Random(1)
    for split, count in (("train", 64), ("dev", 24)):
        rows = []
        for i in range(count):
            label, words = ("spam", SPAM) if i % 3 == 0 else ("ham", HAM)
            label = "ham" if i % 12 == 0 else label  # so that no score is perfect
            rows.append(f"{label}\t{sentence(rng, words + WORDS[:4])}\n")
        (folder / f"{split}.tsv").write_text("".join(rows))
    return folder


@pytest.fixture(scope="session")
def data(home):
    """The prepared corpus: several shards, two windows an epoch."""
    out = home / "data"
    prepare(Prepare(corpus=(str(home / "corpus.txt"),), out=str(out), vocab_size=120, held_out=0.15, shard_tokens=150))
    return out


@pytest.fixture(scope="session")
def tiny(home, data):
    """The pretraining recipe on that corpus; its `out` is still to be given. An epoch is about 7 of its 16 steps."""
    return replace(load_recipe(str(home / "pretrain.py"), Pretrain), data=(str(data),))


@pytest.fixture(scope="session")
def pretrained(home, tiny):
    """A finished pretraining run; not to be changed."""
    out = home / "pretrained"
    run.pretrain(replace(tiny, out=str(out)))
    return out


@pytest.fixture(scope="session")
def finetuned(home, pretrained):
    """A finished fine-tuning run; not to be changed."""
    out = home / "finetuned"
    arguments = ["--task", "sms_spam", "--from", pretrained, "--data", home, "--out", out, "--baseline", "tfidf"]
    assert cli.run(["finetune", str(home / "finetune.py"), *map(str, arguments)]) == 0
    return out


@pytest.fixture
def bertjax(capsys):
    """bertjax(verb, ...) -> Outcome, in this process."""

    def call(*arguments):
        capsys.readouterr()
        try:
            code = cli.run([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        captured = capsys.readouterr()
        return Outcome(code or 0, captured.out, captured.err)

    return call


def files(folder):
    """Every file below a folder with its bytes."""
    return {path: path.read_bytes() for path in sorted(Path(folder).rglob("*")) if path.is_file()}


@pytest.fixture
def unchanged():
    """unchanged(folder) -> a function that asserts that no byte in the folder has changed since."""

    def watch(folder):
        before = files(folder)

        def check():
            after = files(folder)
            assert after.keys() == before.keys()
            assert all(after[path] == content for path, content in before.items())

        return check

    return watch


@pytest.fixture
def on_step(monkeypatch):
    """on_step(number, action): `action(state)` takes the place of the state after the number-th step of a run."""

    return partial(act_on_step, monkeypatch)


def act_on_step(monkeypatch, number, action):
    make = session.make_train_step

    def wrapped(*arguments, **options):
        step = make(*arguments, **options)

        def counted(state, batch):
            state, metrics = step(state, batch)
            return (action(state) if int(state.step) == number else state), metrics

        return counted

    monkeypatch.setattr(session, "make_train_step", wrapped)


@pytest.fixture(scope="session")
def terminate():
    """terminate(state) -> the state; this process is sent SIGTERM."""

    def kill(state):
        os.kill(os.getpid(), signal.SIGTERM)
        return state

    return kill


@pytest.fixture(scope="session")
def in_store(store, tiny, terminate):
    """What a run leaves in a bucket that was stopped after step 7 and taken up again; the names begin with run/."""
    store.buckets["bkt"] = {}
    config = replace(tiny, out="gs://bkt/run")
    with pytest.MonkeyPatch.context() as patch:
        act_on_step(patch, 7, terminate)
        with pytest.raises(Interrupted, match="stopped after step 7 and saved it"):
            run.pretrain(config)
    assert Checkpoints(as_path(config.out)).latest == 7
    run.pretrain(config)
    return dict(store.buckets["bkt"])


@pytest.fixture
def in_bucket(in_store, cloud):
    """gs://bkt with that run in it."""
    cloud.buckets["bkt"] = dict(in_store)
    return cloud
