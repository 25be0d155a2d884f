"""A kernel against itself, and one pair measured twice: python -m bench.kernels_aa [--pairs 200] [--budget 2] [--clock wall|cpu ...]

    A1  of `pairs` measurements of a kernel against itself at most 1 % give a speed-up outside 1 +- 1 %
    A2  two separate measurements of one pair of kernels, in other workers, agree within 2 % for 95 % of the pairs

Three kernels (element-wise exponentials, sums of rows, a small matrix product) in C++, each side in a sandboxed worker of its own, fresh values at
fresh addresses for each call, all on one core, and what is not 1 measured again (clock.confirmed). What gave no number is counted and told, and is in neither share. The machine's load is told because the
wall clock depends on it. Writes docs/results/kernels_aa-cpu.json. Thresholds were written before the first run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from postgrad.evals.stats import rate
from postgrad.kernels.clock import Clock, confirmed, measure
from postgrad.kernels.verdict import Timing
from postgrad.run import commit, hardware, write_json
from postgrad.sandbox import Limits, Worker, channel, run

OUTSIDE, APART = 0.01, 0.02
LIMITS = Limits(wall_s=600, cpu_s=600, memory_bytes=1 << 30)
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC")

# A matrix is n rows of n numbers; `times` repeats make a call long enough to be timed.
KERNELS = {
    "exponentials": "for (long i = 0; i < n * n; i++) out[i] = std::exp(-in[i] * in[i]);",
    "row sums": "for (long i = 0; i < n; i++) { float s = 0; for (long j = 0; j < n; j++) s += in[i * n + j]; out[i] = s; }",
    "product": """for (long i = 0; i < n * n; i++) out[i] = 0;
    for (long i = 0; i < n; i++) for (long k = 0; k < n; k++) for (long j = 0; j < n; j++)
        out[i * n + j] += in[i * n + k] * in[k * n + j];""",
}
SIZES = {"exponentials": 512, "row sums": 1024, "product": 160}
SOURCE = """#include <cmath>
extern "C" void kernel(const float *in, float *out, long n, long times) {
    for (long t = 0; t < times; t++) { BODY asm volatile("" ::: "memory"); }
}
"""
# Where a process's pages lie in the cache is luck that lasts as long as the process, so each call has other addresses: a window over
# AREAS times the memory, which gives it other values as well. Both sides get the same windows.
AREAS = 4
PROGRAM = """
import array, ctypes, random, sys
import channel

