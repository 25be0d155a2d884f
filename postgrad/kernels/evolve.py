"""The archive that grows with the policy: problems are posed with earlier codes and their speed-ups, and what comes of it is kept.

CUDA-L1's co-evolution (arXiv 2507.14111, section 3): the weights learn from scored codes, and the codes that the new weights write are
the exemplars of later prompts. With fixed weights it is an evolutionary search; with the strategy `nothing` the prompt is the plain one, and
what is left is ordinary reinforcement learning whose codes are kept.

A prompt of a step shows what was known before the step alone. So a run that is killed in the middle of a step and goes on from a
checkpoint asks the same again: what was added at that step or later is forgotten first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from postgrad.kernels.archive import Archive, Attempt, Outcome, Place, Scored
from postgrad.kernels.candidate import Backend, Candidate
from postgrad.kernels.exemplars import Draw, Exemplar, Strategy, view
from postgrad.kernels.techniques import techniques
from postgrad.kernels.verdict import KernelStatus
from postgrad.kernels.verifier import Parse
from postgrad.records import Graded, Message, Problem, Status

Write = Callable[[Problem, Sequence[Exemplar]], tuple[Message, ...]]
"""The prompt that shows these; the plain one where there are none."""

STATUSES = {
    Status.CORRECT: KernelStatus.ACCEPTED,
    Status.WRONG: KernelStatus.REJECTED,
    Status.UNCHECKED: KernelStatus.UNCHECKED,
}


@dataclass(frozen=True, slots=True)
class Asked:
    place: Place
    parents: tuple[str, ...]


class Evolving:
    """A Prompter. Step k of training, counted from 0, is step k + 1 of the archive, whose step 0 is what a run starts with."""

    def __init__(
        self,
        codes: Archive,
        references: Mapping[str, str],
        write: Write,
        parse: Parse,
        strategy: Strategy,
        *,
        shown: int,
        seed: int,
        sampler: str,
        environment: str,
        backend: Backend = "cpp",
    ) -> None:
        """`references`: each task's reference text, an exemplar of speed-up 1; `shown`: N, the exemplars of a prompt; `sampler`
        names the author in the record; `environment`: what scores hold for."""
        self.codes, self.write, self.parse, self.strategy = codes, write, parse, strategy
        self.shown, self.seed, self.sampler, self.environment, self.backend = shown, seed, sampler, environment, backend
        self.references = {
            task: Exemplar(text, 1.0, Candidate(text, backend).sha256) for task, text in references.items()
        }
        self._step: int | None = None
        self._posed: Counter[str] = Counter()
        """Prompts of each task in this step."""
        self._asked: list[Asked] = []
        """Those that were posed and not yet answered."""

    def pose(self, problems: Sequence[Problem], step: int) -> list[Problem]:
        if step != self._step:
            self.codes.forget(step + 1)
            self._step, self._posed = step, Counter()
        posed, self._asked = [], []
        for problem in problems:
            place = Place(step + 1, self._posed[problem.id], 0)
            self._posed[problem.id] += 1
            known = self.codes.successes(problem.id, self.environment, before=place.step)
            seen = view(problem.id, self.references[problem.id], known)
            chosen = self.strategy(seen, self.shown, Draw(self.seed, place.step, place.draw))
            posed.append(replace(problem, prompt=self.write(problem, chosen)))
            self._asked.append(Asked(place, tuple(one.hash for one in chosen)))
        return posed

    def learn(self, groups: Sequence[Sequence[Graded]], step: int) -> None:
        assert step == self._step, "what was posed is answered in the same step"
        for asked, group in zip(self._asked, groups, strict=True):
            for number, item in enumerate(group):
                self._keep(replace(asked.place, sample=number), asked.parents, item, self.sampler)

    def start_with(self, graded: Sequence[Graded], author: str, draw: int) -> None:
        """Attempts of before the first step, in their order within each task; `draw` tells authors apart."""
        numbers: Counter[str] = Counter()
        for item in graded:
            self._keep(Place(0, draw, numbers[item.problem.id]), (), item, author)
            numbers[item.problem.id] += 1

    def start_from(self, task: str, codes: Sequence[Scored], author: str, draw: int) -> None:
        """Judged codes of another archive, as if they had been written before the first step."""
        for number, one in enumerate(codes):
            known = self.codes.find(task, self.environment, one.hash) is not None
            outcome = Outcome.REPEATED if known else Outcome.JUDGED
            place = Place(0, draw, number)
            attempt = Attempt(task, self.environment, place, author, outcome, (), one.hash)
            self.codes.add(attempt, None if known else one)

    def _keep(self, place: Place, parents: tuple[str, ...], item: Graded, author: str) -> None:
        task, verdict = item.problem.id, item.verdict
        code = self.parse(item.trace.text)

        def attempt(outcome: Outcome, hash: str | None = None, reason: str = "") -> Attempt:
            return Attempt(task, self.environment, place, author, outcome, parents, hash, reason)

        if item.trace.finish == "error":
            self.codes.add(attempt(Outcome.LOST, reason="sampling failed"))
        elif code is None or verdict.status is Status.NO_ANSWER:
            self.codes.add(attempt(Outcome.NO_CODE, reason=verdict.reason))
        else:
            score = verdict.score if verdict.status is Status.CORRECT else None
            tags = techniques(code, self.backend)
            scored = Scored(code, self.backend, STATUSES[verdict.status], score, verdict.reason, tags)
            known = self.codes.find(task, self.environment, scored.hash)
            if known is None or known.status is KernelStatus.UNCHECKED:
                self.codes.add(attempt(Outcome.JUDGED, scored.hash), scored)
            else:
                self.codes.add(attempt(Outcome.REPEATED, scored.hash))
