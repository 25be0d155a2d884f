"""A control group for one sandbox: the kernel counts the memory of the whole tree, with its files and memory files."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

_MOUNTED = Path("/sys/fs/cgroup")


class Group:
    """Made beneath `place`; `remove` it once its processes are gone. Raises OSError where the kernel refuses."""

    def __init__(self, place: Path, name: str, memory_bytes: int) -> None:
        self.path = place / name
        self.second = (place / "cgroup.subtree_control").exists()
        self.path.mkdir()
        try:
            self._write("memory.max" if self.second else "memory.limit_in_bytes", memory_bytes)
            swap = ("memory.swap.max", 0) if self.second else ("memory.memsw.limit_in_bytes", memory_bytes)
            with contextlib.suppress(FileNotFoundError):  # a kernel without swap, or that does not count it
                self._write(*swap)
            if self.second:
                self._write("memory.oom.group", 1)
            self.entry = os.open(self.path / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC)
            """Whoever writes 0 here is in it."""
        except OSError:
            self.path.rmdir()
            raise

    def killed(self) -> bool:
        """Whether the kernel killed a process for want of memory."""
        text = (self.path / ("memory.events" if self.second else "memory.oom_control")).read_text()
        return int(dict(line.split() for line in text.splitlines()).get("oom_kill", "0")) > 0

    def peak_bytes(self) -> int | None:
        """None on kernels before 5.19 with control groups of the second version."""
        path = self.path / ("memory.peak" if self.second else "memory.max_usage_in_bytes")
        return int(path.read_text()) if path.exists() else None

    def remove(self) -> None:
        os.close(self.entry)
        for _ in range(200):
            try:
                return self.path.rmdir()
            except OSError:  # the last process is not quite gone
                time.sleep(0.005)
        raise OSError(f"{self.path} still has processes")

    def _write(self, name: str, value: int) -> None:
        (self.path / name).write_text(str(value))


def place() -> Path | None:
    """A folder in which this process may make groups that limit memory; None where there is none."""
    for folder in _candidates(Path("/proc/self/cgroup").read_text()):
        try:
            group = Group(folder, f"postgrad-probe-{os.getpid()}", 1 << 26)
        except OSError:
            continue
        group.remove()
        return folder
    return None


def _candidates(own: str) -> list[Path]:
    """Where to try, of the text of /proc/self/cgroup: this process's own group and what is above it."""
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "memory":
            first = _MOUNTED / "memory"
            return [first / path.strip("/"), first]
    for line in own.splitlines():
        if line.startswith("0::"):
            group = _MOUNTED / line[3:].strip("/")
            # A group of the second version that has processes has no limited groups beneath it, but beside it.
            above = [folder for folder in (group, *group.parents) if _MOUNTED in (folder, *folder.parents)]
            return [folder for folder in above if _limits_memory(folder)]
    return []


def _limits_memory(folder: Path) -> bool:
    switches = folder / "cgroup.subtree_control"
    return switches.exists() and "memory" in switches.read_text().split()
