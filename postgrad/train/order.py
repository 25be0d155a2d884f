"""Can a wrong answer out-earn a right one? A reward is asked, before training, on synthetic groups. No torch."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from postgrad.protocols import Reward
from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict


@dataclass(frozen=True, slots=True)
class Order:
    """What `check_order` found."""

    pairs: int
    """(wrong, correct) pairs that were compared, each inside one synthetic group."""
    inverted_share: float
    """Share of them in which the wrong trace earns at least as much as the correct one."""
    inverted_share_same_style: float
    """The same, among pairs that differ only in correctness and length (both formatted, say)."""
    examples: tuple[str, ...]
    """The worst inversion of each pair of styles, worst first, in words; empty where there are none."""

    def to_summary(self) -> dict[str, Any]:
        return {
            "inverted_share": self.inverted_share,
            "inverted_share_same_style": self.inverted_share_same_style,
            "pairs": self.pairs,
            "examples": list(self.examples),
        }


@dataclass(frozen=True, slots=True)
class _Kind:
    """A synthetic trace."""

    correct: bool
    tokens: int
    style: str

    def __str__(self) -> str:
        return f"{'correct' if self.correct else 'wrong'}, {self.tokens} tokens, {self.style}"


STYLES = ("formatted", "unformatted", "looping")
"""Boxed answer before </think>; no box and no </think>; formatted, but saying one thing over and over."""


def check_order(
    reward: Reward,
    max_completion_length: int,
    group: int = 8,
    shares: Sequence[float] = (1 / 32, 1 / 8, 1 / 4, 1 / 2, 3 / 4, 1.0),
    characters_per_token: float = 3.0,
    examples: int = 5,
) -> Order:
    """Compare a wrong with a correct trace in every synthetic group: all lengths x `STYLES` x kinds of company.

    Lengths are `shares` of `max_completion_length`; at the whole of it a trace is cut (finish "length"). The two traces
    sit in a group of `group` whose others are all correct or all wrong, and all short, all long or spread over the
    grid, because group-relative terms depend on the company. The share is over this grid, not over what a model will
    sample: 0 is a guarantee on the grid, more is a reason to read the examples.
    """
    if group < 2 or max_completion_length < 2 or not shares or not all(0 < share <= 1 for share in shares):
        raise ValueError("check_order needs a group of 2 or more, 2 or more tokens, and shares of the length in (0, 1]")
    lengths = sorted({max(1, round(share * max_completion_length)) for share in shares})
    reference = _synthetic_text(_Kind(True, lengths[-1] // 2, "formatted"), characters_per_token)
    problem = Problem("synthetic", (Message("user", "?"),), "1", reference=reference)

    @cache
    def graded(kind: _Kind) -> Graded:
        start = 0 if kind.correct else 10**6
        ids = (start,) * kind.tokens if kind.style == "looping" else tuple(range(start, start + kind.tokens))
        finish: Any = "length" if kind.tokens >= max_completion_length else "stop"
        trace = Trace(problem.id, _synthetic_text(kind, characters_per_token), ids, (0.0,) * kind.tokens, finish)
        return Graded(problem, trace, Verdict(Status.CORRECT if kind.correct else Status.WRONG, float(kind.correct)))

    pairs = inverted = same = same_inverted = 0
    worst: dict[tuple[str, str], tuple[float, str]] = {}
    companies = [
        tuple(_Kind(correct, tokens, "formatted") for tokens in itertools.islice(itertools.cycle(some), group - 2))
        for correct in (True, False)
        for some in (lengths[:1], lengths[-1:], lengths)
    ]
    for wrong, right, company in itertools.product(
        (_Kind(False, tokens, style) for style in STYLES for tokens in lengths),
        (_Kind(True, tokens, style) for style in STYLES for tokens in lengths),
        companies,
    ):
        low, high, *_ = reward([graded(kind) for kind in (wrong, right, *company)])
        if low is None or high is None:
            continue
        bad = low >= high - 1e-9
        pairs += 1
        inverted += bad
        same += wrong.style == right.style
        same_inverted += bad and wrong.style == right.style
        if bad:
            text = f"({wrong}) earns {low:.3f}, ({right}) earns {high:.3f}{_beside(company)}"
            styles = (wrong.style, right.style)
            worst[styles] = max(worst.get(styles, (-math.inf, "")), (low - high, text))
    if not pairs:
        raise ValueError("the reward is None for every synthetic trace, so nothing can be said about its order")
    texts = tuple(text for _, text in sorted(worst.values(), reverse=True)[:examples])
    return Order(pairs, inverted / pairs, same_inverted / same if same else 0.0, texts)


def _beside(company: Sequence[_Kind]) -> str:
    if not company:
        return ""
    lengths = ", ".join(str(kind.tokens) for kind in company)
    return f", beside {'correct' if company[0].correct else 'wrong'} traces of {lengths} tokens"


def _synthetic_text(kind: _Kind, characters_per_token: float) -> str:
    """Text of about the wanted length: filler, then the ending of its style."""
    ending = "" if kind.style == "unformatted" else f"\\boxed{{{1 if kind.correct else 2}}}</think>"
    room = max(0, round(kind.tokens * characters_per_token) - len(ending))
    words = itertools.repeat("so ") if kind.style == "looping" else (f"{number} " for number in itertools.count())
    return "".join(itertools.islice(itertools.chain.from_iterable(words), room)) + ending
