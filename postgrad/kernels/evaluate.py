"""From a task and a candidate to a verdict: every step gives findings, the worst of them is the status.

    admission -> static flags -> build -> correctness and probes -> paired timing of checked calls -> gate, rounding
              -> bound of the machine -> again with other workers where the gain is suspicious -> verdict

    with Evaluator(task) as evaluate:            # the reference's worker lives on, and so do its right answers
        verdict = evaluate(candidate)

What is ours to get right and went wrong is UNCHECKED: a reference that fails, a sandbox that breaks, a machine too noisy.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, get_args

import numpy as np

from postgrad.kernels import clock, probes, roofline, runtime
from postgrad.kernels.admit import admit
from postgrad.kernels.build import FLAGS, Built, build, compiler
from postgrad.kernels.candidate import Backend, Candidate, fault
from postgrad.kernels.clock import why_again
from postgrad.kernels.correct import check
from postgrad.kernels.environment import environment
from postgrad.kernels.gpu import machine
from postgrad.kernels.gpu.side import LIMITS as GPU_LIMITS
from postgrad.kernels.guard import flags
from postgrad.kernels.guard.judge import Judge, Opinion
from postgrad.kernels.reference import LIMITS, Reference, ReferenceFailed
from postgrad.kernels.side import Code, Misbehaved, Side
from postgrad.kernels.subject import Subject, misbehaviour
from postgrad.kernels.task import Task
from postgrad.kernels.trial import Trial
from postgrad.kernels.verdict import (
    REJECTED,
    UNCHECKED,
    Finding,
    KernelStatus,
    KernelVerdict,
    Reason,
    Timing,
    conclude,
)
from postgrad.sandbox import Limits, WorkerEnded

OWN = {"python": "eager", "cpp": "native"}
"""What the reference is among the baselines (baselines.py), by the task's kind."""
Scan = Callable[[Candidate, Task], Iterable[Finding]]
"""Findings from the text alone, before anything is run."""


def static(candidate: Candidate, task: Task) -> Iterable[Finding]:
    """The static rules of `guard`."""
    return flags.findings(flags.scan(candidate.code, candidate.backend, task.precision))


def unread(_candidate: Candidate, _task: Task) -> Iterable[Finding]:
    """No static rules: what is left is what the candidate does."""
    return ()


def advised(judge: Judge, heard: Callable[[Opinion | None], None]) -> Scan:
    """The static rules, and what a checker says of a text that they let through: SUSPICIOUS at most. `heard` is told each opinion, None
    for none that can be read."""

    def scan(candidate: Candidate, task: Task) -> Iterator[Finding]:
        seen = flags.scan(candidate.code, candidate.backend, task.precision)
        found = flags.findings(seen)
        yield from found
        if conclude(found) is REJECTED:
            return
        opinion = judge(task.source, candidate.code, "cpp" if candidate.backend == "cpp" else "python", seen)
        heard(opinion)
        finding = opinion.finding() if opinion is not None else None
        if finding is not None:
            yield finding

    return scan


Again = Callable[[Timing, float | None], str | None]
"""(a measurement, the task's best speed-up so far) -> why it must be made again; None where it stands."""


def stands(_timing: Timing, _best: float | None) -> None:
    """No second measurement."""


@dataclass(frozen=True, slots=True)
class Settings:
    budget_s: float = 10.0
    """Of the timing; a second measurement gets as much."""
    seeds: int = 3
    """Draws of the task's own values at the timed shapes."""
    rules: clock.Rules = field(default_factory=clock.Rules)
    limits: Limits = LIMITS
    """Of the candidate's worker."""
    admission: bool = True
    """Off only where the caller asked `admit` before."""
    cache: Path | None = None
    """Of built libraries; None: the user's."""
    scan: Scan = static
    clock: clock.Clock = "wall"
    """cpu: on a busy machine, for kernels of one thread."""
    again: Again = why_again
    """Which gains are measured again with other workers, those that are suspicious or `clock.any_gain`."""
    gpu: int | None = None
    """Index of the NVIDIA GPU that reference and candidate run on, as nvidia-smi counts; None: the CPU. `on_gpu` sets what goes with it."""

    def __post_init__(self) -> None:
        if self.gpu is not None and self.clock != "wall":
            raise ValueError(f"clock={self.clock!r} with gpu={self.gpu}: a GPU's work is in no CPU time; give 'wall'")


def on_gpu(gpu: int = 0, **settings: Any) -> Settings:
    """Settings for an NVIDIA GPU. An empty call there is a wait for an idle device, some 10 microseconds, most of which pass while a kernel
    runs: so it may be half of the reference's time, which draws small tasks' gains toward 1. Everything else is as strict as on a CPU."""
    return Settings(gpu=gpu, **{"rules": clock.Rules(overhead=0.5), "limits": GPU_LIMITS, **settings})


