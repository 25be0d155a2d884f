"""A kernel's record as plain JSON -> what pages show of it. Nothing insists: a missing piece is None or empty, a wrong one too.

    {"verdict": {...}, "signature": {...}}       as postgrad/kernels/signed.py writes it; what follows may stand beside it
    "reference", "candidate": source texts       "baselines": {name: {"speedup", "interval", "candidate_s", ...}}, as Timing
    "roofline": {"bound_s", "fraction", ...}     "techniques": [tag, ...]
    "published": {"score_default": 2.3, ...}     "degenerate": why the task needs no work

A failure is never a number here either: a speed-up is read where the status allows one, whatever the file says.
"""

from __future__ import annotations

import hashlib
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postgrad.report.folder import interval, listing, mapping, number, string

Glossary = Mapping[str, Mapping[str, str]]
"""Reason -> {"meaning", "advice", "rows", "status"}: kernels/glossary.py; what stands in none is shown by its name."""
Check = Callable[[Mapping[str, Any]], Sequence[str]]
"""What is not as it was signed: kernels/signed.py's `changes` with the run's key."""

STATUSES = ("accepted", "suspicious", "unchecked", "rejected")


@dataclass(frozen=True, slots=True)
class Finding:
    reason: str
    status: str
    """Empty where neither the finding nor the glossary says."""
    evidence: str
    where: str


@dataclass(frozen=True, slots=True)
class Timing:
    reference_s: list[float]
    candidate_s: list[float]
    warm_up_s: list[tuple[float, float]]
    overhead_s: list[float]
    reference_cpu_s: list[float]
    """Of each call."""
    candidate_cpu_s: list[float]
    reference_between_s: list[float]
    """Since the call before."""
    candidate_between_s: list[float]
    bucket_means: list[float]
    ratio: float | None
    interval: tuple[float, float] | None
    speedup: float | None
    variance: float | None
    stopped: str
    clock: str
    """wall or cpu: which of the two the ratios are of."""
    second: str
    """cpu or events: what the second clock is."""
    cache: str
    budget_s: float | None
    spent_s: float | None
    rules: dict[str, Any]
    again: Timing | None

    @property
    def ratios(self) -> list[float]:
        """Round by round, on the clock that counts."""
        wall = self.reference_s, self.candidate_s
        sides = (self.reference_cpu_s, self.candidate_cpu_s) if self.clock == "cpu" else wall
        return [one / other for one, other in zip(*sides, strict=False) if one > 0 and other > 0]


@dataclass(frozen=True, slots=True)
class Baseline:
    name: str
    speedup: float | None
    """Of the candidate over it."""
    interval: tuple[float, float] | None
    seconds: float | None
    """Median of its calls."""


@dataclass(frozen=True, slots=True)
class Signature:
    state: str
    """as signed, changed, not verified, not signed."""
    told: list[str]


@dataclass(frozen=True, slots=True)
class Entry:
    task: str
    status: str
    speedup: float | None
    interval: tuple[float, float] | None
    findings: list[Finding]
    timing: Timing | None
    environment: dict[str, Any]
    labels: dict[str, str]
    signature: Signature
    baselines: list[Baseline]
    roofline: dict[str, Any]
    published: dict[str, float]
    degenerate: str
    techniques: list[str]
    reference: str
    candidate: str

    @property
    def deciding(self) -> str:
        """The reason that made the verdict what it is: the first of those as bad as it; empty where there is none."""
        worst = [finding.reason for finding in self.findings if finding.status == self.status]
        return worst[0] if worst else self.findings[0].reason if self.findings else ""

    @property
    def hardest(self) -> Baseline | None:
        """The baseline over which it gains least; None where one of them gave no number, for that may be it."""
        known = [(one.speedup, one) for one in self.baselines if one.speedup is not None]
        return min(known, key=lambda pair: pair[0])[1] if known and len(known) == len(self.baselines) else None

    @property
    def code_as_judged(self) -> bool | None:
        """The code beside the verdict has the hash in it. None where one of the two is missing."""
        wanted = string(self.environment.get("code_sha256"))
        if not wanted or not self.candidate:
            return None
        return sha256(self.candidate) == wanted


