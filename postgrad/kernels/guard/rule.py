"""A static rule and what it finds: `@rule(table, reason, tier, explains)` above a function that yields (line, evidence)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

from postgrad.kernels.verdict import Reason

Backend = Literal["torch", "triton", "cuda", "cpp"]
Tier = Literal["reject", "suspect", "warn"]
T = TypeVar("T")
Found = Iterator[tuple[int, str]]


@dataclass(frozen=True, slots=True)
class Rule(Generic[T]):
    name: str
    reason: Reason
    tier: Tier
    """reject: no honest kernel needs it. suspect: somebody must look. warn: honest kernels do it too, and the probes decide."""
    explains: str
    """What is wrong with it, for people."""
    find: Callable[[T], Found]


@dataclass(frozen=True, slots=True)
class Flag:
    rule: Rule[Any]
    line: int
    """In the candidate's text, from 1."""
    evidence: str
    """The words that gave it away."""

    @property
    def tier(self) -> Tier:
        return self.rule.tier

    @property
    def reason(self) -> Reason:
        return self.rule.reason


def rule(
    table: list[Rule[T]], reason: Reason, tier: Tier, explains: str
) -> Callable[[Callable[[T], Found]], Callable[[T], Found]]:
    def keep(find: Callable[[T], Found]) -> Callable[[T], Found]:
        table.append(Rule(find.__name__, reason, tier, explains, find))
        return find

    return keep
