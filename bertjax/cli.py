"""The command line: `bertjax VERB ...` -> run.py. Importing this module does not import jax."""

import inspect
import logging
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any

from bertjax.errors import AGAIN, FAULT, KILLED, ConfigError, UserError, closest, redacted
from bertjax.heap import collect_seldom, keep_freed
from bertjax.look import look, taken
from bertjax.recipe import load_recipe
from bertjax.storage import fault_of, told
from bertjax.train import stop

VERBS = {
    "prepare": "text files -> tokenizer and token shards",
    "pretrain": "CONFIG.py: a prepared corpus -> an encoder (run again = resume)",
    "plan": "CONFIG.py: whether a pretraining run fits chips that are not here, and what it does on them",
    "finetune": "CONFIG.py: a run and a task -> a fine-tuned model and its scores",
    "evaluate": "RUN: scores of a fine-tuned run on a split of its task",
    "predict": "RUN: predictions for a file of texts",
    "embed": "RUN: a vector for each line of a text file",
    "convert": "a run -> a Hugging Face directory; such a directory or a bert_model.ckpt -> a run",
    "doctor": "what would keep a run from going well on this machine or cluster, and the cures",
    "inspect": "CONFIG.py|RUN: parameters, sharding, bytes, FLOPs; --verify: whether all files are still whole",
    "report": "RUN ...: how runs did, side by side",
    "list": "[models|objectives|tasks|presets]: what there is to choose from",
}

USAGE = (
    "usage: bertjax VERB [OPTIONS]\n\nPretrain, fine-tune and evaluate encoder language models in JAX.\n\n"
    + "".join(f"  {verb:<10}{text}\n" for verb, text in VERBS.items())
)
CLOSING = "\n`bertjax VERB --help` lists the options of a verb; recipes (CONFIG.py) are in configs/.\n"
MISPLACED = (IsADirectoryError, FileExistsError, FileNotFoundError, NotADirectoryError, PermissionError)
PIPE = 128 + signal.SIGPIPE

ELSEWHERE = {  # what others call a verb, or what is none
    "supervise": "; it is a program of its own: python -m bertjax.supervise bertjax pretrain ... --out RUN",
    "export": "; `bertjax convert --from RUN --to DIR` writes a Hugging Face directory",
    "resume": "; the command that began a run goes on with it when it is given again",
}


def main() -> None:
    """The console script."""
    keep_freed()
    collect_seldom()
    arguments = sys.argv[1:]
    stop.REQUEST.command = arguments
    if arguments and arguments[0] in stop.VERBS:
        stop.REQUEST.begin()
    try:
        code = _run(arguments)
    except Exception as error:
        code = PIPE if isinstance(error, BrokenPipeError) and _is_unread() else FAULT
        if code != PIPE:
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
    hosts = sys.modules.get("bertjax.train.hosts")
    if hosts:
        hosts.leave(code)
    stop.REQUEST.over(code)
    sys.exit(code)


def _run(arguments: Sequence[str]) -> int:
    """Runs one command, and hands on what it has printed."""
    try:
        code = run(arguments)
    except SystemExit as ended:  # tyro's
        code = int(ended.code or 0)
    sys.stdout.flush()
    return code


