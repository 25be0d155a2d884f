"""An accepted kernel against other forms of its reference: what is left of a gain where the reference was slow (baselines.py).

    found = against(evaluate, candidate, evaluate(candidate))
    found.timings        {"compile": Timing}: beside the verdict in a record, where `bench.tally` reads them
    found.left_out       {"compile": why}: what does not load here, or does not give the reference's values, is no baseline
    found.verdict        suspicious (T18) where a baseline takes the whole gain away

A baseline runs in a worker of its own, in pairs with the candidate, with fresh values for each call, as the reference did.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from postgrad.kernels import baselines, runtime
from postgrad.kernels.baselines import Baseline
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.correct import construct, contract, values
from postgrad.kernels.evaluate import OWN, Evaluator
from postgrad.kernels.side import Code, Misbehaved, Side
from postgrad.kernels.subject import Subject, misbehaviour
from postgrad.kernels.task import Task
from postgrad.kernels.trial import Trial
from postgrad.kernels.verdict import ACCEPTED, SUSPICIOUS, Finding, KernelVerdict, Timing, conclude
from postgrad.sandbox import WorkerEnded

DISK_BYTES = 1 << 30
"""torch.compile keeps headers and libraries of some hundred megabytes."""
FIRST_S = 300.0
"""For a baseline's first call, in which it may be compiled."""


@dataclass(frozen=True, slots=True)
class Against:
    verdict: KernelVerdict
    timings: Mapping[str, Timing]
    left_out: Mapping[str, str]


class _Unfit(Exception):
    """This baseline says nothing: why."""


def others(task: Task, *, gpu: bool = False) -> list[Baseline]:
    """Baselines beside the reference itself; on a GPU also the other modes of torch.compile, and a CUDA graph."""
    return baselines.of_python(task.source, task.entry, gpu=gpu)[1:] if task.kind == "python" else []


def against(evaluate: Evaluator, candidate: Candidate, verdict: KernelVerdict) -> Against:
    """Measures nothing where the verdict is not ACCEPTED. Raises ReferenceFailed."""
    timings: dict[str, Timing] = {}
    left_out: dict[str, str] = {}
    for one in others(evaluate.task, gpu=evaluate.settings.gpu is not None) if verdict.status is ACCEPTED else []:
        try:
            found = _measured(evaluate, candidate, one)
        except (_Unfit, WorkerEnded) as error:
            left_out[one.name] = " ".join(str(error).split())[-300:]
            continue
        if isinstance(found, Finding):
            return Against(_with(verdict, found), timings, left_out)
        timings[one.name] = found
    own = OWN[evaluate.task.kind]
    weak = baselines.weak({own: verdict.timing, **timings}, own) if verdict.timing is not None and timings else None
    return Against(verdict if weak is None else _with(verdict, weak), timings, left_out)


def _with(verdict: KernelVerdict, finding: Finding) -> KernelVerdict:
    findings = (*verdict.findings, finding)
    status = conclude(findings)
    if status is SUSPICIOUS:
        return replace(verdict, status=status, findings=findings)
    return replace(verdict, status=status, findings=findings, speedup=None, interval=None)


def _measured(evaluate: Evaluator, candidate: Candidate, baseline: Baseline) -> Timing | Finding:
    """What the candidate gains over it, or what the candidate did to end that."""
    reference, gpu = evaluate.reference(), evaluate.settings.gpu
    limits = replace(evaluate.settings.limits, disk_bytes=max(DISK_BYTES, evaluate.settings.limits.disk_bytes))
    side = evaluate.started(candidate)
    assert isinstance(side, Side), "it was accepted, so it builds"
    code = Code("torch", baseline.source, "reference", evaluate.task.entry)
    with side, runtime.side(code, limits, rng=evaluate.rng, gpu=gpu) as rival:
        other = Subject(reference, rival, Candidate(baseline.source, "torch"), evaluate.rng)
        subject = Subject(reference, side, candidate, evaluate.rng)
        try:
            wrong = [*construct(other)]
            if not wrong:
                rival.call(other.place(reference.question(other.case, "own", 0).arrays), FIRST_S)
                wrong = [*contract(other), *values(other, 1)]
            if wrong:
                raise _Unfit(f"{wrong[0].reason}: {wrong[0].evidence}")
            wrong = [*construct(subject)]
            if wrong:
                return wrong[0]
            trial = Trial(subject, rival)
            timing = evaluate.paired(trial)
            late = [*trial.judge(timing.spent_s / 4), *trial.second()]
            return late[0] if late else timing
        except Misbehaved as error:
            if error.who == "reference":
                raise _Unfit(str(error)) from error
            return misbehaviour(error, "timing")
