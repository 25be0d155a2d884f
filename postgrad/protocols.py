"""What parts ask of each other: one method each, so that a fake is a few lines."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from postgrad.records import Alarm, Graded, Problem, Trace, Verdict


class Spent(Exception):
    """A sampler's budget allows no further trace. No failure: what it has given is kept, and more budget goes on from there."""

    def __init__(self, message: str, traces: Sequence[Sequence[Trace]]) -> None:
        super().__init__(message)
        self.traces = traces
        """[P][at most n]: those that were still had, in order."""


class Sampler(Protocol):
    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        """`n` traces for each problem, in order: [P][n]. May raise Spent where it has a budget."""
        ...


class PolicySampler(Sampler, Protocol):
    def follow(self, model: Any, step: int) -> None:
        """Sample from these weights from now on, with the random streams of this step."""
        ...


class Prompter(Protocol):
    """Poses problems in the light of what was answered before: scored earlier answers shown in the prompt, say."""

    def pose(self, problems: Sequence[Problem], step: int) -> list[Problem]:
        """Each problem with the prompt that is asked at this step: same id, same gold. What was learnt at this step or later
        is forgotten first, so that a resumed run asks the same."""
        ...

    def learn(self, groups: Sequence[Sequence[Graded]], step: int) -> None:
        """What came of it."""
        ...


class Verifier(Protocol):
    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        """Never raises for what a model wrote; what cannot be checked is UNCHECKED."""
        ...


@runtime_checkable
class Prepared(Verifier, Protocol):
    """A verifier that wants to see a whole batch first: to build what it needs side by side, say."""

    def prepare(self, problems: Sequence[Problem], traces: Sequence[Sequence[Trace]]) -> None: ...


class Reward(Protocol):
    def __call__(self, group: Sequence[Graded]) -> list[float | None]:
        """One number for each trace of ONE problem's group; None: could not be rewarded, leaves the group."""
        ...


class Watch(Protocol):
    """Looks at a run's numbers as they are logged."""

    def see(self, stage: str, step: int, numbers: Mapping[str, float]) -> Sequence[Alarm]:
        """What is told at this row, each alarm once for as long as it lasts."""
        ...

    def recall(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Forget what was seen of a stage, and see these rows of metrics.jsonl instead, silently: the run goes on from there."""
        ...

    def standing(self, stage: str) -> int:
        """How many alarms were told and still last."""
        ...
