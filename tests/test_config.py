"""Every verb's options check themselves; a run is only resumed as what it was."""

from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest

from bertjax import config, resume, use
from bertjax.config import Finetune, Prepare, Pretrain
from bertjax.data.wordpiece import SPECIALS, WordPiece
from bertjax.errors import ConfigError
from bertjax.models import bert
from bertjax.recipe import load_recipe

RECIPES = Path(__file__).parents[1] / "configs"
FINETUNE = Finetune(task="cola", source="run", data="glue", out="out")
SQUAD = Finetune(task="squad", source="run", data="squad", out="out")
TEXT = Finetune(task="text", source="run", data="texts", out="out")
PRETRAIN = Pretrain(data=("data",), out="out")
OTHER = {"kind": "lamb", "activation": "relu", "dtype": "bfloat16", "task": "rte", "encoder": "random", "baseline": "tfidf", "examples": "sop", "remat": "dots", "attention": "einsum", "profile": "2:3", "then": "rollback"}  # fmt: skip  # noqa: E501
TUPLES = {
    "header": ("label", "text"),
    "files": ("a.tsv", "b.tsv"),
    "labels": ("a", "b"),
    "buckets": (16,),
    "task_settings": ("stride=64",),
}
KINDS = {"token": "span", "lamb": "adamw"}  # what has several kinds, by its default


def leaves(value, prefix=()):
    """The path of every key that is not itself a dataclass."""
    for f in fields(value):
        inner = getattr(value, f.name)
        yield from leaves(inner, (*prefix, f.name)) if is_dataclass(inner) else [(*prefix, f.name)]


def changed(value, path):
    """(the config with another valid value at a path, old value, new value)."""
    name, *rest = path
    old = getattr(value, name)
    if rest:
        inner, old, new = changed(old, rest)
        return replace(value, **{name: inner}), old, new
    if isinstance(old, str):
        new = KINDS.get(old, OTHER.get(name, old + "2"))
    elif isinstance(old, int):
        new = 2 * old if old > 0 else 2
    elif isinstance(old, tuple):
        new = TUPLES.get(name, (*old, (0.1, 32, 4) if name == "later_phases" else 0.1))
    else:
        new = old / 2
    return replace(value, **{name: new}), old, new


KEYS = [
    (value, path)
    for value in (PRETRAIN, FINETUNE)
    for path in leaves(value)
    if path[0] not in ("columns", "task_settings")
]
KEYS += [(SQUAD, ("task_settings",))]
KEYS += [(TEXT, path) for path in leaves(TEXT) if path[0] == "columns"]


MAY_CHANGE = {"data", "out", "workers", "baseline", "profile", "guard", "grace", "hang_timeout"}
MAY_CHANGE |= {"seeds", "grid", "from_mnli"}
MAY_CHANGE |= {"log_every", "eval_every", "eval_batches", "save_every", "save_sync", "keep_last"}
WARNS = {"micro_batches", "mesh", "remat", "attention"}


@pytest.mark.parametrize(("value", "path"), KEYS, ids=lambda v: ".".join(v) if isinstance(v, tuple) else "")
def test_what_a_changed_key_does_to_a_resume(value, path):
    other, old, new = changed(value, path)
    assert old != new
    name = "--from" if path == ("source",) else ".".join(path)
    told = f"{name}: was {old!r}, now {new!r}"
    if path[0] in MAY_CHANGE:
        assert resume.check_resume(value, other, "runs/a") == []
    elif path[0] in WARNS:
        assert resume.check_resume(value, other, "runs/a") == [f"{told}: results are the same up to rounding"]
    else:
        with pytest.raises(ConfigError) as error:
            resume.check_resume(value, other, "runs/a")
        message = str(error.value)
        assert f"runs/a was begun with another configuration:\n  {told}\n" in message
        assert message.count(": was ") == 1 and "runs/a" in message and "--out" in message


def test_every_key_has_a_verdict_and_no_other():
    keys = {path[0] for _, path in KEYS}
    assert keys == resume.VERDICTS.keys()
    for wanted, names in (("may change", MAY_CHANGE), ("warn", WARNS), ("must match", keys - MAY_CHANGE - WARNS)):
        assert {name for name in keys if resume.verdict(name) == wanted} == names
    for unknown in ("unknown", "unknown.key", ""):
        with pytest.raises(KeyError):
            resume.verdict(unknown)


