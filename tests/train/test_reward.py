"""Rewards: worked vectors, what UNCHECKED does to a group, and whether a wrong answer can out-earn a right one."""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.protocols import Reward
from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict
from postgrad.train import reward as rewards
from postgrad.train.foreign import trl, verl
from postgrad.train.order import check_order
from postgrad.train.reward import (
    accuracy,
    cosine_length,
    cosine_similarity,
    format_thought,
    from_settings,
    in_characters,
    in_tokens,
    length_bonus,
    length_penalty,
    longer,
    repetition,
    require_references,
    soft_overlong,
    step_markers,
    weighted,
    when_correct,
    words_of,
)
from postgrad.train.settings import RewardSettings

C, W, N, U = Status.CORRECT, Status.WRONG, Status.NO_ANSWER, Status.UNCHECKED
PROBLEM = Problem("p1", (Message("user", "1+1?"),), "2", labels={"grade": "easy"}, reference="one and one is two")


def graded(status: Status, tokens: int = 1, text: str = "", ids: Sequence[int] | None = None) -> Graded:
    row = tuple(range(tokens) if ids is None else ids)
    score = {C: 1.0, W: 0.0}.get(status)
    return Graded(PROBLEM, Trace("p1", text, row, (0.0,) * len(row), "stop"), Verdict(status, score))


def group(statuses: Sequence[Status], lengths: Sequence[int]) -> list[Graded]:
    """Traces whose length is the same in tokens and in characters."""
    return [graded(status, length, "x" * length) for status, length in zip(statuses, lengths, strict=True)]


def gives(values: list[float | None]) -> Reward:
    return lambda group: list(values) if group else []


# ---- one trace at a time


def test_accuracy_counts_no_answer_as_wrong_and_unchecked_as_nothing() -> None:
    assert accuracy([graded(C), graded(W), graded(N), graded(U)]) == [1.0, 0.0, 0.0, None]


@pytest.mark.parametrize(
    ("text", "before", "after"),
    [
        ("so \\boxed{2} done</think>", 1, 0),
        ("a\n\\boxed{\n2}\n</think>\nThe answer is 2.", 1, 0),
        ("thinking</think> \\boxed{2}", 0, 1),
        ("\\boxed{1}</think>\\boxed{2}", 1, 1),
        ("\\boxed{2}", 0, 0),
        ("\\boxed{2</think>", 0, 0),
        ("</think>", 0, 0),
        ("", 0, 0),
    ],
)
def test_format_wants_the_box_on_the_right_side_of_the_thought(text: str, before: int, after: int) -> None:
    assert rewards.format([graded(W, text=text)]) == [before]
    assert rewards.format_after_thinking([graded(W, text=text)]) == [after]


@given(st.lists(st.sampled_from(["oxed{", "}", "</think>", "\n", "x"]), max_size=12).map("".join))
def test_format_is_the_regular_expression_of_the_authors(text: str) -> None:
    before = re.match(r"^.*?oxed{(.*?)}.*?</think>.*?$", text, re.DOTALL) is not None
    after = re.match(r"^.*?</think>.*?oxed{(.*?)}.*?$", text, re.DOTALL) is not None
    assert rewards.format([graded(C, text=text)]) == [before]
    assert rewards.format_after_thinking([graded(C, text=text)]) == [after]


@pytest.mark.parametrize(
    ("length", "size"), [(0, 1.0), (7500, 0.868198), (15000, 0.55), (22500, 0.231802), (30000, 0.1), (90000, 0.1)]
)
def test_cosine_length_vector(length: int, size: float) -> None:
    values = cosine_length(30000, in_characters)(group([C, W, N, U], [length] * 4))
    assert values[:3] == pytest.approx([size, -size, -size], abs=5e-7)
    assert values[3] is None


def test_the_unit_of_length_is_the_callers_choice() -> None:
    trace = graded(C, tokens=10, text="x" * 40)
    assert cosine_length(40, in_tokens)([trace]) == pytest.approx([0.1 + 0.45 * (1 + math.cos(math.pi / 4))])
    assert cosine_length(40, in_characters)([trace]) == pytest.approx([0.1])


