"""The archive of scored codes: every code that was tried, what it scored, and which codes its author had been shown.

    with archive.opened(path) as codes:
        codes.add(Attempt(place, ...), Scored(code, ...))       # both rows or none
        codes.successes("softmax", environment, before=12)      # what exemplars are chosen from

Two tables. A `code` is a fact: this text, for this task, in this environment, was found to be so fast. An `attempt` is
history: at this place of the run a sampler, shown these exemplars, wrote this code, or none. A code that comes again is a
second attempt at the same row, so lineage is kept and nothing is timed twice.

Scores from different machines are not compared: everything is asked for by task and environment. One process or several may
write, others may read meanwhile; a run that was killed finds every place that it had added.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from math import isfinite
from pathlib import Path
from time import time
from typing import Any

from postgrad import database
from postgrad.database import Kind, writing
from postgrad.kernels.candidate import Backend, Candidate
from postgrad.kernels.verdict import KernelStatus

KIND = Kind(
    "archive of kernels",
    0x70674B41,
    1,
    (
        """CREATE TABLE code (
            task TEXT NOT NULL, environment TEXT NOT NULL, hash TEXT NOT NULL, backend TEXT NOT NULL, code TEXT NOT NULL,
            status TEXT NOT NULL CHECK (status IN ('accepted', 'rejected', 'suspicious', 'unchecked')),
            score REAL CHECK ((status = 'accepted') = (score IS NOT NULL)),
            reason TEXT NOT NULL, tags TEXT NOT NULL, record TEXT,
            step INTEGER NOT NULL, draw INTEGER NOT NULL, sample INTEGER NOT NULL, time REAL NOT NULL,
            PRIMARY KEY (task, environment, hash))""",
        """CREATE TABLE attempt (
            task TEXT NOT NULL, environment TEXT NOT NULL,
            step INTEGER NOT NULL, draw INTEGER NOT NULL, sample INTEGER NOT NULL,
            sampler TEXT NOT NULL, parents TEXT NOT NULL, outcome TEXT NOT NULL, reason TEXT NOT NULL, hash TEXT, time REAL NOT NULL,
            PRIMARY KEY (task, environment, step, draw, sample))""",
        "CREATE INDEX code_by_score ON code (task, environment, status, score)",
    ),
)


class Outcome(StrEnum):
    """What became of an attempt."""

    JUDGED = "judged"
    """Its code is new and has its verdict; so has one that was UNCHECKED before."""
    REPEATED = "repeated"
    """Its code had its verdict already."""
    NO_CODE = "no_code"
    """The answer held none: the model's fault."""
    LOST = "lost"
    """No answer could be had: the sampler's fault."""


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where in a run an answer was sampled. All count from 0; what a run starts with has step 0, its first round step 1."""

    step: int
    draw: int
    """Which prompt of this task in this step, so which choice of exemplars."""
    sample: int
    """Which answer to that prompt."""


@dataclass(frozen=True, slots=True)
class Attempt:
    task: str
    environment: str
    """What a score holds for, in a line: device and versions. Compared as it is."""
    place: Place
    sampler: str
    outcome: Outcome
    parents: tuple[str, ...] = ()
    """Content hashes of the exemplars that were shown, in their order."""
    hash: str | None = None
    """Of the code; None where there is none."""
    reason: str = ""
    """Why there is no code, for people; a code's own reason stands with its verdict."""
    time: float | None = None
    """Seconds since 1970 when it was added; None until then."""


