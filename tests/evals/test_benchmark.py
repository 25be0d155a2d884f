"""Benchmarks: what is counted, what is left out, what a shorter budget would have given, and the summary's shape."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from postgrad.evals.benchmark import (
    BudgetPoint,
    at_budget,
    budget_comparison,
    budget_curve,
    compare,
    grade,
    score,
    to_summary,
    write_rows,
)
from postgrad.evals.stats import rate
from postgrad.grading import judged
from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict

C, W, N, U = Status.CORRECT, Status.WRONG, Status.NO_ANSWER, Status.UNCHECKED


def trace(problem_id: str, text: str) -> Trace:
    """One token a character."""
    ids = tuple(map(ord, text))
    return Trace(problem_id, text, ids, (-0.5,) * len(ids), "stop")


def truncate(whole: Trace, budget: int) -> Trace:
    return replace(
        whole,
        text=whole.text[:budget],
        token_ids=whole.token_ids[:budget],
        logprobs=whole.logprobs[:budget],
        finish="length",
    )


class Checker:
    """Correct where the text ends in "=gold"; unchecked where there is no gold. Remembers what it was shown."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        self.seen.append(trace.text)
        if problem.gold is None:
            return Verdict(U, None, "no gold answer")
        if "=" not in trace.text:
            return Verdict(N, None, "no answer")
        right = trace.text.split("=")[1] == problem.gold
        return Verdict(C if right else W, float(right), f"{trace.text!r} and {problem.gold!r}")


class Scripted:
    def __init__(self, texts: dict[str, list[str]]) -> None:
        self.texts = texts
        self.calls: list[int] = []

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        self.calls.append(len(problems))
        return [[trace(problem.id, text) for text in self.texts[problem.id][:n]] for problem in problems]


PROBLEMS = [
    Problem("a", (), "1", labels={"grade": "easy"}),
    Problem("b", (), "2", labels={"grade": "hard"}),
    Problem("c", (), "3", labels={"grade": "hard"}),
    Problem("d", (), None, labels={"grade": "lost"}),
]
LONG = {
    "a": ["xxxx=1", "xx=1", "xxx=9", "xxxxxxx=1"],
    "b": ["xxxx=8", "xx", "xxx=2", "xxxxxxx=8"],
    "c": ["xxxx=3", "xx=3", "xxx=3", "xxxxxxx=3"],
    "d": ["xxxx=4", "xx=4", "xxx=4", "xxxxxxx=4"],
}
SHORT = {name: [text.replace("xx", "x") for text in texts] for name, texts in LONG.items()}


def graded(texts: dict[str, list[str]], problems: Sequence[Problem] = PROBLEMS) -> list[list[Graded]]:
    return grade(Scripted(texts), Checker(), problems, 4)


def answer(item: Graded) -> str | None:
    return item.trace.text.partition("=")[2] or None


# ---- grading


def test_grade_keeps_order_and_reports_progress() -> None:
    seen: list[tuple[int, int]] = []
    sampler = Scripted(LONG)
    grades = grade(sampler, Checker(), PROBLEMS, 2, progress=lambda done, total: seen.append((done, total)), batch=3)
    assert [[item.problem.id for item in row] for row in grades] == [["a"] * 2, ["b"] * 2, ["c"] * 2, ["d"] * 2]
    assert [item.trace.text for item in grades[1]] == ["xxxx=8", "xx"]
    assert seen == [(3, 4), (4, 4)]
    assert sampler.calls == [3, 1]
    assert grade(Scripted({}), Checker(), [], 2) == []


def test_grade_refuses_a_sampler_that_mixes_things_up() -> None:
    with pytest.raises(ValueError, match="for 3 samples of 'a'"):
        grade(Scripted({"a": ["=1"]}), Checker(), PROBLEMS[:1], 3)

    class Swapped(Scripted):
        def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
            return super().sample(problems, n)[::-1]

    with pytest.raises(ValueError, match="'a'"):
        grade(Swapped(LONG), Checker(), PROBLEMS[:2], 1)

    class Forgetful(Scripted):
        def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
            return super().sample(problems, n)[1:]

    with pytest.raises(ValueError, match="1 rows of traces for 2 problems"):
        grade(Forgetful(LONG), Checker(), PROBLEMS[:2], 1)
    with pytest.raises(ValueError, match="'a' first"):
        grade(Scripted(LONG), Checker(), [PROBLEMS[0], PROBLEMS[0]], 1)


