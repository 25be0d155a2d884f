"""The choice of hard problems with one correct trace each."""

from __future__ import annotations

from dataclasses import asdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgrad.data.select import Candidate, Counts, judged, select
from postgrad.records import Example, Message, Problem


def candidate(
    question: str = "1 + 1?",
    traces: str = "aaa bb c",
    correct: tuple[bool | None, ...] | None = None,
    gold: str | None = "2",
    pass_rate: float | None = None,
    weight: float = 1.0,
) -> Candidate:
    problem = Problem(question, (Message("system", "Be brief."), Message("user", question)), gold, {"level": "1"})
    texts = tuple(traces.split())
    return Candidate(problem, texts, (True,) * len(texts) if correct is None else correct, pass_rate, weight)


def chosen(*candidates: Candidate, **settings: object) -> list[str]:
    return [example.response for example in select(candidates, len, **settings).examples]  # type: ignore[arg-type]


def test_the_shortest_correct_trace_becomes_the_example_with_the_problem_s_weight() -> None:
    one = candidate(traces="a bb ccc", correct=(False, True, True), weight=2.0)
    selected = select([one], len)
    assert selected.examples == (Example(one.problem.prompt, "bb", 2.0, "1 + 1?", {"level": "1"}),)
    assert selected.counts == Counts(candidates=1, kept=1)


def test_longest_and_random() -> None:
    assert chosen(candidate(), choose="longest") == ["aaa"]
    drawn = [chosen(candidate(), choose="random", seed=seed)[0] for seed in range(30)]
    assert set(drawn) == {"aaa", "bb", "c"}
    assert drawn == [chosen(candidate(), choose="random", seed=seed)[0] for seed in range(30)]
    assert drawn[0] in chosen(candidate("other"), candidate(), choose="random", seed=0)


def test_unchecked_is_never_chosen_and_not_called_wrong() -> None:
    unchecked = candidate("a", "x", (None,))
    partly = candidate("b", "x y", (False, None))
    wrong = candidate("c", "x y", (False, False))
    without = candidate("d", "", ())
    selected = select([unchecked, partly, wrong, without], len)
    assert selected.examples == ()
    assert selected.counts == Counts(candidates=4, unchecked=2, wrong=1, no_trace=1)


def test_judged_fills_in_only_what_the_data_left_open() -> None:
    verdicts = {"a": True, "b": True, "c": False}
    one = candidate(traces="a b c d", correct=(False, None, None, None))
    (result,) = judged([one], lambda _, trace: verdicts.get(trace))
    assert result.correct == (False, True, False, None)


def test_duplicates_are_merged_so_that_the_shortest_of_all_sets_wins() -> None:
    first, second = candidate("What is 3*4?", "aaaa", gold="12"), candidate("what is  3 * 4", "bb", gold=" 12 ")
    selected = select([first, second], len)
    assert [(example.id, example.response) for example in selected.examples] == [("What is 3*4?", "bb")]
    assert selected.counts == Counts(candidates=2, merged=1, kept=1)


def test_duplicates_that_disagree_on_the_gold_are_counted_and_their_traces_left_out() -> None:
    selected = select([candidate(traces="aaaa"), candidate(traces="b", gold="3")], len)
    assert [example.response for example in selected.examples] == ["aaaa"]
    assert selected.counts == Counts(candidates=2, conflicting=1, kept=1)


def test_problems_that_differ_in_an_operator_are_two() -> None:
    assert select([candidate("3 + 4"), candidate("3 - 4"), candidate("2.5"), candidate("25")], len).counts.kept == 4


def test_hard_is_longer_than_the_bound_and_within_the_pass_rates() -> None:
    assert chosen(candidate(traces="aaa"), min_trace_tokens=2) == ["aaa"]
    assert select([candidate(traces="aaa")], len, min_trace_tokens=3).counts.too_short == 1

    rates = [candidate(str(n), "a", pass_rate=rate) for n, rate in enumerate((0.0, 0.25, 0.5, 1.0, None))]
    selected = select(rates, len, min_pass_rate=0.25, max_pass_rate=0.5)
    assert [example.id for example in selected.examples] == ["1", "2", "4"]
    assert selected.counts == Counts(candidates=5, too_easy=1, too_hard=1, kept=3)


def test_marks_must_match_traces() -> None:
    with pytest.raises(ValueError, match="'1 \\+ 1\\?': 3 traces, 1 marks"):
        candidate(correct=(True,))


@st.composite
def some(draw: st.DrawFn) -> Candidate:
    correct = tuple(draw(st.lists(st.sampled_from([True, False, None]), max_size=3)))
    return candidate(
        draw(st.sampled_from("abcdef")),
        " ".join("y" * (n + 1) for n in range(len(correct))),
        correct,
        draw(st.sampled_from([None, "1", "2"])),
        draw(st.sampled_from([None, 0.0, 0.5, 1.0])),
    )


@settings(deadline=None)
@given(st.lists(some(), max_size=12))
def test_every_candidate_is_counted_under_exactly_one_reason(candidates: list[Candidate]) -> None:
    selected = select(candidates, len, min_trace_tokens=1, min_pass_rate=0.2, max_pass_rate=0.8)
    counts = asdict(selected.counts)
    assert counts.pop("candidates") == len(candidates) == sum(counts.values())
    assert selected.counts.kept == len(selected.examples)
