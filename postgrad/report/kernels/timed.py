"""A measurement as figures and tables: paired ratios by bucket, the two clocks, baselines, the machine's bound."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from postgrad.report import svg
from postgrad.report.folder import number, string
from postgrad.report.kernels.blocks import Beside, Block, Facts, Section
from postgrad.report.kernels.entry import Entry, Timing
from postgrad.report.text import count, duration, percent, short, span, visible
from postgrad.report.view import Figure, Limits, Table, compact, spaced

ENDED = {
    "precise": "the interval was narrow enough",
    "budget": "the time given was used up",
    "rounds": "the number of rounds was reached",
    "impossible": "a time could not be true",
}


def times(value: float | None) -> str:
    """1.8372 -> "1.84×"."""
    return "–" if value is None else f"{value:,.2f}×" if value < 100 else f"{value:,.0f}×"


def around(ends: tuple[float, float] | None) -> str:
    return "" if ends is None else span(*ends, digits=2)


def seconds(value: float | None) -> str:
    """0.00123 -> "1.23 ms"."""
    if value is None:
        return "–"
    for unit, factor in (("s", 1.0), ("ms", 1e3), ("µs", 1e6)):
        if abs(value) * factor >= 1:
            return f"{short(value * factor)}\u00a0{unit}"
    return f"{short(value * 1e9)}\u00a0ns"


def section(timing: Timing, limits: Limits, start: str = "") -> Section:
    blocks: list[Block] = [figure for figure in (ratios(timing, limits),) if figure]
    blocks += [clocks(timing), Facts("How it was measured", facts(timing))]
    if timing.again:
        blocks.append(again(timing, timing.again))
    note = (
        f"{start}Reference and candidate run back to back in random order, on fresh values; a ratio above 1 is a gain."
    )
    return Section("timing", "Timing", blocks, note)


def ratios(timing: Timing, limits: Limits) -> Figure | None:
    """Every round's ratio, the buckets' means, the median and its interval."""
    single, means = timing.ratios, timing.bucket_means
    if not single or not means:
        return None
    edges = [len(single) * i / len(means) for i in range(len(means) + 1)]
    middles = [((edges[i] + edges[i + 1]) / 2, mean) for i, mean in enumerate(means)]
    title = "Reference time / candidate time, round by round"
    told = f"{len(single):,} rounds in {len(means):,} buckets; median of the buckets' means {times(timing.ratio)}"
    told += f", interval {around(timing.interval)}." if timing.interval else "."
    # The axis is for what the result rests on: rounds far off are counted, not drawn.
    low, high = (statistics.median(means) * factor for factor in (0.5, 2.0))
    low, high = min(low, *means), max(high, *means)
    near = [(i + 0.5, ratio) for i, ratio in enumerate(single) if low <= ratio <= high]
    note = told + (f" {len(single) - len(near):,} rounds lie outside the plot." if len(near) < len(single) else "")
    ends = (0.0, float(len(single)))
    lines = []
    if timing.ratio is not None:
        band = [(at, *timing.interval) for at in ends] if timing.interval else []
        lines.append(svg.Series("median and interval", [(at, timing.ratio) for at in ends], "s1", band))
    clouds = [svg.Series("one round", near, "s5"), svg.Series("mean of a bucket", middles, "s0", markers=True)]
    drawn = [ratio for _, ratio in near] + means
    # The line of no gain, where it does not press all that was measured to one edge.
    rules = (1.0,) if 2 * min(drawn) - max(drawn) <= 1 <= 2 * max(drawn) - min(drawn) else ()

    def chart(key: str, width: float, height: float) -> Any:
        axes = svg.Axis("round"), svg.Axis("times as fast")
        return svg.cloud_chart(key, title, told, clouds, lines, *axes, rules=rules, width=width, height=height)

    table = Table(
        "Means of the buckets",
        ("Bucket", "Rounds", "Mean ratio"),
        [
            (str(i + 1), f"{edges[i]:.0f}–{edges[i + 1]:.0f}", f"{means[i]:.4f}")
            for i in spaced(range(len(means)), min(limits.rows, 100))
        ],
    )
    return Figure("ratios", title, note, chart("ratios", 760, 300), table, chart("ratios-narrow", 340, 260))


def clocks(timing: Timing) -> Table:
    """The grader's clock beside the CPU time of each worker's process tree, or beside the events of its GPU."""
    sides = (
        ("Reference", timing.reference_s, timing.reference_cpu_s, timing.reference_between_s),
        ("Candidate", timing.candidate_s, timing.candidate_cpu_s, timing.candidate_between_s),
    )
    rows: list[Sequence[str]] = []
    for name, wall, cpu, between in sides:
        inside = statistics.fmean(cpu) if cpu else None
        mean = statistics.fmean(wall) if wall else None
        rows.append(
            (
                name,
                count(len(wall)),
                seconds(statistics.median(wall) if wall else None),
                seconds(min(wall, default=None)),
                seconds(inside),
                short(inside / mean) if inside is not None and mean else "–",
                seconds(statistics.fmean(between) if between else None),
            )
        )
    gains = (
        _over(timing.reference_s, timing.candidate_s, statistics.median),
        _over(timing.reference_s, timing.candidate_s, min),
        _over(timing.reference_cpu_s, timing.candidate_cpu_s, statistics.fmean),
    )
    rows.append(("Reference / candidate", "", *map(times, gains), "", ""))
    what = "Events" if timing.second == "events" else "CPU"
    columns = ("Side", "Calls", "Median wall", "Shortest", f"{what} a call", f"{what} / wall", f"{what} before a call")
    note = (
        "Events are the GPU's own clock, around each call. A question that is much longer than its events waits for work that its caller does not."
        if timing.second == "events"
        else "CPU time is read from outside, of the whole process tree. A side that works between its calls, or uses more CPU than wall time, hides work."
    )
    return Table("Two clocks", columns, rows, note)


def _over(one: list[float], other: list[float], summary: Callable[[list[float]], float]) -> float | None:
    return summary(one) / summary(other) if one and other and summary(other) > 0 else None


def facts(timing: Timing) -> list[tuple[str, str]]:
    rules = timing.rules
    gate, empty = number(rules.get("gate")), statistics.median(timing.overhead_s) if timing.overhead_s else None
    rows = [
        ("Rounds ended because", ENDED.get(timing.stopped, visible(timing.stopped, 60)) or "–"),
        ("Time used", f"{duration(timing.spent_s)} of {duration(timing.budget_s)}"),
        ("The clock that counts", {"wall": "wall time", "cpu": "CPU time"}.get(timing.clock, "–")),
        ("Cache", visible(timing.cache, 20) or "–"),
        ("An empty call", seconds(empty)),
        ("Variance of large buckets", f"{short(timing.variance)}{f', at most {short(gate)}' if gate else ''}"),
        ("Level of the interval", percent(number(rules.get("level")), 0)),
    ]
    if timing.warm_up_s:
        first = timing.warm_up_s[0]
        rows.append(("First call", f"reference {seconds(first[0])}, candidate {seconds(first[1])}"))
    return rows


def again(timing: Timing, second: Timing) -> Table:
    rows = [
        (name, times(one.ratio), around(one.interval), times(one.speedup), count(len(one.candidate_s)))
        for name, one in (("First", timing), ("Second, other workers", second))
    ]
    columns = ("Measurement", "Median ratio", "Interval", "Counts as", "Rounds")
    return Table(
        "Measured twice", columns, rows, "A large gain is measured again by other workers, and both must agree."
    )


def baselines(entry: Entry, limits: Limits) -> list[Block]:
    if all(one.speedup is None for one in entry.baselines):
        return []
    hardest = entry.hardest
    rows = [
        (
            visible(one.name, 60) + (" (the hardest to beat)" if one is hardest and len(entry.baselines) > 1 else ""),
            times(one.speedup),
            around(one.interval) or "–",
            seconds(one.seconds),
        )
        for one in entry.baselines[: min(limits.rows, 40)]
    ]
    note = (
        "The gain that counts is the one over the baseline that is hardest to beat."
        if hardest
        else "A baseline gave no number, so which one is hardest to beat is not known."
    )
    return [Table("Against each baseline", ("Baseline", "Gain over it", "Interval", "Its median call"), rows, note)]


BOUND = {
    "bound_s": ("Least time the machine needs", seconds),
    "fraction": ("Share of that bound reached", percent),
    "bytes": ("Bytes that must move", count),
    "operations": ("Operations that must be done", count),
    "bandwidth": ("Bandwidth, bytes a second", short),
    "peak": ("Peak, operations a second", short),
}


def roofline(entry: Entry) -> list[Block]:
    told = entry.roofline
    if not told:
        return []
    found = {name: number(told.get(name)) for name in BOUND}
    if found["fraction"] is None and found["bound_s"] is not None and entry.timing and entry.timing.candidate_s:
        found["fraction"] = found["bound_s"] / statistics.median(entry.timing.candidate_s)
    rows = [(BOUND[name][0], BOUND[name][1](value)) for name, value in found.items() if value is not None]
    rows += [(visible(name, 60), compact(value, 100)) for name, value in told.items() if name not in BOUND][:12]
    blocks: list[Block] = [Facts("Beside the machine's bound", rows)]
    if (bound := found["bound_s"]) is not None and bound > 0 and entry.timing:
        blocks.append(_bars(entry.timing, bound))
    return [Beside(blocks)] if len(blocks) > 1 else blocks


def _bars(timing: Timing, bound: float) -> Figure:
    title = "A call's time beside the least that the machine needs"
    rows = [("machine's bound", bound, "s5")]
    for name, wall, style in (("candidate", timing.candidate_s, "s0"), ("reference", timing.reference_s, "s1")):
        if wall:
            rows.append((name, statistics.median(wall), style))
    told = "; ".join(f"{name} {seconds(value)}" for name, value, _ in rows) + "."
    table = Table(title, ("What", "Time"), [(name, seconds(value)) for name, value, _ in rows])
    note = "Medians of the calls. Nothing that does the whole work can be below the bound."
    return Figure("bound", title, note, svg.bars("bound", title, told, rows, seconds), table)


def environment(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    rows: list[tuple[str, str]] = []
    for name, value in told.items():
        if isinstance(value, Mapping):
            rows += [
                (f"{visible(name, 30)}: {visible(string(part), 40)}", compact(one, 200))
                for part, one in list(value.items())[:20]
                if one is not None
            ]
        elif value is not None:
            rows.append((visible(name.replace("_", " "), 40), compact(value, 200)))
    return rows[:60]


def numbers(values: Sequence[float]) -> tuple[float, float, float] | None:
    """Mean, median and geometric mean of speed-ups; None where there is none."""
    if not values:
        return None
    return statistics.fmean(values), statistics.median(values), statistics.geometric_mean(values)
