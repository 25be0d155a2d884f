"""Scripted samplers with different skills, for the first stage: each knows some techniques, and makes some mistakes.

    teachers = [Teacher(name, made, encode, seed=0) for name in TEACHERS]

What a teacher says is a function of (seed, its name, the problem, the sample's number): asked again, it says the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from postgrad.domains.loops import prompts, triton
from postgrad.domains.loops.generate import Made, kernels, mistakes
from postgrad.domains.loops.spec import TECHNIQUES
from postgrad.records import Problem, Trace


@dataclass(frozen=True, slots=True)
class Skill:
    knows: frozenset[str]
    """Techniques of either language; a teacher writes variants that need no other."""
    slips: float
    """The probability that an answer has a mistake."""


TEACHERS: Mapping[str, Skill] = {
    "novice": Skill(frozenset({"fuse"}), 0.6),
    "compiler": Skill(frozenset({"simd", "restrict", "vmath", "block", "warps", "exp2"}), 0.3),
    "memory": Skill(frozenset({"order", "layout", "tile", "local", "rows", "block", "fuse"}), 0.3),
    "registers": Skill(frozenset({"hoist", "lanes", "fuse", "order", "exp2"}), 0.2),
    "expert": Skill(frozenset({*TECHNIQUES, *triton.TECHNIQUES}), 0.1),
}


class Teacher:
    """A Sampler that answers plain prompts of the tasks it was given."""

    def __init__(self, name: str, made: Sequence[Made], encode: Callable[[str], Sequence[int]], *, seed: int) -> None:
        if name not in TEACHERS:
            raise ValueError(f"name={name!r} is not one of {', '.join(TEACHERS)}")
        self.name, self.seed = name, seed
        self.skill = TEACHERS[name]
        self.encode = encode
        """Text -> every token id of its trace; where traces end with an end-of-sequence token, it adds it."""
        self._made = {each.task.id: each for each in made}

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        """Raises ValueError for a problem of a task that it was not given. Log-probabilities are 0: a script is certain."""
        unknown = [problem.id for problem in problems if problem.id not in self._made]
        if unknown:
            raise ValueError(f"{self.name} was not given the tasks of {len(unknown)} problems, first {unknown[0]!r}")
        return [[self._trace(problem, number) for number in range(n)] for problem in problems]

    def _trace(self, problem: Problem, number: int) -> Trace:
        made = self._made[problem.id]
        text = prompts.answer(self.code(made, number), made.task.language)
        ids = tuple(self.encode(text))
        return Trace(problem.id, text, ids, (0.0,) * len(ids), "stop")

    def code(self, made: Made, number: int) -> str:
        digest = hashlib.sha256(f"{self.seed} {self.name} {made.task.id} {number}".encode()).digest()
        rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
        able = [each for each in kernels(made) if self.skill.knows.issuperset(each.tags)]
        chosen = able[int(rng.integers(len(able)))]
        if rng.random() >= self.skill.slips:
            return chosen.code
        wrong = mistakes(made, chosen)
        return wrong[int(rng.integers(len(wrong)))].code
