"""Local files and folders, as they are, to rows. Knows file formats; knows nothing of columns.

    *.jsonl, *.json (a list of objects, or one object a line), *.parquet, *.arrow
    a folder that `datasets.Dataset.save_to_disk` wrote (and `DatasetDict`'s, where it holds one split)
    a folder of such files (they may lie in its `data/` folder, as in a clone from the Hugging Face hub)
    a pattern: "openr1/data/train-*.parquet"

Files are read one row at a time (a JSON list: at once). Whatever cannot be read is a Fault; reading goes on behind
it, so that one pass finds all of them. Nothing is left out without one, except blank lines and a folder's other files
(README.md).
"""

from __future__ import annotations

import difflib
import glob
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SHOWN = 20
"""Faults that a DataError tells of in full; the rest are counted."""

KINDS = (".jsonl", ".json", ".parquet", ".arrow")
SPLITS = ("train", "test", "validation", "valid", "val", "dev", "eval")
HUB_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}


@dataclass(frozen=True, slots=True)
class Row:
    values: Mapping[str, Any]
    file: Path
    number: int
    """From 1: the line of a JSONL file, the element of a list, the row of a table."""


@dataclass(frozen=True, slots=True)
class Fault:
    file: Path
    row: int | None
    """From 1; None: the whole file."""
    field: str | None
    message: str
    """What was got and what was wanted."""

    def __str__(self) -> str:
        place = f"{self.file}" if self.row is None else f"{self.file}:{self.row}"
        return f"{place}: {self.message}" if self.field is None else f"{place}: {self.field}: {self.message}"