# ---- scoring


def test_score_by_hand() -> None:
    result = score(graded(LONG), answer, resamples=200)
    assert (result.problems, result.n) == (4, 16)
    assert (result.correct, result.wrong, result.no_answer, result.unchecked) == (8, 3, 1, 4)
    assert result.accuracy is not None
    assert result.tokens is not None
    assert result.truncated is not None
    assert result.maj is not None
    assert (result.accuracy.value, result.accuracy.n) == (8 / 12, 12)  # the unchecked are in no rate
    assert result.tokens.value == pytest.approx((6 + 4 + 5 + 9) * 3 / 12 - 2 / 12)
    assert (result.truncated.value, result.truncated.n) == (0.0, 12)
    assert {k: estimate.value for k, estimate in result.pass_at.items()} == pytest.approx(
        {1: 8 / 12, 2: (1 + 1 / 2 + 1) / 3, 4: 1.0}
    )
    assert all(estimate.n == 3 for estimate in result.pass_at.values())
    assert result.maj.value == pytest.approx(2 / 3)  # b: "8" has two votes, "2" one
    assert {value: estimate.value for value, estimate in result.by_label["grade"].items()} == {
        "easy": 0.75,
        "hard": 0.625,
    }


def test_one_sample_is_a_plain_rate_and_has_pass_at_1_only() -> None:
    result = score([row[:1] for row in graded(LONG)], resamples=100)
    assert result.accuracy == rate(2, 3)
    assert list(result.pass_at) == [1]
    assert result.maj is None


def test_a_partly_checked_problem_is_out_of_the_larger_k() -> None:
    grades = graded(LONG, PROBLEMS[:3])
    grades[0][0] = replace(grades[0][0], verdict=Verdict(U, None, "time-out"))
    result = score(grades, resamples=100)
    assert {k: estimate.n for k, estimate in result.pass_at.items()} == {1: 3, 2: 3, 4: 2}
    assert result.unchecked == 1


def test_nothing_checked_gives_no_numbers() -> None:
    result = score(graded(LONG, PROBLEMS[3:]), answer)
    assert (result.accuracy, result.tokens, result.truncated, result.maj) == (None, None, None, None)
    assert (result.pass_at, result.by_label, result.unchecked) == ({}, {}, 4)
    assert result.to_summary()["accuracy"] is None


def test_truncated_traces_are_counted() -> None:
    cut = at_budget(graded(LONG, PROBLEMS[:3]), 5, Checker(), truncate)
    result = score(cut, resamples=100)
    assert result.truncated is not None
    assert result.truncated.value == 0.5  # of 6, 4, 5 and 9 tokens two are longer than 5; b has 2 in place of 4


# ---- comparing


def test_compare_by_hand() -> None:
    comparison = compare(graded(LONG), graded(SHORT), resamples=500)
    assert comparison.accuracy.value == 0.0
    assert comparison.accuracy.n == 3
    assert comparison.tokens.value == pytest.approx(-(2 + 1 + 1 + 3) * 3 / 12)
    assert comparison.token_drop.value == pytest.approx(21 / 70)
    low, high = comparison.token_drop.interval
    assert low <= comparison.token_drop.value <= high
    assert comparison.accuracy.interval == pytest.approx((-0.70760, 0.70760), abs=1e-5)  # three problems prove little


def test_compare_wants_the_same_problems() -> None:
    grades = graded(LONG)
    with pytest.raises(ValueError, match="same problems in the same order"):
        compare(grades, grades[::-1])
    with pytest.raises(ValueError, match="same problems"):
        compare(grades, grades[:-1])


# ---- budgets


