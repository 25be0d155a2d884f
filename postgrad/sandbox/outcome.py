"""How a sandboxed program ended, and what it was allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Ended(StrEnum):
    """Every way to end. Only BROKEN is ours: it is told of and tried again, and never scored."""

    OK = "ok"
    CRASHED = "crashed"
    """By a signal that it brought upon itself."""
    FAILED = "failed"
    """A non-zero exit status."""
    TIMED_OUT = "timed_out"
    """More wall time, or more CPU time of the whole tree, than allowed."""
    OUT_OF_MEMORY = "out_of_memory"
    """The whole tree together."""
    FLOODED = "flooded"
    """More output than allowed: standard output, standard error, a collected file or a frame."""
    BROKEN = "broken"
    """The sandbox could not be set up or watched; `Outcome.reason` names the layer and the remedy."""


@dataclass(frozen=True, slots=True)
class Limits:
    wall_s: float
    """Seconds from the program's start to its end."""
    cpu_s: float
    """CPU seconds of the whole tree."""
    memory_bytes: int
    """Of the whole tree, with its files where a control group counts them (they lie in memory)."""
    processes: int = 64
    """Processes and threads at one time."""
    disk_bytes: int = 64 << 20
    """The working folder, /tmp and /dev/shm together; they hold at most 4,096 files."""
    output_bytes: int = 1 << 20
    """Kept of standard output, of standard error, of each collected file, and of each frame that a Worker sends."""

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"limits.{name} is {getattr(self, name)}: it must be above 0")


@dataclass(frozen=True, slots=True)
class Outcome:
    ended: Ended
    code: int | None = None
    """Exit status; None where it ended by a signal or was killed by us."""
    signal: int | None = None
    """The signal of CRASHED, else None."""
    stdout: bytes = b""
    stderr: bytes = b""
    wall_s: float = 0.0
    cpu_s: float = 0.0
    """CPU seconds of the whole tree, as far as its processes were seen to end."""
    peak_bytes: int | None = None
    """Most memory of the whole tree at a time; None where it never started."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """Those of `collect` that are regular files, were not refused and lay there when the program ended by itself."""
    reason: str = ""
    """For BROKEN the layer and its remedy, for a limit which one; else empty."""
