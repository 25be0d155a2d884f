"""SQLite files of ours: every commit is on disk before it is said to be, and a foreign or damaged file is told of at once.

    STORE = Kind("store of calls", 0x70676301, 1, ("CREATE TABLE call (...)",))
    with opened(path, STORE) as database, writing(database):
        database.execute("INSERT ...")

Write-ahead log, so that a reader sees whole transactions while another process writes, and a kill loses only what was never
committed. `synchronous=FULL`: a commit that has returned survives loss of power too. Local disks only: the log is shared memory
between processes, which network file systems lack.
"""

from __future__ import annotations

import errno
import fcntl
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from postgrad.run import Failed

PATIENCE_S = 30.0
"""How long a writer waits for another one's transaction; ours take milliseconds."""
NOT_OURS = "give another path; nothing was written to this file"


@dataclass(frozen=True, slots=True)
class Kind:
    name: str
    """For people: "archive of kernels"."""
    application_id: int
    """In the file's header (bytes 68 to 71): whose file this is."""
    version: int
    """Of the schema."""
    schema: tuple[str, ...]
    """One statement each, carried out together in a fresh file."""


@contextmanager
def opened(path: Path, kind: Kind) -> Iterator[sqlite3.Connection]:
    """To read and write; made where it is missing. Raises ValueError for a foreign, damaged or newer file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _connected(path, f"{path.absolute().as_uri()}?mode=rwc", kind) as database:
        if not _is_fresh(database):
            # Before anything is changed: it may be somebody else's.
            _ours_and_whole(database, path, kind)
        if database.execute("PRAGMA journal_mode=WAL").fetchone()[0] != "wal":
            raise ValueError(
                f"{path}: the file system cannot hold a write-ahead log: put the {kind.name} on a local disk"
            )
        database.execute("PRAGMA synchronous=FULL")
        with writing(database):
            if _is_fresh(database):
                for statement in kind.schema:
                    database.execute(statement)
                database.execute(f"PRAGMA application_id={kind.application_id}")
                database.execute(f"PRAGMA user_version={kind.version}")
        yield database


@contextmanager
def reading(path: Path, kind: Kind) -> Iterator[sqlite3.Connection]:
    """To read alone, also while another process writes. Raises ValueError where there is no such file."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist: give the path of an existing {kind.name}")
    with _connected(path, f"{path.absolute().as_uri()}?mode=ro", kind) as database:
        _ours_and_whole(database, path, kind)
        yield database


@contextmanager
def writing(database: sqlite3.Connection) -> Iterator[None]:
    """One transaction: all of it or nothing. Raises Failed where it cannot be written; what was committed before is untouched."""
    try:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("COMMIT")
    except BaseException as error:
        if database.in_transaction:
            database.execute("ROLLBACK")
        if type(error) not in (sqlite3.OperationalError, sqlite3.DatabaseError):
            raise
        (path,) = (row[2] for row in database.execute("PRAGMA database_list") if row[1] == "main")
        raise Failed(
            f"could not write {path}: {error}. What was written before is untouched: free some space or end the other process "
            "that holds it, and resume"
        ) from error


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """No other process works on `path` meanwhile, by a lock on a file beside it. Raises Failed where one does.

    The system lets go however a process ends. Not a lock on the file itself: closing that would end SQLite's own locks.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f".{path.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Failed(f"another process is at work on {path}: wait for its end, or stop it first") from error
        except OSError as error:
            # Some cluster file systems have no locks.
            if error.errno not in (errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK):
                raise
        yield


@contextmanager
def _connected(path: Path, uri: str, kind: Kind) -> Iterator[sqlite3.Connection]:
    try:
        # One connection is used by one thread at a time; which one may change.
        database = sqlite3.connect(uri, uri=True, timeout=PATIENCE_S, isolation_level=None, check_same_thread=False)
    except sqlite3.OperationalError as error:
        raise ValueError(
            f"{path}: {error}: give the path of a file that may be written, for the {kind.name}"
        ) from error
    try:
        try:
            database.execute("PRAGMA schema_version").fetchone()
        except sqlite3.DatabaseError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_NOTADB:
                raise ValueError(_damaged(path, kind, str(error))) from error
            raise ValueError(f"{path} is no SQLite file, so no {kind.name}: {NOT_OURS}") from error
        yield database
    finally:
        database.close()


def _is_fresh(database: sqlite3.Connection) -> bool:
    (tables,) = database.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (owner,) = database.execute("PRAGMA application_id").fetchone()
    return not tables and not owner


def _ours_and_whole(database: sqlite3.Connection, path: Path, kind: Kind) -> None:
    try:
        (owner,) = database.execute("PRAGMA application_id").fetchone()
        (version,) = database.execute("PRAGMA user_version").fetchone()
        if owner != kind.application_id:
            raise ValueError(f"{path} is another program's SQLite file, no {kind.name}: {NOT_OURS}")
        if version != kind.version:
            raise ValueError(
                f"{path} is a {kind.name} of version {version}, and this postgrad reads version {kind.version}: use the postgrad "
                "that wrote it, or give another path"
            )
        (said,) = database.execute("PRAGMA quick_check(1)").fetchone()
    except sqlite3.DatabaseError as error:
        raise ValueError(_damaged(path, kind, str(error))) from error
    if said != "ok":
        raise ValueError(_damaged(path, kind, said.splitlines()[-1]))


def _damaged(path: Path, kind: Kind, said: str) -> str:
    return (
        f"{path} is damaged ({said}): the {kind.name} cannot be trusted. Put back a copy, or save what can be read with "
        f"`sqlite3 {path.name} .recover | sqlite3 saved-{path.name}`, and use that"
    )
