"""Verbose arithmetic: splits share nothing, every teacher's trace is right, and the tokenizer loses no character."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from postgrad.domains import arithmetic
from postgrad.records import Problem, Status, Trace
from postgrad.verify import maths

SPLITS = get_args(arithmetic.Split)
COUNTS = {"train": 1500, "validation": 60, "test": 200}


@pytest.fixture(scope="module")
def generated() -> dict[str, list[Problem]]:
    return {
        split: arithmetic.problems(split, COUNTS[split], min_steps=2, max_steps=6, seed=seed)
        for seed, split in enumerate(SPLITS)
    }


def operands(problem: Problem) -> str:
    return re.sub(r"[-+*]", "", problem.labels["chain"])


def template(problem: Problem) -> tuple[str, str]:
    return problem.labels["phrasing"], problem.labels["operators"]


def test_no_split_shares_a_template_or_operands_with_another(generated: dict[str, list[Problem]]) -> None:
    for key in (template, operands):
        seen = {split: {key(problem) for problem in rows} for split, rows in generated.items()}
        assert all(len(found) > 20 for found in seen.values())
        assert not seen["train"] & seen["validation"]
        assert not seen["train"] & seen["test"]
        assert not seen["validation"] & seen["test"]


def test_one_call_gives_different_problems_of_the_lengths_asked(generated: dict[str, list[Problem]]) -> None:
    rows = generated["train"]
    assert len(rows) == COUNTS["train"]
    assert len({problem.id for problem in rows}) == len({problem.prompt for problem in rows}) == len(rows)
    assert {problem.labels["steps"] for problem in rows} == {"2", "3", "4", "5", "6"}
    assert {problem.labels["phrasing"] for problem in rows} == {"take", "of"}


def answer_from_the_question(question: str) -> int:
    """The value as the words define it, by a reading of its own."""
    first = re.search(r"^take (\d)|of (\d) mod 10$", question)
    assert first is not None
    value = int(first[1] or first[2])
    steps = re.findall(r" \((\d)\)([-+*])(\d)", question)
    assert [int(number) for number, _, _ in steps] == list(range(1, len(steps) + 1))
    for _, sign, digit in steps:
        value = {"+": value + int(digit), "-": value - int(digit), "*": value * int(digit)}[sign] % 10
    return value


def test_every_gold_is_the_value_of_its_question(generated: dict[str, list[Problem]]) -> None:
    for rows in generated.values():
        for problem in rows:
            assert problem.gold == str(answer_from_the_question(problem.prompt[-1].content))
    assert min(Counter(problem.gold for problem in generated["train"]).values()) > 75, "no answer can be guessed"


def test_every_trace_of_a_teacher_is_correct_and_every_line_of_it_true(generated: dict[str, list[Problem]]) -> None:
    for rows in generated.values():
        for problem in rows[:300]:
            for text in arithmetic.traces(problem, 2, recheck=0.5, seed=7):
                assert maths.boxed(problem, Trace(problem.id, text, (), (), "stop")).status is Status.CORRECT
                lines = re.findall(r" \((\d)\)(\d)([-+*])(\d)=(\d)", text)
                for _, left, sign, right, result in lines:
                    assert {"+": int(left) + int(right), "-": int(left) - int(right), "*": int(left) * int(right)}[
                        sign
                    ] % 10 == int(result)
                assert [int(line[0]) for line in lines] == sorted(int(line[0]) for line in lines)
                assert {int(line[0]) for line in lines} == set(range(1, int(problem.labels["steps"]) + 1))
                assert lines[-1][4] == problem.gold


def test_a_wrong_answer_is_wrong(generated: dict[str, list[Problem]]) -> None:
    problem = generated["test"][0]
    wrong = f"<think>\\boxed{{{(int(problem.gold or 0) + 1) % 10}}}</think>"
    assert maths.boxed(problem, Trace(problem.id, wrong, (), (), "stop")).status is Status.WRONG


@pytest.mark.parametrize("recheck", [0.0, 0.5, 0.8])
def test_steps_are_checked_again_as_often_as_asked(generated: dict[str, list[Problem]], recheck: float) -> None:
    steps = checks = 0
    for problem in generated["train"][:400]:
        for text in arithmetic.traces(problem, 2, recheck=recheck, seed=1):
            steps += int(problem.labels["steps"])
            checks += text.count(" wait")
    # Geometric: mean r / (1 - r), standard deviation sqrt(r) / (1 - r).
    error = recheck**0.5 / (1 - recheck) / steps**0.5
    assert checks / steps == pytest.approx(recheck / (1 - recheck), abs=4 * error + 1e-9)


def test_more_than_there_are_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(
        ValueError, match=r"found only 0 different test problems of 1 to 1 steps, 3 wanted: .*raise max_steps"
    ):
        arithmetic.problems("test", 3, min_steps=1, max_steps=1, seed=0)


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.sampled_from([*arithmetic.FIELDS, " (3)", "<|im_end|>", " ", "  x"])).map("".join)
)
def test_the_tokenizer_loses_no_character_of_any_text(tokenizer: Any, text: str) -> None:
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


def test_each_field_is_one_token_also_in_the_saved_folder(tokenizer: Any, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for made in (tokenizer, loaded):
        for field in (*arithmetic.FIELDS, " (1)", f" ({arithmetic.LONGEST})"):
            assert len(made(field, add_special_tokens=False)["input_ids"]) == 1, field
        assert made.eos_token == "<|im_end|>"
        assert made.pad_token_id != made.eos_token_id
    text = "<think> (1)7+5=2 wait (1)7+5=2\\boxed{2}</think> é 数 \x00 the end <|im_end|>"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.chat_template == tokenizer.chat_template


SCRIPT = """
from postgrad.domains import arithmetic
for split in ("train", "validation", "test"):
    for problem in arithmetic.problems(split, 30, min_steps=2, max_steps=5, seed=4):
        print(problem, arithmetic.traces(problem, 3, recheck=0.6, seed=5))
"""


def test_another_process_makes_the_same_problems_and_traces() -> None:
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT],
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    here = [
        f"{problem} {arithmetic.traces(problem, 3, recheck=0.6, seed=5)}"
        for split in SPLITS
        for problem in arithmetic.problems(split, 30, min_steps=2, max_steps=5, seed=4)
    ]
    assert printed.pop().splitlines() == here