@dataclass(frozen=True, slots=True)
class Scored:
    """One code with its verdict. Raises ValueError where status and score do not fit each other."""

    code: str
    backend: Backend
    status: KernelStatus
    """UNCHECKED is our fault: never an exemplar, and judged anew where the code comes again."""
    score: float | None
    """Speed-up over the task's reference, above 0; present exactly where status is ACCEPTED."""
    reason: str = ""
    tags: tuple[str, ...] = ()
    """Techniques that it uses (postgrad/kernels/techniques.py)."""
    record: Mapping[str, Any] | None = None
    """The verdict's own record with its evidence, as it was signed; None where its maker keeps none."""
    place: Place | None = None
    """Of the attempt that it first came with; None until it is added."""
    time: float | None = None
    """Seconds since 1970 when it was judged; None until it is added."""
    hash: str = field(init=False)
    """Of backend and code, as a candidate's."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "hash", Candidate(self.code, self.backend).sha256)
        if (self.status is KernelStatus.ACCEPTED) != (self.score is not None):
            needs = "needs a" if self.score is None else "cannot have a"
            raise ValueError(f"a code that is {self.status} {needs} score: {self.score}")
        if self.score is not None and not (isfinite(self.score) and self.score > 0):
            raise ValueError(f"a score is a speed-up, finite and above 0: got {self.score}")


@contextmanager
def opened(path: Path) -> Iterator[Archive]:
    """Made where it is missing. Raises ValueError for a file that is damaged or no archive."""
    with database.opened(path, KIND) as connection:
        yield Archive(connection)


@contextmanager
def reading(path: Path) -> Iterator[Archive]:
    """While others write, too. Raises ValueError where there is no archive."""
    with database.reading(path, KIND) as connection:
        yield Archive(connection)


class Archive:
    """Use `opened` or `reading`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._database = connection

    def add(self, attempt: Attempt, scored: Scored | None = None) -> bool:
        """Both rows or none, on disk when it returns. False where that place was added before: nothing changes then.

        `scored` is given exactly where the outcome is JUDGED. A code that is known keeps its row, unless that is unchecked
        and this is not. Raises ValueError where attempt and code do not belong together.
        """
        _consistent(attempt, scored)
        place = attempt.place
        key = (attempt.task, attempt.environment)
        now = time()
        with writing(self._database):
            added = self._database.execute(
                "INSERT OR IGNORE INTO attempt VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(*key, place.step, place.draw, place.sample, attempt.sampler, json.dumps(attempt.parents)),
                    *(attempt.outcome, attempt.reason, attempt.hash, now),
                ),
            ).rowcount
            if added and scored is not None:
                record = None if scored.record is None else json.dumps(scored.record, allow_nan=False)
                self._database.execute(
                    """INSERT INTO code VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
                    status = excluded.status, score = excluded.score, reason = excluded.reason, record = excluded.record,
                    step = excluded.step, draw = excluded.draw, sample = excluded.sample, time = excluded.time
                    WHERE status = 'unchecked' AND excluded.status != 'unchecked'""",
                    (
                        *(*key, scored.hash, scored.backend, scored.code, scored.status, scored.score, scored.reason),
                        *(json.dumps(scored.tags), record, place.step, place.draw, place.sample, now),
                    ),
                )
        return bool(added)

    def find(self, task: str, environment: str, hash: str) -> Scored | None:
        rows = self._codes("hash = ?", task, environment, hash)
        return rows[0] if rows else None

    def successes(self, task: str, environment: str, *, before: int | None = None) -> list[Scored]:
        """Accepted codes in the order of their places; those that came first in a step `before` this one.

        A step that chooses from the steps before it alone chooses the same after a kill in its middle.
        """
        return self._codes("status = 'accepted' AND (? IS NULL OR step < ?)", task, environment, before, before)

    def best(self, task: str, environment: str, limit: int = 1) -> list[Scored]:
        """The fastest accepted codes, fastest first; of equals the one that came first."""
        ranked = sorted(self.successes(task, environment), key=lambda one: -_score(one))
        return ranked[:limit]

    def attempts(self, task: str, environment: str) -> list[Attempt]:
        """In the order of their places."""
        rows = self._database.execute(
            """SELECT step, draw, sample, sampler, parents, outcome, reason, hash, time FROM attempt
            WHERE task = ? AND environment = ? ORDER BY step, draw, sample""",
            (task, environment),
        )
        return [
            Attempt(
                task,
                environment,
                Place(step, draw, sample),
                sampler,
                Outcome(outcome),
                tuple(json.loads(parents)),
                hash,
                reason,
                time,
            )
            for step, draw, sample, sampler, parents, outcome, reason, hash, time in rows
        ]

    def codes(self, task: str, environment: str) -> list[Scored]:
        """Whatever their status, in the order of their places."""
        return self._codes("TRUE", task, environment)

    def forget(self, step: int) -> None:
        """All that was added in this step or later, for any task: a run that goes on from a checkpoint before it does it again."""
        with writing(self._database):
            for table in ("code", "attempt"):
                self._database.execute(f"DELETE FROM {table} WHERE step >= ?", (step,))

    def ancestry(self, task: str, environment: str, hash: str) -> list[Scored]:
        """The code and all that it descends from, in the order of their places: parents are those shown at its first attempt."""
        shown: dict[Place, Sequence[str]] = {one.place: one.parents for one in self.attempts(task, environment)}
        found: dict[str, Scored] = {}
        waiting = [hash]
        while waiting:
            code = self.find(task, environment, waiting.pop())
            # The reference is an exemplar too, and stands in no row.
            if code is None or code.hash in found:
                continue
            assert code.place is not None
            found[code.hash] = code
            waiting += shown[code.place]
        return sorted(found.values(), key=lambda one: one.place or Place(0, 0, 0))

    def _codes(self, condition: str, *values: Any) -> list[Scored]:
        rows = self._database.execute(
            f"""SELECT code, backend, status, score, reason, tags, record, step, draw, sample, time FROM code
            WHERE task = ? AND environment = ? AND {condition} ORDER BY step, draw, sample""",
            values,
        )
        return [
            Scored(
                code,
                backend,
                KernelStatus(status),
                score,
                reason,
                tuple(json.loads(tags)),
                None if record is None else json.loads(record),
                Place(step, draw, sample),
                time,
            )
            for code, backend, status, score, reason, tags, record, step, draw, sample, time in rows
        ]


def _score(one: Scored) -> float:
    assert one.score is not None, "only accepted codes are ranked"
    return one.score


def _consistent(attempt: Attempt, scored: Scored | None) -> None:
    where = f"the attempt at {attempt.place} of {attempt.task!r}"
    if (attempt.outcome is Outcome.JUDGED) != (scored is not None):
        raise ValueError(f"{where} is {attempt.outcome} and has {'no' if scored is None else 'a'} verdict")
    if scored is not None and attempt.hash != scored.hash:
        raise ValueError(f"{where} has the hash {attempt.hash}, and its code {scored.hash}")
    if (attempt.hash is None) != (attempt.outcome in (Outcome.NO_CODE, Outcome.LOST)):
        raise ValueError(f"{where} is {attempt.outcome} and has the hash {attempt.hash}")
