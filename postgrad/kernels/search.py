"""Search without training: rounds of exemplars -> prompt -> answers -> verdicts -> archive, under a budget of evaluations.

    found = optimize(subject, sampler, evaluate, Settings(evaluations=200), folder, confirm=precisely, named="model-x")

CUDA-L1's "fixed-parameter solution optimisation": an evolutionary search by a model that reads scored codes. With the strategy
"nothing" it is best-of-N with as many evaluations, the baseline that every search has to beat.

A round chooses from what the rounds before it found, and every choice and every problem's id is a function of (seed, step, draw).
So a search that was killed goes on where it stood, given a sampler that answers a problem the same way again (`sample/api.py` does).
A larger budget continues a finished search.

Picking the best of many noisy scores picks lucky ones: the fastest few are measured again by `confirm`, and what is reported is that
measurement. Nothing is written as best that is not accepted twice and faster than 1.01x, the paper's threshold of a speed-up.

    folder/archive.sqlite    every attempt and code       folder/search.json     what the search was started with
    folder/best.py|cpp       the best verified kernel     folder/summary.json    what was found, and what it cost
    folder/key               signs the verdicts' records
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from postgrad.database import alone
from postgrad.kernels import archive, contrast, exemplars, signed
from postgrad.kernels.archive import Archive, Attempt, Outcome, Place, Scored
from postgrad.kernels.candidate import Backend, Candidate
from postgrad.kernels.contrast import LANGUAGES, NoCode
from postgrad.kernels.exemplars import Draw, Exemplar, Strategy
from postgrad.kernels.guard.monitor import Monitor, of_hacks
from postgrad.kernels.task import Task
from postgrad.kernels.techniques import techniques
from postgrad.kernels.verdict import KernelStatus, KernelVerdict
from postgrad.protocols import Sampler, Spent
from postgrad.records import Problem, Trace, to_json
from postgrad.run import Failed, write_json, write_text

STRATEGIES: Mapping[str, Strategy] = {
    "buckets": exemplars.buckets,
    "islands": exemplars.islands(4, 8),
    "proportional": exemplars.proportional,
    "uniform": exemplars.uniform,
    "nothing": exemplars.nothing,
}
FASTER = 1.01
"""Below it the paper counts no speed-up."""


class Evaluate(Protocol):
    """`evaluate.Evaluator` is one."""

    def __call__(self, candidate: Candidate, *, best: float | None) -> KernelVerdict:
        """Never raises for what a model wrote, and has deadlines of its own. `best`: the best speed-up so far, None for none yet."""
        ...


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be made faster."""

    task: Task
    """Its source is block b of the prompt, and the exemplar with speed-up 1."""
    backend: Backend
    environment: str
    """What scores hold for, in a line; see `Attempt.environment`."""


