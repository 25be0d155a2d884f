"""What was measured, in words: the headline, the claims with their verdicts, the models and their comparisons."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from postgrad.report.folder import Folder, interval, listing, mapping, number, string
from postgrad.report.text import SPACE, count, percent, points, short, span, visible
from postgrad.report.view import NAMES, Table, name_of, ordered


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
    """One sentence from the facts, for the largest letters on the page; the run's own where it has one."""
    if own := string(folder.summary.get("headline")):
        return visible(own, 600)
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
