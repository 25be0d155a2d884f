"""MiniClinic: an invented medicine with exact answers, for learning to reason with what one knows.

    made = clinic.problems(clinic.world(0), "train", 1000, seed=0)
    made[0].prompt, made[0].gold, made[0].labels      # a question with four options, a letter, family, slice and level
    made[0].reference                                 # its worked solution, in the form of Gazal-R1's answers
    clinic.answer_only(made[0])                       # the control: the same answer without reasoning

The families are those of Gazal-R1's training data (arXiv 2506.21594) and recall beside them (`families`); the slice is
`multi_step` or `recall`. The facts of the world (`world`) are learnt from training cases; a test case asks for a new
combination of them. Splits are disjoint in cases, whatever the order of findings and options: recall asks the same codes
in every split, with other wrong options, as nothing else could be recalled.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal

import numpy as np

from postgrad.domains.clinic.families import FAMILIES, LEVELS, Case
from postgrad.domains.clinic.language import answer, tokenizer, trace
from postgrad.domains.clinic.world import World, world
from postgrad.options import LETTERS, question
from postgrad.records import Message, Problem

__all__ = ["FAMILIES", "LEVELS", "Split", "World", "answer_only", "problems", "split_of", "tokenizer", "world"]

Split = Literal["train", "validation", "test"]
MISSES = 200
"""Cases in a row that are missing or known already: there are hardly any others."""
TRIES = 300
"""Draws for one case; one in forty fits where a tenth of the cases and a quarter of the turns are wanted."""


def split_of(key: str) -> Split:
    """Seven tenths train, one tenth validation, two tenths test; the same on every machine."""
    bucket = hashlib.sha256(key.encode()).digest()[0] / 256
    return "train" if bucket < 0.7 else "validation" if bucket < 0.8 else "test"


def problems(
    known: World,
    split: Split,
    count: int,
    *,
    seed: int,
    families: Sequence[str] = tuple(FAMILIES),
    levels: Sequence[int] = LEVELS,
) -> list[Problem]:
    """`count` different problems of a split, the families in turn, each with its worked solution as reference.

    Raises ValueError where a family is unknown or the split has not that many problems.
    """
    if unknown := [name for name in families if name not in FAMILIES]:
        raise ValueError(f"no family {unknown[0]!r}: wanted some of {', '.join(FAMILIES)}")
    rng = np.random.default_rng([seed, known.seed, len(split)])
    made: dict[str, Problem] = {}
    misses = 0
    while len(made) < count:
        family, level = families[len(made) % len(families)], int(rng.choice(levels))
        case = _drawn(known, split, family, level, rng)
        problem = None if case is None else _problem(family, level, case)
        if problem is None or problem.id in made:
            misses += 1
            if misses > MISSES:
                raise ValueError(
                    f"found only {len(made)} different {split} problems of {', '.join(families)} at levels {list(levels)}, "
                    f"{count} wanted: ask for fewer, or add families or levels"
                )
            continue
        made[problem.id], misses = problem, 0
    return list(made.values())


def _drawn(known: World, split: Split, family: str, level: int, rng: np.random.Generator) -> Case | None:
    """A case of the split that takes one turn, chosen before: a world may have none at this level, hence the tries."""
    turn = int(rng.integers(FAMILIES[family].turns))
    for _ in range(TRIES):
        case = FAMILIES[family].draw(known, level, rng)
        if case is not None and case.turn == turn and split_of(f"{family} {case.key}") == split:
            return case
    return None


def answer_only(problem: Problem) -> str:
    """The control of structured traces: nothing but the answer."""
    return answer(problem.gold or "")


def _problem(family: str, level: int, case: Case) -> Problem:
    letter = LETTERS[case.options.index(case.answer)]
    recalls = family == "recall"
    return Problem(
        f"{family}: {case.stem} {' '.join(case.options)}",
        (Message("user", question(case.stem, case.options)),),
        gold=letter,
        labels={
            "family": family,
            "slice": "recall" if recalls else "multi_step",
            "level": "1" if recalls else str(level),
        },
        reference=trace(case.solution, letter),
    )
