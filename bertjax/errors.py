"""What a user can do wrong: one message that says what, where and how to mend it; the command line exits with 2."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The user's mistake, not ours: shown as one message without a traceback."""


class ConfigError(UserError):
    """An option, recipe or combination of them that cannot work."""


class DataError(UserError):
    """A file or folder that is missing, malformed or does not belong here."""


class MissingData(DataError):
    """A data set of which no files are there."""


def closest(name: str, names: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the nearest of `names`, else what there is to choose from."""
    choices = sorted(names)
    near = difflib.get_close_matches(name, choices, n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; choose from: {', '.join(choices)}"
