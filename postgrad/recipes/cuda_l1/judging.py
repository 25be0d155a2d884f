"""Who judges a stage's answers: a verifier that knows every verdict of the run, counts what it is asked, and tells what it cost.

verdicts.jsonl holds the verdicts, costs.jsonl a row for each stage and process.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from postgrad.recipes.cuda_l1.settings import Config
from postgrad.recipes.cuda_l1.tasks import Tasks, evaluation
from postgrad.records import Problem, Status, Trace, Verdict
from postgrad.run import Run


@contextmanager
def judge(config: Config, run: Run, known: Tasks, stage: str, monitor: Any = None) -> Iterator[Counted]:
    """The stage's verifier, which knows every verdict of the run, and its row in costs.jsonl when it ends, however it ends."""
    from postgrad.kernels.ledger import Ledger

    ledger = Ledger(run.folder / "verdicts.jsonl")
    before = ledger.verdicts()
    cpu, started, judged = os.times(), time.monotonic(), Counter[str]()

    def heard(problem: Problem, candidate: Any, verdict: Any) -> None:
        ledger.add(problem, candidate, verdict)
        judged[str(verdict.status)] += 1

    counted: Counted | None = None
    try:
        with _verifier(config, known, run, heard) as verifier:
            verifier.verdicts.update(before)
            counted = Counted(verifier, monitor)
            yield counted
    finally:
        now = os.times()
        row = {
            "stage": stage,
            "asked": dict(counted.asked) if counted else {},
            "judged": dict(judged),
            "cpu_seconds": round(sum(now[:4]) - sum(cpu[:4]), 1),
            "seconds": round(time.monotonic() - started, 1),
        }
        with (run.folder / "costs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


class Counted:
    """The verifier, with an account of what was asked of it."""

    def __init__(self, verifier: Any, monitor: Any) -> None:
        self.verifier, self.monitor = verifier, monitor
        self.asked: Counter[str] = Counter()
        self._counting = threading.Lock()

    def prepare(self, problems: Sequence[Problem], traces: Sequence[Sequence[Trace]]) -> None:
        self.verifier.prepare(problems, traces)

    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        verdict: Verdict = self.verifier(problem, trace)
        with self._counting:
            self.asked[str(verdict.status)] += 1
            if self.monitor is not None and verdict.status is not Status.NO_ANSWER:
                self.monitor.add(*_watched(verdict))
        return verdict


def _watched(verdict: Verdict) -> tuple[str, list[str]]:
    """A verdict as the monitor of hacks wants it: honest failures are no hack."""
    from postgrad.kernels.guard.monitor import of_hacks

    status = {Status.CORRECT: "accepted", Status.WRONG: "rejected"}.get(verdict.status, "unchecked")
    return status, of_hacks(part.partition(":")[0] for part in verdict.reason.split("; "))


def _verifier(config: Config, known: Tasks, run: Run, heard: Any) -> Any:
    from postgrad.kernels.verifier import KernelVerifier

    return KernelVerifier(
        known.tasks,
        known.parse,
        evaluation(config, run),
        backend=known.backend,
        seed=config.seed,
        alive=config.judging.alive,
        at_once=config.judging.at_once if config.judging.how == "quick" else 1,
        heard=heard,
    )
