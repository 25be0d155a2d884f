"""The protocol on scripted clocks: what it finds, what it refuses, how often it is wrong. Nothing here asserts how long anything really takes."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import count, repeat
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgrad.kernels.clock import Rules, any_gain, confirmed, measure, reverified, why_again
from postgrad.kernels.scripted import (
    Call,
    Machine,
    Noise,
    Script,
    ScriptedSide,
    batch_and_skip,
    constant,
    drift,
    elsewhere,
    late,
    lucky,
    sleeping,
)
from postgrad.kernels.verdict import KernelStatus, Reason, Timing, conclude
from postgrad.records import from_json, to_json


def timed(
    reference: Script,
    candidate: Script,
    *,
    machine: Machine | None = None,
    budget_s: float = 10,
    seed: int = 0,
    empty_s: float = 0.0,
    clock: Literal["wall", "cpu"] = "wall",
    **rules: float,
) -> Timing:
    machine = machine or Machine()
    one, other = (ScriptedSide(machine, script, empty_s=empty_s) for script in (reference, candidate))
    return measure(one, other, budget_s, random.Random(seed), rules=Rules(**rules), clock=clock, now=machine.now)


def reasons(timing: Timing) -> list[Reason]:
    return [finding.reason for finding in timing.findings]


# ---- Numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ratio", "speedup"), [(1.118, 1.11), (0.992, 1.0), (2.0, 2.0), (1.0, 1.0), (0.5, 0.5)])
def test_a_quiet_machine_gives_the_ratio_rounded_toward_one(ratio: float, speedup: float) -> None:
    timing = timed(constant(2e-3 * ratio), constant(2e-3))
    assert timing.ratio == pytest.approx(ratio)
    assert timing.speedup == speedup
    assert timing.findings == ()
    assert timing.stopped == "precise"
    assert len(timing.reference_s) == 80


def test_every_number_is_kept() -> None:
    machine = Machine(noise=Noise(random.Random(1), cv=0.1))
    timing = timed(constant(3e-3), constant(2e-3), machine=machine, empty_s=1e-5)
    rounds = len(timing.reference_s)
    assert rounds == len(timing.candidate_s) == len(timing.reference_first)
    assert len(timing.warm_up_s) == 3
    assert len(timing.overhead_s) == 20
    assert set(timing.overhead_s) == {1e-5}
    assert math.fsum((*timing.reference_s, *timing.candidate_s, *timing.overhead_s, *map(sum, timing.warm_up_s))) == (
        pytest.approx(machine.now())
    )
    assert math.fsum(timing.reference_cpu_s) == pytest.approx(math.fsum(timing.reference_s) - rounds * 1e-5)
    assert set(timing.candidate_between_s) == {0.0}
    assert timing.rules["gate"] == 0.005
    assert from_json(Timing, json.dumps(json.loads(to_json(timing)), allow_nan=False)) == timing


def test_both_sides_get_the_same_fresh_inputs_in_random_order() -> None:
    machine, prepared = Machine(), []
    one, other = ScriptedSide(machine, constant(1e-3)), ScriptedSide(machine, constant(1e-3))
    timing = measure(one, other, 10, random.Random(3), prepare=prepared.append, now=machine.now)
    assert prepared == one.asked == other.asked == list(range(83))
    assert 20 < sum(timing.reference_first) < 60
    again = measure(one, other, 10, random.Random(3), now=machine.now)
    assert again.reference_first == timing.reference_first
    assert measure(one, other, 10, random.Random(4), now=machine.now).reference_first != timing.reference_first


def test_a_cold_measurement_flushes_before_every_call() -> None:
    machine, flushed = Machine(), []
    one, other = ScriptedSide(machine, constant(1e-3)), ScriptedSide(machine, constant(1e-3))
    timing = measure(one, other, 10, random.Random(0), flush=lambda: flushed.append(1), now=machine.now)
    assert timing.cache == "cold"
    assert len(flushed) == 2 * 83


def test_the_budget_ends_the_rounds() -> None:
    machine = Machine(noise=Noise(random.Random(1), cv=0.3))
    timing = timed(constant(1e-2), constant(1e-2), machine=machine, budget_s=4)
    assert timing.stopped == "budget"
    assert 4 <= timing.spent_s < 4.5
    short = timed(constant(1.0), constant(1.0), budget_s=10)
    assert reasons(short) == [Reason.BUDGET_TOO_SMALL]
    assert (short.ratio, short.speedup, short.interval) == (None, None, None)
    slow = timed(constant(1.0), constant(0.5), budget_s=30)
    assert slow.speedup == 2.0, "a slow kernel gets smaller buckets"


def test_the_rounds_have_a_bound() -> None:
    machine = Machine(noise=Noise(random.Random(1), cv=0.3))
    timing = timed(constant(1e-3), constant(1e-3), machine=machine, budget_s=1e9, most_rounds=100)
    assert timing.stopped == "rounds"
    assert len(timing.reference_s) == 100


# ---- Invariances ----------------------------------------------------------------------------------------------------

durations = st.floats(1e-4, 1e-2)


@settings(max_examples=30, deadline=None)
@given(durations, durations, st.integers(0, 2**32))
def test_exchanging_the_sides_inverts_the_ratio(one: float, other: float, seed: int) -> None:
    there, back = timed(constant(one), constant(other), seed=seed), timed(constant(other), constant(one), seed=seed)
    assert there.ratio is not None
    assert back.ratio == pytest.approx(1 / there.ratio)


@settings(max_examples=30, deadline=None)
@given(durations, durations, st.floats(1, 50))
def test_a_machine_that_is_slower_for_both_gives_the_same_number(one: float, other: float, factor: float) -> None:
    slow = timed(constant(one), constant(other), machine=Machine(slow=lambda seconds: factor), budget_s=1e9)
    assert slow.ratio == pytest.approx(one / other)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(0, 2**32))
def test_who_goes_first_does_not_matter(one: int, other: int) -> None:
    assert (
        timed(constant(3e-3), constant(2e-3), seed=one).ratio == timed(constant(3e-3), constant(2e-3), seed=other).ratio
    )


# ---- How often it is wrong ------------------------------------------------------------------------------------------


def busy(seed: int) -> Machine:
    """Spread of 5 %, one call in fifty 1.5 to 5 times as long, and a clock that wanders by 15 % over half a minute."""
    return Machine(slow=drift(0.15, period_s=30), noise=Noise(random.Random(seed), cv=0.05, spikes=0.02))


def measured(gain: float, trials: int) -> Iterator[Timing]:
    for seed in range(trials):
        yield timed(constant(5e-3 * gain), constant(5e-3), machine=busy(1_000_000 + seed), seed=seed, empty_s=5e-5)


def test_a_kernel_against_itself_is_one() -> None:
    timings = list(measured(1.0, 200))
    outside = [t.speedup for t in timings if t.speedup is None or not 0.99 <= t.speedup <= 1.01]
    assert len(outside) <= 2, outside


def test_a_gain_of_five_percent_is_found() -> None:
    timings = list(measured(1.05, 200))
    found = sum(t.speedup is not None and t.speedup > 1.01 for t in timings)
    assert found >= 190
    assert all(t.spent_s < 11 for t in timings)


def test_two_measurements_agree_within_two_percent() -> None:
    ratios = [t.ratio for t in measured(1.3, 60)]
    apart = [abs(one / other - 1) for one, other in zip(ratios[::2], ratios[1::2], strict=True)]
    assert sum(difference > 0.02 for difference in apart) <= len(apart) * 0.05


def test_noise_that_hides_everything_gives_no_gain() -> None:
    """Every other call interrupted: the few bucket means that a short budget allows must not be luck."""
    wrong = 0
    for seed in range(200):
        machine = Machine(noise=Noise(random.Random(seed), cv=0.3, spikes=0.5))
        timing = timed(constant(5e-2), constant(5e-2), machine=machine, seed=seed, budget_s=12)
        wrong += timing.speedup is not None and not 0.99 <= timing.speedup <= 1.01
    assert wrong <= 2


def test_on_a_crowded_machine_the_cpu_clock_still_tells() -> None:
    """Every other call is interrupted for up to four times its length."""

    def one(gain: float, seed: int, clock: Literal["wall", "cpu"]) -> Timing:
        machine = Machine(noise=Noise(random.Random(seed), cv=0.03, spikes=0.5))
        return timed(constant(5e-3 * gain), constant(5e-3), machine=machine, seed=seed, budget_s=3, clock=clock)

    by_wall = [one(1.05, seed, "wall").speedup for seed in range(50)]
    assert sum(speedup is not None and speedup > 1.01 for speedup in by_wall) < 10
    assert {one(1.05, seed, "cpu").speedup for seed in range(50)} <= {1.03, 1.04, 1.05, 1.06}
    assert sum(one(1.0, seed, "cpu").speedup == 1.0 for seed in range(50)) >= 49


# ---- What it refuses ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [2, 4, 8, 20])
def test_batch_and_skip_is_seen(every: int) -> None:
    timing = timed(constant(5e-3), batch_and_skip(5e-3, every, skipped=1e-5), machine=busy(every))
    assert reasons(timing)[-1] is Reason.T09_BATCH_AND_SKIP
    assert timing.speedup is None


def test_what_a_crowded_machine_does_to_both_sides_is_no_batch_and_skip() -> None:
    """Every fifth call costs five times as much: mean 1.8, geometric mean 1.38. The clock can tell nothing, and accuses nobody."""

    def uneven(seed: int) -> Script:
        dice = random.Random(seed)
        return (Call(5e-3 * (5 if dice.random() < 0.2 else 1)) for _ in repeat(None))

    timing = timed(uneven(1), uneven(2))
    assert conclude(timing.findings) is KernelStatus.UNCHECKED
    alone = timed(constant(5e-3), uneven(2))
    assert conclude(alone.findings) is KernelStatus.UNCHECKED
    assert alone.speedup is None


def test_calls_that_cost_by_the_kind_of_their_values_are_even_and_a_skip_within_a_kind_is_not() -> None:
    """Every third round has values that cost ten times as much: as a softmax whose exponentials are subnormal."""

    def kind(k: int) -> str:
        return "outliers" if k % 3 == 0 else "own"

    def one(reference: Script, candidate: Script) -> Timing:
        machine = Machine()
        sides = (ScriptedSide(machine, reference), ScriptedSide(machine, candidate))
        return measure(*sides, 10, random.Random(0), prepare=kind, now=machine.now)

    def costly() -> Script:
        return (Call(5e-2 if kind(k) == "outliers" else 5e-3) for k in count())

    assert one(costly(), costly()).speedup == 1.0
    assert Reason.T09_BATCH_AND_SKIP not in reasons(one(constant(5e-3), costly()))
    assert Reason.T09_BATCH_AND_SKIP in reasons(one(costly(), batch_and_skip(5e-3, 4, skipped=1e-5)))


def test_late_work_is_seen() -> None:
    timing = timed(constant(5e-3), late(5e-3, shown=1e-3), machine=busy(0))
    assert reasons(timing) == [Reason.T02_LATE_WORK]
    assert conclude(timing.findings) is KernelStatus.REJECTED
    assert timing.ratio == pytest.approx(5, rel=0.05)
    assert timing.speedup is None


def test_work_on_other_cores_is_seen_where_only_one_may_be_used() -> None:
    def one(cores: float) -> Timing:
        return timed(constant(5e-3), elsewhere(5e-3, shown=2.5e-3), cores=cores)

    assert reasons(one(1)) == [Reason.T02_LATE_WORK]
    assert one(2).speedup == 2.0


def test_a_reference_that_was_made_to_wait_is_seen() -> None:
    timing = timed(sleeping(5e-3, slept=1e-2), constant(5e-3))
    assert reasons(timing) == [Reason.T15_REFERENCE_SLOWED]
    assert conclude(timing.findings) is KernelStatus.UNCHECKED


def test_the_cpu_clock_sees_the_same_cheats() -> None:
    assert Reason.T02_LATE_WORK in reasons(timed(constant(5e-3), late(5e-3, shown=1e-3), clock="cpu"))
    assert reasons(timed(constant(5e-3), elsewhere(5e-3, shown=1e-3), clock="cpu")) == [Reason.T02_LATE_WORK]
    assert Reason.T09_BATCH_AND_SKIP in reasons(
        timed(constant(5e-3), batch_and_skip(5e-3, 4, skipped=1e-5), clock="cpu")
    )
    assert timed(sleeping(5e-3, slept=1e-2), constant(5e-3), clock="cpu").speedup == 1.0, "waiting is no work"


def test_work_that_others_do_is_not_hidden_from_the_wall() -> None:
    """A candidate that waits for help from outside its tree uses little CPU time and no less wall time."""
    timing = timed(constant(5e-3), sleeping(1e-3, slept=4e-3), clock="cpu")
    assert reasons(timing) == [Reason.T15_REFERENCE_SLOWED]
    assert timing.speedup is None


def test_a_cpu_clock_that_sees_nothing_gives_no_number() -> None:
    class Blind(ScriptedSide):
        def cpu_seconds(self) -> float:
            return 0.0

    machine = Machine()
    one, other = Blind(machine, constant(2e-3)), Blind(machine, constant(1e-3))
    timing = measure(one, other, 10, random.Random(0), rules=Rules(most_rounds=100), clock="cpu", now=machine.now)
    assert reasons(timing) == [Reason.T19_TOO_SMALL]
    assert timing.speedup is None


@pytest.mark.parametrize("clock", ["wall", "cpu"])
def test_a_cpu_clock_that_goes_back_ends_nothing(clock: Literal["wall", "cpu"]) -> None:
    """As it does by up to a tick where a child process ends."""

    class Back(ScriptedSide):
        def cpu_seconds(self) -> float:
            return -self.machine.now()

    machine = Machine()
    one, other = Back(machine, constant(2e-3)), Back(machine, constant(1e-3))
    timing = measure(one, other, 10, random.Random(0), rules=Rules(most_rounds=100), clock=clock, now=machine.now)
    assert reasons(timing) == ([] if clock == "wall" else [Reason.T19_TOO_SMALL])


def test_being_given_inputs_is_no_late_work() -> None:
    """Half of what a call costs, between calls, on both sides; a late candidate is still seen beside it."""

    def one(candidate: Script) -> Timing:
        machine = Machine()
        sides = ScriptedSide(machine, constant(4e-3)), ScriptedSide(machine, candidate)

        def prepare(_: int) -> None:
            for side in sides:
                side.bind(5e-4)

        return measure(*sides, 10, random.Random(0), prepare=prepare, now=machine.now)

    assert one(constant(1e-3)).speedup == 4.0
    assert reasons(one(late(4e-3, shown=1e-3))) == [Reason.T02_LATE_WORK]


def test_a_reference_that_breaks_the_rules_is_no_fault_of_the_candidate() -> None:
    timing = timed(elsewhere(5e-3, shown=1e-3), constant(5e-3))
    assert reasons(timing) == [Reason.T02_LATE_WORK]
    assert conclude(timing.findings) is KernelStatus.UNCHECKED


def test_interruptions_are_no_fault_of_anyone() -> None:
    """Waiting that hits one side alone, as preemption does to the longer calls, is not taken for work."""
    for seed in range(50):
        machine = Machine(noise=Noise(random.Random(seed), cv=0.05, spikes=0.1))
        timing = timed(constant(6e-3), constant(5e-3), machine=machine, seed=seed)
        assert conclude(timing.findings) in (KernelStatus.ACCEPTED, KernelStatus.UNCHECKED)


def test_a_clock_of_ticks_accuses_nobody() -> None:
    """CPU time in steps of 10 ms beside calls of 2 ms."""

    class Ticking(ScriptedSide):
        def cpu_seconds(self) -> float:
            return math.floor(super().cpu_seconds() * 100) / 100

    for seed in range(50):
        machine = busy(seed)
        one, other = Ticking(machine, constant(2e-3)), Ticking(machine, constant(2e-3))
        timing = measure(one, other, 2, random.Random(seed), rules=Rules(tick_s=0.01), now=machine.now)
        assert timing.findings == ()
    caught = Ticking(machine, late(2e-3, shown=2e-4))
    timing = measure(one, caught, 2, random.Random(0), rules=Rules(tick_s=0.01), now=machine.now)
    assert reasons(timing) == [Reason.T02_LATE_WORK]


def test_a_task_that_is_too_small_has_no_number() -> None:
    timing = timed(constant(1e-4), constant(5e-5), empty_s=5e-5)
    assert Reason.T19_TOO_SMALL in reasons(timing)
    assert timing.speedup is None
    assert timing.ratio == pytest.approx(1.5), "2 but for the overhead, which draws toward 1"
    large = timed(constant(1e-2), constant(5e-3), empty_s=5e-5)
    assert large.speedup == 1.99


def test_what_an_empty_call_costs_is_asked_of_the_clock_that_counts() -> None:
    """Waking up a worker takes wall time; what it does then takes CPU time."""

    class Answers(ScriptedSide):
        def empty(self) -> float:
            self._cpu += 2e-5
            return super().empty()

    def tried(clock: Literal["wall", "cpu"], seconds: float) -> Timing:
        machine = Machine()
        sides = (Answers(machine, constant(factor * seconds), empty_s=1e-4) for factor in (2, 1))
        return measure(*sides, 10, random.Random(0), rules=Rules(most_rounds=100), clock=clock, now=machine.now)

    assert Reason.T19_TOO_SMALL in reasons(tried("wall", 5e-4))
    assert tried("cpu", 5e-4).speedup == 2.0
    assert Reason.T19_TOO_SMALL in reasons(tried("cpu", 1e-4))


def test_means_that_vary_are_refused() -> None:
    def changing() -> Iterator[Call]:
        while True:
            yield from repeat(Call(5e-3), 40)
            yield from repeat(Call(7e-3), 40)

    timing = timed(constant(5e-3), changing())
    assert Reason.T20_UNSTABLE in reasons(timing)
    assert timing.speedup is None


def test_one_long_interruption_costs_more_rounds_and_no_truth() -> None:
    def interrupted() -> Iterator[Call]:
        yield from repeat(Call(5e-3), 50)
        yield Call(5e-3, wait=0.5)
        yield from repeat(Call(5e-3))

    timing = timed(constant(6e-3), interrupted())
    assert timing.speedup == 1.2
    assert len(timing.reference_s) == 320, "after 160 the gate still sees it"
    stopped = timed(constant(6e-3), interrupted(), most_rounds=160)
    assert reasons(stopped) == [Reason.T20_UNSTABLE]
    assert stopped.ratio == pytest.approx(1.2)
    assert stopped.speedup is None


def test_luck_at_the_beginning_is_outvoted() -> None:
    timing = timed(constant(5e-3), lucky(5e-3, 20, factor=3), machine=busy(0))
    assert timing.speedup in (None, 1.0)


@pytest.mark.parametrize("seconds", [0.0, -1e-3, math.nan, math.inf])
def test_an_impossible_time_is_told_and_not_stored(seconds: float) -> None:
    class Lying(ScriptedSide):
        def call(self, k: int) -> float:
            return super().call(k) if k < 10 else seconds

    machine = Machine()
    one, other = ScriptedSide(machine, constant(1e-3)), Lying(machine, constant(1e-3))
    timing = measure(one, other, 10, random.Random(0), now=machine.now)
    assert reasons(timing) == [Reason.T13_IMPOSSIBLE_TIME]
    assert timing.findings[0].where == "round 10"
    assert timing.stopped == "impossible"
    assert len(timing.candidate_s) == 7
    json.dumps(json.loads(to_json(timing)), allow_nan=False)


def test_an_error_of_the_worker_passes_through() -> None:
    class Dying(ScriptedSide):
        def call(self, k: int) -> float:
            raise ConnectionError("the worker ended")

    machine = Machine()
    with pytest.raises(ConnectionError, match="the worker ended"):
        measure(ScriptedSide(machine, constant(1)), Dying(machine, constant(1)), 10, random.Random(0), now=machine.now)


# ---- Again ----------------------------------------------------------------------------------------------------------


def fast(ratio: float) -> Timing:
    return timed(constant(1e-3 * ratio), constant(1e-3))


@pytest.mark.parametrize(
    ("ratio", "best", "again"),
    [
        (3.0, None, False),
        (3.02, None, True),
        (2.5, None, False),
        (2.5, 1.2, True),
        (2.4, 1.2, False),
        (1.5, 0.5, False),
    ],
)
def test_what_is_measured_again(ratio: float, best: float | None, again: bool) -> None:
    assert (why_again(fast(ratio), best) is not None) == again


def test_two_that_agree_give_the_one_nearer_to_one() -> None:
    both = reverified(fast(4.0), fast(3.8))
    assert both.speedup == 3.8
    assert both.again is not None
    assert both.ratio == pytest.approx(4.0)
    assert why_again(both, None) is None, "once is enough"
    assert any_gain(both, None) is None
    assert [any_gain(fast(ratio), None) is not None for ratio in (1.0, 1.05, 0.9)] == [False, True, True]
    assert reverified(fast(4.0), fast(4.4 - 1e-9)).speedup == 4.0


@pytest.mark.parametrize(
    ("first", "second", "speedup"),
    [(1.05, 1.03, 1.03), (1.05, 0.98, 1.0), (0.95, 1.02, 1.0), (0.9, 0.94, 0.94), (1.09, 1.0, 1.0), (0.95, 1.0, 1.0)],
)
def test_the_nearer_one(first: float, second: float, speedup: float) -> None:
    assert reverified(fast(first), fast(second)).speedup == speedup


def test_what_is_not_one_is_measured_twice() -> None:
    def tried(*ratios: float) -> tuple[Timing, int]:
        left = [fast(ratio) for ratio in ratios]
        return confirmed(lambda: left.pop(0)), len(left)

    timing, left = tried(1.0, 5.0)
    assert (timing.speedup, timing.again, left) == (1.0, None, 1)
    timing, left = tried(1.06, 1.0)
    assert (timing.speedup, left) == (1.0, 0)
    assert timing.again is not None


def test_the_luck_of_a_process_is_not_taken_for_a_gain() -> None:
    """Each start of a worker makes it up to 4 % slower for its whole life, alone or in the reference's place."""
    rng, machine = random.Random(7), Machine(noise=Noise(random.Random(8), cv=0.02))

    def once() -> Timing:
        return timed(
            constant(5e-3 * rng.uniform(1, 1.04)), constant(5e-3 * rng.uniform(1, 1.04)), machine=machine, budget_s=3
        )

    def wrong(timings: list[Timing]) -> int:
        return sum(timing.speedup is not None and not 0.99 <= timing.speedup <= 1.01 for timing in timings)

    assert wrong([once() for _ in range(100)]) > 15
    assert wrong([confirmed(once) for _ in range(100)]) < 10


def test_two_that_do_not_agree_give_none() -> None:
    both = reverified(fast(4.0), fast(1.0))
    assert both.speedup is None
    assert reasons(both) == [Reason.T20_NOT_REPRODUCED]
    nothing = reverified(fast(4.0), replace(fast(4.0), ratio=None, speedup=None))
    assert nothing.speedup is None
