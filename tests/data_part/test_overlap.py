"""Leaks planted and found; disjoint text left alone."""

from __future__ import annotations

import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgrad.data import sources
from postgrad.data.overlap import LEAKED, SAME_TEMPLATE, Kind, apart, overlap
from postgrad.data.text import masked, normal
from postgrad.records import Message, Problem

SAMPLE = Path(__file__).parents[1] / "data" / "gsm8k_data"
TRAIN = sources.problems(SAMPLE / "train.jsonl")
TEST = sources.problems(SAMPLE / "test.jsonl")


def problems(*texts: str) -> list[Problem]:
    return [Problem(f"p{n}", (Message("user", text),), "1") for n, text in enumerate(texts)]


def texts(items: list[Problem]) -> list[str]:
    return [item.prompt[0].content for item in items]


def rows(train: list[str], test: list[str], kind: Kind) -> set[int]:
    return overlap(problems(*train), problems(*test)).rows(frozenset({kind}))


def test_disjoint_problems_do_not_match() -> None:
    assert overlap(TRAIN, TEST).counts() == {Kind.EXACT: 0, Kind.NGRAM: 0, Kind.TEMPLATE: 0}


def respaced(text: str) -> str:
    return "\n " + re.sub(r"\s+", "  \t", text).replace("-", " - ").replace("/", " / ") + "\n"


def repunctuated(text: str) -> str:
    return text.replace("'", "’").replace(".\n", "\n").replace(". ", "; ").rstrip("?.") + " !"


@pytest.mark.parametrize("change", [str, str.upper, str.lower, respaced, repunctuated])
def test_planted_copies_are_all_found_and_nothing_else(change: type[str]) -> None:
    planted = [change(text) for text in texts(TEST)]
    mixed = texts(TRAIN) + planted
    assert rows(mixed, texts(TEST), Kind.EXACT) == set(range(len(TRAIN), len(mixed)))


def test_copies_with_other_numbers_are_found_as_templates() -> None:
    planted = [
        re.sub(r"[\d,]*\d", lambda number: f"{int(number[0].replace(',', '')) + 7:,}", text) for text in texts(TEST)
    ]
    found = overlap(problems(*texts(TRAIN), *planted), TEST)
    numbered = {len(TRAIN) + n for n, text in enumerate(texts(TEST)) if re.search(r"\d", text)}
    assert len(numbered) > 15
    assert found.rows(SAME_TEMPLATE) >= numbered
    assert not found.rows(frozenset({Kind.EXACT})) & numbered


def test_a_test_problem_inside_a_longer_text_shares_its_words() -> None:
    planted = [f"Here is one for you: {text} Show your work, please." for text in texts(TEST)]
    assert rows(planted, texts(TEST), Kind.NGRAM) == set(range(len(TEST)))
    assert rows(planted, texts(TEST), Kind.EXACT) == set()


def test_an_instruction_that_all_problems_carry_is_no_leak() -> None:
    wrap = "{} Please reason step by step, and put your final answer within a box at the very end of it."
    train, test = ([wrap.format(text) for text in texts(items)] for items in (TRAIN, TEST))
    assert rows(train, test, Kind.NGRAM) == set()
    assert rows([*train, test[3]], test, Kind.EXACT) == {len(train)}


def test_the_system_prompt_does_not_count() -> None:
    long = Message("system", " ".join(f"word{n}" for n in range(30)))
    train = [Problem("a", (long, Message("user", "3 + 4")), "7")]
    test = [Problem("b", (long, Message("user", "9 - 1")), "8")]
    assert overlap(train, test).matches == ()


def test_short_expressions_match_whole_or_by_template() -> None:
    found = overlap(problems("3*4+7", "3 * 4 + 8", "3 * 4 - 7", "3 * (4 + 7)"), problems("3 * 4 + 7"))
    assert [(match.kind, match.row) for match in found.matches] == [
        (Kind.EXACT, 0),
        (Kind.TEMPLATE, 0),
        (Kind.TEMPLATE, 1),
    ]


