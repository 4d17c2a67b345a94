"""The commands: what each takes, and what it does. Importing this module does not import jax."""

import inspect
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import field, fields, make_dataclass
from importlib import import_module
from typing import Annotated, Any, NamedTuple

from bertjax.errors import ConfigError, GoneError
from bertjax.look import look, taken
from bertjax.recipe import load_recipe
from bertjax.storage import NAMED
from bertjax.train import stop

READING = ("evaluate", "predict", "embed", "convert")  # of a run that may be trained meanwhile
TRIES = 4  # where it deletes what is being read


class Verb(NamedTuple):
    """A command. Its modules are named, not imported: they import jax."""

    about: str
    config: str = ""  # MODULE.CLASS of its options; "": it has none (look.py)
    act: str = ""  # MODULE.FUNCTION that is given them
    required: tuple[str, ...] = ()  # options without a default
    recipe: str = ""  # how it is called, of one that begins with a recipe
    several: bool = False  # runs in several processes too


VERBS = {
    "prepare": Verb(
        "text files -> tokenizer and token shards",
        "config.Prepare",
        "preparation.prepare",
        required=("corpus", "out"),
    ),
    "pretrain": Verb(
        "CONFIG.py: a prepared corpus -> an encoder (run again = resume)",
        "config.Pretrain",
        "run.pretrain",
        required=("data", "out"),
        recipe="--data DIR --out RUN [--preset tiny|mini|...] [--from RUN|HF_DIR] [--dry-run] [OPTIONS]\n\n"
        "--preset: a model of another size than the recipe's (`bertjax list presets`).\n"
        "--dry-run: tell what the run would take, and train nothing.",
        several=True,
    ),
    "plan": Verb(
        "CONFIG.py: whether a pretraining run fits chips that are not here, and what it does on them",
        "config.Plan",
        "plan.verb.plan",
        required=("topology",),
        recipe="--topology v5e:16x16 [--data DIR] [--preset NAME] [--quick] [OPTIONS as of pretrain]",
    ),
    "finetune": Verb(
        "CONFIG.py: a run and a task -> a fine-tuned model and its scores",
        "config.Finetune",
        "suite.finetune",
        required=("task", "source", "data", "out"),
        recipe="--task NAME --from RUN|HF_DIR --data DIR --out RUN2 [OPTIONS]",
        several=True,
    ),
    "evaluate": Verb(
        "RUN: scores of a fine-tuned run on a split of its task",
        "use.Evaluate",
        "suite.evaluate",
        required=("run", "data"),
        several=True,
    ),
    "predict": Verb(
        "RUN: predictions for a file of texts",
        "use.Predict",
        "run.predict",
        required=("run", "input", "out"),
        several=True,
    ),
    "embed": Verb(
        "RUN: a vector for each line of a text file",
        "use.Embed",
        "api.embed",
        required=("run", "input", "out"),
    ),
    "convert": Verb(
        "a run -> a Hugging Face directory; such a directory or a bert_model.ckpt -> a run",
        "use.Convert",
        "convert.convert",
        required=("source", "to"),
    ),
    "doctor": Verb(
        "what would keep a run from going well on this machine or cluster, and the cures",
        "use.Doctor",
        "doctor.doctor",
        several=True,
    ),
    "inspect": Verb("CONFIG.py|RUN: parameters, sharding, bytes, FLOPs; --verify: whether all files are still whole"),
    "report": Verb("RUN ...: how runs did, side by side"),
    "list": Verb("[models|objectives|tasks|presets]: what there is to choose from"),
}


def act(name: str, rest: list[str]) -> int:
    """Runs one command; its exit code."""
    verb = VERBS[name]
    if not verb.config:
        look(name, rest, verb.about.partition(": ")[2])
        return 0
    from bertjax import config, use
    from bertjax.compiled import keep_compiled
    from bertjax.train import hosts

    keep_compiled()
    logging.getLogger("absl").setLevel(logging.ERROR)  # of Grain and TFDS; what matters of Orbax's is told by us

    dry = name == "pretrain" and "--dry-run" in rest
    rest = [argument for argument in rest if not (dry and argument == "--dry-run")]
    chosen, process = _chosen(name, rest)
    config.require(chosen, *verb.required)
    use.check_finite(chosen)
    use.check_paths(chosen)
    for option, value in vars(chosen).items():
        texts = value if isinstance(value, tuple) else (value,)
        NAMED.update((text, option in use.WRITTEN) for text in texts if isinstance(text, str))
    if name in stop.VERBS:
        stop.REQUEST.works_on(chosen.out, getattr(chosen, "grace", stop.GRACE))
    function = _found("plan.dry.dry_run" if dry else verb.act)
    if name == "doctor":  # which looks at how the processes find each other
        function(chosen, process)
        return 0
    if process and not dry:
        hosts.join(process, writes=chosen.out if name in stop.VERBS else "")
    for _ in range(TRIES if name in READING and not hosts.several() else 0):
        with suppress(GoneError):
            function(chosen)
            return 0
    function(chosen)
    return 0


