"""A cold cache: write more than it holds between two calls.

It reaches the cache that the grader shares with the worker, which on most machines is the last level; a private one of
another core keeps what it has (1 MiB a core on this class of machine), and so does another chip's. Put both on one chip, and tell small tasks apart from cold ones.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int | None:
    """Of the first core's largest cache; None where the system does not tell."""
    told = [path.read_text().strip() for path in sorted(folder.glob("index*/size"))]
    found = [re.fullmatch(r"(\d+)([KMG]?)", size) for size in told]
    return max((int(size[1]) * UNITS[size[2]] for size in found if size), default=None)


class Flush:
    """Each call writes 2.25 times `cache_bytes`, with other values than before."""

    def __init__(self, cache_bytes: int) -> None:
        if cache_bytes <= 0:
            raise ValueError(
                f"cache_bytes is {cache_bytes}: give the size of the last level, as last_level_bytes() tells it"
            )
        self._values = np.zeros(cache_bytes * 9 // 4 // 8, np.int64)

    @property
    def written_bytes(self) -> int:
        return self._values.nbytes

    def __call__(self) -> None:
        self._values += 1