def quick(cache: Path | None = None) -> Settings:
    """For training on `loops`: thousands of kernels, of tasks at their `quick` sizes (`python -m bench.kernel_quick` tells what one costs).

    Right or wrong is told as ever: every distribution at every size, fresh values, every probe, outputs of timed calls judged
    afterwards. What is given up lies in the number, so a kernel that matters is judged again by `Settings()` at the loop's own size:

        24 to 48 rounds in half a second, the interval up to 50 % wide to either side: small gains are told as 1, large ones vary
        CPU time, so that compilers and another task may run beside it: a kernel that waits is not found out
        the two clocks may differ by 2: of calls that do the work of others only the crass are seen
        small sizes, in caches, of which a question takes 3 to 20 %: gains are drawn toward 1
        gains above 3 are not measured again by other workers
        the task is not admitted: ask `Evaluator(task).admission()` once before
        one draw of the own values at the timed size before the clock, not three
    """
    rules = clock.Rules(bucket_rounds=3, gate=0.2, widest=0.5, precise=0.1, most_rounds=48, overhead=0.2, disagree=2.0)
    return Settings(budget_s=0.5, seeds=1, rules=rules, admission=False, cache=cache, clock="cpu", again=stands)


@dataclass(slots=True)
class _Spare:
    """A worker started ahead of time: importing torch takes seconds, and nobody has to wait for them."""

    backend: Backend
    limits: Limits
    gpu: int | None
    side: Side | None = field(default=None)

    def take(self, rng: np.random.Generator) -> Side:
        taken = self.side or self._started(rng)
        self.side = self._started(rng)
        return taken

    def _started(self, rng: np.random.Generator) -> Side:
        return runtime.side(Code(self.backend), self.limits, rng=rng, gpu=self.gpu)

    def close(self) -> None:
        if self.side is not None:
            self.side.close()
            self.side = None


