"""KernelBench's own runner and ours on the same kernels: evaluations per hour. python -m bench.kernel_throughput --kernelbench FOLDER [--kernels 12]

One task in KernelBench's form (sums of squares of rows, 512 x 2,048) and C++ kernels that nobody has built yet, every third of them wrong. In
one run, one after the other:

    KernelBench   a process for each kernel, as its batch runner has it: torch, the reference, the build, five correctness trials, a hundred
                  timed ones and as many of the reference. A module that calls g++ with our flags is the kernel. Its own code with a CPU in
                  the GPU's place (tests/hacks/peers); each process in the sandbox, which costs it milliseconds
    ours          the builds in a pool, the reference started and admitted once, all checks of `evaluate`: five draws and every distribution,
                  every probe, up to a hundred paired rounds, outputs of timed calls
    ours, quick   the same by `evaluate.quick`, as training has it

Prints seconds, evaluations per hour, how long the judge waited for a build, and verdicts, and writes docs/results/bench-kernels.json. On a
GPU a build takes nvcc half a minute, in which KernelBench holds the GPU and ours does not: that is not measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from postgrad import sandbox
from postgrad.kernels.build import FLAGS, as_built
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.clock import Rules
from postgrad.kernels.evaluate import Evaluator, Settings, quick
from postgrad.kernels.task import from_text
from postgrad.run import commit, hardware, write_json
from tests.hacks.peers import HERE, LIMITS

TASK = """import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return (x * x).sum(-1)


def get_inputs():
    return [torch.randn(512, 2048)]


def get_init_inputs():
    return []
"""
KERNEL = """extern "C" void kernel(const float* const* in, float* out, const long* n) {
  const long width = n[1];
  for (long r = 0; r < n[0]; r++) {
    const float* x = in[0] + r * width;
    float s[WAYS] = {0};
    long c = 0;
    for (; c + WAYS <= width; c += WAYS)
      for (long i = 0; i < WAYS; i++) s[i] += x[c + i] * x[c + i];
    for (; c < LAST; c++) s[0] += x[c] * x[c];
    float all = 0;
    for (long i = 0; i < WAYS; i++) all += s[i];
    out[r] = all;
  }
}
// RUN
"""
MODULE = """import ctypes, os, subprocess, tempfile
import torch

folder = tempfile.mkdtemp()
with open(os.path.join(folder, "kernel.cpp"), "w") as file:
    file.write(SOURCE)
subprocess.run(["g++", *FLAGS, "-o", "kernel.so", "kernel.cpp"], cwd=folder, check=True)
kernel = ctypes.CDLL(os.path.join(folder, "kernel.so")).kernel


class ModelNew(torch.nn.Module):
    def forward(self, x):
        out = torch.empty(x.shape[0])
        given = (ctypes.c_void_p * 1)(x.data_ptr())
        kernel(given, ctypes.c_void_p(out.data_ptr()), (ctypes.c_long * 2)(*x.shape))
        return out