def run(arguments: Sequence[str]) -> int:
    """Runs one command; gives its exit code, after one message where it is not 0. Our own faults do raise."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(USAGE + CLOSING, end="")
        return 0 if arguments else 2
    verb, *rest = arguments
    named = dict.fromkeys(rest, False)
    try:
        if verb not in VERBS:
            raise ConfigError(f"there is no command {verb!r}{ELSEWHERE.get(verb) or closest(verb, VERBS)}")
        return _verb(verb, rest, named)
    except UserError as error:
        return _tell(verb, str(error), error.code)
    except stop.Interrupted as stopped:
        return _tell(verb, str(stopped), AGAIN)
    except KeyboardInterrupt:
        return _tell(verb, "interrupted", KILLED)
    except Exception as error:
        if isinstance(error, MISPLACED) and _is_theirs(error, named):
            return _tell(verb, redacted(f"{error.filename}: {error.strerror}; give another path"), UserError.code)
        number = fault_of(error)
        if not number:
            raise
        where = getattr(error, "filename", None) or ("the bucket" if number < 0 else "the disk")
        return _tell(verb, str(failed := told(where, number)), failed.code)


def _is_theirs(error: OSError, named: Mapping[str, bool]) -> bool:
    """Whether a path that the user has named, one in it or on the way to it is not as it should be.

    But what vanishes from a folder that is written (of which `named` says True) is our fault, or passes.
    """
    if not isinstance(error.filename, str | os.PathLike):
        return False
    place, lost = _absolute(error.filename), isinstance(error, FileExistsError | FileNotFoundError)
    paths = {_absolute(path): written for path, written in named.items() if path}
    if place in paths or any(place in path.parents for path in paths):
        return True
    around = next((folder for folder in place.parents if folder in paths), None)
    return around is not None and not (lost and paths[around])


def _absolute(path: str | os.PathLike[str]) -> Path:
    return Path(os.path.abspath(path))


def _is_unread() -> bool:
    """Whether nobody reads what is printed (`bertjax --help | head -1`); what is left of it is dropped then."""
    output = select.poll()
    output.register(sys.stdout.fileno(), 0)
    unread = any(event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0))
    if unread:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return unread


def _tell(verb: str, message: str, code: int) -> int:
    """One message, from one of several processes where all agree."""
    hosts = sys.modules.get("bertjax.train.hosts")
    if not hosts or hosts.tells():
        print(f"bertjax {verb}{hosts.whose() if hosts else ''}: {message}", file=sys.stderr)
    return code


def _verb(verb: str, rest: list[str], named: dict[str, bool]) -> int:
    """Adds to the paths that are `named`, those of the config and whether they are written."""
    if verb in ("inspect", "report", "list"):
        look(verb, rest, VERBS[verb].partition(": ")[2])
        return 0
    from bertjax import api, config, report, run, suite, use
    from bertjax.compiled import keep_compiled
    from bertjax.convert import convert
    from bertjax.doctor import doctor
    from bertjax.plan.verb import plan
    from bertjax.preparation import prepare
    from bertjax.train import hosts

    keep_compiled()
    logging.getLogger("absl").setLevel(logging.ERROR)  # of Grain and TFDS; what matters of Orbax's is told by us

    kinds: dict[str, type[Any]] = {
        "prepare": config.Prepare,
        "pretrain": config.Pretrain,
        "plan": config.Plan,
        "finetune": config.Finetune,
        "evaluate": use.Evaluate,
        "predict": use.Predict,
        "embed": use.Embed,
        "convert": use.Convert,
        "doctor": use.Doctor,
    }
    kind, default = kinds[verb], kinds[verb]()
    dry = verb == "pretrain" and "--dry-run" in rest
    rest = [argument for argument in rest if not (dry and argument == "--dry-run")]
    if verb in RECIPES and rest and not rest[0].startswith("-"):
        default, rest = _recipe(rest[0], kind), rest[1:]
    elif verb in RECIPES and not {"-h", "--help"} & set(rest):
        raise ConfigError(f"the first argument is a recipe: bertjax {verb} configs/NAME.py ...")
    given = rest
    if verb in ("pretrain", "plan"):
        name, rest = taken("--preset", rest)
        default = default if name is None else use.with_preset(default, name)
    if verb in RECIPES:
        rest = _mesh(rest)
    chosen, process = _parse(kind, default, rest, verb)
    config.require(chosen, *REQUIRED[verb])
    if verb in ("pretrain", "plan") and chosen.source:
        _check_source(chosen, given)
    use.check_finite(chosen)
    use.check_paths(chosen)
    for name, value in vars(chosen).items():
        texts = value if isinstance(value, tuple) else (value,)
        named.update((text, name in use.WRITTEN) for text in texts if isinstance(text, str))
    if verb in stop.VERBS:
        stop.REQUEST.works_on(chosen.out, getattr(chosen, "grace", stop.GRACE))
    if process and not dry and verb != "doctor":
        hosts.join(process)
    acts: dict[str, Callable[[Any], None]] = {
        "prepare": prepare,
        "finetune": suite.finetune,
        "evaluate": suite.evaluate,
        "embed": api.embed,
        "convert": convert,
        "plan": plan,
        "doctor": lambda config: doctor(config, process),
    }
    act = report.dry_run if dry else acts.get(verb) or getattr(run, verb)
    act(chosen)
    return 0


def _check_source(config: Any, given: Sequence[str]) -> None:  # noqa: ANN401 (a Pretrain)
    """Raises where the model is said twice, by --from and by options; or where what it must fit is not said."""
    from bertjax.run import OWN

    names = [argument.partition("=")[0].replace("_", "-") for argument in given]
    own = [f"--model.{name}".replace("_", "-") for name in OWN]
    wrong = [name for name in names if name == "--preset" or (name.startswith("--model.") and name not in own)]
    if wrong:
        raise ConfigError(f"{wrong[0]}: the model is that of --from {config.source}; leave it out")
    if not config.data:
        raise ConfigError(f"--from {config.source}: give --data too, whose vocabulary must be the same")


RECIPES = ("pretrain", "plan", "finetune")  # the verbs that begin with one

REQUIRED = {
    "prepare": ("corpus", "out"),
    "pretrain": ("data", "out"),
    "plan": ("topology",),
    "finetune": ("task", "source", "data", "out"),
    "evaluate": ("run", "data"),
    "predict": ("run", "input", "out"),
    "embed": ("run", "input", "out"),
    "convert": ("source", "to"),
    "doctor": (),
}

ABOUT = {
    "pretrain": "\n\nbertjax pretrain CONFIG.py --data DIR --out RUN [--preset tiny|mini|...] [--from RUN|HF_DIR] "
    "[--dry-run] [OPTIONS]",
    "plan": "\n\nbertjax plan CONFIG.py --topology v5e:16x16 [--data DIR] [--quick] [OPTIONS as of pretrain]",
    "finetune": "\n\nbertjax finetune CONFIG.py --task NAME --from RUN|HF_DIR --data DIR --out RUN2 [OPTIONS]",
}


def _recipe(path: str, kind: type[Any]) -> Any:  # noqa: ANN401 (a config dataclass)
    """What a recipe gives, which for a plan is the run to be planned."""
    from bertjax.config import Plan, Pretrain

    if kind is not Plan:
        return load_recipe(path, kind)
    recipe = load_recipe(path, Pretrain)
    return Plan(**{**{f.name: getattr(recipe, f.name) for f in fields(Pretrain)}, "out": ""})


def _mesh(rest: list[str]) -> list[str]:
    """`--mesh data=64,fsdp=4` as `--mesh.data 64 --mesh.fsdp 4`."""
    sizes, rest = taken("--mesh", rest)
    if sizes is None:
        return rest
    each = [size.partition("=") for size in sizes.split(",")]
    if not all(name and value for name, _, value in each):
        raise ConfigError(f"--mesh {sizes}: sizes are given as data=64,fsdp=4")
    names = [name for name, _, _ in each]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"--mesh {sizes}: {', '.join(twice)} given more than once")
    return [f"--mesh.{name}={value}" for name, _, value in each] + rest


def _parse(kind: type[Any], default: Any, rest: list[str], verb: str) -> tuple[Any, Any]:  # noqa: ANN401 (a dataclass)
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
    several = verb in ("pretrain", "finetune", "evaluate", "predict", "doctor")
    if several:
        ours.append(("hosts", HostsConfig, field(default_factory=HostsConfig)))
    command = make_dataclass(kind.__name__, ours, bases=(kind,), frozen=True)
    values = {f.name: getattr(default, f.name) for f in fields(kind)}
    if {"-h", "--help"} & set(rest):
        unwrap(command(**values))
    about = inspect.cleandoc(kind.__doc__ or "") + ABOUT.get(verb, "")
    parsed = tyro.cli(command, args=rest, default=command(**values), prog=f"bertjax {verb}", description=about)
    return kind(**{name: getattr(parsed, name) for name in values}), parsed.hosts if several else None