n, times, areas = map(int, sys.argv[1:])
kernel = ctypes.CDLL("./kernel.so").kernel
numbers = random.Random(0)
some = array.array("f", (numbers.random() for _ in range(n * n + 16)))
given, out = some * areas, array.array("f", bytes(4 * n * n * areas))
start, end = given.buffer_info()[0], out.buffer_info()[0]
for message in channel.messages():
    if message != b"empty":
        where = random.Random(int(message))
        one, other = (64 * where.randrange(n * n * (areas - 1) // 16) for _ in range(2))
        kernel(ctypes.c_void_p(start + one), ctypes.c_void_p(end + other), ctypes.c_long(n), ctypes.c_long(times))
    channel.answer(b"")
"""


@dataclass(frozen=True, slots=True)
class Kernel:
    name: str
    library: bytes
    n: int
    times: int
    """Repeats within a call."""


def built(name: str, flags: Sequence[str] = FLAGS) -> bytes:
    source = SOURCE.replace("BODY", KERNELS[name])
    done = run(
        ["/usr/bin/g++", *flags, "kernel.cpp", "-o", "kernel.so"],
        files={"kernel.cpp": source.encode()},
        collect=["kernel.so"],
        limits=LIMITS,
    )
    if "kernel.so" not in done.files:
        raise SystemExit(f"{name}: no library: {done.ended} {done.reason} {done.stderr.decode()[:2000]}")
    return done.files["kernel.so"]


class Program:
    """Implements clock.Timed."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.cpu_seconds = worker.cpu_seconds

    def call(self, k: int) -> float:
        return self._ask(b"%d" % k)

    def empty(self) -> float:
        return self._ask(b"empty")

    def _ask(self, message: bytes) -> float:
        began = time.perf_counter()
        self.worker.ask(message, 60)
        return time.perf_counter() - began


@contextmanager
def started(kernel: Kernel) -> Iterator[Program]:
    files = {"program.py": PROGRAM.encode(), "channel.py": channel.SOURCE, "kernel.so": kernel.library}
    code = "import sys; sys.path.insert(0, '.'); exec(open('program.py').read())"
    argv = [sys.executable, "-I", "-S", "-c", code, str(kernel.n), str(kernel.times), str(AREAS)]
    with Worker(argv, files=files, limits=LIMITS) as worker:
        yield Program(worker)


def timed(reference: Kernel, candidate: Kernel, clock: Clock, budget_s: float, seed: int) -> Timing:
    def once() -> Timing:
        with started(reference) as one, started(candidate) as other:
            # The machine's mood while workers start is not part of it.
            one.empty(), other.empty()
            return measure(one, other, budget_s, random.Random(seed), clock=clock)

    return confirmed(once)


def kernels(flags: Sequence[str] = FLAGS, seconds: float = 3e-3) -> list[Kernel]:
    """Each repeated until a call takes about `seconds`."""
    made = []
    for name, n in SIZES.items():
        library = built(name, flags)
        with started(Kernel(name, library, n, 1)) as program:
            once = statistics.median(program.call(k) for k in range(20))
        made.append(Kernel(name, library, n, max(1, round(seconds / once))))
    return made


def against_itself(known: Sequence[Kernel], clock: Clock, pairs: int, budget_s: float) -> dict[str, Any]:
    timings = []
    for seed in range(pairs):
        kernel = known[seed % len(known)]
        timings.append(timed(kernel, kernel, clock, budget_s, seed))
        show(f"A1 {clock} {seed + 1}/{pairs} {kernel.name}", timings[-1])
    speedups = [timing.speedup for timing in timings if timing.speedup is not None]
    outside = [speedup for speedup in speedups if not 1 - OUTSIDE <= speedup <= 1 + OUTSIDE]
    return {
        "numbers": len(speedups),
        "outside": outside,
        "unchecked": reasons(timings),
        "rounds": statistics.median(len(timing.reference_s) for timing in timings),
        "overhead": statistics.median(
            statistics.median(t.overhead_s) / statistics.median(t.reference_s) for t in timings
        ),
        "again": sum(timing.again is not None for timing in timings),
        "accused": [str(one.reason) for timing in timings for one in timing.findings if one.status == "rejected"],
    }


def twice(known: Sequence[Kernel], clock: Clock, pairs: int, budget_s: float) -> dict[str, Any]:
    """Every kernel against one that does from 1.05 to 1.5 times its work."""
    differences, timings = [], []
    for index in range(pairs):
        base = known[index % len(known)]
        more = Kernel(
            base.name, base.library, base.n, max(base.times + 1, round(base.times * (1.05 + 0.45 * index / pairs)))
        )
        both = [timed(more, base, clock, budget_s, 1000 * again + index) for again in range(2)]
        timings += both
        speedups = [timing.speedup for timing in both if timing.speedup is not None]
        differences += [abs(one / other - 1) for one, other in pairwise(speedups)]
        show(f"A2 {clock} {index + 1}/{pairs} {base.name}", both[0])
    return {"numbers": len(differences), "apart": sorted(differences)[::-1], "unchecked": reasons(timings)}


def reasons(timings: Sequence[Timing]) -> dict[str, int]:
    told = [str(timing.findings[0].reason) for timing in timings if timing.speedup is None]
    return {reason: told.count(reason) for reason in sorted(set(told))}


def show(what: str, timing: Timing) -> None:
    ratio = "no ratio" if timing.ratio is None else f"{timing.ratio:.4f}"
    told = ", ".join(f"{one.reason}: {one.evidence}" for one in timing.findings)
    if timing.again and timing.again.ratio:
        ratio += f", {timing.again.ratio:.4f}"
    print(f"{what}: {ratio} -> {timing.speedup} in {len(timing.reference_s)} rounds {told}", flush=True)


def claim(name: str, statement: str, good: int, n: int, op: Literal["<=", ">="], threshold: float) -> dict[str, Any]:
    found = rate(good, n)
    told = {"id": name, "statement": statement, "measured": round(found.value, 4), "op": op, "threshold": threshold}
    return told | {"interval": [round(end, 4) for end in found.interval], "n": n}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=200)
    parser.add_argument("--twice", type=int, default=40, help="pairs of kernels for A2")
    parser.add_argument("--budget", type=float, default=2.0, help="seconds of one measurement")
    parser.add_argument("--clock", nargs="+", choices=("wall", "cpu"), default=["wall", "cpu"])
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    # One core for all: two cores differ, and no side keeps the better one by luck. Workers inherit it.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    known, loads = kernels(), [os.getloadavg()[0]]
    at = commit()
    claims, metrics = [], {}
    for clock in asked.clock:
        itself = against_itself(known, clock, asked.pairs, asked.budget)
        loads.append(os.getloadavg()[0])
        again = twice(known, clock, asked.twice, asked.budget)
        loads.append(os.getloadavg()[0])
        metrics[clock] = {"itself": itself, "twice": again}
        if itself["numbers"]:
            text = f"{clock} clock: a kernel against itself, share outside 1 +- 1 %; {asked.pairs - itself['numbers']} of {asked.pairs} gave no number"
            claims.append(claim(f"A1 {clock}", text, len(itself["outside"]), itself["numbers"], "<=", 0.01))
        if again["numbers"]:
            close = sum(difference <= APART for difference in again["apart"])
            text = f"{clock} clock: two measurements agree within 2 %; {asked.twice - again['numbers']} of {asked.twice} gave no number"
            claims.append(claim(f"A2 {clock}", text, close, again["numbers"], ">=", 0.95))
    flat = {
        f"{clock}/{name}": value
        for clock, parts in metrics.items()
        for name, value in {
            "no_number": sum(parts["itself"]["unchecked"].values()),
            "measured_again": parts["itself"]["again"],
            "accused": len(parts["itself"]["accused"]),
            "median_rounds": parts["itself"]["rounds"],
            "overhead_share": round(parts["itself"]["overhead"], 4),
            "most_apart": round(max(parts["twice"]["apart"], default=0), 4),
        }.items()
    }
    record = {
        "recipe": "kernels_aa",
        "preset": "cpu",
        "commit": at,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": hardware(),
        "command": " ".join(["python -m bench.kernels_aa", *sys.argv[1:]]),
        "seeds": [{"seed": 0, "metrics": {**flat, "load_least": min(loads), "load_most": max(loads)}}],
        "claims": claims,
    }
    print(json.dumps({"detail": metrics, "claims": claims}, indent=1))
    write_json(asked.results / "kernels_aa-cpu.json", record)


if __name__ == "__main__":
    main()
