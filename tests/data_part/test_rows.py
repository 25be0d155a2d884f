"""Files and folders to rows, and what is said of those that cannot be read."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.ipc
import pyarrow.parquet
import pytest

from postgrad.data.rows import DataError, rows

TWO = [{"problem": "1 + 1", "answer": "2"}, {"problem": "1 + 2", "answer": "3"}]


def jsonl(path: Path, values: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


def parquet(path: Path, values: Sequence[Any]) -> Path:
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(values)), path)
    return path


def stream(path: Path, values: Sequence[Any]) -> Path:
    table = pyarrow.Table.from_pylist(list(values))
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)
    return path


def values(path: Path | str) -> list[Any]:
    return [dict(row.values) for row in rows(path)]


def said(path: Path | str) -> str:
    with pytest.raises(DataError) as error:
        list(rows(path))
    return str(error.value)


def test_every_kind_of_file_gives_the_same_rows(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text(json.dumps(TWO, indent=2))
    files = [
        jsonl(tmp_path / "a.jsonl", TWO),
        jsonl(tmp_path / "lines.json", TWO),
        tmp_path / "list.json",
        parquet(tmp_path / "a.parquet", TWO),
        stream(tmp_path / "a.arrow", TWO),
    ]
    for file in files:
        assert values(file) == TWO, file
        assert [(row.file, row.number) for row in rows(file)] == [(file, 1), (file, 2)]


def test_a_byte_order_mark_and_blank_lines_are_no_rows_but_are_counted_as_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n\r\n{"a": 2}')
    assert [(row.values["a"], row.number) for row in rows(file)] == [(1, 1), (2, 3)]


def test_a_line_separator_inside_text_does_not_end_the_row(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text('{"a": "x\u2028y"}\n', encoding="utf-8")
    assert values(file) == [{"a": "x\u2028y"}]


def test_folder_saved_by_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    made = datasets.Dataset.from_list([{"problem": f"{n} + {n}", "answer": str(2 * n)} for n in range(10)])
    made.save_to_disk(tmp_path / "one", num_shards=2)
    assert values(tmp_path / "one") == list(made)

    datasets.DatasetDict({"train": made}).save_to_disk(tmp_path / "dict")
    assert values(tmp_path / "dict") == list(made)

    datasets.DatasetDict({"train": made, "test": made}).save_to_disk(tmp_path / "splits")
    assert f"holds several splits (train, test): name one: {tmp_path}/splits/train" in said(tmp_path / "splits")
    assert len(values(tmp_path / "splits" / "train")) == 10


def test_folder_of_files_as_cloned_from_the_hub(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# a data set")
    (tmp_path / "dataset_infos.json").write_text("{}")
    (tmp_path / "data").mkdir()
    parquet(tmp_path / "data" / "train-00000-of-00002.parquet", TWO[:1])
    parquet(tmp_path / "data" / "train-00001-of-00002.parquet", TWO[1:])
    assert values(tmp_path) == TWO

    parquet(tmp_path / "data" / "test-00000-of-00001.parquet", TWO)
    assert "holds several splits (train, test)" in said(tmp_path)
    assert values(f"{tmp_path}/data/train*") == TWO


def test_folder_with_two_kinds_of_files_is_not_guessed_at(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", TWO)
    parquet(tmp_path / "b.parquet", TWO)
    assert f"holds .jsonl and .parquet files: name one kind: {tmp_path}/*.jsonl" in said(tmp_path)


def test_good_rows_come_first_and_all_faults_after_them(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b'{"a": 1}\n{"a": \n[1, 2]\n{"a": "\xff"}\n{"a": 5}\n')
    seen = []

    def read() -> None:
        for row in rows(file):
            seen.append(row.number)

    with pytest.raises(DataError) as error:
        read()
    assert seen == [1, 5]
    lines = str(error.value).splitlines()
    assert lines[0].startswith(f"{file}:2: not JSON: Expecting value at column")
    assert lines[0].endswith("got '{\"a\":'")
    assert lines[1] == f"{file}:3: got a list, wanted an object with columns as keys"
    assert lines[2] == f"{file}:4: not UTF-8: got byte 0xff at byte 8"
    assert len(lines) == 3


def test_twenty_faults_are_told_and_the_others_counted(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_text("{\n" * 33)
    message = said(file)
    assert len(message.splitlines()) == 21
    assert message.endswith("... and 13 more")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"", "empty: got no rows, wanted at least one"),
        ("a.json", b"[]", "empty: got no rows, wanted at least one"),
        ("a.json", b'[{"a": 1},', "not JSON: Expecting value at line 1, column 11"),
        ("a.json", b'["\xff"]', "not UTF-8: got byte 0xff at byte 3"),
        ("a.jsonl", b"[" * 100_000, "nested too deeply"),
        ("a.jsonl", b'{"a": ' + b"9" * 5000 + b"}", "not JSON that can be read: Exceeds the limit"),
        ("a.parquet", b"PAR1 and no more", "not a parquet file that can be read"),
        ("a.arrow", b"ARROW1 and no more", "not an arrow file that can be read"),
        ("a.arrow", b"", "not an arrow file that can be read"),
        ("a.csv", b"a,b", "got a .csv file, wanted one of .jsonl, .json, .parquet, .arrow"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said(tmp_path / name).startswith(str(tmp_path / name))
    assert message in said(tmp_path / name)


def test_a_name_that_is_not_there_brings_the_nearest(tmp_path: Path) -> None:
    jsonl(tmp_path / "train.jsonl", TWO)
    assert "did you mean train.jsonl?" in said(tmp_path / "trian.jsonl")
    assert f"{tmp_path} has train.jsonl" in said(tmp_path / "zzz")
    assert f"there is no folder {tmp_path / 'openr1'}" in said(tmp_path / "openr1" / "math")
    assert "no file matches" in said(f"{tmp_path}/*.parquet")


def test_a_damaged_folder_of_datasets(tmp_path: Path) -> None:
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text("{}")
    assert "not a folder that datasets saved: KeyError in its JSON files: '_data_files'" in said(tmp_path)
    (tmp_path / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    assert "gone.arrow: not an arrow file that can be read" in said(tmp_path)


def test_a_folder_without_data(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing")
    assert "no data in this folder" in said(tmp_path)
