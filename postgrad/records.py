"""The records that cross boundaries between parts. Frozen, no torch, JSONL both ways.

    Problem --sampler--> Trace --verifier--> Verdict;  Graded joins the three;  Example is one supervised row.

Shape letters used in names all over the project: B sequences, T tokens, V vocabulary, P problems, G group (samples of
one problem), N samples.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter, ValidationError


class Status(StrEnum):
    """What checking a trace found. Four facts, not three: the last one says nothing about the model."""

    CORRECT = "correct"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    """The model gave nothing that could be compared: its fault."""
    UNCHECKED = "unchecked"
    """We could not tell (bad gold, time-out, crashed tool): our fault. Never a reward, never in a rate."""


@dataclass(frozen=True, slots=True)
class Message:
    role: Literal["system", "user", "assistant", "tool"]
    content: str


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with a checkable answer.

    Example: Problem("gsm8k-0", (Message("user", "How many ...?"),), gold="72", labels={"grade": "2"})
    """

    id: str
    prompt: tuple[Message, ...]
    gold: str | None
    """The answer alone, without its derivation. None: nothing to compare with, so every trace is UNCHECKED."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Scene, task, difficulty: what reports group by."""
    reference: str | None = None
    """A correct trace, for rewards that compare with one."""


@dataclass(frozen=True, slots=True)
class Trace:
    """One sampled completion, exactly as sampled: what is trained on is `token_ids`, never `text` tokenised again."""

    problem_id: str
    text: str
    """Decoded without the end-of-sequence token."""
    token_ids: tuple[int, ...]
    """Every sampled token; includes the end-of-sequence token where finish is "stop" by it."""
    logprobs: tuple[float, ...]
    """Nats, one per token, of the temperature-scaled distribution before top-k, top-p and min-p."""
    finish: Literal["stop", "length", "error"]

    def __post_init__(self) -> None:
        if len(self.logprobs) != len(self.token_ids):
            raise ValueError(
                f"trace of {self.problem_id!r}: {len(self.logprobs)} log-probabilities for {len(self.token_ids)} tokens"
            )


@dataclass(frozen=True, slots=True)
class Verdict:
    status: Status
    score: float | None
    """Present exactly where status is CORRECT or WRONG (1.0 and 0.0 for answers; a speed-up for kernels)."""
    reason: str = ""
    """What was compared or what failed, for people."""

    def __post_init__(self) -> None:
        checked = self.status in (Status.CORRECT, Status.WRONG)
        if checked != (self.score is not None):
            raise ValueError(f"a verdict {self.status} {'needs a' if checked else 'cannot have a'} score: {self.score}")


@dataclass(frozen=True, slots=True)
class Graded:
    problem: Problem
    trace: Trace
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Alarm:
    """Something in a run's numbers that usually goes wrong on."""

    name: str
    level: Literal["warning", "alarm"]
    """A warning wastes the run, an alarm ruins what it makes."""
    stage: str
    step: int
    """When it was told."""
    since: int
    """The step that it began at or after."""
    seen: str
    """What, with its numbers."""
    help: str
    """What usually helps."""

    def __str__(self) -> str:
        return f"{self.name}: {self.seen}, since about step {self.since}. {self.help}."


@dataclass(frozen=True, slots=True)
class Example:
    """One supervised row: loss on `response` only, times `weight` (weight 2 is the same as two copies)."""

    prompt: tuple[Message, ...]
    response: str
    weight: float = 1.0
    id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


R = TypeVar("R")


_adapter: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def to_json(record: Any) -> str:
    """One line of JSON that `from_json` reads back to an equal record. NaN and infinities are refused."""
    return json.dumps(_adapter(type(record)).dump_python(record, mode="json"), ensure_ascii=False, allow_nan=False)


def from_json(cls: type[R], line: str | bytes) -> R:
    record: R = _adapter(cls).validate_json(line)
    return record


def write_jsonl(path: Path, records: Iterable[Any]) -> None:
    """Write records so that a reader sees the old file or the whole new one, never a part. An OSError names `path`."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            for record in records:
                file.write(to_json(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        # A full disk does not say of what.
        raise OSError(error.errno, error.strerror, str(path)) from error
    temporary.replace(path)


def read_jsonl(cls: type[R], path: Path) -> Iterator[R]:
    """Read records back; an error names the file and the row (counted from 1)."""
    with path.open(encoding="utf-8") as file:
        for row, line in enumerate(file, start=1):
            try:
                yield from_json(cls, line)
            except ValidationError as error:
                raise ValueError(f"{path}:{row}: not a {cls.__name__}: {error}") from error
