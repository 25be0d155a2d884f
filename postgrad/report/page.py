"""A run's folder -> report.html: facts to a plain view model, the view model through a template, never above 2 MB.

    write(Path("runs/2026-11-23-math"))  ->  runs/2026-11-23-math/report.html

The page asks for nothing outside itself (a content policy forbids it) and is whole with scripts off. Text from a model
reaches it only as text nodes and attribute values, through the template's escaping.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import os
import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup

from postgrad.records import Status
from postgrad.report import svg
from postgrad.report.folder import Evaluated, Folder, interval, listing, mapping, number, read, string
from postgrad.report.text import SPACE, count, duration, percent, points, short, span, visible

MAX_BYTES = 2_000_000


@dataclass(frozen=True, slots=True)
class Limits:
    """How much text a page takes. `write` goes down the levels until the page is small enough."""

    problems: int
    """Problems in the side-by-side view."""
    characters: int
    """Characters of one text."""
    rows: int
    """Rows of one table."""


LEVELS = (Limits(24, 3000, 60), Limits(12, 1500, 40), Limits(6, 800, 25), Limits(3, 300, 12), Limits(1, 120, 6))


@dataclass(frozen=True, slots=True)
class Table:
    label: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figure:
    key: str
    title: str
    note: str
    svg: Markup
    table: Table
    narrow: Markup | None = None
    """The same figure laid out for a telephone, where shrinking would make it unreadable."""


@dataclass(frozen=True, slots=True)
class Claim:
    id: str
    statement: str
    measured: str
    interval: str
    threshold: str
    n: str
    verdict: str
    """met, not met, or undecided where the file does not say."""
    note: str


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of tokens that look alike: `level` 0 (likely) to 4, None where no log-probability is known."""

    text: str
    level: int
    hint: str


@dataclass(frozen=True, slots=True)
class Answer:
    model: str
    style: str
    status: str
    tokens: int
    pieces: Sequence[Piece]
    cut: str


@dataclass(frozen=True, slots=True)
class Sample:
    problem: str
    prompt: str
    gold: str
    answers: Sequence[Answer]
    kinds: str
    """What the filter looks at: "changed", "wrong-last"."""


# -- small things ---------------------------------------------------------------------------------------------------

NAMES = {"base": "Base", "sft": "SFT", "rl": "RL"}


def name_of(model: str) -> str:
    return NAMES.get(model, visible(model, 40))


def stage_name(stage: str) -> str:
    return NAMES.get(stage) or {"eval": "Evaluation"}.get(stage) or visible(stage[:1].upper() + stage[1:], 40)


def style_of(model: str) -> str:
    return f"m-{model}" if model in NAMES else "s3"


def ordered(models: Iterable[str]) -> list[str]:
    order = list(NAMES)
    return sorted(models, key=lambda m: (order.index(m) if m in order else len(order), m))


def unit_of(name: str) -> Callable[[float], str] | None:
    """How a claim's number reads: a change of accuracy in points, other shares in per cent, anything else as it is.

    "accuracy_change" and "accuracy: sft -> rl" are changes, "sft_accuracy" and "token_drop: sft -> rl" are not.
    """
    words = set(re.split(r"[^a-z]+", name.lower()))
    if words & {"accuracy", "pass"} and ("->" in name or words & {"change", "difference", "gain", "loss"}):
        return points
    return percent if words & {"accuracy", "drop", "share", "rate"} else None


def quantity(name: str, value: float | None, ends: tuple[float, float] | None, reference: float = 0) -> tuple[str, str]:
    """A number and its interval, in the unit that its name tells."""
    unit = unit_of(name)
    if unit is None or max(abs(v) for v in (value or 0, reference, *(ends or ()))) > 1.5:
        sign = "+" if "->" in name and value is not None and value > 0 else ""
        return sign + short(value), span(*ends) if ends else ""
    return unit(value) if value is not None else "–", span(*ends, 100, 1) if ends else ""


def spaced(rows: Sequence[Any], limit: int) -> list[Any]:
    """At most `limit` rows, evenly spaced, the first and the last among them."""
    if len(rows) <= limit:
        return list(rows)
    return [rows[round(i * (len(rows) - 1) / (limit - 1))] for i in range(limit)]