def test_soft_overlong_vector() -> None:
    values = soft_overlong(100, 20)(group([C, C, W, C, C, U], [1, 80, 90, 100, 130, 90]))
    assert values == [0.0, 0.0, -0.5, -1.0, -1.0, None]


def test_repetition_vectors() -> None:
    by_word = repetition(3, -1.0, words_of)
    assert by_word([graded(C, text="a b c d e"), graded(C, text="a b a b a b a b")]) == pytest.approx([0, -2 / 3])
    by_token = repetition(2, -0.5)
    assert by_token([graded(C, ids=[5] * 5), graded(W, ids=[1]), graded(U, ids=[5] * 5)]) == [-0.375, 0.0, None]


def test_cosine_similarity_compares_with_the_reference() -> None:
    same, near, far, empty, unchecked = cosine_similarity()(
        [
            graded(C, text="one  and one\nis two"),
            graded(C, text="one and one is three"),
            graded(C, text="quick fox"),
            graded(W, text=" "),
            graded(U, text="one and one is two"),
        ]
    )
    assert same == pytest.approx(1.0)
    assert near is not None
    assert far is not None
    assert 0.7 < near < 0.95
    assert far < 0.2
    assert (empty, unchecked) == (0.0, None)


def test_cosine_similarity_by_hand() -> None:
    problem = Problem("p", (), "2", reference="aab")
    trace = Graded(problem, Trace("p", "ab", (1,), (0.0,), "stop"), Verdict(C, 1.0))
    # bigrams of " ab " are " a", "ab", "b "; of " aab " also "aa"
    assert cosine_similarity(2)([trace]) == pytest.approx([3 / math.sqrt(3 * 4)])


def test_a_missing_reference_is_an_error_before_training_and_in_it() -> None:
    bare = Problem("bare", (), "2")
    with pytest.raises(ValueError, match="1 problems have none, 'bare' first"):
        require_references([PROBLEM, bare])
    settings = RewardSettings(cosine_similarity=1.0, max_length=100)
    with pytest.raises(ValueError, match="'bare'"):
        from_settings(settings, 100, [PROBLEM, bare])
    with pytest.raises(ValueError, match="'bare'"):
        cosine_similarity()([Graded(bare, graded(C).trace, Verdict(C, 1.0))])
    from_settings(settings, 100, [PROBLEM])


# ---- relative to the group


def test_length_penalty_vector() -> None:
    values = length_penalty()(group([C, W, C, W], [10_000, 20_000, 30_000, 50_000]))
    assert values == pytest.approx([0.5, 0.0, 0.0, -0.5])


def test_length_bonus_is_among_correct_traces_only() -> None:
    assert length_bonus()(group([C, W, C, C, N], [10, 1, 20, 30, 99])) == [1.0, 0.0, 0.5, 0.0, 0.0]
    assert length_bonus()(group([W, C, W], [10, 20, 30])) == [0.0, 0.5, 0.0]
    assert length_bonus()(group([W, N], [10, 20])) == [0.0, 0.0]


def test_equal_lengths_have_no_preference() -> None:
    assert length_penalty()(group([C, W], [7, 7])) == [0.0, 0.0]
    assert length_bonus()(group([C, C, W], [7, 7, 7])) == [0.5, 0.5, 0.0]


@pytest.mark.parametrize("make", [length_penalty, length_bonus])
def test_an_unchecked_trace_does_not_stretch_the_range(make: Callable[[], Reward]) -> None:
    values = make()(group([C, C, W, U], [10, 20, 15, 1000]))
    assert values[3] is None
    assert values[:3] == make()(group([C, C, W], [10, 20, 15]))


Groups = st.lists(st.tuples(st.sampled_from(list(Status)), st.integers(1, 50)), min_size=1, max_size=8)
EVERY: list[Reward] = [
    rewards.format,
    accuracy,
    cosine_length(30),
    cosine_similarity(),
    length_penalty(),
    length_bonus(in_characters),
    soft_overlong(40, 8),
    repetition(2),
    weighted((1.0, "accuracy", accuracy), (0.5, "length", length_penalty())),
]


@given(Groups, st.permutations(range(8)), st.sampled_from(EVERY))
def test_order_does_not_matter_and_only_unchecked_traces_are_none(
    rows: list[tuple[Status, int]], order: list[int], reward: Reward
) -> None:
    items = group([status for status, _ in rows], [length for _, length in rows])
    values = reward(items)
    assert [value is None for value in values] == [status is U for status, _ in rows]
    order = [index for index in order if index < len(rows)]
    assert reward([items[index] for index in order]) == [values[index] for index in order]


