"""Text that models wrote: answers side by side, coloured by probability, and a step's rollouts with their rewards."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from postgrad.records import Status
from postgrad.report.folder import Folder, listing, mapping, number, string
from postgrad.report.text import count, short, visible
from postgrad.report.view import Limits, name_of, ordered, status_of, style_of


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


UNLIKELY = tuple(math.log(p) for p in (0.9, 0.5, 0.1, 0.01))
"""Nats; a token below the first bound is coloured, below the next more strongly."""


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