def wilson(hits: int, n: int) -> tuple[float, float]:
    """The 95 % Wilson interval of a share."""
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * ((p * (1 - p) + z * z / (4 * n)) / n) ** 0.5
    return (middle - half) / (1 + z * z / n), (middle + half) / (1 + z * z / n)


def compact(value: object, limit: int) -> str:
    """Any JSON value on one line."""
    if isinstance(value, str):
        return visible(value, limit)
    try:
        return visible(json.dumps(value, ensure_ascii=False, default=str), limit)
    except RecursionError:
        return "(nested too deeply to show)"


def flatten(value: dict[str, Any], prefix: str = "", depth: int = 4) -> list[tuple[str, str]]:
    """Nested counts as rows: ("selection › kept", "5,588")."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, dict) and depth:
            rows += flatten(mapping(item), f"{name} › ", depth - 1)
        else:
            known = number(item)
            rows.append((visible(name, 80), compact(item, 300) if known is None else count(known)))
    return rows


# -- results --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Model:
    """One row of summary.json's `models`."""

    key: str
    n: float | None
    accuracy: float | None
    accuracy_interval: tuple[float, float] | None
    tokens: float | None
    tokens_interval: tuple[float, float] | None
    rest: dict[str, Any]


def models_of(folder: Folder) -> list[Model]:
    rows = mapping(folder.summary.get("models"))
    result = []
    for key in ordered(rows)[:12]:
        row = mapping(rows[key])
        accuracy, tokens = mapping(row.get("accuracy")), mapping(row.get("tokens"))
        result.append(
            Model(
                key,
                number(row.get("n")),
                number(accuracy.get("value")),
                interval(accuracy.get("interval")),
                number(tokens.get("value")),
                interval(tokens.get("interval")),
                row,
            )
        )
    return result


def stated(folder: Folder, name: str) -> dict[str, Any]:
    """The claim or comparison called `name`."""
    rows = [mapping(r) for r in [*listing(folder.summary.get("claims")), *listing(folder.summary.get("comparisons"))]]
    return next((r for r in rows if name in (r.get("id"), r.get("name"))), {})


def headline(folder: Folder, models: Sequence[Model]) -> str:
    """One sentence from the facts, for the largest letters on the page."""
    by_key = {m.key: m for m in models if m.accuracy is not None}
    base, sft, rl = (by_key.get(k) for k in NAMES)
    if sft and sft.accuracy is not None:
        sentence = f"SFT reached {percent(sft.accuracy)}"
        if sft.accuracy_interval:
            sentence += f" {span(*sft.accuracy_interval, 100, 1)}"
    elif base and base.accuracy is not None and rl:
        sentence = f"The base model reached {percent(base.accuracy)}"
    elif models and (alone := by_key.get(models[-1].key)):
        return f"{name_of(alone.key)} reached {percent(alone.accuracy)}."
    else:
        return unfinished(folder)
    before = sft or base
    if rl is None or rl.accuracy is None or before is None or before.accuracy is None:
        return sentence + "."
    sentence += "; GRPO then "
    if before.tokens and rl.tokens:
        drop = 1 - rl.tokens / before.tokens
        word = "cut" if drop > 0 else "raised"
        sentence += (
            f"{word} tokens by {percent(abs(drop), 0)} at "
            if abs(drop) >= 0.005
            else "left the tokens as they were at "
        )
    else:
        sentence += "changed accuracy by "
    sentence += points(rl.accuracy - before.accuracy)
    names = ("accuracy_change", f"accuracy: {before.key} -> rl")
    if ends := next((e for n in names if (e := interval(stated(folder, n).get("interval")))), None):
        sentence += f" {span(*ends, 100, 1)}"
    return sentence + (" of accuracy." if before.tokens and rl.tokens else ".")