def test_a_budget_cuts_and_verifies_only_what_it_changes() -> None:
    grades = graded(LONG)
    checker = Checker()
    cut = at_budget(grades, 5, checker, truncate)
    assert checker.seen == ["xxxx=", "xxxxx", "xxxx=", "xxxxx", "xxxx=", "xxxxx", "xxxx=", "xxxxx"]
    assert cut[0][1] is grades[0][1]
    assert (cut[0][0].trace.finish, cut[0][0].verdict.status, cut[0][3].verdict.status) == ("length", W, N)
    assert cut[3][0].verdict.status is U
    assert at_budget(grades, 9, checker, truncate) == grades


def test_budget_curve_by_hand() -> None:
    curve = budget_curve(graded(LONG), [9, 5, 4, 1, 9], Checker(), truncate)
    assert {budget: estimate.value for budget, estimate in curve.items()} == pytest.approx(
        {1: 0.0, 4: 2 / 12, 5: 4 / 12, 9: 8 / 12}
    )
    assert list(curve) == [1, 4, 5, 9]


def test_shorter_traces_gain_as_the_budget_shrinks() -> None:
    points = budget_comparison(graded(LONG), graded(SHORT), [9, 4], Checker(), truncate, resamples=200)
    assert [point.budget for point in points] == [4, 9]
    assert (points[1].before.value, points[1].after.value, points[1].difference.value) == (8 / 12, 8 / 12, 0.0)
    assert points[0].before.value == pytest.approx(2 / 12)
    assert points[0].after.value == pytest.approx(6 / 12)
    assert points[0].difference.value == pytest.approx(4 / 12)


def test_a_truncation_that_keeps_other_tokens_is_refused() -> None:
    with pytest.raises(ValueError, match="first 4 tokens of a trace of 'a'"):
        at_budget(graded(LONG), 4, Checker(), lambda whole, budget: truncate(whole, budget - 1))
    with pytest.raises(ValueError, match="at least one token"):
        at_budget(graded(LONG), 0, Checker(), truncate)


# ---- out


def test_summary_has_the_shape_that_reports_read() -> None:
    before, after = graded(LONG), graded(SHORT)
    comparison = compare(before, after, resamples=100)
    points = budget_comparison(before, after, [4], Checker(), truncate, resamples=100)
    summary = to_summary(
        {"sft": score(before, answer, resamples=100), "rl": score(after, resamples=100)},
        {("sft", "rl"): comparison},
        points,
    )
    assert json.loads(json.dumps(summary, allow_nan=False)) == summary
    model = summary["models"]["sft"]
    assert list(model) == ["n", "accuracy", "tokens", "no_answer", "unchecked", "maj", "pass_at"]
    assert list(model["accuracy"]) == ["value", "interval", "n"]
    assert (model["n"], model["no_answer"], model["unchecked"]) == (16, 1, 4)
    assert list(model["pass_at"]) == ["1", "2", "4"]
    assert summary["models"]["rl"]["maj"] is None
    names = [row["name"] for row in summary["comparisons"]]
    assert names == ["accuracy: sft -> rl", "tokens: sft -> rl", "token_drop: sft -> rl"]
    assert all(list(row) == ["name", "statement", "value", "interval", "n"] for row in summary["comparisons"])
    assert summary["budgets"] == [
        {
            "budget": 4,
            "sft": pytest.approx(2 / 12),
            "rl": pytest.approx(6 / 12),
            "difference": {"value": pytest.approx(4 / 12), "interval": list(points[0].difference.interval)},
        }
    ]
    assert isinstance(points[0], BudgetPoint)


def test_rows_are_one_object_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "sft.jsonl"
    write_rows(path, graded(LONG))
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 16
    assert rows[5] == {
        "problem_id": "b",
        "sample": 1,
        "status": "no_answer",
        "reason": "no answer",
        "n_tokens": 2,
        "finish": "stop",
        "text": "xx",
        "labels": {"grade": "hard"},
    }


def test_a_trace_that_sampling_could_not_finish_is_unchecked_whatever_it_says() -> None:
    problem = Problem("p", (Message("user", "1 + 1"),), "2")
    broken = Trace("p", "\\boxed{2}", (1,), (0.0,), "error")
    item = judged(problem, broken, lambda *_: Verdict(Status.CORRECT, 1.0))
    assert item.verdict == Verdict(Status.UNCHECKED, None, "sampling failed")
    assert score([[item]]).accuracy is None
