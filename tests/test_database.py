"""Files of SQLite: ours are opened, others are told of and left as they were, and a commit is whole or not there."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from postgrad.database import Kind, alone, opened, reading, writing
from postgrad.run import Failed

NOTES = Kind("store of notes", 0x70670001, 3, ("CREATE TABLE note (number INTEGER PRIMARY KEY, text TEXT)",))


def fill(path: Path, count: int) -> None:
    with opened(path, NOTES) as database, writing(database):
        database.executemany("INSERT INTO note VALUES (?, ?)", ((number, "x" * 500) for number in range(count)))


def count(database: sqlite3.Connection) -> int:
    return int(database.execute("SELECT count(*) FROM note").fetchone()[0])


def test_what_was_committed_is_there_again(tmp_path: Path) -> None:
    fill(tmp_path / "deep" / "notes.sqlite", 3)
    with opened(tmp_path / "deep" / "notes.sqlite", NOTES) as database:
        assert count(database) == 3
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert database.execute("PRAGMA synchronous").fetchone() == (2,)
        assert database.execute("PRAGMA application_id").fetchone() == (0x70670001,)


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with opened(tmp_path / "notes.sqlite", NOTES) as database:
        with pytest.raises(sqlite3.IntegrityError), writing(database):
            database.executemany("INSERT INTO note VALUES (?, ?)", [(1, "a"), (1, "b")])
        assert count(database) == 0
        with writing(database):
            database.execute("INSERT INTO note VALUES (1, 'c')")
        assert count(database) == 1


def test_a_full_disk_is_a_failure_that_names_the_file_and_keeps_the_rest(tmp_path: Path) -> None:
    fill(tmp_path / "notes.sqlite", 3)
    with opened(tmp_path / "notes.sqlite", NOTES) as database:
        database.execute("PRAGMA max_page_count=8")
        with (
            pytest.raises(Failed, match=r"could not write .*notes\.sqlite: database or disk is full.*untouched"),
            writing(database),
        ):
            database.executemany("INSERT INTO note VALUES (?, ?)", ((at, "x" * 500) for at in range(10, 200)))
        assert count(database) == 3


def test_a_reader_sees_whole_transactions_while_another_writes(tmp_path: Path) -> None:
    fill(tmp_path / "notes.sqlite", 1)
    seen: list[int] = []
    begun, stop = threading.Event(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            with reading(tmp_path / "notes.sqlite", NOTES) as database:
                seen.append(count(database))
            begun.set()

    thread = threading.Thread(target=read)
    thread.start()
    assert begun.wait(20)
    with opened(tmp_path / "notes.sqlite", NOTES) as database:
        for start in range(10, 310, 10):
            with writing(database):
                database.executemany("INSERT INTO note VALUES (?, '')", ((start + at,) for at in range(10)))
    stop.set()
    thread.join()
    assert {number % 10 for number in seen} == {1}


def test_processes_that_make_the_same_file_at_once_agree(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from postgrad.database import *\n"
        "kind = Kind('store of notes', 0x70670001, 3, ('CREATE TABLE note (number INTEGER PRIMARY KEY, text TEXT)',))\n"
        "sys.stdin.readline()\n"
        "with opened(Path(sys.argv[1]), kind) as database, writing(database):\n"
        "    database.execute('INSERT INTO note VALUES (?, ?)', (int(sys.argv[2]), ''))\n"
    )
    path = tmp_path / "notes.sqlite"
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(path), str(number)], stdin=subprocess.PIPE)
        for number in range(4)
    ]
    for process in started:
        assert process.stdin is not None
        process.stdin.write(b"go\n")
        process.stdin.flush()
    for process in started:
        process.communicate(timeout=60)
    assert [process.returncode for process in started] == [0] * 4
    with reading(path, NOTES) as database:
        assert count(database) == 4


# ---- What is not ours -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"task,score\nsoftmax,2\n" * 40, b"\x7fELF" + bytes(5000)])
def test_another_kind_of_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.sqlite"
    path.write_bytes(content)
    for way in (opened, reading):
        with (
            pytest.raises(
                ValueError, match=r"notes\.sqlite is no SQLite file, so no store of notes: give another path"
            ),
            way(path, NOTES),
        ):
            pass
    assert path.read_bytes() == content
    assert [one.name for one in tmp_path.iterdir()] == ["notes.sqlite"]


def test_another_programs_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    database = sqlite3.connect(path)
    database.execute("CREATE TABLE note (number INTEGER)")
    database.commit()
    database.close()
    before = path.read_bytes()
    for way in (opened, reading):
        with pytest.raises(ValueError, match=r"is another program's SQLite file, no store of notes"), way(path, NOTES):
            pass
    assert path.read_bytes() == before


def test_another_version_names_both(tmp_path: Path) -> None:
    fill(tmp_path / "notes.sqlite", 1)
    newer = Kind(NOTES.name, NOTES.application_id, 4, NOTES.schema)
    with (
        pytest.raises(ValueError, match=r"store of notes of version 3, and this postgrad reads version 4"),
        opened(tmp_path / "notes.sqlite", newer),
    ):
        pass


def test_a_damaged_file_says_how_to_save_what_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    fill(path, 200)
    content = bytearray(path.read_bytes())
    content[3 * 4096 : 5 * 4096] = b"\xa5" * 2 * 4096
    path.write_bytes(content)
    for way in (opened, reading):
        with pytest.raises(ValueError, match=r"notes\.sqlite is damaged \(.*\.recover"), way(path, NOTES):
            pass


def test_a_file_cut_short_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    fill(path, 200)
    path.write_bytes(path.read_bytes()[: 5 * 4096 + 100])
    with pytest.raises(ValueError, match="is damaged"), opened(path, NOTES):
        pass


def test_an_empty_file_is_a_fresh_one_as_a_kill_at_its_birth_leaves_it(tmp_path: Path) -> None:
    (tmp_path / "notes.sqlite").touch()
    fill(tmp_path / "notes.sqlite", 2)


def test_to_read_what_is_not_there_names_the_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"none\.sqlite does not exist"), reading(tmp_path / "none.sqlite", NOTES):
        pass
    with pytest.raises(ValueError, match=r"unable to open"), opened(tmp_path, NOTES):
        pass


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "notes.sqlite"
    with alone(path), pytest.raises(Failed, match=r"another process is at work on .*notes\.sqlite"), alone(path):
        pass
    with alone(path):
        pass
