"""What is true in one invented medicine: tables drawn from a seed, to be learnt by heart and reasoned with.

Likelihoods are powers of two, P(finding | disease) = 2^(points - 4), with points 0 to 3. So with equal priors and findings that are
independent given the disease, the posterior's order is the order of summed points, exactly and in whole numbers.

A test is positive in every patient with one of its diseases and in nobody else: a negative one rules them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from postgrad.domains.clinic import language

POINTS = 4
"""Points are 0 to 3."""
LINES = 3
"""Drugs that a disease is treated with, best first."""


@dataclass(frozen=True, slots=True)
class World:
    seed: int
    points: Mapping[tuple[str, str], int]
    """(disease, finding) -> 4 + log2 P(finding | disease), 0 to 3."""
    positive: Mapping[str, frozenset[str]]
    """test -> the diseases in which it is positive."""
    lines: Mapping[str, tuple[str, ...]]
    """disease -> its drugs, best first."""
    forbidden: Mapping[str, frozenset[str]]
    """drug -> conditions in which it must not be given."""
    risks: Mapping[tuple[str, str], int]
    """(score, factor) -> points, 0 to 3."""
    seats: Mapping[str, str]
    """code of an agent -> the organ that it attacks. No question but the recall slice's needs it."""


def world(seed: int) -> World:
    rng = np.random.default_rng([seed, 0xC11])

    def some(names: tuple[str, ...], count: int) -> tuple[str, ...]:
        return tuple(str(name) for name in rng.choice(names, count, replace=False))

    def table(rows: tuple[str, ...], columns: tuple[str, ...]) -> dict[tuple[str, str], int]:
        drawn = rng.integers(0, POINTS, (len(rows), len(columns)))
        return {(a, b): int(drawn[i, j]) for i, a in enumerate(rows) for j, b in enumerate(columns)}

    return World(
        seed=seed,
        points=table(language.DISEASES, language.FINDINGS),
        positive={test: frozenset(some(language.DISEASES, int(rng.integers(3, 6)))) for test in language.TESTS},
        lines={disease: some(language.DRUGS, LINES) for disease in language.DISEASES},
        forbidden={drug: frozenset(some(language.CONDITIONS, 2)) for drug in language.DRUGS},
        risks=table(language.SCORES, language.FACTORS),
        seats={code: str(rng.choice(language.ORGANS)) for code in language.CODES},
    )


def band(points: int) -> str:
    """0 to 2 low, 3 to 5 moderate, 6 to 8 high, from 9 grave."""
    return language.BANDS[min(points // 3, 3)]
