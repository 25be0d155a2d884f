"""C++ text -> shared library, compiled inside the sandbox, since compiling is running: a source may read files and never end.

    extern "C" void kernel(const float* const* in, float* out, const long* n)

    in    the inputs in the task's order, then the parameters and buffers in the order of state_dict; contiguous, row-major
    out   the output, contiguous, all of it to be written
    n     the task's lengths (`Case.lengths`)

A library is kept under the hash of all that made it: source, flags, compiler, processor. The same text is never built twice.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from postgrad import sandbox
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.verdict import Reason
from postgrad.sandbox import Ended, Limits

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fPIC", "-shared")
LIMITS = Limits(wall_s=60, cpu_s=60, memory_bytes=2 << 30, disk_bytes=256 << 20, output_bytes=32 << 20)
MOST_LIBRARY_BYTES = 8 << 20
"""A kernel is some kilobytes; a table of answers is not."""


@dataclass(frozen=True, slots=True)
class Built:
    library: Path
    key: str
    seconds: float
    """0 where it was there already."""


@dataclass(frozen=True, slots=True)
class Refused:
    reason: Reason
    log: str
    """What the compiler said, or which limit was passed."""


def default_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "postgrad" / "kernels"


def build(candidate: Candidate, cache: Path | None = None) -> Built | Refused:
    """The library of C++ text. Raises ValueError where no compiler is found, and for a backend that is not built ahead."""
    if candidate.backend != "cpp":
        raise ValueError(f"backend {candidate.backend!r} is not built ahead: only cpp is")
    key = hashlib.sha256("\0".join((candidate.code, *FLAGS, *_compiler())).encode()).hexdigest()
    folder = (cache or default_cache()) / key[:2] / key
    library = folder / "kernel.so"
    if library.is_file():
        return Built(library, key, 0.0)
    start = time.monotonic()
    outcome = sandbox.run(
        ["g++", *FLAGS, "-o", "kernel.so", "kernel.cpp"],
        files={"kernel.cpp": candidate.code.encode()},
        collect=["kernel.so"],
        limits=LIMITS,
    )
    made = outcome.files.get("kernel.so")
    if outcome.ended is not Ended.OK or made is None:
        return _refused(outcome)
    if len(made) > MOST_LIBRARY_BYTES:
        return Refused(Reason.F16_BUILD_ABUSED, f"the library has {len(made):,} bytes; at most {MOST_LIBRARY_BYTES:,}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as fresh:
        Path(fresh, "kernel.so").write_bytes(made)
        Path(fresh, "kernel.so").chmod(0o555)
        Path(fresh, "kernel.cpp").write_text(candidate.code, encoding="utf-8")
        Path(fresh).chmod(0o755)
        try:
            os.rename(fresh, folder)
        except OSError:
            if not library.is_file():  # else another builder was first, with the same bytes
                raise
        else:
            Path(fresh).mkdir()  # for TemporaryDirectory to remove
    return Built(library, key, time.monotonic() - start)


def build_all(
    candidates: Iterable[Candidate], *, workers: int, cache: Path | None = None
) -> Iterator[tuple[Candidate, Built | Refused]]:
    """Builds of several at once, in their order. The compilers are processes, so threads are enough to wait for them."""
    listed = list(candidates)
    with ThreadPoolExecutor(workers) as pool:
        yield from zip(listed, pool.map(lambda one: build(one, cache), listed), strict=True)


def as_built(
    candidates: Iterable[Candidate],
    *,
    workers: int,
    cache: Path | None = None,
    make: Callable[[Candidate, Path | None], Built | Refused] = build,
) -> Generator[tuple[Candidate, Built | Refused]]:
    """Builds of several at once, each as soon as it is done: who judges the one waits for none of the others.

    For kernels that are timed on another device, or by CPU time: a compiler beside a kernel that the wall clock times is in its time.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        builds = {pool.submit(make, one, cache): one for one in candidates}
        for done in as_completed(builds):
            yield builds[done], done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _refused(outcome: sandbox.Outcome) -> Refused:
    said = outcome.stderr.decode("utf-8", "replace")[-4000:] or outcome.reason
    match outcome.ended:
        case Ended.BROKEN:
            return Refused(Reason.SANDBOX_BROKEN, outcome.reason)
        case Ended.TIMED_OUT | Ended.OUT_OF_MEMORY | Ended.FLOODED:
            return Refused(
                Reason.F16_BUILD_ABUSED, f"the build ended by {outcome.ended}: {outcome.reason}\n{said}".strip()
            )
        case _:
            return Refused(Reason.BUILD_FAILED, said)


@cache
def _compiler() -> tuple[str, ...]:
    """What decides the code that `-march=native` gives."""
    if shutil.which("g++") is None:
        raise ValueError("no g++ found: install a C++ compiler (Debian: apt install g++)")
    told = subprocess.run(["g++", "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    processor = Path("/proc/cpuinfo")
    lines = processor.read_text().splitlines() if processor.is_file() else []
    return told, *sorted({line for line in lines if line.startswith(("model name", "flags"))})


def compiler() -> str:
    """The compiler's name and version, for records."""
    return _compiler()[0]
