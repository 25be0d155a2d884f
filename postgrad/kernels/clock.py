"""How much faster one kernel is than another: paired rounds, two clocks, numbers that are refused rather than guessed.

The protocol is CUDA-L1's (arXiv 2507.14111), as its paper has it:

    each round: fresh values at fresh addresses, then reference and candidate back to back in random order, one ratio
    at the end: median of bucket means, refused where their variance is above 0.005, rounded toward 1 (estimate.py)
                (refused as well where the interval is wider than 5 % to either side: then there is no number to tell)
    above 3x, or twice the best so far: again with other workers, and both must agree within 10 % (`why_again`, `reverified`)

`confirmed` asks more: whatever is not 1 is measured again with other workers. Where the pages of a process lie in the cache is luck that lasts as
long as the process, so it is in no interval: of 200 measurements of a kernel against itself, on one core and by CPU time, one said 1.09 (bench.kernels_aa).

Both sides run in processes of their own, and the grader times the round trip. What a round trip costs besides the work is in both times; it
draws the ratio toward 1, so it is measured with empty calls and reported, not subtracted. Above 5 % of the reference, on the clock that counts, the task is too small.

The second clock is the CPU time of a worker's whole process tree, read from outside; on a GPU the time between CUDA events, as the device has it
(`second="events"`, gpu/timed.py). The two must agree:

    between calls a candidate uses no CPU time that the reference does not use as well (being given its inputs costs some)
    inside calls no more than `cores` times the wall time
    mean CPU time of a call <= 1.25 x its geometric mean, else some calls do the work of others
    the ratio <= 1.25 x cores x the ratio on the other clock, else one of the sides waited where it should have worked

`clock="cpu"` takes the ratios of CPU times and checks them by the wall. For kernels of one thread it measures the same work, and interruptions by
other programs are in it only as far as they cost cache: on a busy machine it gives a number where the wall gives none.

Rounds end at a precision, at the budget or at a number of rounds. The precision is looked at after 80, 160, 320 ... rounds and asks how wide the
interval is and whether the gate is passed, never where the ratio lies, so that stopping early favours no result.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Literal, Protocol

from postgrad.kernels import estimate as estimates
from postgrad.kernels.estimate import COUNTS_ABOVE, Estimate
from postgrad.kernels.verdict import REJECTED, UNCHECKED, Finding, KernelStatus, Reason, Timing, conclude

Clock = Literal["wall", "cpu"]
Second = Literal["cpu", "events"]
SECONDS: Mapping[str, str] = {"cpu": "CPU-seconds", "events": "seconds between events"}
"""How findings speak of the second clock."""


class Timed(Protocol):
    """A started worker with one implementation in it. Errors of its process pass through `measure`."""

    def call(self, k: int) -> float:
        """Runs on the k-th inputs; seconds of the round trip on the grader's clock."""

    def empty(self) -> float:
        """Seconds of a round trip that runs nothing, with as many bytes as a call has."""

    def cpu_seconds(self) -> float:
        """Used so far by its whole process tree, those that have ended included; or by the device in its calls."""


@dataclass(frozen=True, slots=True)
class Rules:
    """Fixed before the first round, and kept in the record."""

    bucket_rounds: int = 10
    buckets: int = 8
    """The fewest."""
    level: float = 0.99
    gate: float = 0.005
    """The most variance of the means of large buckets (third-party report of the paper's value)."""
    widest: float = 0.05
    """Half the interval's width, relative, above which there is no number."""
    precise: float = 0.01
    """Half the interval's width, relative, at which rounds end."""
    most_rounds: int = 5120
    warm_up: int = 3
    empty_calls: int = 10
    overhead: float = 0.05
    """The most of the reference's time that an empty call may take, on the clock that counts."""
    cores: float = 1.0
    """That a worker may use at once."""
    late: float = 0.05
    """CPU time that may go unexplained, as a share of the wall time in calls."""
    disagree: float = 1.25
    """The factor by which the two clocks may differ. Caches and the cost of waking up make them differ honestly."""
    tick_s: float = 0.0
    """Resolution of `cpu_seconds`, where it has one."""


SURELY_UNEVEN = 2.0
"""Mean CPU time of a call over its geometric mean. A machine with five processes for each core gave honest kernels 1.26 and 1.45."""
AGAIN_ABOVE = 3.0
AGAIN_ABOVE_BEST = 2.0
AGREE_WITHIN = 1.10


