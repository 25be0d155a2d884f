"""Traps for the verifiers of mathematics, each a pair that is easily taken for the other, or easily missed."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgrad.records import Problem, Status, Trace, Verdict
from postgrad.verify import extract
from postgrad.verify import gold as golds
from postgrad.verify.choice import choice
from postgrad.verify.maths import Maths, boxed, final_answer
from postgrad.verify.number import Within
from postgrad.verify.pool import Failed

CORRECT, WRONG, NO_ANSWER, UNCHECKED = Status.CORRECT, Status.WRONG, Status.NO_ANSWER, Status.UNCHECKED


def trace(text: str) -> Trace:
    return Trace("p", text, (), (), "stop")


def check(gold: str | None, text: str) -> Status:
    return boxed(Problem("p", (), gold), trace(text)).status


def in_box(gold: str, answer: str) -> Verdict:
    return boxed(Problem("p", (), gold), trace(rf"So it is $\boxed{{{answer}}}$."))


SAME = [
    ("1/2", "0.5"), (r"\frac12", "0.5"), (r"\dfrac{3}{4}", ".75"), (r"\frac{1}{-2}", "-0.5"), (r"-\frac{1}{2}", r"\frac{-1}{2}"),
    (r"50\%", "0.5"), (r"50\%", "50"), ("0.2", r"20\%"), ("1,000", "1000"), ("1{,}000", r"1\,000"), ("1 000 000", "1000000"),
    (r"\$5", "5"), ("5", r"\$5.00"), ("5", r"5 \text{ cm}"), ("5 cm", r"5\text{ centimeters}"), ("18", "18 dollars"),
    (r"16\pi", r"16 \pi \text{ cm}^2"), (r"4:30 \text{ p.m.}", "4:30 pm"),
    ("10^{-3}", "0.001"), (r"8.404 \times 10^{1}", "84.04"), ("1.50", "1.5"), ("0", "-0"), ("−5", "-5"), ("90^\\circ", "90"),
    (r"\sqrt{8}", r"2\sqrt{2}"), (r"\sqrt2", r"\frac{2}{\sqrt{2}}"), (r"12\frac{3}{5}", "12.6"), (r"12\frac{3}{5}", r"\frac{63}{5}"),
    (r"\frac{1}{3}", "0.333333"), (r"\pi", "3.14159265"), ("512", "2^3^2"), ("120", "5!"), ("4a-2", "-2+4a"),
    (r"\frac{3(x-2)}{4(x+2)}", r"\frac{3x-6}{4x+8}"), ("2x+3y=5", "4x+6y=10"), ("-1", r"e^{i\pi}"), (r"\log_2 8", "3"),
    ("4", "x=4"), ("k=4", "4"), ("(x,y)=(1,2)", "(1,2)"), ("x=1,y=2", "y=2,x=1"), ("x=1,y=2", "1,2"),
    ("(1,2)", r"\left( 1, 2 \right)"), (r"\{1,2\}", r"\{2,1\}"), (r"\{1,2\}", "2, 1"), ("7,1", r"1 \text{ and } 7"), ("5, 7", "5 or 7"),
    (r"\pm 3", "3, -3"), (r"1\pm\sqrt2", r"1-\sqrt{2}, 1+\sqrt{2}"), ("(1,2),(3,4)", "(3,4),(1,2)"),
    ("[1,2)", "[1, 2)"), ("x > 2", r"(2,\infty)"), (r"(-\infty,2)\cup(3,5]", r"(3,5]\cup(-\infty,2)"), (r"x \in [1,2]", "[1,2]"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{bmatrix}1\\ \frac{4}{2}\end{bmatrix}"),
    (r"\infty", "∞"), ("Infinity", "infinity"), ("NaN", "nan"), ("no solution", "No solution."), (r"\text{Evelyn}", "Evelyn"),
    ("(C)", r"\text{C}"), (r"\{\frac{1}{2}, \sqrt{2}\}", r"\{\sqrt 2, 0.5\}"), ("5", r"\boxed{5}"), ("5", "**5**"),
]  # fmt: skip

DIFFERENT = [
    ("25", "5"), ("5", "25"), ("5", "-5"), ("5", "five"), (r"50\%", "5000"), ("1,000", "1"), ("1,234", "(1, 234)"),
    ("5 cm", "5 m"), (r"4:30 \text{ p.m.}", r"4:30 \text{ a.m.}"), ("3:4", "4:3"), ("2", "2xy"), ("2x", "2y"), ("x", "X"),
    (r"\frac{1}{3}", "0.33"), (r"\pi", "3.14159266"), (r"\pi", "3.14"), ("1e-7", "2e-7"), ("0.0000001", "0.0000002"),
    (r"1.1\times10^{-7}", r"2.2\times10^{-7}"), ("10^{400}", "10^{401}"), (r"\sqrt{8}", r"2\sqrt{3}"),
    (r"\frac{3(x-2)}{4(x+2)}", r"\frac{3x-6}{4x+9}"), ("5", "x+1=5"), ("x+1=5", "5"), ("y=2x+1", "y=2x+2"), ("x=1,y=2", "2,1"),
    (r"20 \cos(\frac{\pi}{6}) 200=3464.1", r"30 \cos(\frac{\pi}{6}) 200=3464.1"),
    ("(1,2)", r"\{1,2\}"), (r"\{1,2\}", "(1,2)"), ("(1,2)", "[1,2]"), ("(1,2)", "(2,1)"), ("(1,2)", "1,2"), ("(1,2)", "(1,2,3)"),
    ("[1,2)", "(1,2]"), ("[1,2)", "[1,3)"), ("x>2", "x>3"), ("x>2", r"[2,\infty)"), (r"\{1,2\}", r"\{1\}"), ("1,1", "1"),
    ("5", "5 or 7"), ("7", "5 or 7"), (r"\pm 3", "3"), (r"\infty", r"-\infty"), ("5", "NaN"), ("5", r"\infty"), ("5", r"\frac{1}{0}"),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\begin{pmatrix}2\\1\end{pmatrix}"), ("no solution", "0"), ("5", "no solution"),
    ("yes", "no"), (r"\text{Evelyn}", "Eve"), ("(C)", "(D)"),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "answer"), SAME)
def test_same(gold: str, answer: str) -> None:
    verdict = in_box(gold, answer)
    assert verdict.status is CORRECT, verdict


@pytest.mark.parametrize(("gold", "answer"), DIFFERENT)
def test_different(gold: str, answer: str) -> None:
    verdict = in_box(gold, answer)
    assert verdict.status is WRONG, verdict


@pytest.mark.parametrize(
    "answer", ["", " ", "$$", "x)(", "((((", "3 4", r"\frac{", "I cannot say, perhaps it is 5", "5" * 5000]
)
def test_an_answer_that_cannot_be_read_is_no_answer(answer: str) -> None:
    assert boxed.compare("7", answer).status is NO_ANSWER


@pytest.mark.parametrize(
    ("gold", "reason"),
    [
        (None, "gold missing"),
        ("", "gold empty"),
        (" $$ ", "gold empty"),
        ("x)(", "gold"),
        ("It follows since every basis of $V$ has 5 elements.", "gold is prose"),
    ],
)
def test_a_bad_gold_says_nothing_about_the_model(gold: str | None, reason: str) -> None:
    verdict = boxed(Problem("p", (), gold), trace(r"\boxed{5x}"))
    assert verdict.status is UNCHECKED
    assert verdict.reason.startswith(reason)


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (r"first \boxed{7}, then \boxed{6}, at last \boxed{5}", CORRECT),
        (r"first \boxed{5}, then \boxed{6}", WRONG),
        (r"\boxed{5} or \boxed{7}", WRONG),
        (r"$\boxed{7}$, $\boxed{5}$", WRONG),
        (r"<think>\boxed{5}</think> done", CORRECT),
        (r"<think>\boxed{7}</think> so \boxed{5}", CORRECT),
        (r"<think>\boxed{5}</think> so \boxed{7}", WRONG),
        (r"\boxed{\boxed{5}}", CORRECT),
        (r"\boxed{5} and then it broke off at \boxed{\frac{1}{", CORRECT),
        (r"\boxed{\frac{1}{2}", NO_ANSWER),
        (r"\boxed{}", NO_ANSWER),
        ("The answer is 5.", NO_ANSWER),
        ("", NO_ANSWER),
        (r"\boxed{" * 20_000, NO_ANSWER),
    ],
)
def test_which_box_counts(text: str, status: Status) -> None:
    assert check("5", text) is status


@pytest.mark.parametrize(
    ("gold", "text", "status"),
    [
        ("72", "48 + 24 = 72\n#### 72", CORRECT),
        ("18", "16 - 3 = 13\nA: 18", CORRECT),
        ("18", "The answer is 18 dollars per day.", CORRECT),
        ("1000", "**Answer:** 1,000", CORRECT),
        ("3.5", "The answer is 3.5. That is all.", CORRECT),
        (r"\frac{1}{2}", r"So the answer is $\frac12$.", CORRECT),
        ("x+1", r"The answer is \(x+1\).", CORRECT),
        ("7", "He has 5 apples and 7 pears", CORRECT),
        ("7", r"The answer is 5, I mean \boxed{7}", CORRECT),
        ("5", "The answer is 5 or 7", WRONG),
        ("5", "The answer is 25", WRONG),
        ("5", "The answer is 7. Not 5", WRONG),
        ("5", "<think>The answer is 5</think> I do not know", NO_ANSWER),
        ("5", "I do not know", NO_ANSWER),
    ],
)
def test_final_answer_reads_the_usual_forms(gold: str, text: str, status: Status) -> None:
    assert final_answer(Problem("p", (), gold), trace(text)).status is status


numbers = st.one_of(
    st.integers(-(10**9), 10**9).map(str),
    st.decimals(-(10**6), 10**6, allow_nan=False, places=3).map(str),
    st.integers(10**3, 10**9).map("{:,}".format),
    st.builds(r"\frac{{{}}}{{{}}}".format, st.integers(-999, 999), st.integers(1, 999)),
    st.builds("{}/{}".format, st.integers(0, 999), st.integers(1, 999)),
)
golds_written = st.one_of(
    numbers,
    st.lists(numbers, min_size=2, max_size=4).map(lambda items: f"({', '.join(items)})"),
    st.lists(numbers, min_size=2, max_size=4, unique=True).map(lambda items: rf"\{{{', '.join(items)}\}}"),
)


@given(golds_written)
@settings(max_examples=200, deadline=None)
def test_a_gold_is_accepted_and_altered_golds_never(gold: str) -> None:
    assert in_box(gold, gold).status is CORRECT
    for altered in golds.perturbed(gold):
        assert in_box(gold, altered).status is not CORRECT, altered


@given(st.integers(-99, 99), st.integers(2, 99), st.integers(1, 99))
@settings(max_examples=15, deadline=None)
def test_a_formula_is_accepted_in_another_form_and_not_with_another_constant(a: int, b: int, c: int) -> None:
    gold = rf"{c}\sqrt{{{b}}} + {b}x {a:+}"
    assert in_box(gold, rf"{a} + {b} x + \sqrt{{{b * c * c}}}").status is CORRECT
    assert in_box(gold, rf"{a + 1} + {b} x + \sqrt{{{b * c * c}}}").status is WRONG


@given(st.fractions(max_denominator=1000))
@settings(max_examples=100, deadline=None)
def test_numbers_agree_with_fractions(value: Fraction) -> None:
    assert in_box(str(value), rf"\frac{{{2 * value.numerator}}}{{{2 * value.denominator}}}").status is CORRECT
    decimal = f"{float(value):.2f}"
    exact = math.isclose(Fraction(decimal), value, rel_tol=0, abs_tol=0)
    if abs(value) < 1000:  # under six significant digits: only the exact decimal will do
        assert (in_box(str(value), decimal).status is CORRECT) == exact


class NoAlgebra:
    """A pool that has no worker free, so that only what runs in this process is tried."""

    def ask(self, _job: dict[str, Any]) -> dict[str, Any]:
        raise Failed("no worker")


PIECES = [
    "1", "0", ",", ".", "/", "-", "+", "=", "<", "(", ")", "[", "]", "{", "}", r"\{", r"\}", "$", "%", "^", "_", " ", "\\", "\n",
    r"\frac", r"\sqrt", r"\text{", r"\pm", r"\cup", r"\in", r"\boxed{", "\\\\", r"^\circ", r"\begin{array}", r"\end{array}",
    "x", "i", "or", "and", "no", "cm", "the", "pi", "−", "²", "٣", "½", "\x00", "\ud800",
]  # fmt: skip
REPEATED = [
    "1", "1,", "(", ")", "(1,", "{", r"\{", r"\text{", "x=", "-", "1 ", "a b ", "5 cm ", r"\pm", "1/", "^2", r"\frac", " ", "$", ".",
    "A:", "**", "answer is ", "answer: A ", "and ", r"\boxed{", "\\\\", r"\begin{", "10^", "9,999",
]  # fmt: skip
pieces = st.sampled_from(PIECES)


@given(st.lists(pieces, max_size=30).map("".join), st.lists(pieces, max_size=30).map("".join))
@settings(max_examples=300, deadline=1000)
def test_nothing_that_is_written_raises(gold: str, text: str) -> None:
    pool: Any = NoAlgebra()
    for find in (extract.boxed, extract.final):
        Maths(find, pool)(Problem("p", (), gold), trace(text))
    Maths(extract.boxed, pool).compare(gold, text)
    Maths(extract.boxed, pool).compare("1", gold)
    Within()(Problem("p", (), gold), trace(text))
    choice(Problem("p", (), gold), trace(text))


@pytest.mark.parametrize("piece", REPEATED)
def test_long_repetitions_are_quick(piece: str) -> None:
    pool: Any = NoAlgebra()
    verifier = Maths(extract.final, pool)
    long = piece * (3900 // len(piece))
    started = time.monotonic()
    for text in (long, "1" + long, long + "1", rf"\boxed{{{long}}}", "so " + piece * 10_000):
        verifier.compare("5", text)
        verifier(Problem("p", (), "5"), trace(text))
        Within()(Problem("p", (), "5"), trace(text))
        choice(Problem("p", (), "A"), trace(text))
    assert time.monotonic() - started < 2