class DataError(ValueError):
    """Everything that is wrong with a source, in one message."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self.faults = tuple(faults)
        lines = [str(fault) for fault in self.faults[:SHOWN]]
        if len(self.faults) > SHOWN:
            lines.append(f"... and {len(self.faults) - SHOWN} more")
        super().__init__("\n".join(lines))


def rows(path: str | Path) -> Iterator[Row]:
    """The good rows; at their end a DataError, where there were faults: an exhausted iterator means a sound source."""
    faults = []
    for item in read(path):
        if isinstance(item, Fault):
            faults.append(item)
        else:
            yield item
    if faults:
        raise DataError(faults)


def read(path: str | Path) -> Iterator[Row | Fault]:
    """Rows and faults as they come."""
    files = _files(Path(path))
    if isinstance(files, Fault):
        yield files
        return
    for file in files:
        number = 0
        for number, item in enumerate(READERS[file.suffix](file), start=1):  # noqa: B007
            yield item
        if not number:
            yield Fault(file, None, None, "empty: got no rows, wanted at least one")


def _files(path: Path) -> list[Path] | Fault:
    if any(sign in str(path) for sign in "*?[") and not path.exists():
        found = sorted(Path(match) for match in glob.glob(str(path)))
        return found if found else Fault(path, None, None, "no file matches this pattern")
    if not path.exists():
        return Fault(path, None, None, _missing(path))
    if path.is_file():
        if path.suffix in KINDS:
            return [path]
        return Fault(path, None, None, f"got a {path.suffix or 'nameless'} file, wanted one of {', '.join(KINDS)}")
    return _folder(path)


def _missing(path: Path) -> str:
    parent = path.parent
    if not parent.is_dir():
        return f"no such file: there is no folder {parent} (data is read from local files: download a hub id first)"
    names = sorted(entry.name for entry in parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.5)
    there = f"did you mean {' or '.join(near)}?" if near else f"{parent} has {', '.join(names[:10]) or 'no files'}"
    return f"no such file or folder: {there}"


def _folder(path: Path) -> list[Path] | Fault:
    try:
        if (path / "dataset_dict.json").exists():
            splits = json.loads((path / "dataset_dict.json").read_bytes())["splits"]
            if len(splits) > 1:
                return Fault(
                    path, None, None, f"holds several splits ({', '.join(splits)}): name one: {path / splits[0]}"
                )
            return _folder(path / splits[0])
        if (path / "dataset_info.json").exists() and (path / "state.json").exists():
            saved = json.loads((path / "state.json").read_bytes())["_data_files"]
            return [path / entry["filename"] for entry in saved]
    except (ValueError, LookupError, TypeError) as error:
        return Fault(
            path, None, None, f"not a folder that datasets saved: {type(error).__name__} in its JSON files: {error}"
        )
    files = sorted(
        file
        for folder in (path, path / "data")
        if folder.is_dir()
        for file in folder.iterdir()
        if file.is_file() and file.suffix in KINDS and file.name not in HUB_FILES
    )
    kinds = sorted({file.suffix for file in files})
    heads = {re.split(r"[-_.]", file.name)[0] for file in files}
    splits = [split for split in SPLITS if split in heads]
    if not files:
        return Fault(path, None, None, f"no data in this folder: wanted {', '.join(KINDS)} files")
    if len(kinds) > 1:
        return Fault(path, None, None, f"holds {' and '.join(kinds)} files: name one kind: {path}/*{kinds[0]}")
    if len(splits) > 1:
        one = f"{files[0].parent}/{splits[0]}*"
        return Fault(path, None, None, f"holds several splits ({', '.join(splits)}): name one: {one}")
    return files


def _jsonl(file: Path) -> Iterator[Row | Fault]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip(b" \t\r\n\xef\xbb\xbf"):
                yield _line(file, number, line)


def _line(file: Path, number: int, line: bytes) -> Row | Fault:
    try:
        # Without its end: else a string that is cut short is told as a control character.
        value = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n"))
    except UnicodeDecodeError as error:
        return Fault(file, number, None, f"not UTF-8: got byte 0x{line[error.start]:02x} at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        where = f"{error.msg.removesuffix(' at')} at column {error.colno}"
        return Fault(file, number, None, f"not JSON: {where}; got {_short(line.decode())}")
    except RecursionError:
        return Fault(file, number, None, "not JSON that can be read: nested too deeply")
    except ValueError as error:
        return Fault(file, number, None, f"not JSON that can be read: {error}")
    return _row(file, number, value)


def _row(file: Path, number: int, value: Any) -> Row | Fault:
    if isinstance(value, dict):
        return Row(value, file, number)
    return Fault(file, number, None, f"got {kind(value)}, wanted an object with columns as keys")


def _json(file: Path) -> Iterator[Row | Fault]:
    """A list of objects; many files named .json hold one object a line instead."""
    with file.open("rb") as data:
        head = data.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()
    if not head.startswith(b"["):
        yield from _jsonl(file)
        return
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        got = error.object[error.start]
        yield Fault(file, None, None, f"not UTF-8: got byte 0x{got:02x} at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        where = f"{error.msg.removesuffix(' at')} at line {error.lineno}, column {error.colno}"
        yield Fault(file, None, None, f"not JSON: {where}")
    except RecursionError:
        yield Fault(file, None, None, "not JSON that can be read: nested too deeply")
    except ValueError as error:
        yield Fault(file, None, None, f"not JSON that can be read: {error}")
    else:
        for number, value in enumerate(values, start=1):
            yield _row(file, number, value)


def _parquet(file: Path) -> Iterator[Row | Fault]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            yield from _table(file, table.iter_batches(batch_size=1024))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield Fault(file, None, None, f"not a parquet file that can be read: {error}")


def _arrow(file: Path) -> Iterator[Row | Fault]:
    """`datasets` writes streams; the file format is Arrow's other one."""
    import pyarrow
    import pyarrow.ipc

    try:
        with file.open("rb") as data:
            if data.read(6) == b"ARROW1":
                reader = pyarrow.ipc.open_file(data)
                yield from _table(file, (reader.get_batch(at) for at in range(reader.num_record_batches)))
            else:
                data.seek(0)
                yield from _table(file, pyarrow.ipc.open_stream(data))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        yield Fault(file, None, None, f"not an arrow file that can be read: {error}")


def _table(file: Path, batches: Iterable[Any]) -> Iterator[Row | Fault]:
    number = 0
    for batch in batches:
        for values in batch.to_pylist():
            number += 1
            yield Row(values, file, number)


READERS = {".jsonl": _jsonl, ".json": _json, ".parquet": _parquet, ".arrow": _arrow}


def kind(value: Any) -> str:
    """How messages speak of a value's type."""
    if value is None:
        return "nothing"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text", list: "a list", dict: "an object"}
    return names.get(type(value), type(value).__name__)


def _short(text: str, limit: int = 60) -> str:
    text = text.strip()
    return repr(text if len(text) <= limit else text[:limit] + "...")