# ---- together


def test_weighted_sums_its_parts() -> None:
    both = weighted(
        (2.0, "accuracy", accuracy), (-0.5, "length", lambda group: [float(in_tokens(g.trace)) for g in group])
    )
    items = group([C, W, U], [4, 6, 8])
    assert both.parts(items) == {"accuracy": [1.0, 0.0, None], "length": [4.0, 6.0, None]}
    assert both(items) == both.total(both.parts(items)) == [0.0, -3.0, None]


def test_one_missing_part_leaves_no_total() -> None:
    partial = weighted((1.0, "accuracy", accuracy), (1.0, "mine", gives([None, 2.0])))
    items = group([C, C], [1, 1])
    assert partial(items) == [None, 3.0]
    assert partial.parts(items)["accuracy"] == [1.0, 1.0]


def test_weighted_refuses_what_would_mislead() -> None:
    with pytest.raises(ValueError, match="at least one"):
        weighted()
    with pytest.raises(ValueError, match="more than once: a"):
        weighted((1.0, "a", accuracy), (1.0, "a", rewards.format))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="weight of a must be a finite"):
            weighted((bad, "a", accuracy))
    other = Graded(Problem("p2", (), "2"), graded(C).trace, Verdict(C, 1.0))
    with pytest.raises(ValueError, match="one problem's group"):
        weighted((1.0, "a", accuracy))([graded(C), other])


@pytest.mark.parametrize("values", [[1.0], [1.0, math.nan], [1.0, math.inf], [1.0, 2.0, 3.0]])
def test_a_part_that_misbehaves_is_named(values: list[float | None]) -> None:
    with pytest.raises(ValueError, match="reward mine on problem 'p1' gave"):
        weighted((1.0, "mine", gives(values)))([graded(C), graded(W)])


