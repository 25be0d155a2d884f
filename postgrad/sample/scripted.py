"""A sampler that was told what to say: for tests, and for trying a verifier or a reward without a model. No torch.

    sampler = Scripted(["\\boxed{4}", Said("let me think", finish="length")], encode)

It follows a model like any other PolicySampler and never looks at it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from postgrad.records import Problem, Trace


@dataclass(frozen=True, slots=True)
class Said:
    """One outcome of sampling."""

    text: str
    finish: Literal["stop", "length", "error"] = "stop"
    logprob: float = -1.0
    """Nats, of every token."""


class Scripted:
    """Says the script's lines in turn: all samples of the first problem, then of the second. A text alone ends with "stop"."""

    def __init__(self, script: Iterable[str | Said], encode: Callable[[str], Sequence[int]]) -> None:
        self.encode = encode
        """Text -> every token id of its trace; where traces end with an end-of-sequence token, it adds it."""
        self.followed: list[int] = []
        """The steps at which `follow` was called."""
        self.asked: list[tuple[str, int]] = []
        """Every problem's id that was sampled, and how many traces of it."""
        self._lines: Iterator[str | Said] = iter(script)

    def follow(self, model: Any, step: int) -> None:
        self.followed.append(step)

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        """Raises ValueError where the script has no line left; `itertools.cycle` makes one that never ends."""
        self.asked += [(problem.id, n) for problem in problems]
        return [[self._next(problem) for _ in range(n)] for problem in problems]

    def _next(self, problem: Problem) -> Trace:
        line = next(self._lines, None)
        if line is None:
            raise ValueError(f"the script has no line left for problem {problem.id!r}: give a longer one")
        said = Said(line) if isinstance(line, str) else line
        ids = tuple(self.encode(said.text))
        return Trace(problem.id, said.text, ids, (said.logprob,) * len(ids), said.finish)
