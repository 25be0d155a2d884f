"""What parts ask of each other: one method each, so that a fake is a few lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from postgrad.records import Graded, Problem, Trace, Verdict


class Sampler(Protocol):
    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        """`n` traces for each problem, in order: [P][n]."""
        ...


class PolicySampler(Sampler, Protocol):
    def follow(self, model: Any, step: int) -> None:
        """Sample from these weights from now on, with the random streams of this step."""
        ...


class Verifier(Protocol):
    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        """Never raises for what a model wrote; what cannot be checked is UNCHECKED."""
        ...


class Reward(Protocol):
    def __call__(self, group: Sequence[Graded]) -> list[float | None]:
        """One number for each trace of ONE problem's group; None: could not be rewarded, leaves the group."""
        ...