LOWER, CASED = (WordPiece([*SPECIALS, "a", "b", "c"], lowercase=lowercase) for lowercase in (True, False))
PRINT = {"tokenizer": LOWER, "model": bert.Config(vocab_size=8), "data": "ab", "versions": {"jax": "1", "numpy": "2"}}


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"tokenizer": WordPiece([*SPECIALS, "b", "a", "c"], lowercase=True)}, "another vocabulary than this; prepare"),
        ({"tokenizer": CASED}, r"cut up in another way: .*'lowercase': True.*, not .*'lowercase': False"),
        ({"model": bert.Config(vocab_size=8, layers=3)}, r"another model \(model.layers: was \d+, now 3\)"),
        ({"data": "cd"}, "was begun with other data than what --data holds now"),
    ],
)
def test_a_run_is_not_taken_up_by_another(other, message):
    with pytest.raises(ConfigError, match=message):
        resume.check_fingerprint(resume.fingerprint(**PRINT), resume.fingerprint(**{**PRINT, **other}), Path("runs/a"))


def test_other_versions_are_told():
    def said(**versions):
        new = resume.fingerprint(**{**PRINT, "versions": versions})
        return resume.check_fingerprint(resume.fingerprint(**PRINT), new, Path("runs/a"))

    assert said(jax="1", numpy="2") == said(jax="1", torch="9") == []
    assert said(jax="3") == ["jax: was 1, now 3: results may differ in their rounding"]


def test_the_first_phase_takes_the_steps_that_the_later_ones_leave():
    phases = Pretrain(steps=1000, later_phases=((0.1, 512, 64), (0.25, 256, 32))).phases
    assert phases == [(650, 128, 256), (100, 512, 64), (250, 256, 32)]
    assert Pretrain(steps=10).phases == [(10, 128, 256)]


def test_all_differences_are_listed_at_once():
    other = replace(PRETRAIN, steps=5, model=replace(PRETRAIN.model, layers=3, heads=6))
    with pytest.raises(ConfigError) as error:
        resume.check_resume(PRETRAIN, other, "runs/a")
    assert [line.split(":")[0].strip() for line in str(error.value).split("\n")[1:-1]] == [
        "model.layers",
        "model.heads",
        "steps",
    ]


def test_another_family_is_one_difference():
    class Other(bert.Config):
        pass

    with pytest.raises(ConfigError, match="\n  model: was Config"):
        resume.check_resume(PRETRAIN, replace(PRETRAIN, model=Other()), "runs/a")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Prepare(held_out=0.0), "held_out=0.0"),
        (lambda: Prepare(held_out=0.5), "held_out=0.5"),
        (lambda: Prepare(vocab_size=0), "vocab_size=0 must be at least 1"),
        (lambda: Prepare(tokenizer="v.txt", tokenizer_kind="bpe"), "tokenizer_kind=bpe is for training a vocabulary"),
        (lambda: Prepare(tokenizer="v.txt", lowercase=False), "lowercase=False is for training a vocabulary; leave it"),
        (lambda: Prepare(tokenizer="v.txt", vocab_size=99), "vocab_size=99 is for training a vocabulary"),
        (lambda: Prepare(tokenizer="v.txt", sample_characters=9), "sample_characters=9 is for training a vocabulary"),
        (lambda: Prepare(shard_tokens=0), "shard_tokens=0 must be at least 1"),
        (lambda: Pretrain(steps=0), "steps=0 must be at least 1"),
        (lambda: Pretrain(batch_size=0), "batch_size=0 must be at least 1"),
        (lambda: Pretrain(micro_batches=0), "micro_batches=0 must be at least 1"),
        (lambda: Pretrain(save_every=0), "save_every=0 must be at least 1"),
        (lambda: Pretrain(keep_last=0), "keep_last=0 must be at least 1"),
        (lambda: Pretrain(later_phases=((0.5, 64, 8), (0.5, 128, 8))), "the shares must be above 0 and sum to below 1"),
        (lambda: Pretrain(later_phases=((0.0, 64, 8),)), "the shares must be above 0"),
        (lambda: Pretrain(later_phases=((0.1, 1024, 8),)), "length=1024 must lie between 8 and model.max_length=512"),
        (lambda: Pretrain(later_phases=((0.1, 512, 0),)), "needs a step and a row"),
        (
            lambda: Pretrain(steps=3, later_phases=((0.1, 512, 8),)),
            "PhaseConfig(steps=0, length=512, batch_size=8) needs",
        ),
        (lambda: Pretrain(workers=-1), "workers=-1 must be at least 0"),
        (lambda: Pretrain(seed=-1), "seed=-1 must be at least 0"),
        (lambda: Pretrain(length=7), "length=7 must lie between 8 and model.max_length=512"),
        (lambda: Pretrain(length=513), "length=513 must lie between 8 and model.max_length=512"),
        (lambda: Finetune(epochs=0), "epochs=0 must be at least 1"),
        (lambda: Finetune(train_rows=-1), "train_rows=-1 must be at least 0"),
        (lambda: Finetune(length=4), "length=4 leaves no room"),
        (lambda: Finetune(task="mrcp"), "there is no task 'mrcp'; did you mean 'mrpc'?"),
        (lambda: Finetune(dropout=1.0), "dropout=1.0"),
        (lambda: use.Evaluate(batch_size=0), "batch_size=0 must be at least 1"),
        (lambda: use.Predict(batch_size=0), "batch_size=0 must be at least 1"),
    ],
)
def test_values_that_cannot_work(make, message):
    with pytest.raises(ConfigError) as error:
        make()
    assert message in str(error.value)


