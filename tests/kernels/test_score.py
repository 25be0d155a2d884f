"""fast_p and its company by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from postgrad.kernels.score import score, with_and_without
from postgrad.kernels.verdict import Environment, Finding, KernelStatus, KernelVerdict, Reason

WHERE = Environment({}, None, {}, {}, "", "", "2026-11-23T17:00:00Z", None)
MEANS = {
    KernelStatus.REJECTED: Reason.WRONG_OUTPUT,
    KernelStatus.UNCHECKED: Reason.SANDBOX_BROKEN,
    KernelStatus.SUSPICIOUS: Reason.F04_LIBRARY_CALL,
}


def verdict(task: str, speedup: float | None, status: KernelStatus = KernelStatus.ACCEPTED) -> KernelVerdict:
    findings = () if status is KernelStatus.ACCEPTED else (Finding(MEANS[status], "told"),)
    return KernelVerdict(task, status, speedup, None, findings, None, WHERE)


REJECTED = verdict("wrong", None, KernelStatus.REJECTED)
UNCHECKED = verdict("ours", None, KernelStatus.UNCHECKED)
SUSPICIOUS = verdict("odd", 50.0, KernelStatus.SUSPICIOUS)
FOUR = [verdict("a", 0.5), verdict("b", 1.0), verdict("c", 2.0), verdict("d", 4.0)]


def test_by_hand() -> None:
    found = score([*FOUR, REJECTED, UNCHECKED, SUSPICIOUS])
    shares = {p: value.value for p, value in found.fast.items() if value is not None}
    # Six count: the unchecked one is not there. Strictly faster than p.
    assert shares == pytest.approx({"0": 4 / 6, "0.5": 3 / 6, "0.8": 3 / 6, "1": 2 / 6, "1.5": 2 / 6, "2": 1 / 6})
    assert found.geomean is not None
    assert found.geomean.value == pytest.approx(math.sqrt(2))
    assert found.median is not None
    assert found.median.value == 1.5
    assert found.mean is not None
    assert (found.mean.value, found.mean.n) == (1.875, 4)
    assert found.counts == {
        KernelStatus.ACCEPTED: 4,
        KernelStatus.SUSPICIOUS: 1,
        KernelStatus.UNCHECKED: 1,
        KernelStatus.REJECTED: 1,
    }


def test_intervals_hold_their_values_and_shrink_with_tasks() -> None:
    few = score(FOUR).geomean
    many = score([replace(one, task=f"{one.task}{k}") for one in FOUR for k in range(25)]).geomean
    assert few is not None
    assert many is not None
    assert few.interval[0] < math.sqrt(2) < few.interval[1]
    # The standard error of the mean logarithm: log 2 times sqrt(1.25), over sqrt(100).
    half = 1.96 * math.log(2) * math.sqrt(1.25) / 10
    assert math.log(many.interval[1] / many.interval[0]) / 2 == pytest.approx(half, rel=0.05)
    assert math.log(few.interval[1] / few.interval[0]) > 3 * half


def test_a_share_of_all_or_nothing_keeps_a_width() -> None:
    found = score(FOUR).fast
    assert found["0"] is not None
    assert found["0"].value == 1
    # 4 tasks can hide a share of 1 - 0.025^(1/4) = 0.602.
    assert found["0"].interval == pytest.approx((1 - 0.6024, 1), abs=1e-4)
    none = score([REJECTED]).fast["0"]
    assert none is not None
    assert none.interval == pytest.approx((0, 0.975))


def test_nothing_accepted_is_no_number() -> None:
    found = score([REJECTED, UNCHECKED])
    assert (found.geomean, found.median, found.mean) == (None, None, None)
    empty = score([UNCHECKED])
    assert set(empty.fast.values()) == {None}


def test_an_unchecked_task_changes_no_share() -> None:
    assert score([*FOUR, REJECTED]).fast == score([*FOUR, REJECTED, UNCHECKED]).fast


def test_degenerate_tasks_are_left_out_beside() -> None:
    both = with_and_without([*FOUR, verdict("constant", 120.0)], {"constant"})
    assert both["without_degenerate"] == score(FOUR)
    assert both["all"].mean is not None
    assert both["all"].mean.value == pytest.approx((7.5 + 120) / 5)


def test_two_verdicts_of_one_task_are_an_error() -> None:
    with pytest.raises(ValueError, match="a has several"):
        score([*FOUR, verdict("a", 1.0)])


def test_the_same_seed_gives_the_same_intervals() -> None:
    many = [verdict(str(k), 1 + k / 7) for k in range(20)]
    assert score(many, seed=1) == score(many, seed=1)
    assert score(many, seed=1).mean != score(many, seed=2).mean
