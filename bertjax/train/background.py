"""Saves in the background that fail, noticed at once: Orbax logs it when one does, and raises at the next save."""

import logging
import sys
import warnings
from functools import cache


class _Heard(logging.Filter):
    """Keeps the last error of a save, which whoever saves tells in its own words."""

    error: BaseException | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a message goes on to the screen."""
        if "/orbax/" not in record.pathname:
            return True
        if record.exc_info and record.filename == "async_checkpointer.py":
            self.error = record.exc_info[1]
        return False


heard = _Heard()


@cache
def listen() -> None:
    """To be called before checkpoints are read or written; a program that only imports us stays as it is.

    Where one array of many cannot be written, the others' errors come from threads that nobody waits for.
    """
    logging.getLogger("absl").addFilter(heard)
    logging.getLogger("asyncio").addFilter(lambda record: "exception was never retrieved" not in record.getMessage())
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    before = sys.unraisablehook

    def hook(left: "sys.UnraisableHookArgs") -> None:
        if not (isinstance(left.exc_value, RuntimeError) and "Event loop is closed" in str(left.exc_value)):
            before(left)

    sys.unraisablehook = hook
