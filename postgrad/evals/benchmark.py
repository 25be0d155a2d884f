"""Sample, verify, score, compare. What cannot be checked is counted apart and is in no rate.

    before, after = grade(sft, verify, problems, samples=4), grade(rl, verify, problems, samples=4)
    score(before).accuracy                     # pass@1 with its interval
    compare(before, after).token_drop          # share of tokens saved on the same problems
    budget_comparison(before, after, [32, 64, 128], verify, truncate)

A `Grades` is [P][samples]: one row for each problem, in the order the problems were given. Accuracies are shares in
[0, 1], lengths are sampled tokens with the end-of-sequence token. NO_ANSWER is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from postgrad import grading
from postgrad.evals import stats
from postgrad.evals.stats import Estimate
from postgrad.protocols import Sampler, Verifier
from postgrad.records import Graded, Problem, Status, Trace, write_jsonl

Grades = Sequence[Sequence[Graded]]
Truncate = Callable[[Trace, int], Trace]
"""The trace as if sampling had stopped after this many tokens: ids, log-probabilities and text cut alike."""


def grade(
    sampler: Sampler,
    verifier: Verifier,
    problems: Sequence[Problem],
    samples: int,
    progress: Callable[[int, int], None] | None = None,
    batch: int | None = None,
) -> list[list[Graded]]:
    """`samples` traces of each problem, verified. `batch` problems are sampled at once (None: all, the most efficient).

    `progress(done, total)` is told the problems graded so far, after each batch.
    """
    if twice := [name for name, count in Counter(problem.id for problem in problems).items() if count > 1]:
        raise ValueError(f"{len(twice)} problem ids occur more than once, {twice[0]!r} first: ids must differ")
    size = batch or max(1, len(problems))
    grades: list[list[Graded]] = []
    for start in range(0, len(problems), size):
        some = problems[start : start + size]
        rows = sampler.sample(some, samples)
        if len(rows) != len(some):
            raise ValueError(f"the sampler gave {len(rows)} rows of traces for {len(some)} problems")
        for problem, traces in zip(some, rows, strict=True):
            if len(traces) != samples or any(trace.problem_id != problem.id for trace in traces):
                found = [trace.problem_id for trace in traces]
                raise ValueError(f"the sampler gave traces of {found} for {samples} samples of {problem.id!r}")
        grades += grading.grade(some, rows, verifier)
        if progress is not None:
            progress(len(grades), len(problems))
    return grades


# ---- One model ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Score:
    """What one model did. Every `Estimate` is over checked traces; None where there are none."""

    problems: int
    n: int
    """Traces of every status; the next four add up to it."""
    correct: int
    wrong: int
    no_answer: int
    unchecked: int
    accuracy: Estimate | None
    """Share of checked traces that are correct: pass@1."""
    tokens: Estimate | None
    """Mean sampled tokens."""
    truncated: Estimate | None
    """Share that ended at the token limit."""
    pass_at: Mapping[int, Estimate]
    """By k = 1, 2, 4 ...: problems with at least k checked traces; n counts those problems."""
    maj: Estimate | None
    """Accuracy of the majority vote of a problem's checked traces; None where `score` was given no `answer`."""
    by_label: Mapping[str, Mapping[str, Estimate]]
    """label -> its value -> accuracy."""

    def to_summary(self) -> dict[str, Any]:
        return {
            "n": self.n,
            "accuracy": _summary(self.accuracy),
            "tokens": _summary(self.tokens),
            "no_answer": self.no_answer,
            "unchecked": self.unchecked,
            "maj": None if self.maj is None else self.maj.value,
            "pass_at": {str(k): estimate.value for k, estimate in self.pass_at.items()},
        }