def test_the_vocabulary_comes_from_the_data():
    assert config.with_vocabulary(PRETRAIN, 777).model.vocab_size == 777
    same = replace(PRETRAIN, model=bert.Config(vocab_size=777))
    assert config.with_vocabulary(same, 777) == same
    with pytest.raises(ConfigError, match=r"model\.vocab_size=777 but the prepared data has 778"):
        config.with_vocabulary(same, 778)


def test_what_is_missing_is_named_as_on_the_command_line():
    with pytest.raises(ConfigError, match="missing: --task, --from, --data; see --help"):
        config.require(Finetune(out="o"), "task", "source", "data", "out")
    with pytest.raises(ConfigError, match="missing: RUN; see --help"):
        config.require(use.Evaluate(data="d"), "run", "data")
    config.require(FINETUNE, "task", "source", "data", "out")


HEAD = "from bertjax.config import Finetune, Pretrain\nfrom bertjax.models import bert\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def config(:", "SyntaxError"),
        ("import no_such_module", ":1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1", "a recipe defines `def config() -> Pretrain`"),
        (HEAD + "def config():\n    return Pretrain(batchsize=3)", "; did you mean 'batch_size'?"),
        (HEAD + "def config():\n    return Pretrain(model=bert.Config(layer=3))", "; did you mean 'layers'?"),
        (HEAD + "def config():\n    return len(batchsize=3)", ":4: TypeError: "),
        (HEAD + "def config():\n    return Pretrian()", ":4: NameError: name 'Pretrian' is not defined"),
        (HEAD + "def config():\n    return Pretrain(model=bert.PRESETS['tinny'])", ":4: KeyError: 'tinny'"),
        (HEAD + "def config():\n    return Pretrain(model=bert.Cfg())", ":4: AttributeError: "),
        (HEAD + "def config():\n    return Pretrain(steps=0)", ": steps=0 must be at least 1"),
        (HEAD + "def config():\n    return Finetune()", "config() gives a Finetune, this command needs a Pretrain"),
        (HEAD + "config = 3", "TypeError: 'int' object is not callable"),
    ],
)
def test_what_is_wrong_in_a_recipe(tmp_path, text, message):
    path = tmp_path / "recipe.py"
    path.write_text(text + "\n")
    with pytest.raises(ConfigError) as error:
        load_recipe(str(path), Pretrain)
    assert str(error.value).startswith(str(path)) and message in str(error.value)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.py")), ids=lambda path: path.name)
def test_every_recipe_that_comes_with_bertjax_loads(path):
    kind = Finetune if path.name.startswith(("finetune", "quickstart_spam")) else Pretrain
    recipe = load_recipe(str(path), kind)
    if isinstance(recipe, Pretrain):
        recipe.objective.build(recipe.model)


def test_a_recipe_that_is_not_there():
    with pytest.raises(ConfigError, match=r"nowhere\.py: no such recipe; the ones that come with bertjax are in conf"):
        load_recipe("nowhere.py", Pretrain)


def test_a_recipe_that_is_no_python_file(tmp_path):
    (tmp_path / "README.md").write_text("# A recipe\n")
    with pytest.raises(ConfigError, match=r"README\.md: a recipe is a Python file \(\.py\)"):
        load_recipe(str(tmp_path / "README.md"), Pretrain)


def test_a_recipe_gives_its_config(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(HEAD + "def config():\n    return Pretrain(steps=5)\n")
    assert load_recipe(str(path), Pretrain) == Pretrain(steps=5)