def measure(
    reference: Timed,
    candidate: Timed,
    budget_s: float,
    rng: random.Random,
    *,
    rules: Rules = Rules(),
    prepare: Callable[[int], str | None] = lambda _: None,
    flush: Callable[[], None] | None = None,
    cache: Literal["warm", "cold"] | None = None,
    clock: Clock = "wall",
    second: Second = "cpu",
    now: Callable[[], float] = time.monotonic,
) -> Timing:
    """Both must have been started. `prepare(k)` places the k-th values for both; k counts warm-up rounds too.
    It returns what kind of values they are, where it knows: exponentials of outliers take other times than those of small numbers, honestly.

    `flush`, called before each call, makes it a cold measurement (cache.Flush); `cache` says what it is where the sides see to that themselves.
    `second`: what `cpu_seconds` of both sides gives. `now` is the clock of the budget alone. A round is never cut, so the budget is overrun by up to one.
    """
    began = now()
    sides = (_Clocked(reference, flush, second), _Clocked(candidate, flush, second))
    overhead = [side.empty() for _ in range(rules.empty_calls) for side in sides]
    warm_up: list[tuple[float, float]] = []
    reference_first: list[bool] = []
    stopped: Literal["precise", "budget", "rounds", "impossible"] = "rounds"
    found: Estimate | None = None
    look = rules.bucket_rounds * rules.buckets
    impossible: Finding | None = None
    for k in range(rules.warm_up + rules.most_rounds):
        if now() - began >= budget_s:
            stopped = "budget"
            break
        kind = prepare(k)
        first = rng.random() < 0.5
        for side in sides if first else sides[::-1]:
            side.call(k)
        impossible = _impossible(sides, k)
        if impossible:
            stopped = "impossible"
            break
        if k < rules.warm_up:
            warm_up.append((sides[0].last, sides[1].last))
            continue
        for side in sides:
            side.count(kind)
        reference_first.append(first)
        if len(reference_first) == look:
            look *= 2
            found = _estimate(sides, rules, clock)
            if found and found.half_width <= rules.precise and found.variance <= rules.gate:
                stopped = "precise"
                break
    found = _estimate(sides, rules, clock)
    findings = [impossible] if impossible else _findings(sides, found, overhead, rules, clock)
    counted = found is not None and conclude(findings) not in (UNCHECKED, REJECTED)
    return Timing(
        reference_s=tuple(sides[0].wall),
        candidate_s=tuple(sides[1].wall),
        reference_first=tuple(reference_first),
        warm_up_s=tuple(warm_up),
        overhead_s=tuple(overhead),
        reference_cpu_s=tuple(sides[0].cpu),
        candidate_cpu_s=tuple(sides[1].cpu),
        reference_between_s=tuple(sides[0].between),
        candidate_between_s=tuple(sides[1].between),
        bucket_means=found.bucket_means if found else (),
        ratio=found.ratio if found else None,
        interval=found.interval if found else None,
        speedup=found.speedup if found and counted else None,
        variance=found.variance if found else None,
        stopped=stopped,
        clock=clock,
        cache=cache or ("cold" if flush else "warm"),
        second=second,
        budget_s=budget_s,
        spent_s=now() - began,
        rules=asdict(rules),
        findings=tuple(findings),
    )


def why_again(timing: Timing, best: float | None) -> str | None:
    """Why a gain must be measured again before it counts; None where it need not. `best` is the task's best speed-up so far."""
    if timing.speedup is None or timing.again is not None:
        return None
    if timing.speedup > AGAIN_ABOVE:
        return f"a speed-up of {timing.speedup:.2f} is above {AGAIN_ABOVE:g}"
    if best is not None and timing.speedup > AGAIN_ABOVE_BEST * max(best, 1.0):
        return f"a speed-up of {timing.speedup:.2f} is above {AGAIN_ABOVE_BEST:g} times the best so far, {best:.2f}"
    return None


def any_gain(timing: Timing, _best: float | None) -> str | None:
    """As `why_again`, for whatever is not 1."""
    return (
        None
        if timing.speedup in (None, 1.0) or timing.again
        else f"a speed-up of {timing.speedup:.2f} is measured twice"
    )


def confirmed(once: Callable[[], Timing]) -> Timing:
    """`once` starts workers of its own and measures. A speed-up other than 1 is measured twice; see `reverified`."""
    first = once()
    return first if first.speedup in (None, 1.0) else reverified(first, once())