class Evaluator:
    """Evaluates candidates of one task, one after the other. Use as a context manager.

    `seed` decides every value that a candidate sees; None: drawn anew, so that nobody can know it.
    """

    def __init__(self, task: Task, settings: Settings = Settings(), *, seed: int | None = None) -> None:
        self.task, self.settings = task, settings
        self.seed = secrets.randbits(31) if seed is None else seed
        self.rng = np.random.default_rng([self.seed, 3])
        self._reference: Reference | None = None
        self._admission: list[Finding] | None = None
        self._seen: dict[str, Any] = {}
        """Of the GPU, around the last timing."""
        self._spares = {backend: _Spare(backend, settings.limits, settings.gpu) for backend in get_args(Backend)}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        for spare in self._spares.values():
            spare.close()
        self._forget()

    def _forget(self) -> None:
        if self._reference is not None:
            self._reference.side.close()
            self._reference = None

    def reference(self) -> Reference:
        """Started when first needed. Raises ReferenceFailed."""
        if self._reference is None:
            self._reference = self._new_reference(self.seed)
        return self._reference

    def _new_reference(self, seed: int) -> Reference:
        settings = self.settings
        limits = LIMITS if settings.gpu is None else GPU_LIMITS
        return Reference(self.task, seed=seed, cache=settings.cache, limits=limits, gpu=settings.gpu)

    def __call__(self, candidate: Candidate, *, best: float | None = None) -> KernelVerdict:
        """`best`: the task's best speed-up so far; twice that is measured again. Never raises for what a candidate does;
        ValueError for a task that does not fit."""
        timing: Timing | None = None
        findings: list[Finding] = []
        self._seen = {}
        try:
            findings, timing = self._evaluated(candidate, best)
        except ReferenceFailed as error:
            self._forget()
            findings = [Finding(Reason.REFERENCE_FAILED, str(error), "reference")]
        except WorkerEnded as error:
            self._forget()
            findings = [Finding(Reason.SANDBOX_BROKEN, str(error), "sandbox")]
        return self._verdict(candidate, findings, timing)

    def admission(self) -> list[Finding]:
        """Why the task is not admitted; empty where it is."""
        if self._admission is None:
            self._admission = admit(self.reference()) if self.settings.admission else []
        return self._admission

    # ---- The steps

    def _evaluated(self, candidate: Candidate, best: float | None) -> tuple[list[Finding], Timing | None]:
        wrong = fault(candidate, self.task.wanted)
        if wrong is not None:
            reason = Reason.BUILD_FAILED if "syntax" in wrong or "not Python" in wrong else Reason.NO_ENTRY
            return [Finding(reason, wrong, "source")], None
        findings = [*self.settings.scan(candidate, self.task)]
        if conclude(findings) is REJECTED:
            return findings, None
        refused = runtime.refusal(candidate, self.settings.gpu)
        if refused is not None:
            return [*findings, refused], None
        findings += self.admission()
        if conclude(findings) is UNCHECKED:
            return findings, None
        found, timing = self._run(candidate, self.reference())
        findings += found
        if timing is None or conclude(findings) in (REJECTED, UNCHECKED):
            return findings, timing
        if self.settings.again(timing, best) is not None:
            findings, timing = self._again(candidate, findings, timing)
        return findings, timing

    def _again(self, candidate: Candidate, findings: list[Finding], first: Timing) -> tuple[list[Finding], Timing]:
        """The same two codes in workers of their own, with other values."""
        with self._new_reference(secrets.randbits(31)) as other:
            found, second = self._run(candidate, other)
        if second is None:  # it was right before: now it is not, so what it did is said
            return [*findings, *found], first
        timing = clock.reverified(first, second)
        told = [one for one in found if one not in second.findings]
        return [*(one for one in findings if one not in first.findings), *told, *timing.findings], timing

    def started(self, candidate: Candidate) -> Side | Finding:
        """A worker for the candidate, in which nothing is loaded yet; or why it does not build."""
        if candidate.backend == "cpp":
            built = build(candidate, self.settings.cache)
            if not isinstance(built, Built):
                return Finding(built.reason, built.log, "build")
            return Side(Code("cpp", library=built.library), self.settings.limits, rng=self.rng)
        side = self._spares[candidate.backend].take(self.rng)
        side.code = Code(candidate.backend, candidate.code, "candidate", self.task.wanted)
        return side

    def _run(self, candidate: Candidate, reference: Reference) -> tuple[list[Finding], Timing | None]:
        side = self.started(candidate)
        if isinstance(side, Finding):
            return [side], None
        with side:
            subject = Subject(reference, side, candidate, self.rng)
            found = check(subject, seeds=self.settings.seeds)
            if candidate.backend == "triton" and self.settings.gpu is None:
                return runtime.interpreted(found), None
            if conclude(found) is REJECTED:
                return found, None
            try:
                timed, timing = self._timed(subject)
            except Misbehaved as error:
                return [*found, misbehaviour(error, "timing")], None
            return [*found, *timed], timing

    def paired(self, trial: Trial) -> Timing:
        """By the settings' clock, rules and budget. Raises Misbehaved."""
        return clock.measure(
            trial.reference,
            trial.candidate,
            self.settings.budget_s,
            random.Random(int(self.rng.integers(1 << 62))),
            rules=self.settings.rules,
            prepare=trial.prepare,
            clock=self.settings.clock,
            cache=None if self.settings.gpu is None else "cold",
            second="cpu" if self.settings.gpu is None else "events",
        )

    def _timed(self, subject: Subject) -> tuple[list[Finding], Timing]:
        gpu = self.settings.gpu
        before = None if gpu is None else machine.look(gpu)
        trial = Trial(subject)
        timing = self.paired(trial)
        if gpu is not None:
            self._seen = {"before": before, "after": machine.look(gpu), "calls in a question": trial.repeats}
        found = [*trial.judge(timing.spent_s / 4), *probes.settings(subject), *timing.findings, *trial.second()]
        bound = self._bound(subject)
        slow = roofline.check(timing, bound) if timing.candidate_s and bound is not None else None
        found += [slow] if slow is not None else []
        if conclude(found) in (REJECTED, UNCHECKED) and timing.speedup is not None:
            timing = replace(timing, speedup=None)
        return found, timing

    def _bound(self, subject: Subject) -> float | None:
        """Seconds; None for a GPU whose peaks are not known."""
        specs = subject.specs
        read = specs.inputs if self.task.reads else ()
        if self.settings.gpu is not None:
            # Outputs may stay in the cache, of which a GPU has much: inputs alone bound.
            peaks = roofline.gpu_peaks(str(self._seen["after"].get("name")))
            return None if peaks is None else roofline.bound_s(roofline.Work(sum(one.bytes for one in read)), peaks)
        moved = sum(one.bytes for one in (*read, *specs.outputs))
        return roofline.bound_s(roofline.Work(moved), roofline.cpu_peaks(1))

    def _verdict(self, candidate: Candidate, findings: Sequence[Finding], timing: Timing | None) -> KernelVerdict:
        unique = tuple(dict.fromkeys(findings))
        status = conclude(unique)
        speedup = timing.speedup if timing is not None else None
        interval = timing.interval if timing is not None and speedup is not None else None
        if status in (KernelStatus.ACCEPTED, KernelStatus.SUSPICIOUS):
            assert speedup is not None, "what was not timed has a finding that says why"
        else:
            speedup = interval = None
        made = f"{compiler()} {' '.join(FLAGS)}" if candidate.backend == "cpp" else None
        return KernelVerdict(
            task=self.task.name,
            status=status,
            speedup=speedup,
            interval=interval,
            findings=unique,
            timing=timing,
            environment=environment(
                task=self.task.source,
                code=candidate.code,
                seeds={"values": self.seed},
                compiler=made,
                gpu=self._seen or None,
            ),
            labels={"backend": candidate.backend, "baseline": OWN[self.task.kind], **_note(self._reference)},
        )


def _note(reference: Reference | None) -> dict[str, str]:
    return {"oracle": reference.note} if reference is not None and reference.note else {}


def evaluate(
    task: Task, candidate: Candidate, settings: Settings = Settings(), *, seed: int | None = None
) -> KernelVerdict:
    """One candidate of one task; `Evaluator` keeps the reference for several."""
    with Evaluator(task, settings, seed=seed) as evaluator:
        return evaluator(candidate)
