"""Figures and tables of the training: every curve of metrics.jsonl, stage by stage, and the reward by part."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from postgrad.records import Status
from postgrad.report import svg
from postgrad.report.folder import Folder
from postgrad.report.text import count, percent, short, visible
from postgrad.report.view import Figure, Limits, Table, name_of, ordered, spaced


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
_RATIO = "sampling/importance_sampling_ratio"


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
        "Habits of answers",
        "share, %",
        (
            ("completions/repetition", "repeated 3-grams of tokens"),
            ("completions/several_answers", "answers with several"),
            ("completions/without_reasoning", "without reasoning"),
        ),
        percent=True,
        note="What a hacked reward shows in first.",
    ),
    Curve(
        "Sampler and trainer agree",
        "difference of log-probability, nats",
        ((f"{_LOGP}/mean", "mean"), (f"{_LOGP}/max", "largest")),
        log=True,
        note="|sampled − recomputed|, on the tokens of a step.",
    ),
    Curve(
        "Correction of the sampler's mismatch",
        "factor of a token's loss",
        ((f"{_RATIO}/mean", "mean"), (f"{_RATIO}/max", "largest"), (f"{_RATIO}/min", "smallest")),
        note="trainer's by sampler's probability, bounded as rl.vllm_importance_sampling_mode says.",
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
