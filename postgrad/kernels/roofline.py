"""The least time that a machine needs for a task, and whether a kernel claims to need less.

    bound = max(bytes / bandwidth, operations / peak);   a time below 0.9 x bound is no time of that work

Bytes: every input read once and every output written once, where each input decides the output. Operations: the fewest that any
algorithm needs; 0 where that is not known, and then bytes alone bound. Bandwidth and peak are measured on the machine, each as the best of many
runs: what no honest kernel exceeds. Bandwidth depends on where the data lie, so it is measured at the size of the task.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType

import numpy as np

from postgrad.kernels.verdict import Finding, Reason, Timing

BELOW = 0.9
SMALLEST, LARGEST = 1 << 16, 1 << 28
"""Bytes between which bandwidth is measured; tasks beyond take the nearest."""


@dataclass(frozen=True, slots=True)
class Work:
    bytes: int
    operations: int = 0
    precision: str = "float32"


@dataclass(frozen=True, slots=True)
class Peaks:
    """What a machine can do at its best."""

    bandwidth: Callable[[int], float]
    """Size of what is moved in bytes -> bytes a second."""
    operations: Mapping[str, float]
    """Precision -> operations a second (a multiplication and an addition are two)."""


def bound_s(work: Work, peaks: Peaks) -> float:
    """Raises ValueError where the precision's peak was not measured though the work names operations."""
    moved = work.bytes / peaks.bandwidth(work.bytes)
    if not work.operations:
        return moved
    if work.precision not in peaks.operations:
        known = ", ".join(peaks.operations)
        raise ValueError(f"no peak was measured for {work.precision}: there are {known}; leave operations at 0")
    return max(moved, work.operations / peaks.operations[work.precision])


def fraction(timing: Timing, bound: float) -> float:
    """Of the bound that the candidate reaches: 1 is the machine's best. Half of its calls were faster than the time taken."""
    return bound / statistics.median(timing.candidate_s)


def check(timing: Timing, bound: float) -> Finding | None:
    """The round trip's own cost is in the time, which can only hide a violation, never make one."""
    took = statistics.median(timing.candidate_s)
    if took >= BELOW * bound:
        return None
    told = f"a call takes {took:.3e} s; moving and computing what the task needs takes at least {bound:.3e} s"
    return Finding(Reason.S22_BELOW_BOUND, told)


# ---- Of a GPU, from its makers -----------------------------------------------------------------------------------


GPUS: Mapping[str, tuple[float, Mapping[str, float]]] = {
    "H200": (4.8e12, {"float64": 67e12, "float32": 67e12, "float16": 989e12, "bfloat16": 989e12}),
    "H100 NVL": (3.9e12, {"float64": 60e12, "float32": 60e12, "float16": 835e12, "bfloat16": 835e12}),
    "H100 PCIe": (2.0e12, {"float64": 51e12, "float32": 51e12, "float16": 756e12, "bfloat16": 756e12}),
    "H100": (3.35e12, {"float64": 67e12, "float32": 67e12, "float16": 989e12, "bfloat16": 989e12}),
}
"""Words of a GPU's name, the longer ones first -> bytes a second of its memory, and operations a second without sparsity, by NVIDIA's data sheets.
float32 is without TF32. What no honest kernel exceeds; measured ones reach some 90 % of the bandwidth."""
L2_BYTES = 64 << 20
"""At least the L2 cache of each of them (50 MB): what is no larger may not come from memory at all."""


def gpu_peaks(name: str) -> Peaks | None:
    """Of a GPU by the name that its driver gives; None where it is not known. Inputs that the L2 cache could hold have no bound."""
    for words, (bandwidth, operations) in GPUS.items():
        if all(word in name for word in words.split()):
            return Peaks(partial(_memory_or_cache, bandwidth), operations)
    return None


def _memory_or_cache(bandwidth: float, size: int) -> float:
    return bandwidth if size > L2_BYTES else math.inf


# ---- Measured -------------------------------------------------------------------------------------------------------


def cpu_peaks(cores: int = 1) -> Peaks:
    """Of this machine, for kernels that use up to `cores` cores. Bandwidth of one core times `cores` is more than there is: safe."""
    assert cores >= 1
    operations = MappingProxyType({"float32": _gemm("float32"), "float64": _gemm("float64")})
    return Peaks(lambda size: cores * _cpu_bandwidth(_power(size)), operations)


def _power(size: int) -> int:
    """The power of two at or below, so that the smaller and faster memory counts."""
    return 1 << min(max(size, SMALLEST), LARGEST).bit_length() - 1


@cache
def _cpu_bandwidth(size: int) -> float:
    """Bytes a second of the best of copying and of reading two arrays, `size` bytes in all."""
    one = np.ones(size // 8, np.float32)
    other = np.zeros_like(one)
    return 2 * one.nbytes / min(_best(lambda: np.copyto(other, one)), _best(lambda: np.dot(one, other)))


@cache
def _gemm(kind: str, n: int = 768) -> float:
    """Operations a second of a square matrix product, on as many cores as the library takes."""
    one = np.ones((n, n), kind)
    other, out = one.copy(), np.empty_like(one)
    return 2 * n**3 / _best(lambda: np.matmul(one, other, out=out))


def _best(work: Callable[[], object], *, seconds: float = 0.05, least: int = 5) -> float:
    """The shortest of many runs. Short work is timed many at a time, so that reading the clock costs nothing."""
    work()
    began = time.perf_counter()
    work()
    times = max(1, int(1e-4 / max(time.perf_counter() - began, 1e-7)))
    until = time.perf_counter() + seconds
    found: list[float] = []
    while len(found) < least or time.perf_counter() < until:
        began = time.perf_counter()
        for _ in range(times):
            work()
        found.append((time.perf_counter() - began) / times)
    return min(found)