def unfinished(folder: Folder) -> str:
    parts = []
    for stage, series in folder.metrics.items():
        kind = "reward" if series.get("reward") else "validation loss" if series.get("eval_loss") else "loss"
        values = series.get({"validation loss": "eval_loss"}.get(kind, kind))
        if not values:
            continue
        done = mapping(folder.stages.get(stage)).get("status") == "done"
        where = "is done" if done else f"is at step {count(max(v[-1][0] for v in series.values()))}"
        parts.append(f"{name_of(stage)} {where} with a {kind} of {short(values[-1][1])}")
    return "; ".join(parts) + ". Nothing is evaluated yet." if parts else "Nothing is measured yet."


def stage_rows(folder: Folder) -> list[dict[str, str]]:
    """sft: done, 4 min 12 s; rl: running, step 60 of 150; eval: not started."""
    try:
        config = mapping(yaml.safe_load(folder.config))
    except (yaml.YAMLError, RecursionError, ValueError):
        config = {}
    seconds = mapping(folder.summary.get("seconds"))
    known = [*folder.stages, *(s for s in folder.metrics if s not in folder.stages)]
    expected = [s for s in ("sft", "rl", "eval") if s not in known and config.get(s) is not None]
    rows = []
    for stage in [*known, *expected][:12]:
        entry = mapping(folder.stages.get(stage))
        status = string(entry.get("status")) or ("not started" if stage in expected else "no record")
        detail = []
        steps = [series[-1][0] for series in folder.metrics.get(stage, {}).values()]
        asked = mapping(config.get(stage))
        planned = number(asked.get("stop_step")) or number(asked.get("max_steps"))
        if steps and planned and (status != "done" or max(steps) < planned):
            detail.append(f"step {count(max(steps))} of {count(planned)}")
        elif steps:
            detail.append(f"{count(max(steps))} steps")
        spent = number(entry.get("seconds")) or number(seconds.get(stage))
        if spent is not None:
            detail.append(duration(spent))
        icon = {"done": "✓", "running": "▸"}.get(status, "○")
        rows.append(
            {
                "name": stage_name(stage),
                "status": visible(status, 40),
                "icon": icon,
                "detail": ", ".join(detail),
            }
        )
    return rows


def decide(
    met: object, measured: float | None, ends: tuple[float, float] | None, op: str, threshold: float | None
) -> tuple[str, str]:
    """A claim's verdict and a remark. Where the file does not say, an interval that holds the threshold decides nothing."""
    held = ends is not None and threshold is not None and ends[0] < threshold < ends[1]
    note = "the interval holds the threshold" if held else ""
    if isinstance(met, bool):
        return "met" if met else "not met", note
    if held or measured is None or threshold is None or op not in (">=", "<="):
        return "undecided", note
    return "met" if (measured >= threshold if op == ">=" else measured <= threshold) else "not met", note


def claims(folder: Folder) -> list[Claim]:
    result = []
    for row in map(mapping, listing(folder.summary.get("claims"))[:60]):
        key, op = string(row.get("id")), string(row.get("op"))
        measured, threshold, ends = (
            number(row.get("measured")),
            number(row.get("threshold")),
            interval(row.get("interval")),
        )
        value, around = quantity(key, measured, ends, threshold or 0)
        limit, _ = quantity(key, threshold, ends, measured or 0)
        verdict, note = decide(row.get("met"), measured, ends, op, threshold)
        sign = {">=": "≥", "<=": "≤"}.get(op, visible(op, 4))
        result.append(
            Claim(
                visible(key, 60),
                visible(string(row.get("statement")), 400),
                value,
                around,
                f"{sign}{SPACE}{limit}",
                count(number(row.get("n"))),
                verdict,
                note,
            )
        )
    return result


def comparison_table(folder: Folder) -> Table | None:
    rows = []
    for row in map(mapping, listing(folder.summary.get("comparisons"))[:60]):
        name = string(row.get("name"))
        value, around = quantity(name, number(row.get("value")), interval(row.get("interval")))
        rows.append((visible(string(row.get("statement")) or name, 300), value, around, count(number(row.get("n")))))
    return Table("Comparisons", ("Comparison", "Value", "95 % interval", "n"), rows) if rows else None