def _found(name: str) -> Any:  # noqa: ANN401 (a class or a function)
    module, _, thing = name.rpartition(".")
    return getattr(import_module(f"bertjax.{module}"), thing)


def _chosen(name: str, rest: list[str]) -> tuple[Any, Any]:
    """The config of a command from its recipe and options, and which process this is."""
    from bertjax.config import Pretrain

    verb, kind = VERBS[name], _found(VERBS[name].config)
    default, given = kind(), rest
    if verb.recipe and rest and not rest[0].startswith("-"):
        default, rest = recipe(rest[0], kind), rest[1:]
    elif verb.recipe and not {"-h", "--help"} & set(rest):
        raise ConfigError(f"the first argument is a recipe: bertjax {name} configs/NAME.py ...")
    if isinstance(default, Pretrain):
        default, rest = preset(default, rest)
    if "mesh" in vars(default):
        rest = _mesh(rest)
    chosen, process = parse(kind, default, rest, name)
    if isinstance(chosen, Pretrain) and chosen.source:
        _check_source(chosen, given)
    return chosen, process


def preset(default: Any, rest: list[str]) -> tuple[Any, list[str]]:  # noqa: ANN401 (a Pretrain)
    """A recipe with the model that `--preset` names, and the other arguments."""
    from bertjax.use import with_preset

    name, rest = taken("--preset", rest)
    return (default if name is None else with_preset(default, name)), rest


def _check_source(config: Any, given: Sequence[str]) -> None:  # noqa: ANN401 (a Pretrain)
    """Raises where the model is said twice, by --from and by options; or where what it must fit is not said."""
    from bertjax.pretraining import OWN

    names = [argument.partition("=")[0].replace("_", "-") for argument in given]
    own = [f"--model.{name}".replace("_", "-") for name in OWN]
    wrong = [name for name in names if name == "--preset" or (name.startswith("--model.") and name not in own)]
    if wrong:
        raise ConfigError(f"{wrong[0]}: the model is that of --from {config.source}; leave it out")
    if not config.data:
        raise ConfigError(f"--from {config.source}: give --data too, whose vocabulary must be the same")


def recipe(path: str, kind: type[Any]) -> Any:  # noqa: ANN401 (a config dataclass)
    """What a recipe gives, which for a plan is the run to be planned."""
    from bertjax.config import Plan, Pretrain

    if kind is not Plan:
        return load_recipe(path, kind)
    run = load_recipe(path, Pretrain)
    return Plan(**{**{f.name: getattr(run, f.name) for f in fields(Pretrain)}, "out": ""})


def _mesh(rest: list[str]) -> list[str]:
    """`--mesh data=64,fsdp=4` as `--mesh.data 64 --mesh.fsdp 4`."""
    sizes, rest = taken("--mesh", rest)
    if sizes is None:
        return rest
    if taken("--mesh", rest)[0] is not None:
        raise ConfigError("--mesh is given more than once; give all sizes at once, as data=64,fsdp=4")
    each = [size.partition("=") for size in sizes.split(",")]
    if not all(name and value for name, _, value in each):
        raise ConfigError(f"--mesh {sizes}: sizes are given as data=64,fsdp=4")
    apart = [word.removeprefix("--mesh.").partition("=")[0] for word in rest if word.startswith("--mesh.")]
    names = [*apart, *(name for name, _, _ in each)]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--mesh {sizes}: {', '.join(twice)} given more than once")
    return [f"--mesh.{name}={value}" for name, _, value in each] + rest


def parse(kind: type[Any], default: Any, rest: list[str], verb: str) -> tuple[Any, Any]:  # noqa: ANN401 (a dataclass)
    """The config from the command line, and which process this is (None: the verb is for one alone).

    What is not said there stays as in `default`.
    """
    import tyro

    from bertjax.help import unwrap
    from bertjax.train.cluster import HostsConfig

    special = {
        "source": Annotated[str, tyro.conf.arg(name="from")],
        "run": Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="RUN")],
    }
    ours: list[Any] = [(f.name, special[f.name], field(default="")) for f in fields(kind) if f.name in special]
    several = VERBS[verb].several
    if several:
        ours.append(("hosts", HostsConfig, field(default_factory=HostsConfig)))
    command = make_dataclass(kind.__name__, ours, bases=(kind,), frozen=True)
    values = {f.name: getattr(default, f.name) for f in fields(kind)}
    if {"-h", "--help"} & set(rest):
        unwrap(command(**values))
    about = inspect.cleandoc(kind.__doc__ or "")
    if VERBS[verb].recipe:
        about += f"\n\nbertjax {verb} CONFIG.py {VERBS[verb].recipe}"
    parsed = tyro.cli(command, args=rest, default=command(**values), prog=f"bertjax {verb}", description=about)
    return kind(**{name: getattr(parsed, name) for name in values}), parsed.hosts if several else None
