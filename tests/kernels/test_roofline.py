"""The bound by hand; what is measured is asserted to be there, not to be of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from postgrad.kernels import roofline
from postgrad.kernels.cache import Flush, last_level_bytes
from postgrad.kernels.roofline import Peaks, Work, bound_s, check, cpu_peaks, fraction
from postgrad.kernels.verdict import Reason
from tests.kernels.test_verdict import TIMED

# 100 GB/s while it fits in 1 MB, 10 GB/s beyond; 1 TFLOP/s.
PEAKS = Peaks(lambda size: 1e11 if size <= 1e6 else 1e10, {"float32": 1e12})


@pytest.mark.parametrize(
    ("work", "seconds"),
    [
        (Work(bytes=10**6), 1e-5),
        (Work(bytes=10**8), 1e-2),
        (Work(bytes=10**8, operations=10**9), 1e-2),
        (Work(bytes=10**8, operations=10**11), 0.1),
        (Work(bytes=10**8, precision="float8"), 1e-2),
    ],
)
def test_the_bound_by_hand(work: Work, seconds: float) -> None:
    assert bound_s(work, PEAKS) == pytest.approx(seconds)


def test_operations_without_a_peak_are_an_error() -> None:
    with pytest.raises(ValueError, match="no peak was measured for float8: there are float32"):
        bound_s(Work(bytes=1, operations=1, precision="float8"), PEAKS)


@pytest.mark.parametrize(("took", "rejected"), [(0.0899, True), (0.0901, False), (0.1, False), (1.0, False)])
def test_a_time_below_nine_tenths_of_the_bound_is_rejected(took: float, rejected: bool) -> None:
    timing = replace(TIMED, candidate_s=(took, took, 50.0))
    found = check(timing, 0.1)
    assert (found is not None) == rejected
    if found:
        assert found.reason is Reason.S22_BELOW_BOUND
        assert "8.990e-02 s" in found.evidence
    assert fraction(timing, 0.1) == pytest.approx(0.1 / took)


def test_a_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def a_millisecond(work: Callable[[], object]) -> float:
        work()
        return 1e-3

    monkeypatch.setattr(roofline, "_best", a_millisecond)
    roofline._cpu_bandwidth.cache_clear()
    roofline._gemm.cache_clear()
    try:
        peaks = cpu_peaks(cores=2)
        # A copy of half the size reads and writes: the whole size is moved in a millisecond, by each of two cores.
        assert peaks.bandwidth(1 << 20) == 2 * (1 << 20) / 1e-3
        assert peaks.bandwidth((1 << 21) - 1) == peaks.bandwidth(1 << 20), "the smaller size is the faster memory"
        assert peaks.bandwidth(1) == peaks.bandwidth(1 << 16)
        assert peaks.operations["float32"] == 2 * 768**3 / 1e-3
    finally:
        roofline._cpu_bandwidth.cache_clear()
        roofline._gemm.cache_clear()


def test_the_shortest_run_is_taken() -> None:
    ran = []
    assert roofline._best(lambda: ran.append(1), seconds=0, least=3) > 0
    assert len(ran) >= 5


# ---- The cold cache -------------------------------------------------------------------------------------------------


def test_more_than_twice_the_cache_is_written_anew() -> None:
    flush = Flush(1 << 20)
    assert flush.written_bytes > 2 << 20
    flush()
    before = flush._values.copy()
    flush()
    assert (flush._values != before).all()
    assert flush._values.dtype == np.int64
    with pytest.raises(ValueError, match="cache_bytes is 0"):
        Flush(0)


def test_the_last_level_is_the_largest(tmp_path: Path) -> None:
    for index, size in enumerate(("48K", "32K", "1024K", "32M")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{size}\n")
    assert last_level_bytes(tmp_path) == 32 << 20
    assert last_level_bytes(tmp_path / "none") is None