def model_table(models: Sequence[Model]) -> Table | None:
    if not models:
        return None

    def with_interval(value: str, ends: tuple[float, float] | None, scale: float, digits: int) -> str:
        return f"{value} {span(*ends, scale, digits)}" if ends else value

    def share(row: dict[str, Any], name: str, n: float | None) -> str:
        value = number(row.get(name))
        if value is None:
            return "–"
        if isinstance(row.get(name), int) and n:
            return f"{count(value)} ({percent(value / n)})"
        return percent(value) if value <= 1 else count(value)

    passes = sorted({k for m in models for k in mapping(m.rest.get("pass_at"))}, key=lambda k: (len(k), k))[:6]
    passes = [k for k in passes if k != "1"]
    voted = any(number(m.rest.get("maj")) is not None for m in models)
    columns = ["Model", "Accuracy, 95 % interval", "Mean tokens, 95 % interval", "No answer", "Unchecked"]
    columns += ["Majority"] * voted + [f"Pass@{visible(k, 6)}" for k in passes] + ["n"]
    rows = []
    for m in models:
        row = [
            name_of(m.key),
            with_interval(percent(m.accuracy), m.accuracy_interval, 100, 1),
            with_interval("–" if m.tokens is None else f"{m.tokens:,.1f}", m.tokens_interval, 1, 1),
            share(m.rest, "no_answer", m.n),
            share(m.rest, "unchecked", m.n),
        ]
        if voted:
            row.append(percent(number(m.rest.get("maj"))))
        row += [percent(number(mapping(m.rest.get("pass_at")).get(k))) for k in passes]
        rows.append([*row, count(m.n)])
    return Table("Models measured", columns, rows)


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


# -- training -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Curve:
    title: str
    unit: str
    metrics: Sequence[tuple[str, str]]
    """(metric, name in the legend)."""
    percent: bool = False
    log: bool = False
    note: str = ""
    only_if_moving: bool = False
    """Left out where every value is 0."""


_LOGP = "sampling/sampling_logp_difference"
CURVES = (
    Curve("Loss", "loss", (("loss", "training"), ("eval_loss", "validation"))),
    Curve(
        "Reward",
        "reward",
        (("reward", "mean"), ("reward_std", "spread within a group")),
        note="Over the traces of a step.",
    ),
    Curve(
        "Length of sampled answers",
        "tokens",
        (("completions/mean_length", "sampled, mean"), ("eval_tokens", "validation, mean")),
    ),
    Curve(
        "What checking found",
        "share of traces, %",
        tuple((f"status/{s.value}", s.value.replace("_", " ")) for s in Status),
        percent=True,
        note="Unchecked is our fault, never a reward.",
    ),
    Curve("Validation accuracy", "accuracy, %", (("eval_accuracy", "validation"),), percent=True),
    Curve("Entropy", "nats a token", (("entropy", "policy"),)),
    Curve("Gradient norm", "norm before clipping", (("grad_norm", "gradient"),)),
    Curve(
        "Groups without signal, answers cut short",
        "share, %",
        (("frac_reward_zero_std", "groups of equal rewards"), ("completions/clipped_ratio", "cut at the limit")),
        percent=True,
    ),
    Curve(
        "Engine and trainer agree",
        "difference of log-probability, nats",
        ((f"{_LOGP}/mean", "mean"), (f"{_LOGP}/max", "largest")),
        log=True,
        note="|sampled − recomputed|, on the tokens of a step.",
    ),
    Curve("KL to the reference", "nats a token", (("kl", "k3 estimate"),), only_if_moving=True),
    Curve(
        "Clipped ratios",
        "share of tokens, %",
        (("clip_ratio/low_mean", "below"), ("clip_ratio/high_mean", "above")),
        percent=True,
        only_if_moving=True,
    ),
    Curve("Learning rate", "learning rate", (("learning_rate", "schedule"),)),
)


