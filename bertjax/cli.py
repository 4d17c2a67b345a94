"""The command line: `bertjax VERB ...` -> run.py. Importing this module does not import jax."""

import signal
import sys
import traceback
from collections.abc import Sequence
from types import ModuleType

from bertjax.errors import AGAIN, FAULT, KILLED, ConfigError, UserError, closest, redacted
from bertjax.heap import collect_seldom, keep_freed
from bertjax.paths import check_name
from bertjax.storage import NAMED, known_error
from bertjax.train import stop
from bertjax.verbs import VERBS, act

USAGE = (
    "usage: bertjax VERB [OPTIONS]\n\nPretrain, fine-tune and evaluate encoder language models in JAX.\n\n"
    + "".join(f"  {name:<10}{verb.about}\n" for name, verb in VERBS.items())
)
CLOSING = "\n`bertjax VERB --help` lists the options of a verb; recipes (CONFIG.py) are in configs/.\n"
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
        # Of what nobody reads (`bertjax --help | head -1`) the rest is dropped.
        code = PIPE if isinstance(error, BrokenPipeError) and stop.drop_unread(sys.stdout.fileno()) else FAULT
        if code != PIPE:
            if hosts := _hosts():
                hosts.await_cause(error)
            print(redacted(traceback.format_exc()), end="", file=sys.stderr)
    if hosts := _hosts():
        hosts.leave(code)
    stop.REQUEST.over(code)
    sys.exit(code)


def _hosts() -> ModuleType | None:
    """What knows of other processes, where a command has imported it."""
    return sys.modules.get("bertjax.train.hosts")


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
    NAMED.clear()
    NAMED.update(dict.fromkeys(rest, False))
    try:
        for argument in arguments:
            check_name(argument)
        if verb not in VERBS:
            raise ConfigError(f"there is no command {verb!r}{ELSEWHERE.get(verb) or closest(verb, VERBS)}")
        return act(verb, rest)
    except UserError as error:
        return _tell(verb, str(error), error.code)
    except stop.Interrupted as stopped:
        return _tell(verb, str(stopped), AGAIN)
    except KeyboardInterrupt:
        return _tell(verb, "interrupted", KILLED)
    except Exception as error:
        known = known_error(error)
        if not known:
            raise
        return _tell(verb, str(known), known.code)


def _tell(verb: str, message: str, code: int) -> int:
    """One message, from one of several processes where all agree."""
    hosts = _hosts()
    if not hosts or hosts.tells():
        print(f"bertjax {verb}{hosts.whose() if hosts else ''}: {message}", file=sys.stderr)
    return code