def test_generated_chains_that_share_a_part_by_chance_do_not_leak() -> None:
    shared = "then +5 then *3 then -4 then +1 then *2 then +9 then -7 then *8"
    assert rows([f"take 7 {shared} mod 10"], [f"take 6 {shared} then +1 mod 10"], Kind.NGRAM) == set()


def test_which_kinds_are_removed_is_the_caller_s_choice() -> None:
    train = problems("3*4+7", "3 * 4 + 8", "3 * 4 - 7")
    found = overlap(train, problems("3 * 4 + 7"))
    assert texts(apart(train, found)) == ["3 * 4 + 8", "3 * 4 - 7"]
    assert texts(apart(train, found, LEAKED | SAME_TEMPLATE)) == ["3 * 4 - 7"]
    assert apart(train, found, frozenset()) == train
    with pytest.raises(ValueError, match="measured on 3 training rows, these are 2"):
        apart(train[:2], found)


def test_a_match_names_both_sides() -> None:
    (match, _) = overlap([Problem("mine", (Message("user", "2 + 2"),), "4")], problems("1 + 0", "2+2")).matches
    assert (match.kind, match.train, match.test, match.row) == (Kind.EXACT, "mine", "p1", 0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is 3*4?", "what  is 3 * 4"),
        ("He said: 'No'.", "he said ‘no’"),
        ("1,234 apples, please", "1234 apples please"),
        ("Find $x^2$.", "find x^2"),
        (r"Find \(x\)", "find x"),
        ("5 − 3", "5-3"),
        ("7 × 8", "7*8"),
        (".5", "0.5"),
        ("3 : 4", "3:4"),
        ("(100,200)", "(100, 200)"),
        ("求 3+4", "求3 + 4。"),
    ],
)
def test_the_same_problem(one: str, other: str) -> None:
    assert normal(one) == normal(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("3+4", "3-4"),
        ("3+4", "3 4"),
        ("2.5", "25"),
        ("2.5", "2 5"),
        ("1 2", "12"),
        ("3*(4+7)", "3*4+7"),
        ("5!", "5"),
        ("n!", "n"),
        ("f'(x)", "f(x)"),
        ("x^2", "x2"),
        ("-3", "3"),
        ("10%", "10"),
        ("2-sin(x)", "2 sin(x)"),
        ("3 < 4", "3 > 4"),
        ("3:4", "3 4"),
        ("x²", "x2"),
        ("a b", "ab"),
    ],
)
def test_another_problem(one: str, other: str) -> None:
    assert normal(one) != normal(other)


def test_masked() -> None:
    assert masked("What is 3*4 + 1,207.5?") == "what is <n> * <n> + <n>"
    assert masked("x2") == "x <n>"


expressions = st.recursive(
    st.integers(0, 999).map(str) | st.decimals(0, 99, places=2).map(str),
    lambda inner: st.tuples(inner, st.sampled_from("+-*/^"), inner).map(
        lambda parts: f"({parts[0]}{parts[1]}{parts[2]})"
    ),
    max_leaves=6,
)


@settings(deadline=None)
@given(expressions, st.randoms(use_true_random=False))
def test_spaces_around_the_signs_of_an_expression_never_matter(expression: str, rng: random.Random) -> None:
    spaced = re.sub(r"[-+*/^()]", lambda sign: " " * rng.randrange(3) + sign[0] + " " * rng.randrange(3), expression)
    assert normal(spaced) == normal(expression)


@settings(deadline=None)
@given(expressions, expressions)
def test_two_expressions_are_the_same_only_if_their_signs_and_numbers_are(one: str, other: str) -> None:
    assert (normal(one) == normal(other)) == (one == other)


@settings(deadline=None)
@given(st.text())
def test_the_normal_form_is_a_fixed_point(text: str) -> None:
    assert normal(normal(text)) == normal(text)
