"""Where a command is to write: what lies in the folder of a run that is not of one, and whether a file can be there."""

import re
from pathlib import Path

from bertjax.errors import ConfigError, DataError
from bertjax.jsonio import read_json
from bertjax.paths import remote, sizes
from bertjax.storage import MISPLACED, misplaced
from bertjax.train.steps import steps_of

RUNS = ("pretrain", "finetune", "convert")  # the commands that make one
OURS = r"metrics\.jsonl|checkpoints|damaged|scores.*\.json|predictions.*|submission|run\.lock|not_trained_on\.json"
OURS += r"|(null_odds|nbest).*\.json|profile|compiled|report\..*|README\.md|parity\.json|stacks-\d+\.txt"
BEGUN = ("config.json", "tokenizer")  # ours where config.json names one of RUNS
STALE = r".*\.tmp|\.shared-.*|.*orbax-checkpoint-tmp.*"
LOGS = r".*\.(log|out|err)|lost\+found|\..+"  # what shells, batch systems and file systems put beside
SHOWN = 5  # names in a message


def foreign(folder: Path) -> list[str]:
    """Names in a folder that are neither of a run, nor a folder of runs, nor logs."""
    if not folder.exists():
        return []
    entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    ours = BEGUN if steps_of(folder) or begun_by(folder) else ()
    others = [e for e in entries if e.name not in ours and not re.fullmatch(f"{OURS}|{STALE}|{LOGS}", e.name)]
    return [entry.name for entry in others if entry.name in BEGUN or not _holds_runs(entry)]


def begun_by(folder: Path) -> str:
    """The command whose run a folder holds, by its config.json; "" where that is not there, damaged or not ours."""
    try:
        command = read_json(folder / "config.json", "pretrain and finetune").get("command")
    except DataError:
        return ""
    return command if command in RUNS else ""


def _holds_runs(folder: Path) -> bool:
    """Whether it is one of a suite: a run, those of a task with its seeds, or of the points of a grid with theirs."""
    if remote(folder):
        return any(Path(name).name == "config.json" for name in sizes(folder))
    return any(True for depth in ("", "*/", "*/*/") for _ in folder.glob(f"{depth}config.json"))


def check_out(folder: Path) -> None:
    """Raises where a run would begin in a folder with files of others, and write over those of its names."""
    if steps_of(folder) or not (found := foreign(folder)):
        return
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    raise ConfigError(
        f"{folder} holds no run, but {', '.join(found[:SHOWN])}{more}: a run would write its own files among them; "
        "give --out a new or empty folder, or remove these. Nothing was changed"
    )


def check_file(path: Path) -> None:
    """Raises where a file cannot be written, before it is computed; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        there = path.exists()
        path.open("ab").close()
        if not there:
            path.unlink()
    except MISPLACED as error:
        raise misplaced(error) from error
