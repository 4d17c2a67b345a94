"""What can go wrong without a fault of ours: one message that says what, where and how to mend it, and an exit code."""

import difflib
import os
import re
import traceback
from collections.abc import Iterable

FAULT = 1  # of ours, with a traceback
AGAIN = 42  # asked to stop: what is done is kept, and the same command goes on
HUNG = 75  # nothing moved for too long: the same command goes on from the last checkpoint
KILLED = 130  # interrupted at once
LONGEST = 4_000  # characters of a message
HIDDEN = "***"
_SECRET = re.compile("_KEY$|_TOKEN$|PASSWORD|PASSWD|SECRET|CREDENTIAL", re.IGNORECASE)  # environment variables
_USER = re.compile(r"(?<=://)[^\s/@]+(?=@)")  # user:password of a URL
_ASKED = re.compile(r"(?i)(?<=[?&;])([\w.-]*(?:token|key|secret|password|signature|credential|sig)=)[^\s&;#'\"]+")


def redacted(text: str) -> str:
    """A text without secrets: those of URLs, and values of environment variables that are called passwords or keys."""
    text = without_passwords(text)
    for name, value in os.environ.items():
        if len(value) >= 6 and value in text and _SECRET.search(name):  # shorter ones are in every other word
            text = text.replace(value, HIDDEN)
    return text


def without_passwords(text: str) -> str:
    """A text whose URLs have no user, password or token."""
    return _ASKED.sub(rf"\1{HIDDEN}", _USER.sub(HIDDEN, text)) if "://" in text else text


class UserError(Exception):
    """Shown as one message without a traceback; the command line exits with `code`."""

    code: int = 2  # the user's mistake: the same command would fail again

    def __str__(self) -> str:
        """The message, whatever a file has put into it: in bounded length, without what would steer a terminal."""
        text = redacted(super().__str__())
        if len(text) > LONGEST:
            text = f"{text[: LONGEST // 2]} ... {text[-LONGEST // 2 :]}"
        return "".join(c if c.isprintable() or c in "\n\t\u3000" else repr(c)[1:-1] for c in text)


class ConfigError(UserError):
    """An option, recipe or combination of them that cannot work."""


class DataError(UserError):
    """A file or folder that is missing, malformed or does not belong here."""


class MissingData(DataError):
    """A data set of which no files are there."""


class AccessError(ConfigError):
    """A file that is there and that this user may not read."""


class StorageError(UserError):
    """A disk that is full, read-only or broken: with room again the same command goes on."""

    code = 3
    where: object = ""  # the file or folder, where that is known


class AwayError(StorageError):
    """A bucket that does not answer: the same command goes on when it does."""

    code = HUNG


class GoneError(UserError):
    """A checkpoint that its run has deleted while it was read: the same command takes another."""

    code = AGAIN


class AloneError(UserError):
    """Processes that a cluster describes and that do not find each other: it may be late, the same command goes on."""

    code = AGAIN


class DevicesError(UserError):
    """Devices that cannot be had: another program may have them yet, the same command goes on when it has ended."""

    code = AGAIN


class LostWorker(UserError):
    """A process of ours that was killed: the same command goes on."""

    code = AGAIN


class UnsavedError(StorageError):
    """A checkpoint of several processes that one of them could not write: started again, they look for room first."""

    code = AGAIN


class MemoryShort(UserError):
    """A device with less memory than a program takes."""


def lacked_memory(error: BaseException) -> str:
    """What XLA says where a device has not enough memory, in its first line; "" of any other error."""
    told, _, _ = str(error).partition("\n")
    kind, _, words = told.partition(": ")
    of_jax = type(error).__name__ in ("JaxRuntimeError", "XlaRuntimeError")  # by name: jax may not be imported here
    if of_jax and kind == "RESOURCE_EXHAUSTED" and re.search("memory|alloc|hbm", words, re.IGNORECASE):
        return words.rstrip(".")
    return ""


def raised_in(error: Exception, package: str) -> str:
    """`"FILE:LINE: Kind: words"` of an error: the innermost line of a package of the user's that led to it."""
    own = [
        f"{frame.f_code.co_filename}:{line}: "
        for frame, line in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__")).partition(".")[0] == package
    ]
    if isinstance(error, SyntaxError) and error.filename:  # which is none of a line that ran
        return f"{error.filename}:{error.lineno}: {type(error).__name__}: {error.msg}"
    return f"{own[-1] if own else ''}{type(error).__name__}: {error}"


def at_least(low: int, config: object, *names: str) -> None:
    """Raises for the first of these fields that is lower."""
    for name in names:
        if getattr(config, name) < low:
            raise ConfigError(f"{name}={getattr(config, name)} must be at least {low}")


def closest(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest of `names`, else what there is to choose from."""
    choices = sorted(names)
    near = difflib.get_close_matches(name[:100], choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from: {', '.join(choices)}"