@dataclass(frozen=True, slots=True)
class Settings:
    """Raises ValueError for a strategy that is not known or a budget that is no budget."""

    evaluations: int
    """At most so many verdicts, those of seeds included."""
    answers: int
    """At most so many attempts: what holds no code, or a known one, costs no evaluation but is paid for too."""
    strategy: str = "buckets"
    seed: int = 0
    exemplars: int = 2
    """The paper's N."""
    prompts: int = 4
    """In a round, one answer each: what a sampler may work on at the same time."""
    finalists: int = 3
    """The fastest so many are measured again at the end."""

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy={self.strategy!r}: wanted one of {', '.join(STRATEGIES)}")
        for name in ("evaluations", "answers", "exemplars", "prompts", "finalists"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: wanted 1 or more")


@dataclass(frozen=True, slots=True)
class Finalist:
    hash: str
    searched: float
    """Speed-up by which it got here: biased upward, as the largest of many."""
    status: KernelStatus
    """Of the second verdict."""
    speedup: float | None
    """By the second verdict; what may be quoted."""
    interval: tuple[float, float] | None
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ancestor:
    """One code in the best one's lineage."""

    hash: str
    score: float | None
    place: Place
    parents: tuple[str, ...]
    tags: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Summary:
    task: str
    environment: str
    sampler: str
    settings: Settings
    ended: str
    """Why no further round was begun."""
    rounds: int
    answers: int
    evaluations: int
    outcomes: Mapping[str, int]
    """Of attempts."""
    statuses: Mapping[str, int]
    """Of distinct codes."""
    reasons: Mapping[str, int]
    """Why codes were not accepted: how many have the reason."""
    hacks: Mapping[str, float]
    """Shares of the newest 200 distinct codes that were caught, by reason; see guard/monitor.py."""
    alarms: tuple[str, ...]
    """Why somebody should read samples: the monitor's words."""
    curve: tuple[tuple[int, float], ...]
    """(evaluations so far, best speed-up so far) at each improvement, by the search's own verdicts."""
    finalists: tuple[Finalist, ...]
    best: Finalist | None
    """None: nothing faster than the reference was verified, and no kernel was written."""
    file: str | None
    """Name of the drop-in file in the folder."""
    lineage: tuple[Ancestor, ...]
    """The best one's, oldest first."""
    cost: Mapping[str, float] | None
    """What the sampler says that it has spent, over all processes of this search; None where it keeps no account."""


def optimize(
    subject: Subject,
    sampler: Sampler,
    evaluate: Evaluate,
    settings: Settings,
    folder: Path,
    *,
    confirm: Evaluate,
    named: str,
    seeds: Sequence[str] = (),
    spent: Callable[[], Mapping[str, float]] | None = None,
) -> Summary:
    """Search, or go on with the search in `folder`, until a budget is used up; write the best kernel and summary.json.

    `confirm` is `evaluate` with more time for its clock; `named` is the sampler's name for the record; `seeds` are codes to start from.
    Raises ValueError where the folder holds another search, Failed where a whole round got no answer. Whatever else evaluate or the
    sampler raises passes through, and the folder can be continued.
    """
    with alone(folder / "archive.sqlite"), archive.opened(folder / "archive.sqlite") as codes:
        _same_search(folder / "search.json", subject, settings, named, seeds)
        search = _Search(subject, sampler, evaluate, settings, codes, named, signed.run_key(folder / "key"))
        search.start(seeds)
        ended, step = search.full(), 0
        while ended is None:
            step += 1
            ended = search.round(step)
        summary = _summary(search, ended, confirm, spent)
        _write_best(folder, subject, codes, summary)
        write_json(folder / "summary.json", json.loads(to_json(summary)))
        return summary


class _Search:
    def __init__(
        self,
        subject: Subject,
        sampler: Sampler,
        evaluate: Evaluate,
        settings: Settings,
        codes: Archive,
        named: str,
        key: bytes,
    ) -> None:
        self.subject = subject
        self.sampler = sampler
        self.evaluate = evaluate
        self.settings = settings
        self.codes = codes
        self.named = named
        self.key = key
        self.where = (subject.task.name, subject.environment)
        self.done = {one.place: one.outcome for one in codes.attempts(*self.where)}
        self.reference = Exemplar(subject.task.source, 1.0, Candidate(subject.task.source, subject.backend).sha256)

    def full(self) -> str | None:
        """Which budget is used up, None while none is."""
        if Counter(self.done.values())[Outcome.JUDGED] >= self.settings.evaluations:
            return f"all {self.settings.evaluations} evaluations are done"
        if len(self.done) >= self.settings.answers:
            return f"all {self.settings.answers} answers are used"
        return None

    def start(self, seeds: Sequence[str]) -> None:
        for number, code in enumerate(seeds):
            place = Place(0, number, 0)
            if place not in self.done and self.full() is None:
                self._judge(place, code, (), "seed")

    def round(self, step: int) -> str | None:
        """Why this was the last one; None where it was not. Places that the archive holds already are passed over."""
        known = exemplars.view(self.subject.task.name, self.reference, self.codes.successes(*self.where, before=step))
        choose = STRATEGIES[self.settings.strategy]
        problems, shown = [], []
        for number in range(self._prompts(step)):
            if Place(step, number, 0) not in self.done:
                chosen = choose(known, self.settings.exemplars, Draw(self.settings.seed, step, number))
                problems.append(self._problem(chosen, step, number))
                shown.append((Place(step, number, 0), tuple(one.hash for one in chosen)))
        if not problems:
            return self.full()
        out = None
        try:
            traces: Sequence[Sequence[Trace]] = self.sampler.sample(problems, 1)
        except Spent as spent:
            out, traces = str(spent), spent.traces
        for (place, parents), group in zip(shown, traces, strict=True):
            for trace in group:
                self._take(place, trace, parents)
        if out is None and all(self.done[place] is Outcome.LOST for place, _ in shown):
            raise Failed(
                f"{self.named} gave no answer to any of the {len(shown)} prompts of round {step}: look into its own record, and resume"
            )
        return out if out is not None else self.full()

    def _prompts(self, step: int) -> int:
        """Of this round, by what was left when it began: never more answers than evaluations."""
        before = [outcome for place, outcome in self.done.items() if place.step < step]
        evaluations = self.settings.evaluations - before.count(Outcome.JUDGED)
        return min(self.settings.prompts, evaluations, self.settings.answers - len(before))

    def _problem(self, chosen: Sequence[Exemplar], step: int, number: int) -> Problem:
        text = contrast.prompt(self.subject.task, chosen, self.subject.backend)
        return Problem(f"{self.subject.task.name}/{self.settings.seed}/{step}/{number}", text, None)

    def _take(self, place: Place, trace: Trace, parents: tuple[str, ...]) -> None:
        if trace.finish == "error":
            self._add(place, Outcome.LOST, parents, reason="sampling failed")
        elif isinstance(code := contrast.parse(trace.text), NoCode):
            self._add(place, Outcome.NO_CODE, parents, reason=code.value)
        else:
            self._judge(place, code, parents, self.named)

    def _judge(self, place: Place, code: str, parents: tuple[str, ...], author: str) -> None:
        candidate = Candidate(code, self.subject.backend)
        hash = candidate.sha256
        known = self.codes.find(*self.where, hash)
        if known is not None and known.status is not KernelStatus.UNCHECKED:
            self._add(place, Outcome.REPEATED, parents, author=author, hash=hash)
            return
        best = self.codes.best(*self.where)
        verdict = self.evaluate(candidate, best=best[0].score if best else None)
        scored = Scored(
            code,
            candidate.backend,
            verdict.status,
            # A suspicious verdict's number stands in its record; it does not count.
            verdict.speedup if verdict.status is KernelStatus.ACCEPTED else None,
            "; ".join(verdict.reasons),
            techniques(code, candidate.backend),
            signed.sign(verdict, self.key),
        )
        self._add(place, Outcome.JUDGED, parents, author=author, hash=hash, scored=scored)

    def _add(
        self,
        place: Place,
        outcome: Outcome,
        parents: tuple[str, ...],
        *,
        author: str | None = None,
        hash: str | None = None,
        reason: str = "",
        scored: Scored | None = None,
    ) -> None:
        attempt = Attempt(*self.where, place, author or self.named, outcome, parents, hash, reason)
        self.codes.add(attempt, scored)
        self.done[place] = outcome


def _same_search(path: Path, subject: Subject, settings: Settings, named: str, seeds: Sequence[str]) -> None:
    """The budgets may have grown; another search in the same folder would mix two."""
    asked = {
        "subject": {
            "task": subject.task.name,
            "sha256": subject.task.sha256,
            "backend": subject.backend,
            "environment": subject.environment,
            "reference": subject.task.source,
        },
        "settings": {
            name: value
            for name, value in asdict(settings).items()
            if name not in ("evaluations", "answers", "finalists")
        },
        "sampler": named,
        "seeds": list(seeds),
    }
    if not path.is_file():
        write_json(path, asked)
        return
    begun = json.loads(path.read_text(encoding="utf-8"))
    changed = [name for name in asked if begun.get(name) != asked[name]]
    if changed:
        raise ValueError(
            f"{path.parent} holds a search with another {' and '.join(changed)}: give the same ones to continue it, or an empty "
            "folder to begin a new one"
        )


def _summary(
    search: _Search, ended: str, confirm: Evaluate, spent: Callable[[], Mapping[str, float]] | None
) -> Summary:
    codes, where = search.codes, search.where
    attempts, distinct = codes.attempts(*where), codes.codes(*where)
    finalists = tuple(_measured_again(one, confirm) for one in codes.best(*where, search.settings.finalists))
    verified = [one for one in finalists if one.status is KernelStatus.ACCEPTED]
    best = max(verified, key=_speedup, default=None)
    if best is not None and _speedup(best) <= FASTER:
        best = None
    lineage = codes.ancestry(*where, best.hash) if best else []
    parents = {one.place: one.parents for one in attempts}
    watch = Monitor()
    for one in distinct:
        watch.add(one.status.value, of_hacks(filter(None, one.reason.split("; "))))
    outcomes = Counter(one.outcome.value for one in attempts)
    return Summary(
        search.subject.task.name,
        search.subject.environment,
        search.named,
        search.settings,
        ended,
        max((one.place.step for one in attempts), default=0),
        len(attempts),
        outcomes[Outcome.JUDGED],
        outcomes,
        Counter(one.status.value for one in distinct),
        Counter(reason for one in distinct for reason in one.reason.split("; ") if reason),
        watch.metrics(),
        tuple(alarm.text for alarm in watch.alarms()),
        _curve(attempts, distinct),
        finalists,
        best,
        f"best{LANGUAGES[search.subject.backend].suffix}" if best else None,
        tuple(Ancestor(one.hash, one.score, one.place, parents[one.place], one.tags) for one in lineage if one.place),
        None if spent is None else spent(),
    )


def _measured_again(one: Scored, confirm: Evaluate) -> Finalist:
    assert one.score is not None, "only accepted codes are ranked"
    verdict = confirm(Candidate(one.code, one.backend), best=None)
    reasons = tuple(reason.value for reason in verdict.reasons)
    return Finalist(one.hash, one.score, verdict.status, verdict.speedup, verdict.interval, reasons)


def _speedup(one: Finalist) -> float:
    assert one.speedup is not None, "an accepted kernel has a speed-up"
    return one.speedup


def _curve(attempts: Sequence[Attempt], distinct: Sequence[Scored]) -> tuple[tuple[int, float], ...]:
    scores = {one.place: one.score for one in distinct}
    points: list[tuple[int, float]] = []
    evaluations = 0
    for attempt in attempts:
        evaluations += attempt.outcome is Outcome.JUDGED
        score = scores.get(attempt.place)
        if score is not None and (not points or score > points[-1][1]):
            points.append((evaluations, score))
    return tuple(points)


def _write_best(folder: Path, subject: Subject, codes: Archive, summary: Summary) -> None:
    """The code as it was verified, beneath a few lines that say what it is; a file of an earlier, smaller search goes."""
    language = LANGUAGES[subject.backend]
    path = folder / f"best{language.suffix}"
    if summary.best is None:
        path.unlink(missing_ok=True)
        return
    one = codes.find(subject.task.name, subject.environment, summary.best.hash)
    assert one is not None
    assert summary.best.speedup is not None
    interval = "" if summary.best.interval is None else " (interval {:.3f} to {:.3f})".format(*summary.best.interval)
    said = [
        f"{subject.task.name}: {summary.best.speedup:.2f}x the reference{interval}, verified.",
        f"Measured on: {subject.environment}",
        f"Found by {summary.sampler}, strategy {summary.settings.strategy}, after {summary.evaluations} evaluations; "
        f"code {one.hash[:16]}.",
    ]
    head = "".join(f"{language.comment} {' '.join(line.split())}\n" for line in said)
    write_text(path, f"{head}\n{one.code.rstrip()}\n")
