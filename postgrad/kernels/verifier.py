"""A Verifier whose score is the speed-up: what reinforcement learning and evaluation ask about a trace that holds a kernel.

    accepted -> CORRECT with the speed-up      rejected -> WRONG      no code in the answer -> NO_ANSWER
    suspicious or unchecked -> UNCHECKED: a number that is not trusted is no reward

A code is judged once: samples repeat, and a kernel that is timed again would have another number. One kernel is timed at a time, and
nothing is built meanwhile, because a compiler on the next core would be in the ratio: `prepare` builds what a batch of traces needs first.

For training there is a cheaper way, which counts CPU time and minds neither: `prepare` then judges the whole batch, some tasks side by side.

    KernelVerifier({made.task.id: of_loop(made.task, oracle, timed=made.task.quick)}, parse, quick(cache), at_once=2)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
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
        at_once: int = 1,
        heard: Heard | None = None,
    ) -> None:
        """`alive`: references kept running; `builders`: compilers at once; `heard` is told each new verdict.

        at_once: tasks whose kernels are judged side by side. Raises ValueError for more than one with settings whose clock is the wall.
        """
        self.tasks, self.parse, self.settings, self.backend = tasks, parse, settings or Settings(), backend
        if at_once > 1 and self.settings.clock == "wall":
            raise ValueError(
                f"at_once={at_once}: kernels that run side by side slow each other; give settings with clock='cpu', such as quick()"
            )
        self.seed, self.alive, self.builders, self.at_once, self.heard = seed, alive, builders, at_once, heard
        self.verdicts: dict[tuple[str, str], KernelVerdict] = {}
        """By task and the code's hash; what is unchecked is asked again when it comes again."""
        self._asked: set[tuple[str, str]] = set()
        """What `prepare` has judged: not asked again for the same batch, even if it is unchecked."""
        self._evaluators: OrderedDict[str, Evaluator] = OrderedDict()
        """Those that nobody uses now."""
        self._places = threading.Semaphore(at_once)
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._evaluators:
            self._evaluators.popitem()[1].close()

    def prepare(self, problems: Sequence[Problem], traces: Sequence[Sequence[Trace]]) -> None:
        """Build what these traces hold, side by side, before anything is timed; with `at_once` above one, judge it too."""
        wanted: dict[str, dict[str, Candidate]] = {}
        held: dict[str, Problem] = {}
        for problem, row in zip(problems, traces, strict=True):
            self._check(problem)
            held[problem.id] = problem
            for candidate in filter(None, map(self._candidate, row)):
                if self._known(problem.id, candidate) is None:
                    wanted.setdefault(problem.id, {})[candidate.sha256] = candidate
        self._asked.clear()
        if self.at_once == 1:
            native = [one for some in wanted.values() for one in some.values() if one.backend == "cpp"]
            for _ in build_all(native, workers=self.builders, cache=self.settings.cache):
                pass  # a build that is refused is told of when its candidate is judged
            return

        def judge(task: str) -> None:
            for candidate in wanted[task].values():
                self._judged(held[task], candidate)

        with ThreadPoolExecutor(self.at_once) as pool:
            for _ in pool.map(judge, wanted):
                pass
        self._asked.update((task, key) for task, some in wanted.items() for key in some)

    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        self._check(problem)
        candidate = self._candidate(trace)
        if candidate is None:
            return Verdict(Status.NO_ANSWER, None, "no code in the answer")
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

    def _check(self, problem: Problem) -> None:
        if problem.id not in self.tasks:
            raise ValueError(
                f"problem {problem.id!r} has no kernel task: its id must be one of the {len(self.tasks)} tasks"
            )

    def _candidate(self, trace: Trace) -> Candidate | None:
        code = self.parse(trace.text)
        return None if code is None else Candidate(code, self.backend)

    def _known(self, task: str, candidate: Candidate) -> KernelVerdict | None:
        """None where it must be judged: it never was, or it was unchecked, in an earlier batch."""
        key = task, candidate.sha256
        verdict = self.verdicts.get(key)
        settled = verdict is not None and (verdict.status is not KernelStatus.UNCHECKED or key in self._asked)
        return verdict if settled else None

    def _judged(self, problem: Problem, candidate: Candidate) -> KernelVerdict:
        with self._places:
            known = self._known(problem.id, candidate)
            if known is not None:
                return known
            with self._lock:
                gains = [one.speedup or 0.0 for (task, _), one in self.verdicts.items() if task == problem.id]
            with self._evaluator(problem.id) as evaluator:
                verdict = evaluator(candidate, best=max(gains, default=0.0) or None)
            with self._lock:
                self.verdicts[problem.id, candidate.sha256] = verdict
                if self.heard is not None:
                    self.heard(problem, candidate, verdict)
            return verdict

    @contextmanager
    def _evaluator(self, task: str) -> Iterator[Evaluator]:
        """One that nobody else uses; kept afterwards, until `alive` others were used later."""
        with self._lock:
            evaluator = self._evaluators.pop(task, None) or Evaluator(self.tasks[task], self.settings, seed=self.seed)
        try:
            yield evaluator
        finally:
            with self._lock:
                spare = [self._evaluators.pop(task, None)]
                self._evaluators[task] = evaluator
                if len(self._evaluators) > self.alive:
                    spare.append(self._evaluators.popitem(last=False)[1])
            for one in filter(None, spare):
                one.close()
