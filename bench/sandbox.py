"""What a sandbox costs: python -m bench.sandbox

Milliseconds of whole calls, against the same programs unprotected, in turns; microseconds of a worker's round trips.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from postgrad.sandbox import Limits, Worker, channel, layers, run

LIMITS = Limits(wall_s=60, cpu_s=60, memory_bytes=512 << 20)
PROGRAMS = {"true": ["/bin/true"], "python": [sys.executable, "-I", "-S", "-c", ""]}
ECHO = b"import channel\nfor message in channel.messages(): channel.answer(message)\n"


def timed(act: Callable[[], Any]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def shown(seconds: list[float], scale: float) -> dict[str, float]:
    return {"median": round(statistics.median(seconds) * scale, 2), "least": round(min(seconds) * scale, 2)}


def main() -> None:
    found: dict[str, Any] = {"layers": [layer.name for layer in layers() if layer.active], "load": os.getloadavg()[0]}
    for name, argv in PROGRAMS.items():
        bare, boxed = [], []
        for _ in range(100):
            bare.append(timed(lambda argv=argv: subprocess.run(argv, check=True)))  # type: ignore[misc]
            boxed.append(timed(lambda argv=argv: run(argv, limits=LIMITS)))  # type: ignore[misc]
        found[name] = {"bare, ms": shown(bare, 1e3), "run, ms": shown(boxed, 1e3)}
    files = {"channel.py": channel.SOURCE, "echo.py": ECHO}
    begun = time.perf_counter()
    with Worker(
        [sys.executable, "-I", "-S", "-c", "import sys; sys.path.insert(0, '.'); import echo"],
        files=files,
        limits=LIMITS,
    ) as worker:
        worker.ask(b"", 10)
        found["worker until its first answer, ms"] = round((time.perf_counter() - begun) * 1e3, 1)
        for size in (1, 100_000):
            trips = [timed(lambda size=size: worker.ask(bytes(size), 10)) for _ in range(5000)]  # type: ignore[misc]
            found[f"ask, {size:,} bytes each way, µs"] = shown(trips, 1e6)
        found["cpu_seconds(), µs"] = shown([timed(worker.cpu_seconds) for _ in range(1000)], 1e6)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
