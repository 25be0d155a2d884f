"""What many verdicts amount to, as kernels/score.py counts it: tables of means with their intervals, the curve of fast_p."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postgrad.report import svg
from postgrad.report.folder import interval, mapping, number
from postgrad.report.kernels import timed
from postgrad.report.text import count, percent, span, visible
from postgrad.report.view import Figure, Limits, Table

Scores = Mapping[str, Mapping[str, Mapping[str, Any]]]
"""Baseline -> "all", "without_degenerate" -> a Score of kernels/score.py as JSON."""

KINDS = {"all": "all tasks", "without_degenerate": "without degenerate tasks"}


def levels(scores: Scores) -> list[str]:
    """The p of fast_p, in order."""
    told = {p for kinds in scores.values() for one in kinds.values() for p in mapping(one.get("fast"))}
    numbers = {p: value for p in told if (value := _float(p)) is not None}
    return sorted(numbers, key=numbers.__getitem__)[:20]


def _float(text: str) -> float | None:
    try:
        return number(float(text))
    except ValueError:
        return None


def value(found: object, show: Any, factor: float = 1, digits: int = 2) -> str:
    """A Value of kernels/score.py: "1.31× [1.22, 1.42]"."""
    told = mapping(found)
    if (middle := number(told.get("value"))) is None:
        return "–"
    ends = interval(told.get("interval"))
    return f"{show(middle)}{f' {span(*ends, factor, digits)}' if ends else ''}"


def means(scores: Scores, published: Mapping[str, Sequence[float]], limits: Limits) -> Table:
    """Mean, median and geometric mean against each baseline, measured and as published."""
    rows = []
    for name, kinds in list(scores.items())[: limits.rows]:
        for kind, one in kinds.items():
            rows.append(
                (
                    f"{visible(name, 60)}, {KINDS.get(kind, visible(kind, 40))}",
                    _accepted(one),
                    *(value(one.get(part), timed.times) for part in ("mean", "median", "geomean")),
                    value(mapping(one.get("fast")).get("1"), lambda v: percent(v, 0), 100, 0),
                )
            )
    for name, claimed in list(published.items())[: limits.rows]:
        if found := timed.numbers(claimed):
            ahead = sum(one > 1 for one in claimed) / len(claimed)
            rows.append(
                (f"As published: {visible(name, 80)}", count(len(claimed)), *map(timed.times, found), percent(ahead, 0))
            )
    columns = ("Against", "Kernels counted", "Mean", "Median", "Geometric mean", "Faster, of all checked")
    note = "Means are of accepted kernels; the intervals are bootstraps over tasks. Published rows are claims, over those that have one."
    return Table("Speed-ups", columns, rows, note)


def _accepted(one: Mapping[str, Any]) -> str:
    counts = {name: number(n) or 0 for name, n in mapping(one.get("counts")).items()}
    return f"{count(counts.get('accepted', 0))} of {count(sum(counts.values()))}"


def fast_table(scores: Scores, limits: Limits) -> Table:
    wanted = levels(scores)
    rows = []
    for name, kinds in list(scores.items())[: limits.rows]:
        for kind, one in kinds.items():
            fast = mapping(one.get("fast"))
            row = [f"{visible(name, 60)}, {KINDS.get(kind, visible(kind, 40))}", _accepted(one)]
            row += [value(fast.get(p), lambda v: percent(v, 0), 100, 0) for p in wanted]
            rows.append((*row, value(one.get("geomean"), timed.times), value(one.get("median"), timed.times)))
    columns = ("Against", "Accepted", *(f"fast {p}" for p in wanted), "Geometric mean", "Median")
    note = (
        "fast p: share of the checked kernels that are right and more than p times as fast; at 0, those that are right."
    )
    return Table("fast_p", columns, rows, note)


def curve(scores: Scores) -> Figure | None:
    series, told = [], []
    for at, (name, kinds) in enumerate(list(scores.items())[:5]):
        fast = mapping(mapping(kinds.get("all")).get("fast"))
        points, band = [], []
        for p in levels(scores):
            one = mapping(fast.get(p))
            if (share := number(one.get("value"))) is None:
                continue
            points.append((float(p), share))
            if ends := interval(one.get("interval")):
                band.append((float(p), *ends))
        if points:
            series.append(svg.Series(visible(name, 30), points, f"s{at}", band, markers=True))
            told.append(
                f"{visible(name, 30)}: {percent(points[0][1], 0)} at {points[0][0]:g}, {percent(points[-1][1], 0)} at {points[-1][0]:g}"
            )
    if not series:
        return None
    title, description = "Share of kernels that are right and more than p times as fast", "; ".join(told) + "."

    def chart(key: str, width: float) -> Any:
        axes = svg.Axis("p", floor=0), svg.Axis("share, %", percent=True, include=(0.0, 1.0), floor=0, ceiling=1)
        return svg.line_chart(key, title, description, series, *axes, width=width, height=320, last=None)

    rows = [(f"{p}", *(_at(one, float(p)) for one in series)) for p in levels(scores)]
    table = Table(title, ("p", *(one.name for one in series)), rows)
    note = "Shades are 95 % intervals over tasks. Unchecked kernels are in no share."
    return Figure("fast", title, note, chart("fast", 760), table, chart("fast-narrow", 340))


def _at(series: svg.Series, p: float) -> str:
    return next((percent(share, 0) for at, share in series.points if at == p), "–")