"""


def kernels(count: int) -> list[Candidate]:
    """Of other numbers of partial sums, and texts that no cache has; every third leaves out the last element of short rows and scales the rest."""
    run = f"{time.time_ns():x}"
    made = []
    for number in range(count):
        text = (
            KERNEL.replace("WAYS", str(4 * (1 + number % 4))).replace("LAST", "width").replace("RUN", f"{run} {number}")
        )
        made.append(Candidate(text.replace("out[r] = all", "out[r] = 0.9f * all") if number % 3 == 2 else text, "cpp"))
    return made


@dataclass(slots=True)
class Told:
    seconds: float
    evaluations: int
    verdicts: Counter[str]
    waited_s: float | None = None
    """Of the judge, for builds; None where it builds itself."""

    @property
    def per_hour(self) -> float:
        return 3600 * self.evaluations / self.seconds

    def record(self) -> dict[str, Any]:
        told = {"seconds": self.seconds, "evaluations": self.evaluations, "per_hour": self.per_hour}
        return told | ({} if self.waited_s is None else {"waited_s": self.waited_s}) | dict(self.verdicts)


def theirs(folder: Path, candidates: Sequence[Candidate]) -> Told:
    programs = {
        name: (HERE / name).read_bytes() for name in ("time_kernelbench.py", "ask_kernelbench.py", "stand_in.py")
    }
    verdicts: Counter[str] = Counter()
    began = time.perf_counter()
    for candidate in candidates:
        module = f"FLAGS = {list(FLAGS)!r}\nSOURCE = {candidate.code!r}\n{MODULE}"
        done = sandbox.run(
            [sys.executable, "-I", "time_kernelbench.py", str(folder)],
            files={**programs, "task.py": TASK.encode(), "candidate.py": module.encode()},
            read=[folder],
            collect=["said.json"],
            limits=LIMITS,
            environment={"OMP_NUM_THREADS": "1"},
        )
        if "said.json" not in done.files:
            raise RuntimeError(
                f"KernelBench came to no verdict ({done.ended}): {done.reason} {done.stderr.decode()[-500:]}"
            )
        verdicts["passed" if json.loads(done.files["said.json"])["passed"] else "refused"] += 1
    return Told(time.perf_counter() - began, len(candidates), verdicts)


@dataclass(slots=True)
class Waits:
    """How long whoever takes from an iterator waited for it."""

    seconds: float = field(default=0.0)

    def over(self, some: Iterator[Any]) -> Iterator[Any]:
        while True:
            began = time.perf_counter()
            one = next(some, None)
            self.seconds += time.perf_counter() - began
            if one is None:
                return
            yield one


def ours(candidates: Sequence[Candidate], settings: Settings, workers: int) -> Told:
    verdicts: Counter[str] = Counter()
    waits = Waits()
    began = time.perf_counter()
    with Evaluator(from_text("squares", TASK), settings, seed=0) as evaluate:
        for candidate, _ in waits.over(as_built(candidates, workers=workers, cache=settings.cache)):
            verdicts[evaluate(candidate).status] += 1
    return Told(time.perf_counter() - began, len(candidates), verdicts, waits.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--kernelbench", type=Path, required=True, metavar="FOLDER", help="a checkout of KernelBench")
    parser.add_argument("--kernels", type=int, default=12)
    parser.add_argument("--workers", type=int, default=1, help="compilers beside the judge")
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    folder, candidates, loads = asked.kernelbench.resolve(), kernels(asked.kernels), [os.getloadavg()[0]]
    found = {"KernelBench": theirs(folder, candidates)}
    for name in ("ours", "ours, quick"):
        with tempfile.TemporaryDirectory() as cache:
            full = Settings(seeds=5, rules=Rules(most_rounds=100), cache=Path(cache), clock="cpu")
            settings = full if name == "ours" else replace(quick(Path(cache)), admission=True)
            found[name] = ours(candidates, settings, asked.workers)
        loads.append(os.getloadavg()[0])
    for name, told in found.items():
        print(name, json.dumps(told.record()), flush=True)
    base, machine = found["KernelBench"].per_hour, hardware()
    command = (
        f"python -m bench.kernel_throughput --kernelbench FOLDER --kernels {asked.kernels} --workers {asked.workers}"
    )
    rows = [
        {
            "name": f"kernel-throughput-{'quick' if 'quick' in name else 'full'}",
            "workload": f"{asked.kernels} C++ kernels of one task, built, checked and timed; load {min(loads):.0f} to {max(loads):.0f}",
            "unit": "evaluations / hour",
            "ours": found[name].per_hour,
            "peer": base,
            "peer_name": "KernelBench, its eval_kernel_against_ref on a CPU",
            "ratio": found[name].per_hour / base,
            "limit": None,
            "fraction_of_limit": None,
            "commit": commit(),
            "hardware": f"{machine['cpu']}, {machine['cores']} cores",
            "command": command,
            "detail": {peer: told.record() for peer, told in found.items() if peer in ("KernelBench", name)},
        }
        for name in ("ours", "ours, quick")
    ]
    write_json(asked.results / "bench-kernels.json", {"rows": rows})


if __name__ == "__main__":
    main()