def smoothing(steps: int) -> int:
    """The window, odd, of the thick line's mean; 1 where there is too little to smooth."""
    return max(5, steps // 20 | 1) if steps >= 40 else 1


def curve(
    key: str, stage: str, spec: Curve, found: dict[str, list[tuple[float, float]]], limits: Limits
) -> Figure | None:
    shown = [(metric, name, found[metric]) for metric, name in spec.metrics if found.get(metric)]
    if not shown or (spec.only_if_moving and not any(v for _, _, values in shown for _, v in values)):
        return None
    series = []
    for i, (metric, name, values) in enumerate(shown):
        sparse = metric.startswith("eval_")
        window = 1 if metric == "learning_rate" or sparse else smoothing(len(values))
        series.append(svg.Series(name, values, f"s{i % 6}", smooth=window, markers=sparse and len(values) <= 40))
    log = spec.log and min(v for s in series for _, v in s.points) > 0
    bounded = spec.percent
    y = svg.Axis(
        spec.unit, spec.percent, log, floor=0 if bounded else -float("inf"), ceiling=1 if bounded else float("inf")
    )
    show: Callable[[float], str] = percent if spec.percent else short
    heading = f"{spec.title}, {name_of(stage)}"
    description = "; ".join(
        f"{s.name}: {show(s.points[0][1])} at step {count(s.points[0][0])}, "
        f"{show(s.points[-1][1])} at step {count(s.points[-1][0])}, "
        f"lowest {show(min(v for _, v in s.points))}, highest {show(max(v for _, v in s.points))}"
        for s in series
    )
    notes = [spec.note] if spec.note else []
    longest = max(len(s.points) for s in series)
    if longest > svg.MAX_POINTS:
        notes.append(f"{svg.MAX_POINTS} of {longest:,} points are drawn, every peak among them.")
    chart = svg.line_chart(key, heading, description + ".", series, svg.Axis("step"), y, last=show)
    return Figure(key, spec.title, " ".join(notes), chart, series_table(heading, series, show, limits))


def series_table(title: str, series: Sequence[svg.Series], show: Callable[[float], str], limits: Limits) -> Table:
    columns = [dict(s.points) for s in series]
    steps = sorted({x for c in columns for x in c})
    kept = spaced(steps, limits.rows)
    rows = [(count(x), *(show(c[x]) if x in c else "" for c in columns)) for x in kept]
    note = f"{len(kept)} of {len(steps):,} steps; all are in metrics.jsonl." if len(kept) < len(steps) else ""
    return Table(title, ("Step", *(s.name for s in series)), rows, note)


def training(folder: Folder, limits: Limits) -> list[dict[str, Any]]:
    stages = []
    for number_of, stage in enumerate(ordered(folder.metrics)[:6]):
        found = folder.metrics[stage]
        figures = [f for i, spec in enumerate(CURVES) if (f := curve(f"c{number_of}-{i}", stage, spec, found, limits))]
        rows = [
            (
                visible(name, 80),
                f"{len(v):,}",
                short(v[0][1]),
                short(v[-1][1]),
                short(min(y for _, y in v)),
                short(max(y for _, y in v)),
            )
            for name, v in sorted(found.items())[:120]
        ]
        table = Table(
            f"Every metric of {name_of(stage)}", ("Metric", "Points", "First", "Last", "Lowest", "Highest"), rows
        )
        window = smoothing(max((len(v) for v in found.values()), default=0))
        note = f"Thin: each step; thick: mean over {window} steps." if window > 1 else ""
        stages.append({"name": name_of(stage), "figures": figures, "table": table, "note": note})
    return stages


def reward_parts(folder: Folder, limits: Limits) -> Figure | None:
    for stage in ordered(folder.metrics):
        found = folder.metrics[stage]
        parts = sorted(match[1] for name in found if (match := re.fullmatch(r"rewards/(.+)/mean", name)))
        if not parts:
            continue
        shown = parts[:6]
        series = [
            svg.Series(visible(part, 30).replace("_", " "), v, f"s{i}", smooth=smoothing(len(v)))
            for i, part in enumerate(shown)
            if (v := found[f"rewards/{part}/mean"])
        ]
        title = "Reward by part"
        note = "Mean of each part before its weight."
        if len(parts) > len(shown):
            note += f" The first 6 of {len(parts)} parts."
        description = "; ".join(f"{s.name}: {short(s.points[0][1])} to {short(s.points[-1][1])}" for s in series) + "."
        chart = svg.line_chart(
            "parts",
            title,
            description,
            series,
            svg.Axis("step"),
            svg.Axis("mean of the part"),
            width=560,
            height=290,
            zero=True,
        )
        narrow = svg.line_chart(
            "parts-narrow",
            title,
            description,
            series,
            svg.Axis("step"),
            svg.Axis("mean of the part"),
            width=340,
            height=290,
            zero=True,
        )
        return Figure("parts", title, note, chart, series_table(title, series, short, limits), narrow)
    return None


def reward_order(folder: Folder) -> dict[str, Any] | None:
    row = mapping(folder.summary.get("reward_order")) or folder.reward_order
    share, alike = number(row.get("inverted_share")), number(row.get("inverted_share_same_style"))
    if not row or share is None:
        return None
    examples = listing(row.get("examples"))
    lines = [compact(e, 400) for e in examples[:5]]
    return {
        "ok": not (share if alike is None else alike),
        "none": share == 0,
        "share": percent(share, 1 if share == 0 or share >= 0.001 else 3),
        "alike": percent(alike, 1 if not alike or alike >= 0.001 else 3) if alike is not None else "",
        "pairs": count(number(row.get("pairs"))) if row.get("pairs") is not None else "the",
        "examples": lines,
        "more": max(0, len(examples) - 5),
    }


def best_first(trace: dict[str, Any]) -> tuple[bool, float]:
    reward = number(trace.get("reward"))
    return reward is None, -(reward or 0.0)


def rollouts(folder: Folder, limits: Limits) -> list[dict[str, Any]]:
    """One group of the first and of the last step; a group with both right and wrong traces tells most."""
    groups = []
    for step, traces in folder.rollouts.items():
        by_problem: dict[str, list[dict[str, Any]]] = {}
        for trace in traces:
            by_problem.setdefault(string(trace.get("problem_id")), []).append(trace)
        group = max(by_problem.values(), key=lambda g: len({string(t.get("status")) for t in g}))
        cap = 8 if limits.problems > 3 else 3
        parts = sorted({p for t in group for p in mapping(t.get("parts"))})[:6]
        group = sorted(group, key=best_first)
        rows = [
            {
                "status": status_of(trace),
                "reason": visible(string(trace.get("reason")), 160),
                "numbers": [
                    short(number(trace.get("reward"))),
                    short(number(trace.get("advantage"))),
                    *(short(number(mapping(trace.get("parts")).get(p))) for p in parts),
                    count(number(trace.get("n_tokens"))),
                ],
                "text": visible(string(trace.get("text")), limits.characters // 2),
            }
            for trace in group[:cap]
        ]
        groups.append(
            {
                "step": f"{step:,}",
                "problem": visible(string(group[0].get("problem_id")), 80),
                "prompt": visible(string(group[0].get("prompt")), limits.characters // 2),
                "gold": visible(string(group[0].get("gold")), 200),
                "parts": [visible(p, 30).replace("_", " ") for p in parts],
                "rows": rows,
                "shown": f"{len(rows)} of {len(group)} traces of this problem; {len(traces):,} traces in the step.",
            }
        )
    return groups


# -- samples --------------------------------------------------------------------------------------------------------

UNLIKELY = tuple(math.log(p) for p in (0.9, 0.5, 0.1, 0.01))
"""Nats; a token below the first bound is coloured, below the next more strongly."""


def status_of(row: dict[str, Any]) -> str:
    status = string(row.get("status"))
    return status if status in set(Status) else "unchecked"


def pieces(sample: dict[str, Any], limit: int) -> tuple[list[Piece], str]:
    """Tokens as coloured stretches, and the sentence about what was cut."""
    tokens = [string(t) for t in listing(sample.get("tokens"))]
    given = [number(v) for v in listing(sample.get("logprobs"))]
    matched = len(given) == len(tokens)
    result: list[Piece] = []
    plain: list[str] = []
    used = 0
    cut = ""
    for i, token in enumerate(tokens):
        if used >= limit:
            left = sum(map(len, tokens[i:]))
            cut = f"{len(tokens) - i:,} tokens ({left:,} characters) cut here"
            break
        used += len(token)
        logp = given[i] if matched else None
        level = 0 if logp is None else sum(logp < bound for bound in UNLIKELY)
        shown = visible(token, max(40, limit - used + len(token)))
        if level == 0 or logp is None:
            plain.append(shown)
            continue
        if plain:
            result.append(Piece("".join(plain), 0, ""))
            plain = []
        result.append(Piece(shown, level, f"p = {short(math.exp(max(logp, -700)), 2)}"))
    if plain:
        result.append(Piece("".join(plain), 0, ""))
    if tokens and not matched:
        cut = (
            cut + "; " if cut else ""
        ) + f"{len(given):,} log-probabilities for {len(tokens):,} tokens, so none is shown"
    return result, cut


def samples(folder: Folder, limits: Limits) -> list[Sample]:
    grouped: dict[str, dict[str, dict[str, Any]]] = {}
    for row in folder.samples:
        grouped.setdefault(string(row.get("problem_id")), {}).setdefault(string(row.get("model")), row)
    result = []
    for problem, rows in list(grouped.items())[: limits.problems]:
        answers = []
        for model in ordered(rows)[:4]:
            stretch, cut = pieces(rows[model], limits.characters)
            answers.append(
                Answer(
                    name_of(model),
                    style_of(model),
                    status_of(rows[model]),
                    len(listing(rows[model].get("tokens"))),
                    stretch,
                    cut,
                )
            )
        first = next(iter(rows.values()))
        kinds = "changed" if len({a.status for a in answers}) > 1 else ""
        if answers[-1].status != Status.CORRECT:
            kinds += " wrong-last"
        result.append(
            Sample(
                visible(problem, 80),
                visible(string(first.get("prompt")), limits.characters),
                visible(string(first.get("gold")), 300),
                answers,
                kinds.strip(),
            )
        )
    return result


# -- the page -------------------------------------------------------------------------------------------------------


def notices(folder: Folder) -> list[dict[str, str]]:
    """Alarms, then what could not be read, then warnings; equal messages become one with a count."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for event in folder.events:
        level = string(event.get("level"))
        if level not in ("alarm", "warning"):
            continue
        key = (level, string(event.get("stage")), string(event.get("message")))
        steps = found.setdefault(key, [])
        steps.append(number(event.get("step")) or 0)
    told: dict[str, list[dict[str, str]]] = {"alarm": [], "unread": [], "warning": []}
    for (level, stage, message), steps in found.items():
        where = f"step {count(min(steps))}"
        if len(steps) > 1:
            where = f"{len(steps):,} times, steps {count(min(steps))} to {count(max(steps))}"
        if stage:
            where = f"{visible(name_of(stage), 40)}, {where}"
        told[level].append({"level": level, "where": where, "message": visible(message, 400)})
    told["unread"] = [{"level": "unread", "where": "", "message": visible(t, 400)} for t in folder.troubles]
    return [notice for notices in told.values() for notice in notices]


def environment(folder: Folder) -> tuple[list[tuple[str, str]], str]:
    m = folder.manifest
    hardware = mapping(m.get("hardware"))
    rows = [
        (label, visible(string(m.get(key)), 200))
        for label, key in (
            ("Recipe", "recipe"),
            ("Preset", "preset"),
            ("Seed", "seed"),
            ("Created", "created"),
            ("Commit", "commit"),
            ("postgrad", "postgrad"),
            ("Python", "python"),
        )
        if m.get(key) is not None
    ]
    rows += [
        (label, f"{visible(string(hardware.get(key)), 200)}{unit}")
        for label, key, unit in (
            ("Processor", "cpu", ""),
            ("Cores", "cores", ""),
            ("Memory", "memory_gib", f"{SPACE}GiB"),
            ("GPU", "gpu", ""),
        )
        if hardware.get(key) is not None
    ]
    if hardware and hardware.get("gpu") is None:
        rows.append(("GPU", "none"))
    packages = ", ".join(f"{k}{SPACE}{string(v)}" for k, v in list(mapping(m.get("packages")).items())[:80])
    return rows, visible(packages, 4000)


def stage_bars(folder: Folder) -> Figure | None:
    spent = [
        (name, s) for name, entry in folder.stages.items() if (s := number(mapping(entry).get("seconds"))) is not None
    ][:12]
    if not spent:
        return None
    rows = [(stage_name(k), s, style_of(k) if k in NAMES else "s5") for k, s in spent]
    title = "Time of each stage"
    description = "; ".join(f"{label}: {duration(s)}" for label, s, _ in rows) + "."
    chart = svg.bars("time", title, description, rows, lambda v: duration(v))
    return Figure(
        "time", title, "", chart, Table(title, ("Stage", "Time"), [(label, duration(s)) for label, s, _ in rows])
    )


@cache
def _template() -> tuple[jinja2.Template, str, str]:
    package = resources.files("postgrad.report")
    source, style, script = (
        package.joinpath(n).read_text(encoding="utf-8") for n in ("page.html.jinja", "style.css", "page.js")
    )
    environment_ = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment_.from_string(source), style, script


def render(folder: Folder, limits: Limits) -> str:
    template, style, script = _template()
    models = models_of(folder)
    recipe = string(folder.summary.get("recipe") or folder.manifest.get("recipe"))
    preset = string(folder.summary.get("preset") or folder.manifest.get("preset"))
    seed = folder.summary.get("seed", folder.manifest.get("seed"))
    all_notices = notices(folder)
    absent = [name_of(m.key) for m in models if m.tokens is None or m.accuracy is None]
    rows, packages = environment(folder)
    hardware = mapping(folder.manifest.get("hardware"))
    commit = string(folder.manifest.get("commit"))
    facts = [
        visible(string(folder.manifest.get("created")), 40)[:16].replace("T", " "),
        f"commit {visible(commit, 60)[:10]}{' + changes' if commit.endswith('+') else ''}" if commit else "",
        visible(string(hardware.get("gpu") or hardware.get("cpu")), 80),
        f"seed {visible(string(seed), 20)}" if seed is not None else "",
    ]
    data = flatten(mapping(folder.summary.get("data")) or mapping(mapping(folder.stages.get("data")).get("result")))
    config = visible(folder.config, 40_000 if limits.problems > 3 else 8_000)
    return template.render(
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        title=visible(" · ".join(t for t in (recipe, preset) if t) or folder.path.resolve().name, 120),
        headline=headline(folder, models),
        facts=[f for f in facts if f],
        stages=stage_rows(folder),
        notices=all_notices[:24],
        notices_more=max(0, len(all_notices) - 24),
        claims=claims(folder),
        models=model_table(models),
        comparisons=comparison_table(folder),
        frontier=frontier(models, f" No point for {', '.join(absent)}." if absent else ""),
        figures=[*budgets(folder, limits), *([f] if (f := lengths(folder)) else [])],
        labels=label_tables(folder, limits),
        reasons=reason_table(folder.evals),
        samples=samples(folder, limits),
        samples_total=folder.samples_total,
        training=training(folder, limits),
        parts=reward_parts(folder, limits),
        order=reward_order(folder),
        rollouts=rollouts(folder, limits),
        rollout_steps=folder.rollout_steps,
        data=data[:100],
        data_more=max(0, len(data) - 100),
        config=config,
        environment=rows,
        packages=packages,
        time=stage_bars(folder),
        commit=visible(commit.removesuffix("+"), 60),
        changed=commit.endswith("+"),
        command=visible(folder.command, 2000),
        resume=f"postgrad resume {shlex.quote(visible(folder.path.resolve().name, 120))}",
    )


def write(run_folder: Path) -> Path:
    """Write run_folder/report.html, whole or not at all, and return its path. Any subset of a run's files will do."""
    folder = read(run_folder, max_problems=LEVELS[0].problems)
    for limits in LEVELS:
        html = render(folder, limits).encode("utf-8", errors="replace")
        if len(html) <= MAX_BYTES:
            break
    else:
        raise AssertionError(
            f"the smallest page has {len(html):,} bytes, more than {MAX_BYTES:,}: a text is not limited"
        )
    target = run_folder / "report.html"
    temporary = run_folder / ".report.html.tmp"
    with temporary.open("wb") as file:
        file.write(html)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(target)
    return target