def score(
    grades: Grades,
    answer: Callable[[Graded], Hashable | None] | None = None,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> Score:
    """`answer` gives what a trace votes for, equal for equal answers and None for none; it is needed for `maj` only."""
    checked = _checked(grades)
    some = any(checked)
    status = Counter(item.verdict.status for row in grades for item in row)
    outcomes = _outcomes(checked)
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    pass_at = {
        k: stats.mean([[stats.pass_at_k(len(row), int(sum(row)), k)] for row in outcomes if len(row) >= k], **how)
        for k in _powers_of_two(max((len(row) for row in checked), default=0))
    }
    maj = None
    if answer is not None and some:
        ballots = [[answer(item) for item in row] for row in checked]
        pairs = zip(ballots, outcomes, strict=True)
        maj = stats.mean([[stats.maj_at_k(votes, right, len(votes))] for votes, right in pairs if votes], **how)
    cut = [[float(item.trace.finish == "length") for item in row] for row in checked]
    return Score(
        problems=len(grades),
        n=sum(len(row) for row in grades),
        correct=status[Status.CORRECT],
        wrong=status[Status.WRONG],
        no_answer=status[Status.NO_ANSWER],
        unchecked=status[Status.UNCHECKED],
        accuracy=stats.clustered_rate(outcomes) if some else None,
        tokens=stats.mean(_lengths(checked), **how) if some else None,
        truncated=stats.clustered_rate(cut) if some else None,
        pass_at=pass_at,
        maj=maj,
        by_label=_by_label(checked),
    )


def _by_label(checked: Grades) -> dict[str, dict[str, Estimate]]:
    rows: dict[str, dict[str, list[list[float]]]] = {}
    for row, outcome in zip(checked, _outcomes(checked), strict=True):
        for label, value in (row[0].problem.labels if row else {}).items():
            rows.setdefault(label, {}).setdefault(value, []).append(outcome)
    return {
        label: {value: stats.clustered_rate(outcomes) for value, outcomes in sorted(values.items())}
        for label, values in rows.items()
    }


# ---- Two models -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Comparison:
    """After against before, on the same problems; `n` counts the problems that could be checked in both."""

    accuracy: Estimate
    """Difference of accuracies, after - before."""
    tokens: Estimate
    """Difference of mean tokens, after - before."""
    token_drop: Estimate
    """Share of tokens saved, 1 - after / before."""


def compare(before: Grades, after: Grades, *, resamples: int = 10_000, seed: int = 0) -> Comparison:
    """Paired differences with intervals; the two must hold the same problems in the same order."""
    old, new = _checked_pair(before, after)
    how: dict[str, Any] = {"resamples": resamples, "seed": seed}
    return Comparison(
        accuracy=stats.paired_rate_difference(_outcomes(old), _outcomes(new), **how),
        tokens=stats.paired_difference(_lengths(old), _lengths(new), **how),
        token_drop=stats.paired_drop(_lengths(old), _lengths(new), **how),
    )


# ---- Budgets --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BudgetPoint:
    budget: int
    """Tokens."""
    before: Estimate
    after: Estimate
    difference: Estimate
    """Of accuracies, after - before, paired by problem."""


def at_budget(grades: Grades, budget: int, verifier: Verifier, truncate: Truncate) -> list[list[Graded]]:
    """What would have been graded had each trace been stopped at `budget` tokens: from one long run, no new sampling.

    Exact where sampling does not look ahead, which holds for all of ours. Traces within the budget keep their verdict;
    the others are cut and verified again.
    """
    if budget < 1:
        raise ValueError(f"a budget is at least one token, not {budget}")

    def cut(item: Graded) -> Graded:
        if len(item.trace.token_ids) <= budget:
            return item
        trace = replace(truncate(item.trace, budget), finish="length")
        if trace.token_ids != item.trace.token_ids[:budget]:
            raise ValueError(f"truncate must keep the first {budget} tokens of a trace of {item.problem.id!r}")
        return grading.judged(item.problem, trace, verifier)

    return [[cut(item) for item in row] for row in grades]


def budget_curve(grades: Grades, budgets: Iterable[int], verifier: Verifier, truncate: Truncate) -> dict[int, Estimate]:
    """Accuracy by budget, smallest budget first."""
    return {
        budget: stats.clustered_rate(_outcomes(_checked(at_budget(grades, budget, verifier, truncate))))
        for budget in sorted(set(budgets))
    }


def budget_comparison(
    before: Grades,
    after: Grades,
    budgets: Iterable[int],
    verifier: Verifier,
    truncate: Truncate,
    *,
    resamples: int = 10_000,
    seed: int = 0,
) -> list[BudgetPoint]:
    """Both curves and their paired difference, smallest budget first."""
    points: list[BudgetPoint] = []
    for budget in sorted(set(budgets)):
        old, new = _checked_pair(
            at_budget(before, budget, verifier, truncate), at_budget(after, budget, verifier, truncate)
        )
        difference = stats.paired_rate_difference(_outcomes(old), _outcomes(new), resamples=resamples, seed=seed)
        points.append(
            BudgetPoint(budget, stats.clustered_rate(_outcomes(old)), stats.clustered_rate(_outcomes(new)), difference)
        )
    return points


# ---- Out ------------------------------------------------------------------------------------------------------------


def to_summary(
    scores: Mapping[str, Score],
    comparisons: Mapping[tuple[str, str], Comparison] | None = None,
    budgets: Sequence[BudgetPoint] = (),
    budget_models: tuple[str, str] = ("sft", "rl"),
) -> dict[str, Any]:
    """The `models`, `comparisons` and `budgets` of a run's summary.json; keys of `comparisons` are (before, after)."""
    before, after = budget_models
    return {
        "models": {name: result.to_summary() for name, result in scores.items()},
        "comparisons": [
            {"name": f"{quantity}: {old} -> {new}", "statement": statement.format(old=old, new=new)}
            | getattr(result, quantity).to_summary()
            for (old, new), result in (comparisons or {}).items()
            for quantity, statement in _STATEMENTS.items()
        ],
        "budgets": [
            {
                "budget": point.budget,
                before: point.before.value,
                after: point.after.value,
                "difference": {"value": point.difference.value, "interval": list(point.difference.interval)},
            }
            for point in budgets
        ],
    }


_STATEMENTS = {
    "accuracy": "accuracy of {new} minus accuracy of {old}, on the same problems",
    "tokens": "mean tokens of {new} minus mean tokens of {old}, on the same problems",
    "token_drop": "share of the tokens of {old} that {new} saves, on the same problems",
}


def write_rows(path: Path, grades: Grades) -> None:
    """One JSON object a trace, as evals/<model>.jsonl of a run holds them."""
    write_jsonl(
        path,
        (
            {
                "problem_id": item.problem.id,
                "sample": sample,
                "status": str(item.verdict.status),
                "reason": item.verdict.reason,
                "n_tokens": len(item.trace.token_ids),
                "finish": item.trace.finish,
                "text": item.trace.text,
                "labels": dict(item.problem.labels),
            }
            for row in grades
            for sample, item in enumerate(row)
        ),
    )


# ---- Small pieces ---------------------------------------------------------------------------------------------------


def _is_checked(item: Graded) -> bool:
    return item.verdict.status is not Status.UNCHECKED


def _checked(grades: Grades) -> list[list[Graded]]:
    return [[item for item in row if _is_checked(item)] for row in grades]


def _outcomes(checked: Grades) -> list[list[float]]:
    return [[float(item.verdict.status is Status.CORRECT) for item in row] for row in checked]


def _lengths(checked: Grades) -> list[list[float]]:
    return [[float(len(item.trace.token_ids)) for item in row] for row in checked]


def _checked_pair(before: Grades, after: Grades) -> tuple[Grades, Grades]:
    ids = [[row[0].problem.id if row else None for row in grades] for grades in (before, after)]
    if ids[0] != ids[1]:
        raise ValueError("a paired comparison needs the same problems in the same order in both models' traces")
    return _checked(before), _checked(after)


def _powers_of_two(most: int) -> list[int]:
    return [1 << power for power in range(most.bit_length())]


def _summary(estimate: Estimate | None) -> dict[str, Any] | None:
    return None if estimate is None else estimate.to_summary()
