"""One implementation in a worker of its own on a GPU, as the grader sees it: a Side whose tensors are copies on the device.

    side.place(arrays) -> k          as ever; the values are then on the device, at an address that was not used before
    side.calls([k, l]) -> seconds    one question, several calls: a round trip of tens of microseconds is shared by them
    side.output(k)                   from the device, and refused where its bits are not those that were committed to

After each question the worker is asked for a sum over all bits of its outputs (`committed_s`: how long that took). An output that is
changed, or computed, after that is found by its sum; one that is computed before it makes the worker's commitments slower than the reference's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from postgrad.kernels.gpu import machine
from postgrad.kernels.numeric import Array
from postgrad.kernels.side import ENVIRONMENT, REGIONS, RUNNER, START_S, Code, Misbehaved, Side, Spec
from postgrad.sandbox import Ended, Limits, Outcome, Worker, WorkerEnded, channel

GPU_RUNNER = Path(__file__).with_name("runner.py").read_bytes()
LIMITS = Limits(wall_s=3600, cpu_s=3600, memory_bytes=32 << 30, processes=256, disk_bytes=2 << 30)
"""Of a worker with a GPU: the driver and compilers need more processes and memory than a kernel of a CPU."""
BUILT_S = 600.0
"""For loading: nvcc takes a minute on a busy machine."""
FIRST_S = 300.0
"""For a question: Triton compiles at a kernel's first call."""
WORDS = (np.int64, np.int32, np.int16, np.uint8)


class GpuSide(Side):
    """Raises as Side does; a GPU that cannot be used from the sandbox is WorkerEnded, BROKEN."""

    def __init__(self, code: Code, limits: Limits, *, rng: np.random.Generator, gpu: int) -> None:
        self.gpu = gpu
        self._begun = False
        self._committed: dict[int, list[int]] = {}
        self.committed_s = self.events_s = 0.0
        """Of the last question: the grader's time of its commitment, and the device's own time of its calls."""
        super().__init__(code, limits, rng=rng)

    def _started(self) -> Worker:
        return Worker(
            [sys.executable, "-I", "gpu_runner.py", self.code.backend, str(self._fd)],
            files={"runner.py": RUNNER, "gpu_runner.py": GPU_RUNNER, "channel.py": channel.SOURCE},
            read=machine.folders(),
            limits=self.limits,
            gpu=self.gpu,
            environment={**ENVIRONMENT, **machine.environment()},
            pass_fds=(self._fd,),
        )

    def ask(self, op: str, deadline_s: float = FIRST_S, **told: Any) -> dict[str, Any]:
        if not self._begun:
            self._begun = True
            try:
                super().ask("begin", START_S)
            except Misbehaved as error:  # nothing of the implementation's has been read yet
                raise WorkerEnded(Outcome(Ended.BROKEN, reason=f"gpu {self.gpu}: {error}")) from error
        return super().ask(op, BUILT_S if op == "load" else deadline_s, **told)

    def _placing(self, k: int, at: int | None) -> dict[str, Any]:
        return {"base": k % REGIONS * self._region_bytes, "at": at, "oldest": k - self._kept}

    def keep(self, sets: int) -> None:
        """Know this many buffer sets at a time."""
        self._kept = max(REGIONS, sets)

    # ---- Calls

    def call(self, k: int, deadline_s: float = FIRST_S) -> float:
        return self.calls([k], deadline_s)

    def calls(self, ks: Sequence[int], deadline_s: float = FIRST_S) -> float:
        """Seconds by the grader's clock for all of them, each followed by a wait for the whole device; then their outputs are committed to."""
        elapsed = self._timed(b"c" + b",".join(b"%d" % k for k in ks), deadline_s)
        start = time.perf_counter_ns()
        told = self.ask("commit", deadline_s)
        self.committed_s = (time.perf_counter_ns() - start) / 1e9
        outputs = len(self._sets[ks[0]].outputs)
        sums, seconds = told.get("sums"), told.get("seconds")
        if not (_numbers(sums, int, outputs * len(ks)) and _numbers(seconds, float, len(ks))):
            raise self._misbehaved("protocol", f"a commitment that is none: {str(told)[:80]}")
        assert sums is not None
        assert seconds is not None
        self._committed = {k: sums[place * outputs : (place + 1) * outputs] for place, k in enumerate(ks)}
        self.events_s = sum(seconds)
        return elapsed

    def empty(self, calls: int = 1) -> float:
        return self._timed(b"e%d" % calls, FIRST_S)

    # ---- What it left

    def stored_output(self, k: int) -> list[Array]:
        if k not in self._committed:  # written by the oracle, which nobody times
            return super().stored_output(k)
        self.ask("deliver", k=k)
        found = super().stored_output(k)
        for place, (array, wanted) in enumerate(zip(found, self._committed[k], strict=True)):
            if summed(array) != wanted:
                raise self._misbehaved("late", f"output {place} is not what it was when its call had been answered")
        return found

    def changed_inputs(self, k: int) -> list[int]:
        self.ask("back", k=k, given=self._sets[k].inputs)
        return super().changed_inputs(k)

    def broken_guards(self, k: int) -> int:
        self.ask("back", k=k, given=self._sets[k].inputs)
        return super().broken_guards(k)


def summed(array: Array) -> int:
    """Over all bits, in the widest words that fit, as the worker's `commit` does."""
    raw = np.ascontiguousarray(array).reshape(-1)
    word = next(word for word in WORDS if raw.nbytes % np.dtype(word).itemsize == 0)
    with np.errstate(over="ignore"):
        return int(raw.view(word).sum(dtype=np.int64))


def _numbers(told: object, kind: type, count: int) -> bool:
    return isinstance(told, list) and len(told) == count and all(type(one) is kind for one in told)


def bytes_of(inputs: Sequence[Spec], outputs: Sequence[Spec]) -> int:
    """On the device, of one buffer set with its outputs."""
    return sum(one.bytes for one in (*inputs, *outputs))
