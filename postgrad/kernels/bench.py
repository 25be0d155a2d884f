"""Records of many kernels -> what they amount to against each baseline, with and without degenerate tasks.

    tally(records) -> {"eager": {"all": Score, "without_degenerate": Score}, "compile": ..., "the best baseline": ...}

A record is what `signed.sign` writes; beside its verdict may stand "baselines", {name: Timing as JSON}, of the same kernel against other forms of
the reference, and "degenerate", why the task needs no work. Against the best baseline counts the smallest gain, and only where every baseline
gave a number: the one that failed may be the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from postgrad.kernels.baselines import hardest
from postgrad.kernels.score import Score, with_and_without
from postgrad.kernels.signed import canonical
from postgrad.kernels.verdict import (
    ACCEPTED,
    SUSPICIOUS,
    UNCHECKED,
    Finding,
    KernelVerdict,
    Reason,
    Timing,
    conclude,
)
from postgrad.records import from_json

BEST = "the best baseline"

Record = Mapping[str, Any]


@dataclass(slots=True)
class Tally:
    scores: dict[str, dict[str, Score]] = field(default_factory=dict)
    """Baseline -> "all", and "without_degenerate" where there are such tasks."""
    left_out: list[str] = field(default_factory=list)
    """Why a record is in no score."""


def tally(records: Sequence[Record], *, seed: int = 0) -> Tally:
    """Records that cannot be read are left out and told, and so are all but the first of one task.

    A kernel that failed did so against every baseline; one that was not timed against a baseline is UNCHECKED there.
    """
    told = Tally()
    found: dict[str, tuple[KernelVerdict, dict[str, Timing]]] = {}
    degenerate: set[str] = set()
    for number, record in enumerate(records, start=1):
        try:
            verdict, timings = _read(record)
        except ValueError as error:
            told.left_out.append(f"record {number}: {' '.join(str(error).split())[:200]}")
            continue
        if verdict.task in found:
            told.left_out.append(f"record {number}: another kernel of {verdict.task}; the first one counts")
        else:
            found[verdict.task] = verdict, timings
            if record.get("degenerate"):
                degenerate.add(verdict.task)
    names = list(dict.fromkeys(name for one, timings in found.values() for name in (_own(one), *timings)))
    for name in [*names, BEST] if len(names) > 1 else names:
        verdicts = [_against(name, names, *one) for one in found.values()]
        scores = with_and_without(verdicts, degenerate, seed=seed)
        told.scores[name] = scores if degenerate else {"all": scores["all"]}
    return told


def _read(record: Record) -> tuple[KernelVerdict, dict[str, Timing]]:
    """Raises ValueError where it is not of the form."""
    verdict = from_json(KernelVerdict, canonical(record.get("verdict")))
    told = record.get("baselines") or {}
    if not isinstance(told, Mapping):
        raise ValueError(f"baselines is {type(told).__name__}; wanted: an object of timings by name")
    return verdict, {name: from_json(Timing, canonical(timing)) for name, timing in told.items()}


def _own(verdict: KernelVerdict) -> str:
    return verdict.labels.get("baseline", "reference")


def _against(name: str, names: Sequence[str], verdict: KernelVerdict, timings: Mapping[str, Timing]) -> KernelVerdict:
    if verdict.status not in (ACCEPTED, SUSPICIOUS) or name == _own(verdict):
        return verdict
    if name != BEST:
        return _timed_by(verdict, name, timings.get(name))
    known = {**timings, **({_own(verdict): verdict.timing} if verdict.timing is not None else {})}
    best = hardest(known) if known.keys() >= {*names} else None
    return _timed_by(verdict, best or BEST, known[best] if best else None)


def _timed_by(verdict: KernelVerdict, name: str, timing: Timing | None) -> KernelVerdict:
    """The same kernel with its gain over another baseline."""
    if timing is not None and timing.speedup is not None:
        return replace(verdict, speedup=timing.speedup, interval=timing.interval, timing=timing)
    findings = (*verdict.findings, Finding(Reason.T20_UNSTABLE, f"no number against {name}", means=UNCHECKED))
    return replace(verdict, status=conclude(findings), speedup=None, interval=None, findings=findings)
