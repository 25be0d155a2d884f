"""Calls to endpoints as rows on disk: an answer that was acknowledged is never lost nor paid for twice.

    asking --answer--> done        the answer is on disk before anybody sees it; the same call is never sent again
      |  ^
      |  +-- another attempt, also by a later process
      +-----------------> failed   given up; no answer, so a later process asks again

A call is what is sent and which sample of it is meant (`key`). An attempt is entered before it is sent, at the most that it can
cost; what it did cost takes that place when it is known. So a process that was killed, or an answer that was lost on the way, is
accounted for by its bound, and a budget is kept whatever happens. Secrets are no part of a row.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

from postgrad import database
from postgrad.database import Kind, writing

KIND = Kind(
    "store of calls",
    0x70674B43,
    1,
    (
        """CREATE TABLE call (
            key TEXT PRIMARY KEY, url TEXT NOT NULL, model TEXT NOT NULL, problem TEXT NOT NULL, sample INTEGER NOT NULL,
            request TEXT NOT NULL, state TEXT NOT NULL CHECK (state IN ('asking', 'done', 'failed')),
            attempts INTEGER NOT NULL, open_attempts INTEGER NOT NULL, open_prompt INTEGER NOT NULL, open_completion INTEGER NOT NULL,
            answer TEXT CHECK ((state = 'done') = (answer IS NOT NULL)), prompt INTEGER NOT NULL, completion INTEGER NOT NULL,
            error TEXT, begun REAL NOT NULL, ended REAL)""",
        """CREATE INDEX spent ON call (url, model, state, attempts, open_attempts, open_prompt, open_completion, prompt, completion)""",
    ),
)


@dataclass(frozen=True, slots=True)
class Tokens:
    prompt: int
    completion: int


@dataclass(frozen=True, slots=True)
class Call:
    url: str
    model: str
    problem: str
    sample: int
    seed: int
    request: Mapping[str, Any]
    """The body that is sent."""

    @property
    def key(self) -> str:
        named = [self.url, self.model, self.problem, self.sample, self.seed, self.request]
        return hashlib.sha256(json.dumps(named, sort_keys=True, allow_nan=False).encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Account:
    """Over all processes that used the store, for one model at one address."""

    attempts: int
    answers: int
    failed: int
    """Calls that were given up."""
    known: Tokens
    """By the server's own counts."""
    open_attempts: int
    """Sent, and perhaps charged, without a count: on the way now, lost on the way, or answered without one."""
    open: Tokens
    """The most that those can be."""


@contextmanager
def opened(path: Path) -> Iterator[Calls]:
    """By one process at a time. Raises ValueError for a file that is damaged or no store, Failed where another process has it."""
    with database.alone(path), database.opened(path, KIND) as connection:
        yield Calls(connection)


class Calls:
    """Use `opened`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._database = connection

    def answer(self, call: Call) -> str | None:
        """As the server sent it; None where there is none yet."""
        row = self._database.execute("SELECT answer FROM call WHERE key = ?", (call.key,)).fetchone()
        return None if row is None else row[0]

    def begin(self, call: Call, most: Tokens) -> None:
        """An attempt is about to be sent that costs `most` at most."""
        with writing(self._database):
            self._database.execute(
                """INSERT INTO call VALUES (?, ?, ?, ?, ?, ?, 'asking', 1, 1, ?, ?, NULL, 0, 0, NULL, ?, NULL)
                ON CONFLICT DO UPDATE SET state = 'asking', attempts = attempts + 1, open_attempts = open_attempts + 1,
                open_prompt = open_prompt + excluded.open_prompt, open_completion = open_completion + excluded.open_completion""",
                (
                    *(call.key, call.url, call.model, call.problem, call.sample, json.dumps(call.request)),
                    *(most.prompt, most.completion, time()),
                ),
            )

    def done(self, call: Call, answer: str, used: Tokens | None, most: Tokens) -> None:
        """The attempt was answered. `used` None: the server did not count, so `most` stays."""
        with writing(self._database):
            if used is not None:
                self._settle(call, used, most)
            self._database.execute(
                "UPDATE call SET state = 'done', answer = ?, error = NULL, ended = ? WHERE key = ?",
                (answer, time(), call.key),
            )

    def missed(self, call: Call, error: str, most: Tokens, *, charged: bool) -> None:
        """The attempt ended without an answer. `charged`: it may have been, for all that we know."""
        with writing(self._database):
            if not charged:
                self._settle(call, Tokens(0, 0), most)
            self._database.execute("UPDATE call SET error = ? WHERE key = ?", (error, call.key))

    def give_up(self, call: Call, error: str) -> None:
        with writing(self._database):
            self._database.execute(
                "UPDATE call SET state = 'failed', error = ?, ended = ? WHERE key = ?", (error, time(), call.key)
            )

    def account(self, url: str, model: str) -> Account:
        row = self._database.execute(
            """SELECT coalesce(sum(attempts), 0), coalesce(sum(state = 'done'), 0), coalesce(sum(state = 'failed'), 0),
            coalesce(sum(prompt), 0), coalesce(sum(completion), 0),
            coalesce(sum(open_attempts), 0), coalesce(sum(open_prompt), 0), coalesce(sum(open_completion), 0)
            FROM call WHERE url = ? AND model = ?""",
            (url, model),
        ).fetchone()
        return Account(row[0], row[1], row[2], Tokens(row[3], row[4]), row[5], Tokens(row[6], row[7]))

    def _settle(self, call: Call, used: Tokens, most: Tokens) -> None:
        self._database.execute(
            """UPDATE call SET prompt = prompt + ?, completion = completion + ?, open_attempts = open_attempts - 1,
            open_prompt = open_prompt - ?, open_completion = open_completion - ? WHERE key = ?""",
            (used.prompt, used.completion, most.prompt, most.completion, call.key),
        )