def test_settings_choose_the_parts() -> None:
    settings = RewardSettings(
        format=1,
        accuracy=2,
        cosine_length=1,
        length_penalty=0.5,
        soft_overlong=1,
        repetition=1,
        format_thought=0.5,
        step_markers=0.1,
        max_length=10,
        overlong_buffer=2,
    )
    reward = from_settings(settings, 10)
    weights = {name: weight for weight, name, _ in reward.terms}
    assert "cosine_similarity" not in weights
    assert weights == {name: getattr(settings, name) for name in weights}
    assert len(weights) == 8
    items = group([C, C, W], [5, 9, 3])
    assert reward.parts(items)["length_penalty"] == [1.0, 0.0, 0.0]
    assert reward.parts(items)["soft_overlong"] == [0.0, -0.5, 0.0]
    ungated = from_settings(settings.model_copy(update={"gate_length": False}), 10)
    assert ungated.parts(items)["length_penalty"] == pytest.approx([0.5 - 2 / 6, -0.5, 0.0])
    characters = from_settings(RewardSettings(cosine_length=1, length_unit="characters", max_length=40), 10)
    assert characters([graded(C, tokens=10, text="x" * 40)]) == pytest.approx([0.1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cosine_length(0), "max_length must be a positive"),
        (lambda: soft_overlong(10, 10), r"buffer \(10\) must be smaller than max_length \(10\)"),
        (lambda: repetition(0), "ngram must be a positive"),
        (lambda: repetition(3, 1.0), "at most 0"),
        (lambda: cosine_similarity(0), "ngram must be a positive"),
    ],
)
def test_impossible_settings_are_refused(make: Callable[[], Reward], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


# ---- other projects' forms


def test_a_trl_function_sees_what_trl_would_give_it() -> None:
    seen: dict[str, Any] = {}

    def mine(prompts: Any, completions: Any, completion_ids: Any, solution: Any, **columns: Any) -> list[float | None]:
        seen.update(columns, prompts=prompts, completions=completions, completion_ids=completion_ids, solution=solution)
        columns["log_metric"]("seen", 1.0)
        return [1, None]

    values = trl(mine)([graded(C, text="a", ids=[7]), graded(U, text="hidden"), graded(W, text="b", ids=[8, 9])])
    assert values == [1.0, None, None]
    assert seen["prompts"] == [[{"role": "user", "content": "1+1?"}]] * 2
    assert seen["completions"] == [[{"role": "assistant", "content": "a"}], [{"role": "assistant", "content": "b"}]]
    assert seen["completion_ids"] == [[7], [8, 9]]
    assert (seen["solution"], seen["grade"], seen["id"]) == (["2", "2"], ["easy", "easy"], ["p1", "p1"])


def test_trls_own_functions_run_and_agree_with_ours() -> None:
    theirs = pytest.importorskip("trl.rewards")
    items = [graded(C, ids=[1, 2] * 45), graded(W, ids=[3] * 130), graded(C, ids=range(20)), graded(U, ids=[3] * 90)]
    assert trl(theirs.get_soft_overlong_punishment(100, 20))(items) == soft_overlong(100, 20)(items)
    assert trl(theirs.get_repetition_penalty_reward(3, -1.0))(items) == repetition(3, -1.0)(items)


def test_a_trl_coroutine_is_awaited_and_unchecked_groups_are_not_shown() -> None:
    async def slow(completions: Any, **_: Any) -> list[float]:
        return [2.0] * len(completions)

    def never(**_: Any) -> list[float]:
        raise AssertionError("called for a group in which nothing could be checked")

    assert trl(slow)([graded(C), graded(U)]) == [2.0, None]
    assert trl(never)([graded(U)]) == [None]


def test_a_trl_function_that_fails_or_misbehaves_names_the_problem() -> None:
    def broken(**_: Any) -> list[float]:
        raise KeyError("solution")

    with pytest.raises(RuntimeError, match="broken failed on problem 'p1': KeyError") as caught:
        trl(broken)([graded(C)])
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(ValueError, match="on problem 'p1' gave 2 values for 1 traces"):
        trl(lambda **_: [1.0, 2.0])([graded(C)])
    with pytest.raises(ValueError, match="gave nan"):
        trl(lambda **_: [math.nan])([graded(C)])


def test_verl_scores_are_numbers_or_dicts_with_a_score() -> None:
    def compute_score(data_source: str, solution_str: str, ground_truth: str, extra_info: Any = None) -> Any:
        assert (data_source, ground_truth, extra_info) == ("gsm8k", "2", {"grade": "easy", "id": "p1"})
        return {"score": 0.5, "note": "half"} if solution_str == "b" else solution_str == "a"

    reward = verl(compute_score, data_source="gsm8k")
    assert reward([graded(C, text="a"), graded(W, text="b"), graded(W, text="c"), graded(U)]) == [1.0, 0.5, 0.0, None]


@pytest.mark.parametrize("result", [{"acc": 1.0}, None, "high"])
def test_a_verl_result_that_is_no_score_is_an_error_not_a_number(result: Any) -> None:
    with pytest.raises(RuntimeError, match="failed on problem 'p1'"):
        verl(lambda **_: result)([graded(C)])
    with pytest.raises(ValueError, match="gave nan"):
        verl(lambda **_: math.nan)([graded(C)])


# ---- form, marks, length: what can be hacked, and what takes the gain from it


THOUGHT = "<think>\nFever and a stiff neck.</think>\n"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (THOUGHT + "Answer: C", 1.0),
        (THOUGHT + "\\boxed{C}", 1.0),
        (THOUGHT + "**Answer:** C. Meningitis\nAnswer: (C)", 1.0),  # the same one twice
        (THOUGHT + "Answer: C\nAnswer: D", 0.0),
        (THOUGHT + "It is C", 0.0),  # nothing says which word is the answer
        (THOUGHT, 0.0),
        ("Answer: C", 0.0),
        ("<think></think>Answer: C", 0.0),
        ("<think>ok, fine and well</think>Answer: C", 0.0),  # 13 letters
        ("Sure! " + THOUGHT + "Answer: C", 0.0),
        (THOUGHT + "</think>Answer: C", 0.0),
    ],
)
def test_the_frame_wants_reasoning_and_one_answer(text: str, value: float) -> None:
    assert format_thought(18)([graded(W, text=text)]) == [value]
    assert format_thought(18)([graded(U, text=text)]) == [None]


