"""A Verifier whose score is the speed-up: what reinforcement learning and evaluation ask about a trace that holds a kernel.

    accepted -> CORRECT with the speed-up      rejected -> WRONG      no code in the answer -> NO_ANSWER
    suspicious or unchecked -> UNCHECKED: a number that is not trusted is no reward

A code is judged once: samples repeat, and a kernel that is timed again would have another number. One kernel is timed at a time, and
nothing is built meanwhile, because a compiler on the next core would be in the ratio: `prepare` builds what a batch of traces needs first.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from postgrad.kernels.build import build_all
from postgrad.kernels.candidate import Backend, Candidate
from postgrad.kernels.evaluate import Evaluator, Settings
from postgrad.kernels.task import Task
from postgrad.kernels.verdict import KernelStatus, KernelVerdict
from postgrad.records import Problem, Status, Trace, Verdict

Parse = Callable[[str], str | None]
"""A trace's text -> its code; None: it holds none."""
Heard = Callable[[Problem, Candidate, KernelVerdict], None]


class KernelVerifier:
    """For problems whose ids are names of `tasks`. Use as a context manager: references run in workers of their own."""

    def __init__(
        self,
        tasks: Mapping[str, Task],
        parse: Parse,
        settings: Settings | None = None,
        *,
        backend: Backend = "cpp",
        seed: int | None = None,
        alive: int = 8,
        builders: int = 2,
        heard: Heard | None = None,
    ) -> None:
        """`alive`: references kept running; `builders`: compilers at once; `heard` is told each new verdict."""
        self.tasks, self.parse, self.settings, self.backend = tasks, parse, settings or Settings(), backend
        self.seed, self.alive, self.builders, self.heard = seed, alive, builders, heard
        self.verdicts: dict[tuple[str, str], KernelVerdict] = {}
        """By task and the code's hash; what is unchecked is asked again when it comes again."""
        self._evaluators: OrderedDict[str, Evaluator] = OrderedDict()
        self._one_at_a_time = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._evaluators:
            self._evaluators.popitem()[1].close()

    def prepare(self, problems: Sequence[Problem], traces: Sequence[Sequence[Trace]]) -> None:
        """Build what these traces hold, side by side, before anything is timed."""
        wanted: dict[str, Candidate] = {}
        for problem, row in zip(problems, traces, strict=True):
            for trace in row:
                candidate = self._candidate(trace)
                if candidate and candidate.backend == "cpp" and (problem.id, candidate.sha256) not in self.verdicts:
                    wanted[candidate.sha256] = candidate
        for _ in build_all(wanted.values(), workers=self.builders, cache=self.settings.cache):
            pass  # a build that is refused is told of when its candidate is judged

    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        if problem.id not in self.tasks:
            raise ValueError(
                f"problem {problem.id!r} has no kernel task: its id must be one of the {len(self.tasks)} tasks"
            )
        candidate = self._candidate(trace)
        if candidate is None:
            return Verdict(Status.NO_ANSWER, None, "no code in the answer")
        with self._one_at_a_time:
            verdict = self._judged(problem, candidate)
        reason = "; ".join(f"{one.reason.name}: {one.evidence}" for one in verdict.findings[:3])
        match verdict.status:
            case KernelStatus.ACCEPTED:
                return Verdict(
                    Status.CORRECT, verdict.speedup, f"{verdict.speedup:.2f}x{'; ' if reason else ''}{reason}"
                )
            case KernelStatus.REJECTED:
                return Verdict(Status.WRONG, 0.0, reason)
            case _:
                return Verdict(Status.UNCHECKED, None, f"{verdict.status}: {reason}")

    def _candidate(self, trace: Trace) -> Candidate | None:
        code = self.parse(trace.text)
        return None if code is None else Candidate(code, self.backend)

    def _judged(self, problem: Problem, candidate: Candidate) -> KernelVerdict:
        key = problem.id, candidate.sha256
        known = self.verdicts.get(key)
        if known is not None and known.status is not KernelStatus.UNCHECKED:
            return known
        evaluator = self._evaluators.pop(problem.id, None) or Evaluator(
            self.tasks[problem.id], self.settings, seed=self.seed
        )
        self._evaluators[problem.id] = evaluator
        if len(self._evaluators) > self.alive:
            self._evaluators.popitem(last=False)[1].close()
        best = max((one.speedup or 0.0 for (task, _), one in self.verdicts.items() if task == problem.id), default=0.0)
        verdict = self.verdicts[key] = evaluator(candidate, best=best or None)
        if self.heard is not None:
            self.heard(problem, candidate, verdict)
        return verdict
