"""Keep some problems out of training, the same ones whenever the same problems are given."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import ceil
from typing import NamedTuple

from postgrad.data.text import normal, prompt_text
from postgrad.records import Problem


class Split(NamedTuple):
    train: list[Problem]
    held_out: list[Problem]


def split(problems: Sequence[Problem], fraction: float, seed: int = 0) -> Split:
    """Holds out the fraction of the different problems, rounded up but never all; repeats of a problem stay together.

    Which they are depends on the seed and each problem's text, not on the order of the rows.
    """
    if not 0 < fraction < 1:
        raise ValueError(f"fraction={fraction}: wanted more than 0 and less than 1")
    texts = [normal(prompt_text(problem.prompt)) for problem in problems]
    ranked = sorted(set(texts), key=lambda text: hashlib.blake2b(f"{seed}:{text}".encode()).digest())
    if len(ranked) < 2:
        raise ValueError(f"got {len(ranked)} different problems, wanted at least 2 to split them")
    out = set(ranked[: min(ceil(fraction * len(ranked)), len(ranked) - 1)])
    return Split(
        [problem for problem, text in zip(problems, texts, strict=True) if text not in out],
        [problem for problem, text in zip(problems, texts, strict=True) if text in out],
    )
