"""What evaluating a kernel costs besides its own time: python -m bench.kernel_check [--rounds 3]

A worker's start, a task's admission, an empty round trip, placing inputs, and the whole check of an honest candidate, for a C++ task (sums of
squares, 256 x 1,024) and a module (linear and softmax, 48 x 64). Prints one line each.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from postgrad.kernels.admit import admit
from postgrad.kernels.build import Built, build
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.correct import check
from postgrad.kernels.reference import LIMITS, Reference
from postgrad.kernels.side import Code, Side
from postgrad.kernels.subject import Subject
from postgrad.kernels.task import Task
from tests.kernels.small_tasks import cpp, module, softmax, squares


def measured(task: Task, candidate: Candidate, cache: Path, rounds: int) -> str:
    began = time.perf_counter()
    with Reference(task, seed=1, cache=cache) as reference:
        started = time.perf_counter()
        assert admit(reference) == []
        admitted = time.perf_counter()
        empty = [reference.side.empty() for _ in range(2000)]
        case = reference.cases[-1]
        specs, arrays = reference.specs(case), reference.question(case, "own", 0).arrays
        cpu, place = reference.side.cpu_seconds(), time.perf_counter()
        for _ in range(300):
            reference.side.place(arrays, specs.inputs, specs.outputs, n=specs.n, others=specs.others)
        place, cpu = (time.perf_counter() - place) / 300, (reference.side.cpu_seconds() - cpu) / 300
        took = []
        for _ in range(rounds):
            start, rng = time.perf_counter(), np.random.default_rng(0)
            built = build(candidate, cache) if candidate.backend == "cpp" else None
            code = Code("cpp", library=built.library) if isinstance(built, Built) else Code("torch", candidate.code)
            with Side(code, LIMITS, rng=rng) as side:
                assert check(Subject(reference, side, candidate, rng)) == []
            took.append(time.perf_counter() - start)
    return (
        f"{task.name}: reference there after {started - began:.2f} s, admission {admitted - started:.2f} s, "
        f"empty round trip {statistics.median(empty) * 1e6:.0f} us, placing inputs {place * 1e6:.0f} us "
        f"({cpu * 1e6:.0f} us of it the worker's), check of an honest candidate {statistics.median(took):.2f} s (least {min(took):.2f})"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="checks of each candidate")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as cache:
        print(measured(squares(), cpp(), Path(cache), rounds), flush=True)
        print(measured(softmax(), module(), Path(cache), rounds), flush=True)


if __name__ == "__main__":
    main()