def reverified(first: Timing, second: Timing) -> Timing:
    """The first measurement with the second in `again`. `second` is of the same two codes in other workers.

    Where both agree within 10 % the speed-up nearer to 1 counts, and 1 where they are on different sides of it. Otherwise, or where the second
    gave no number, there is none.
    """
    findings = [*first.findings, *second.findings]
    one, other = first.ratio, second.ratio
    if one is not None and other is not None and max(one, other) > AGREE_WITHIN * min(one, other):
        told = f"{one:.3f}, then {other:.3f}: further apart than {AGREE_WITHIN - 1:.0%}"
        findings.append(Finding(Reason.T20_NOT_REPRODUCED, told))
    agreed = None if conclude(findings) in (UNCHECKED, REJECTED) else _nearer(first.speedup, second.speedup)
    return replace(first, speedup=agreed, findings=tuple(findings), again=second)


def _nearer(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return None
    return max(1.0, min(one, other)) if max(one, other) > 1 else max(one, other)


class _Clocked:
    """One side with its two clocks, [rounds] each. What the warm-up used is in none."""

    def __init__(self, timed: Timed, flush: Callable[[], None] | None, second: Second) -> None:
        self.timed = timed
        self.seconds = SECONDS[second]
        self.flush = flush
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.between: list[float] = []
        self.kinds: list[str | None] = []
        self.empty_cpu: list[float] = []
        self.last = 0.0
        self._last_cpu = (0.0, 0.0)
        self._after: float | None = None

    def empty(self) -> float:
        before = self.timed.cpu_seconds()
        wall = self.timed.empty()
        self.empty_cpu.append(self.timed.cpu_seconds() - before)
        return wall

    def call(self, k: int) -> None:
        if self.flush:
            self.flush()
        before = self.timed.cpu_seconds()
        self.last = self.timed.call(k)
        after = self.timed.cpu_seconds()
        self._last_cpu = (after - before, 0.0 if self._after is None else before - self._after)
        self._after = after

    def count(self, kind: str | None) -> None:
        """The last call belongs to the measurement."""
        self.kinds.append(kind)
        self.wall.append(self.last)
        self.cpu.append(self._last_cpu[0])
        self.between.append(self._last_cpu[1])


_Sides = tuple[_Clocked, _Clocked]


def _estimate(sides: _Sides, rules: Rules, clock: Clock) -> Estimate | None:
    """None where there are too few rounds, or where the CPU clock is too coarse to see each call."""
    one, other = ((side.wall if clock == "wall" else side.cpu) for side in sides)
    if not all(c > 0 for c in (*one, *other)):
        return None
    ratios = [a / b for a, b in zip(one, other, strict=True)]
    return estimates.estimate(ratios, bucket_rounds=rules.bucket_rounds, buckets=rules.buckets, level=rules.level)


def _impossible(sides: _Sides, k: int) -> Finding | None:
    """Zero, negative, NaN or infinite; such a time is told and never stored."""
    for side, means in zip(sides, (UNCHECKED, REJECTED), strict=True):
        if not 0 < side.last < math.inf:
            return Finding(Reason.T13_IMPOSSIBLE_TIME, f"a call took {side.last} s", f"round {k}", means)
    return None


def _findings(
    sides: _Sides, found: Estimate | None, overhead: Sequence[float], rules: Rules, clock: Clock
) -> list[Finding]:
    rounds = len(sides[0].wall)
    if found is None and rounds >= rules.buckets:
        return [
            Finding(Reason.T19_TOO_SMALL, "a call uses less CPU time than the clock of it can see: measure by the wall")
        ]
    if found is None:
        told = f"{rounds} rounds fitted in the time given, {rules.buckets} are the fewest"
        return [Finding(Reason.BUDGET_TOO_SMALL, told)]
    findings = []
    # The least of each: what it costs undisturbed.
    spent = min(overhead)
    empty, least = (spent, min(sides[0].wall)) if clock == "wall" else (min(sides[0].empty_cpu), min(sides[0].cpu))
    if empty > rules.overhead * least:
        told = f"an empty call takes {empty:.2e} s, {empty / least:.0%} of the reference's {least:.2e} s"
        findings.append(Finding(Reason.T19_TOO_SMALL, told))
    if found.variance > rules.gate or found.half_width > rules.widest:
        told = (
            f"variance of the means {found.variance:.4f} (at most {rules.gate:g}), "
            f"interval +-{found.half_width:.1%} (at most {rules.widest:.0%}) after {rounds} rounds"
        )
        findings.append(Finding(Reason.T20_UNSTABLE, told))
    findings += _clocks_of(sides[0], spent, UNCHECKED, rules)
    findings += _late(sides, spent, rules) or _clocks_of(
        sides[1], spent, REJECTED, rules, _unevenness(sides[0], spent, rules)
    )
    if not findings and found.ratio > COUNTS_ABOVE:
        most = rules.disagree * rules.cores * _other_ratio(sides, spent, rules, clock)
        if found.ratio > most:
            told = f"faster by {found.ratio:.2f} by the {clock} clock, by the other one at most {most:.2f}: one of the two sides waited"
            findings.append(Finding(Reason.T15_REFERENCE_SLOWED, told, means=UNCHECKED))
    return findings


def _other_ratio(sides: _Sides, overhead: float, rules: Rules, clock: Clock) -> float:
    """The largest that the other clock allows."""
    if clock == "cpu":
        wall = _estimate(sides, rules, "wall")
        assert wall, "there are as many rounds by the wall"
        return wall.interval[1]
    reference, candidate = (math.fsum(side.cpu) for side in sides)
    unknown = _unknown(len(sides[0].wall), overhead, rules)
    return (reference + unknown) / (candidate - unknown) if candidate > unknown else math.inf


def _unknown(rounds: int, overhead: float, rules: Rules) -> float:
    """CPU-seconds of one side that prove nothing. Reading a clock of ticks errs by up to one each time: four standard deviations of the sum."""
    return overhead * rounds + rules.tick_s * (1 + 4 * math.sqrt(rounds / 6))


def _late(sides: _Sides, overhead: float, rules: Rules) -> list[Finding]:
    reference, candidate = sides
    wall, between = math.fsum(candidate.wall), math.fsum(candidate.between)
    # What the reference used shows what a worker needs to be given its inputs; were it late itself, it would hide little.
    needed = min(max(math.fsum(reference.between), 0.0), math.fsum(reference.wall) / 4)
    if between <= rules.late * wall + 2 * needed + _unknown(len(candidate.wall), overhead, rules):
        return []
    told = f"{between:.3g} {candidate.seconds} between calls that took {wall:.3g} s; the reference used {math.fsum(reference.between):.3g}"
    return [Finding(Reason.T02_LATE_WORK, told)]


def _unevenness(side: _Clocked, overhead: float, rules: Rules) -> float:
    """A call's mean CPU time over its geometric mean among calls with values of one kind; 1 where all are alike. Which call does the
    work of others cannot depend on the kind, which is drawn anew each round. CPU time counts no interruptions; below its resolution the
    wall time is the better bound."""
    # Where a child ended inside a call, its time is rounded to ticks from then on, and the difference may be below 0.
    least = max(overhead + rules.tick_s, 1e-9)
    logs: dict[str | None, list[float]] = {}
    for kind, w, c in zip(side.kinds, side.wall, side.cpu, strict=True):
        logs.setdefault(kind, []).append(math.log(min(rules.cores * w, max(c, 0.0) + least)))
    typical = math.fsum(len(some) * math.exp(math.fsum(some) / len(some)) for some in logs.values())
    return math.fsum(side.cpu) / typical


def _clocks_of(side: _Clocked, overhead: float, means: KernelStatus, rules: Rules, usual: float = 1.0) -> list[Finding]:
    """What the reference does is a fault of the task. `usual`: the unevenness that this machine gives to the other side."""
    who = "candidate" if means is REJECTED else "reference"
    rounds, wall, cpu = len(side.wall), math.fsum(side.wall), math.fsum(side.cpu)
    unknown = _unknown(rounds, overhead, rules)
    if cpu > rules.cores * (1 + rules.late) * wall + unknown:
        told = f"the {who} used {cpu:.3g} {side.seconds} in calls that took {wall:.3g} s, on {rules.cores:g} core(s)"
        return [Finding(Reason.T02_LATE_WORK, told, means=means)]
    uneven = _unevenness(side, overhead, rules)
    typical = cpu / rounds / uneven
    if cpu > rules.disagree * min(max(usual, 1.0), SURELY_UNEVEN) * typical * rounds + unknown:
        told = f"the {who} used {cpu / rounds:.3g} {side.seconds} a call, a typical one {typical:.3g}: some calls do the work of others"
        # Below that it may be the machine: no number, and no accusation.
        return [Finding(Reason.T09_BATCH_AND_SKIP, told, means=means if uneven >= SURELY_UNEVEN else UNCHECKED)]
    return []