def test_step_marks_count_to_three_and_look_at_nothing_else() -> None:
    texts = ["", "1. a", "1. a\n2. b", "1. a\n2. b\n3. c\n4. d", "First, a. Then, b. Finally, c.", "- \n- \n- "]
    assert step_markers()([graded(W, text=text) for text in texts]) == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1])
    waits = step_markers(enough=2, pattern=re.compile(" wait"))
    assert waits([graded(C, text="a wait b wait c wait"), graded(C, text=" waits")]) == [1.0, 0.5]


def test_a_credit_for_length_is_the_wrong_answers_as_well_unless_it_is_gated() -> None:
    items = group([C, W, N, U, C], [5, 10, 40, 5, 20])
    assert longer(20)(items) == [0.25, 0.5, 1.0, None, 1.0]
    assert when_correct(longer(20))(items) == [0.25, 0.0, 0.0, None, 1.0]
    with pytest.raises(ValueError, match="max_length must be a positive number"):
        longer(0)


def test_marks_can_outweigh_correctness_and_that_is_found_before_training() -> None:
    hacked = weighted((1.0, "accuracy", accuracy), (2.0, "longer", longer(256)))
    assert check_order(hacked, 256).inverted_share_same_style > 0.1
    gated = weighted((1.0, "accuracy", accuracy), (2.0, "longer", when_correct(longer(256))))
    assert check_order(gated, 256).inverted_share == 0


# ---- order


FORMATTED = "\\boxed{2}</think>"


def published(length: Callable[..., Reward]) -> Reward:
    """arXiv 2507.08267's code: three parts of weight 1, lengths in characters."""
    return weighted(
        (1.0, "format", rewards.format),
        (1.0, "cosine_length", cosine_length(30_000, in_characters)),
        (1.0, "length_penalty", length(in_characters)),
    )


def test_the_published_reward_can_prefer_a_longish_wrong_answer_to_a_long_right_one() -> None:
    items = [
        graded(status, text="x" * (size - len(FORMATTED)) + FORMATTED)
        for status, size in [(W, 2_000), (W, 31_000), (C, 60_000)]
    ]
    assert published(length_penalty)(items) == pytest.approx([0.01, 0.90, 0.60], abs=5e-3)
    assert published(length_bonus)(items) == pytest.approx([0.01, 0.90, 1.60], abs=5e-3)


def test_check_order_finds_the_published_inversions_and_gating_removes_those_of_length() -> None:
    plain, gated = (check_order(published(kind), 16_384) for kind in (length_penalty, length_bonus))
    assert plain.inverted_share > gated.inverted_share > 0  # format can still outweigh correctness
    assert plain.inverted_share_same_style > 0
    assert gated.inverted_share_same_style == 0
    assert "(wrong, " in plain.examples[0]
    assert "earns 0.900, (correct, 16384 tokens, unformatted) earns -0.400" in plain.examples[0]


def test_accuracy_with_gated_length_never_inverts() -> None:
    settings = RewardSettings(format=0.5, accuracy=1.0, length_penalty=0.5, max_length=256)
    order = check_order(from_settings(settings, 256), 256)
    assert order.pairs == 18 * 18 * 6
    assert (order.inverted_share, order.inverted_share_same_style, order.examples) == (0.0, 0.0, ())
    assert order.to_summary()["examples"] == []


def test_format_as_heavy_as_accuracy_ties_and_a_tie_counts() -> None:
    settings = RewardSettings(format=1.0, accuracy=1.0, length_penalty=0.5, max_length=256)
    order = check_order(from_settings(settings, 256), 256)
    assert order.inverted_share > 0
    assert order.inverted_share_same_style == 0
    assert all("unformatted" in example for example in order.examples)


def test_similarity_alone_does_not_know_right_from_wrong() -> None:
    settings = RewardSettings(format=1.0, cosine_similarity=1.0, length_penalty=1.0, gate_length=False, max_length=256)
    assert check_order(from_settings(settings, 256, [PROBLEM]), 256).inverted_share_same_style > 0.2


def test_check_order_says_when_it_cannot_say() -> None:
    with pytest.raises(ValueError, match="None for every"):
        check_order(gives([None] * 8), 64)
    with pytest.raises(ValueError, match="group of 2"):
        check_order(accuracy, 64, group=1)