def entry(record: Mapping[str, Any], glossary: Glossary, check: Check | None) -> Entry:
    verdict = mapping(record.get("verdict"))
    status = string(verdict.get("status"))
    status = status if status in STATUSES else "unchecked"
    labels = {name: string(value) for name, value in mapping(verdict.get("labels")).items()}
    techniques = [string(one) for one in listing(record.get("techniques"))] or labels.get("techniques", "").split()
    published = {name: number(value) for name, value in mapping(record.get("published")).items()}
    counts = status in ("accepted", "suspicious")
    return Entry(
        string(verdict.get("task")),
        status,
        positive(verdict.get("speedup")) if counts else None,
        interval(verdict.get("interval")) if counts else None,
        [_finding(mapping(one), glossary) for one in listing(verdict.get("findings"))],
        _timing(mapping(verdict.get("timing"))),
        mapping(verdict.get("environment")),
        labels,
        _signature(record, check),
        [_baseline(name, mapping(value), counts) for name, value in mapping(record.get("baselines")).items()],
        mapping(record.get("roofline")),
        {name: value for name, value in published.items() if value is not None and value > 0},
        why if isinstance(why := record.get("degenerate"), str) else "",
        [one.strip(",;") for one in techniques if one.strip(",;")],
        string(record.get("reference")),
        string(record.get("candidate")),
    )


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def positive(value: object) -> float | None:
    found = number(value)
    return found if found is not None and found > 0 else None


def _finding(found: Mapping[str, Any], glossary: Glossary) -> Finding:
    reason, means = string(found.get("reason")), string(found.get("means"))
    status = means or glossary.get(reason, {}).get("status", "")
    return Finding(
        reason, status if status in STATUSES else "", string(found.get("evidence")), string(found.get("where"))
    )


def _timing(found: Mapping[str, Any]) -> Timing | None:
    if not found:
        return None
    pairs = [interval(one) for one in listing(found.get("warm_up_s"))]
    return Timing(
        _numbers(found.get("reference_s")),
        _numbers(found.get("candidate_s")),
        [pair for pair in pairs if pair is not None],
        _numbers(found.get("overhead_s")),
        _numbers(found.get("reference_cpu_s")),
        _numbers(found.get("candidate_cpu_s")),
        _numbers(found.get("reference_between_s")),
        _numbers(found.get("candidate_between_s")),
        [one for one in _numbers(found.get("bucket_means")) if one > 0],
        positive(found.get("ratio")),
        interval(found.get("interval")),
        positive(found.get("speedup")),
        number(found.get("variance")),
        string(found.get("stopped")),
        string(found.get("clock")),
        string(found.get("second")),
        string(found.get("cache")),
        number(found.get("budget_s")),
        number(found.get("spent_s")),
        mapping(found.get("rules")),
        # One level: a second measurement has no third.
        _timing({**mapping(found["again"]), "again": None}) if mapping(found.get("again")) else None,
    )


def _numbers(value: object) -> list[float]:
    return [one for one in map(number, listing(value)) if one is not None]


def _baseline(name: str, found: Mapping[str, Any], counts: bool) -> Baseline:
    times = _numbers(found.get("reference_s"))
    return Baseline(
        name,
        positive(found.get("speedup")) if counts else None,
        interval(found.get("interval")) if counts else None,
        statistics.median(times) if times else None,
    )


def _signature(record: Mapping[str, Any], check: Check | None) -> Signature:
    if not mapping(record.get("signature")):
        return Signature("not signed", [])
    if check is None:
        return Signature("not verified", [])
    told = list(check(record))
    return Signature("changed" if told else "as signed", told)
