"""Figures and tables of the evaluation: accuracy against tokens, budgets, lengths, labels, reasons."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from postgrad.records import Status
from postgrad.report import svg
from postgrad.report.folder import Evaluated, Folder, interval, listing, mapping, number
from postgrad.report.measured import Model
from postgrad.report.text import count, percent, points, short, span, visible
from postgrad.report.view import NAMES, Figure, Limits, Table, name_of, ordered, spaced, style_of


def frontier(models: Sequence[Model], missing: str) -> Figure | None:
    at = [
        svg.Point(
            name_of(m.key),
            m.tokens,
            m.accuracy,
            m.tokens_interval,
            m.accuracy_interval,
            style_of(m.key),
            f"{percent(m.accuracy)} · {short(m.tokens)} tokens",
        )
        for m in models
        if m.tokens is not None and m.accuracy is not None
    ]
    if not at:
        return None
    description = "; ".join(f"{p.name}: accuracy {percent(p.y)} at {short(p.x)} tokens" for p in at) + "."
    x, y = svg.Axis("mean tokens in an answer", floor=0), svg.Axis("accuracy, %", percent=True, floor=-0.1, ceiling=1)
    title = "Accuracy against tokens, stage by stage"
    rows = [
        (
            p.name,
            percent(p.y),
            span(*p.y_interval, 100, 1) if p.y_interval else "–",
            short(p.x, 4),
            span(*p.x_interval) if p.x_interval else "–",
        )
        for p in at
    ]
    return Figure(
        "frontier",
        title,
        "Up and to the left is better. Bars are 95 % intervals." + missing,
        svg.scatter("frontier", title, description, at, x, y, width=600, height=348),
        Table(title, ("Model", "Accuracy", "95 % interval", "Tokens", "95 % interval"), rows),
        svg.scatter("frontier-narrow", title, description, at, x, y, width=340, height=310),
    )


def budgets(folder: Folder, limits: Limits) -> list[Figure]:
    rows = sorted(
        (
            (b, row)
            for row in map(mapping, listing(folder.summary.get("budgets")))
            if (b := number(row.get("budget"))) is not None
        ),
        key=lambda pair: pair[0],
    )
    if not rows:
        return []
    rows = spaced(rows, 200)
    lines = []
    for model in NAMES:
        line = [(b, value) for b, row in rows if (value := number(row.get(model))) is not None]
        if line:
            lines.append(svg.Series(name_of(model), line, style_of(model), markers=True))
    x = svg.Axis("token budget for an answer", floor=0)
    title = "Accuracy under a token budget"
    table = Table(
        title,
        ("Budget", *(s.name for s in lines), "RL − SFT", "95 % interval"),
        [
            (
                count(b),
                *(percent(number(row.get(m))) for m in NAMES if any(number(r.get(m)) is not None for _, r in rows)),
                points(number(mapping(row.get("difference")).get("value"))),
                span(*ends, 100, 1) if (ends := interval(mapping(row.get("difference")).get("interval"))) else "–",
            )
            for b, row in spaced(rows, limits.rows)
        ],
    )
    figures = []
    if lines:
        description = (
            "; ".join(
                f"{s.name}: {percent(s.points[0][1])} at {count(s.points[0][0])} tokens, "
                f"{percent(s.points[-1][1])} at {count(s.points[-1][0])}"
                for s in lines
            )
            + "."
        )
        y = svg.Axis("accuracy, %", percent=True, floor=0, ceiling=1)
        figures.append(
            Figure(
                "budget",
                title,
                "An answer that is not finished within the budget counts as wrong.",
                svg.line_chart("budget", title, description, lines, x, y, last=None),
                table,
            )
        )
    difference = [(b, d) for b, row in rows if (d := number(mapping(row.get("difference")).get("value"))) is not None]
    if difference:
        band = [(b, *ends) for b, row in rows if (ends := interval(mapping(row.get("difference")).get("interval")))]
        title = "What RL adds at each budget"
        description = (
            f"Difference of accuracy, RL minus SFT: {points(difference[0][1])} at {count(difference[0][0])} tokens, "
            f"{points(difference[-1][1])} at {count(difference[-1][0])}."
        )
        chart = svg.line_chart(
            "difference",
            title,
            description,
            [svg.Series("RL − SFT, 95 % interval", difference, "m-rl", band, markers=True)],
            x,
            svg.Axis("points of accuracy", percent=True),
            last=None,
            zero=True,
        )
        figures.append(Figure("difference", title, "Paired by problem; the shade is the 95 % interval.", chart, table))
    return figures


def lengths(folder: Folder) -> Figure | None:
    """How long answers are, before and after: the distribution behind the mean."""
    shown = [(m, folder.evals[m].lengths) for m in ordered(folder.evals)[:4] if folder.evals[m].lengths]
    if not shown:
        return None
    top = max(max(values) for _, values in shown) or 1.0
    bins, width = 24, 0.0
    width = max(1.0, -(-top // bins))
    total = int(top // width) + 1
    series, rows = [], []
    shares = {}
    for model, values in shown:
        counts = [0] * total
        for value in values:
            counts[min(max(int(value // width), 0), total - 1)] += 1
        shares[model] = [c / len(values) for c in counts]
        outline = [(0.0, 0.0)]
        for i, share in enumerate(shares[model]):
            outline += [(i * width, share), ((i + 1) * width, share)]
        series.append(svg.Series(name_of(model), [*outline, (total * width, 0.0)], style_of(model)))
    for i in range(total):
        rows.append((f"{i * width:,.0f}–{(i + 1) * width - 1:,.0f}", *(percent(shares[m][i]) for m, _ in shown)))
    title = "How long the answers are"
    medians = [f"{name_of(m)}: median {short(sorted(v)[len(v) // 2])} tokens" for m, v in shown]
    chart = svg.line_chart(
        "lengths",
        title,
        "; ".join(medians) + ".",
        series,
        svg.Axis("tokens in an answer", floor=0),
        svg.Axis("share of answers, %", percent=True, floor=0),
        last=None,
    )
    note = "; ".join(medians) + f". Bins of {width:,.0f} tokens."
    return Figure("lengths", title, note, chart, Table(title, ("Tokens", *(name_of(m) for m, _ in shown)), rows))


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def label_tables(folder: Folder, limits: Limits) -> list[Table]:
    """Accuracy by every label with 2 to 12 values; the unchecked are in no rate."""
    models = ordered(folder.evals)[:4]
    labels: dict[str, set[str]] = {}
    for model in models:
        for label, groups in folder.evals[model].by_label.items():
            labels.setdefault(label, set()).update(groups)
    tables: list[Table] = []
    for label, values in sorted(labels.items(), key=lambda item: (len(item[1]), item[0])):
        if not 2 <= len(values) <= 12 or len(tables) == 6:
            continue
        rows = []
        for value in sorted(values, key=lambda v: (len(v), v))[: limits.rows]:
            row = [visible(value, 60)]
            for model in models:
                seen = folder.evals[model].by_label.get(label, {}).get(value, Counter())
                checked = sum(n for status, n in seen.items() if status != Status.UNCHECKED)
                hits = seen.get(Status.CORRECT, 0)
                row.append(
                    f"{percent(hits / checked)} {span(*wilson(hits, checked), 100, 1)} of {checked:,}"
                    if checked
                    else "–"
                )
            rows.append(row)
        tables.append(Table(f"Accuracy by {visible(label, 40)}", (visible(label, 40), *map(name_of, models)), rows))
    return tables


def reason_table(evals: dict[str, Evaluated]) -> Table | None:
    rows = [
        (name_of(model), status.replace("_", " "), visible(reason, 200), f"{n:,}")
        for model in ordered(evals)[:4]
        for (status, reason), n in evals[model].reasons.most_common(5)
    ]
    rows = [(model, visible(status, 20), reason, n) for model, status, reason, n in rows]
    note = "The five commonest reasons of each model."
    return Table("Why answers were not correct", ("Model", "Status", "Reason", "Answers"), rows, note) if rows else None
