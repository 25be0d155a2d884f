"""What a tree of processes uses, read from outside through /proc. Processes come and go meanwhile: each number is of a moment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def descendants(root: int) -> list[int]:
    """Process ids beneath `root`, without it."""
    found, todo = [], [root]
    while todo:
        for child in children(todo.pop()):
            found.append(child)
            todo.append(child)
    return found


def cpu_seconds(root: int) -> float:
    """All beneath `root`, the living to the nanosecond and those that ended to the kernel's tick (mostly 10 ms)."""
    living = descendants(root)
    ended = sum(_ended(pid) for pid in (root, *living))
    return ended + sum(filter(None, map(_clock, living)))


def threads(root: int) -> int:
    return sum(len(_tasks(pid)) for pid in descendants(root))


def resident_bytes(root: int) -> int:
    """Memory of all beneath `root` that no file backs. What two share counts twice."""
    return sum(map(_resident, descendants(root)))


def shared_out_bytes(root: int) -> int:
    """As `resident_bytes`, but what several share counts once. It walks page tables: not for every look."""
    return sum(map(_share, descendants(root)))


def children(pid: int) -> Iterator[int]:
    for task in _tasks(pid):
        yield from map(int, _read(f"/proc/{pid}/task/{task}/children").split())


def _tasks(pid: int) -> list[str]:
    try:
        return os.listdir(f"/proc/{pid}/task")
    except OSError:
        return []


def _clock(pid: int) -> float | None:
    try:
        return time.clock_gettime(~pid << 3 | 2)  # the kernel's name for a process's CPU clock
    except OSError:
        return None


def _ended(pid: int) -> float:
    """CPU seconds of its children that ended and were waited for."""
    fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
    return (int(fields[13]) + int(fields[14])) / _TICK if fields else 0.0


def _resident(pid: int) -> int:
    return _kibibytes(_read(f"/proc/{pid}/status"), b"RssAnon:", b"RssShmem:")


def _share(pid: int) -> int:
    text = _read(f"/proc/{pid}/smaps_rollup")
    return _kibibytes(text, b"Pss_Anon:", b"Pss_Shmem:") if b"Pss_Anon:" in text else _resident(pid)


def _kibibytes(text: bytes, *kinds: bytes) -> int:
    """The sum of some rows of a table of /proc, in bytes."""
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith(kinds)) << 10


def _read(path: str) -> bytes:
    """Empty where the process is gone."""
    try:
        # Not through a file object, which takes twice as long: a timed call asks four times.
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return b"".join(iter(lambda: os.read(number, 1 << 16), b""))
    except OSError:
        return b""
    finally:
        os.close(number)
