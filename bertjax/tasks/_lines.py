"""Text files as records: TSV and JSON lines. Every complaint names the file, the line and the cure."""

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecodeError
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from bertjax.data.tfds import PREFIX as TFDS
from bertjax.errors import ConfigError, DataError, MissingData, closest
from bertjax.parsing import parse
from bertjax.storage import reading

F = TypeVar("F")
MOST, GROWTH = 64 << 20, 200  # bytes that a .gz may unpack to, or times its size where that is more: text has 3 to 20


class Line(NamedTuple):
    """One line of a file and where it is, as `file:line`."""

    place: str
    text: str


class Record(NamedTuple):
    """One row of a file by the names of its columns, and where it is, as `file:line`."""

    place: str
    values: Mapping[str, Any]


def of_split(task: str, splits: Mapping[str, F], split: str) -> F:
    """What a task says of one of its splits."""
    if split not in splits:
        raise ConfigError(f"{task} has no split {split!r}{closest(split, splits)}")
    return splits[split]


def locate(task: str, data_dir: str | Path, folder: str, names: Sequence[str]) -> Path:
    """The first of `names`, perhaps with .gz, that is a file in the task's `folder` in `data_dir` or in that itself."""
    if str(data_dir).startswith(TFDS):
        raise ConfigError(f"{data_dir}: tfds: is read for the tasks of GLUE; give the folder with the files of {task}")
    wanted = [place / name for place in (Path(data_dir) / folder, Path(data_dir)) for name in names]
    for path in wanted:
        for candidate in (path, path.with_name(f"{path.name}.gz")):
            if candidate.is_file():
                return candidate
    raise MissingData(
        f"{task}: there is none of {', '.join(map(str, wanted))} (nor with .gz); "
        f"--data is to be the folder with these files or the one that holds {folder}/"
    )


def lines(path: Path) -> Iterator[Line]:
    """Lines of a plain or .gz UTF-8 file, without BOM and line ends; empty ones at its end are left out."""
    data = _read(path).removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    if not data:
        raise DataError(f"{path}: the file is empty; copy or download it again")
    # Only b"\n" ends a line: str.splitlines would also cut at U+2028, U+0085 and form feeds inside a text.
    for number, line in enumerate(data.split(b"\n"), 1):
        place = f"{path}:{number}"
        try:
            yield Line(place, line.removesuffix(b"\r").decode("utf-8"))
        except UnicodeDecodeError as error:
            raise DataError(
                f"{place}: byte {error.start + 1} of the line is not UTF-8; "
                f"convert the file, for example: iconv -f latin1 -t utf-8 {path.name}"
            ) from None


def records(path: Path, header: tuple[str, ...] = (), broken: list[str] | None = None) -> list[Record]:
    """Rows of a TSV file; `header` names the columns of a file whose first line does not.

    Rows with more or fewer fields are an error, or left out and their places put into `broken`.
    """
    # No csv module: in these files a quote is a character of the text, never the bracket of a field.
    return _named(path, [(line.place, line.text.split("\t")) for line in lines(path)], header, broken)


def _named(
    path: Path, rows: list[tuple[str, list[str]]], header: tuple[str, ...], broken: list[str] | None
) -> list[Record]:
    header = header or tuple(rows.pop(0)[1])
    if not rows:
        raise DataError(f"{path}: only a header, no rows; is it the right file?")
    wrong = [(place, len(fields)) for place, fields in rows if len(fields) != len(header)]
    if wrong and (broken is None or len(wrong) == len(rows)):
        place, count = wrong[0]
        raise DataError(
            f"{place}: {count} fields instead of {len(header)} ({', '.join(header)}); "
            "write one row a line, with a single tab between fields and none inside a text"
        )
    if broken is not None:
        broken += [place for place, _ in wrong]
    return [Record(place, dict(zip(header, row, strict=True))) for place, row in rows if len(row) == len(header)]


def objects(path: Path) -> list[Record]:
    """The objects of a JSON lines file."""
    return [Record(line.place, _object(line)) for line in lines(path)]


def first_row(path: Path) -> list[str]:
    """The fields of the first line of a CSV (`.csv`) or TSV file."""
    line = next(lines(path))
    try:
        return next(csv.reader([line.text])) if ".csv" in path.suffixes else line.text.split("\t")
    except csv.Error as error:
        raise DataError(f"{line.place}: not CSV ({error}); mend the line or get the file again") from None


def csv_records(path: Path, header: tuple[str, ...] = ()) -> list[Record]:
    """Rows of a CSV file, whose fields may be quoted; `header` as in `records`."""
    reader = csv.reader((f"{line.text}\n" for line in lines(path)), strict=True)
    try:
        rows = [(f"{path}:{reader.line_num}", fields) for fields in reader]
    except csv.Error as error:
        raise DataError(f"{path}:{reader.line_num}: not CSV ({error}); mend the line or get the file again") from None
    return _named(path, rows, header, None)


def is_json_lines(path: Path) -> bool:
    """Whether a file says by its name that it has JSON lines; `.gz` may follow."""
    return bool({".jsonl", ".json"} & set(path.suffixes))


def table(path: Path, header: tuple[str, ...] = (), broken: list[str] | None = None) -> list[Record]:
    """Rows of JSON lines (`.jsonl`), of CSV (`.csv`) or else of TSV; `.gz` may follow."""
    if is_json_lines(path):
        return objects(path)
    return csv_records(path, header) if ".csv" in path.suffixes else records(path, header, broken)


def inputs(path: Path, names: Sequence[str], task: str) -> list[Record]:
    """Rows of JSON lines (`.jsonl`), or of a CSV or TSV file with a header, each with texts called `names`."""
    found = table(path)
    for record in found:
        if not all(isinstance(record.values.get(name), str) for name in names):
            raise DataError(
                f"{record.place}: {task} needs {' and '.join(map(repr, names))}, each a string; "
                "name them in the first line of a TSV or CSV file, or as keys of JSON lines (.jsonl)"
            )
    return found


def document(path: Path) -> Any:  # noqa: ANN401 (any JSON value)
    """What a file holds as one JSON value."""
    text = "\n".join(line.text for line in lines(path))
    try:
        return parse(text)
    except ValueError as error:
        place, what = str(path), str(error)
        if isinstance(error, JSONDecodeError):
            place, what = f"{path}:{error.lineno}", f"{error.msg}, column {error.colno}"
        raise DataError(f"{place}: not JSON ({what}); get it again") from None


def _object(line: Line) -> dict[str, Any]:
    try:
        value = parse(line.text)
    except ValueError as error:
        raise DataError(f"{line.place}: not JSON ({error}); write one object a line") from None
    if not isinstance(value, dict):
        raise DataError(f'{line.place}: not a JSON object; write one a line, like {{"text": "..."}}')
    return value


def _read(path: Path) -> bytes:
    try:
        with reading(path):
            data = path.read_bytes()
        if path.suffix != ".gz":
            return data
        most = max(MOST, GROWTH * len(data))
        unpacked = gzip.GzipFile(fileobj=io.BytesIO(data)).read(most + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read ({error}); copy or download it again") from None
    if len(unpacked) > most:
        raise DataError(f"{path}: unpacks to over {most >> 20:,} MB, which no text does; get it again")
    return unpacked
