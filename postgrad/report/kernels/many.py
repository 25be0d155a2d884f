"""Pages of many verdicts: an audit, grouped by what was found, and a benchmark, by how fast."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from postgrad.report import svg
from postgrad.report.folder import mapping
from postgrad.report.kernels import check, scores, timed
from postgrad.report.kernels.blocks import Block, Findings, Fold, Notice, Page, Section, Text, capped, unread
from postgrad.report.kernels.entry import STATUSES, Entry, Glossary
from postgrad.report.kernels.scores import Scores
from postgrad.report.text import count, percent, visible
from postgrad.report.view import Figure, Limits, Table


def audit(
    title: str, entries: Sequence[Entry], told: Scores, glossary: Glossary, troubles: Sequence[str], limits: Limits
) -> Page:
    published = _published(entries)
    sections = [Section("status", "What became of them", [_statuses(entries), _reasons(entries, glossary, limits)])]
    if told or published:
        blocks: list[Block] = [scores.means(told, published, limits)]
        blocks += [figure for figure in (_beside(entries, limits),) if figure]
        note = "A mean is carried by its few largest values, and degenerate tasks give the largest: read the geometric mean without them."
        sections.append(Section("speed", "How fast they are", blocks, note))
    sections.append(
        Section("groups", "Kernel by kernel, by the reason that decided", _groups(entries, glossary, limits))
    )
    sections.append(Section("all", "All kernels", [_all(entries, limits)]))
    return Page(
        visible(title, 120), _headline(entries, told), "", _facts(entries), sections, _notices(entries, troubles)
    )


def bench(title: str, entries: Sequence[Entry], told: Scores, troubles: Sequence[str], limits: Limits) -> Page:
    figure = scores.curve(told)
    blocks: list[Block] = [*([figure] if figure else []), scores.fast_table(told, limits)]
    sections = [
        Section("fast", "How many are right and fast", blocks if told else [Text("There is no score.")]),
        Section("speed", "How fast they are", [scores.means(told, _published(entries), limits)]),
    ]
    if entries:
        sections.append(Section("status", "What became of them", [_statuses(entries)]))
        sections.append(Section("all", "All kernels", [_all(entries, limits)]))
    return Page(
        visible(title, 120), _headline(entries, told), "", _facts(entries), sections, _notices(entries, troubles)
    )


def _headline(entries: Sequence[Entry], told: Scores) -> str:
    first = next(iter(told.items()), None)
    if first is None:
        accepted = sum(one.status == "accepted" for one in entries)
        return f"{accepted:,} of {len(entries):,} kernels are accepted."
    name, kinds = first
    one = mapping(kinds.get("all"))
    counts = {status: int(n) for status, n in mapping(one.get("counts")).items() if isinstance(n, int)}
    start = f"{counts.get('accepted', 0):,} of {sum(counts.values()):,} kernels are accepted"
    if not mapping(one.get("geomean")):
        return f"{start}."
    line = f"{start}; geometric mean {scores.value(one.get('geomean'), timed.times)} against {visible(name, 60)}"
    last = list(told)[-1]
    hardest = mapping(mapping(told[last].get("without_degenerate") or told[last].get("all")).get("geomean"))
    if last != name and hardest:
        where = "" if "without_degenerate" not in told[last] else ", without degenerate tasks"
        line += f", {scores.value(hardest, timed.times)} against {visible(last, 60)}{where}"
    return f"{line}."


def _facts(entries: Sequence[Entry]) -> list[str]:
    dates = sorted(str(one.environment.get("created", ""))[:10] for one in entries if one.environment.get("created"))
    backends = Counter(one.labels["backend"] for one in entries if one.labels.get("backend"))
    told = [visible(dates[0] if dates[0] == dates[-1] else f"{dates[0]} to {dates[-1]}", 60)] if dates else []
    return [*told, *(f"{visible(name, 30)}: {n:,}" for name, n in backends.most_common(4))]


def _notices(entries: Sequence[Entry], troubles: Sequence[str]) -> list[Notice]:
    found = []
    for state, level, message in (
        ("changed", "alarm", "not as they were signed"),
        ("not signed", "warning", "not signed: nothing shows that a grader wrote them"),
    ):
        names = [visible(one.task, 60) for one in entries if one.signature.state == state]
        if names:
            some = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            found.append(Notice(level, f"{len(names):,} records are {message}.", some))
    other = [visible(one.task, 60) for one in entries if one.code_as_judged is False]
    if other:
        found.append(
            Notice(
                "alarm",
                f"The code beside {len(other):,} records is not the code that was judged.",
                ", ".join(other[:5]),
            )
        )
    return [*found, *unread(troubles)]


def _statuses(entries: Sequence[Entry]) -> Table:
    counts = Counter(one.status for one in entries)
    rows = [(status, count(counts[status]), percent(counts[status] / max(1, len(entries)))) for status in STATUSES]
    note = "Unchecked is ours: a machine too noisy, a task too small, a failure of the grader. It is in no rate of failures."
    return Table("Statuses", ("Status", "Kernels", "Share"), rows, note)


def _reasons(entries: Sequence[Entry], glossary: Glossary, limits: Limits) -> Table:
    has, decided = Counter[str](), Counter[str]()
    for one in entries:
        has.update({finding.reason for finding in one.findings})
        decided.update([one.deciding] if one.findings else [])
    rows = [
        (visible(reason, 60), count(n), count(decided[reason]), glossary.get(reason, {}).get("meaning", "–"))
        for reason, n in sorted(has.items(), key=lambda pair: (-pair[1], pair[0]))
    ]
    note = "A kernel can have several reasons; one decided."
    columns = ("Reason", "Kernels that have it", "Decided by it", "What it means")
    return capped(Table("Reasons", columns, rows or [("none", "0", "0", "")], note, (3,)), limits.rows, "reasons")


def _published(entries: Sequence[Entry]) -> dict[str, list[float]]:
    """Claims by their names, then the same without degenerate tasks where there are such."""
    found: dict[str, list[float]] = {}
    names = sorted({name for one in entries for name in one.published})
    for name in names[:12]:
        found[name] = [one.published[name] for one in entries if name in one.published]
        kept = [one.published[name] for one in entries if name in one.published and not one.degenerate]
        if kept and len(kept) < len(found[name]):
            found[f"{name}, without degenerate tasks"] = kept
    return found


def _beside(entries: Sequence[Entry], limits: Limits) -> Figure | None:
    """Claimed against measured, of kernels that have both."""
    pairs = [
        (next(iter(one.published.values())), one.speedup, one)
        for one in entries
        if one.published and one.speedup is not None and one.status == "accepted"
    ]
    if len(pairs) < 2:
        return None
    title = "Published and measured speed-up of accepted kernels"
    below = sum(measured < claimed for claimed, measured, _ in pairs)
    told = f"{below:,} of {len(pairs):,} are slower than published. On the line both are equal."
    ends = [min(min(a, b) for a, b, _ in pairs), max(max(a, b) for a, b, _ in pairs)]

    def chart(key: str, width: float) -> Any:
        dots = [
            svg.Series("task", [(a, b) for a, b, one in pairs if not one.degenerate], "s0", markers=True),
            svg.Series("degenerate task", [(a, b) for a, b, one in pairs if one.degenerate], "s1", markers=True),
        ]
        line = svg.Series("equal", [(end, end) for end in ends], "s5")
        axes = svg.Axis("published, times as fast", log=True), svg.Axis("measured", log=True)
        shown = [one for one in dots if one.points]
        return svg.cloud_chart(key, title, told, shown, [line], *axes, width=width, height=340)

    rows = [(visible(one.task, 60), timed.times(a), timed.times(b)) for a, b, one in pairs]
    table = capped(Table(title, ("Task", "Published", "Measured"), rows), limits.rows, "kernels")
    return Figure("claims", title, told, chart("claims", 600), table, chart("claims-narrow", 340))


def _groups(entries: Sequence[Entry], glossary: Glossary, limits: Limits) -> list[Block]:
    groups: dict[tuple[int, str], list[Entry]] = {}
    for one in entries:
        groups.setdefault((STATUSES.index(one.status), one.deciding), []).append(one)
    each = max(2, limits.rows // 4)
    folds: list[Block] = []
    for (status, reason), members in sorted(groups.items(), key=lambda item: (-item[0][0], -len(item[1]), item[0][1]))[
        :100
    ]:
        name = visible(reason, 60) or "nothing was found"
        blocks: list[Block] = []
        if reason:
            known = glossary.get(reason, {})
            blocks.append(Text(" ".join(filter(None, (known.get("meaning", ""), known.get("advice", ""))))))
        blocks += [_evidence(one, glossary) for one in members[: limits.problems]] if reason else []
        blocks.append(capped(_rows(name, members[:each]), each, "kernels"))
        left = len(members) - each
        if left > 0:
            blocks.append(Text(f"{left:,} more are left out here."))
        folds.append(Fold(f"{name}: {len(members):,}", STATUSES[status], blocks))
    return folds or [Text("There is no kernel.")]


def _evidence(one: Entry, glossary: Glossary) -> Fold:
    return Fold(
        visible(one.task, 100),
        one.status,
        [Findings([check.explained(f, glossary) for f in one.findings[:6]], max(0, len(one.findings) - 6))],
    )


def _rows(label: str, members: Sequence[Entry]) -> Table:
    rows = [
        (
            visible(one.task, 80),
            timed.times(one.speedup),
            visible(one.findings[0].evidence, 160) if one.findings else "–",
        )
        for one in members
    ]
    return Table(label, ("Task", "Speed-up", "Evidence"), rows, words=(2,))


def _all(entries: Sequence[Entry], limits: Limits) -> Table:
    names = list(dict.fromkeys(base.name for one in entries for base in one.baselines))[:6]
    rows = []
    for one in entries[: limits.rows]:
        against = {base.name: base for base in one.baselines}
        row = [visible(one.task, 80), one.status, timed.times(one.speedup), timed.around(one.interval) or "–"]
        row += [timed.times(against[name].speedup if name in against else None) for name in names]
        claim = next(iter(one.published.values()), None)
        rows.append((*row, timed.times(claim), visible(one.degenerate, 80) or "–", visible(one.deciding, 60) or "–"))
    left = len(entries) - len(rows)
    columns = (
        "Task",
        "Status",
        "Speed-up",
        "Interval",
        *(visible(n, 30) for n in names),
        "Published",
        "Degenerate",
        "Reason",
    )
    note = f"{left:,} of {len(entries):,} kernels are left out here." if left else ""
    return Table("All kernels", columns, rows, note, (1, len(columns) - 2, len(columns) - 1))
