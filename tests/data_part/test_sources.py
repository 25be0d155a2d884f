"""Rows of every form to records, and what is said of rows that are not usable."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postgrad.data import forms, sources
from postgrad.data.fields import FieldError, last_boxed
from postgrad.data.rows import Row
from postgrad.data.sources import DataError
from postgrad.records import Example, Message, Problem, write_jsonl

SAMPLE = Path(__file__).parents[1] / "data" / "gsm8k_data"
ASKED = (Message("user", "1 + 1?"),)
CHAT = [{"role": "user", "content": "1 + 1?"}, {"role": "assistant", "content": "It is 2."}]


def write(folder: Path, *rows: Mapping[str, Any]) -> Path:
    file = folder / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


SUPERVISED: dict[str, Mapping[str, Any]] = {
    "messages": {"messages": CHAT},
    "prompt_completion, text": {"prompt": "1 + 1?", "completion": "It is 2."},
    "prompt_completion, messages": {"prompt": CHAT[:1], "completion": CHAT[1:]},
    "sharegpt": {"conversations": [{"from": "human", "value": "1 + 1?"}, {"from": "gpt", "value": "It is 2."}]},
    "alpaca": {"instruction": "1 + 1?", "input": "", "output": "It is 2."},
    "maths, trace": {"problem": "1 + 1?", "trace": "It is 2.", "solution": "no trace", "answer": "2"},
    "maths, solution": {"question": "1 + 1?", "solution": "It is 2."},
    "traces, one": {"problem": "1 + 1?", "generations": ["It is 2."], "correctness_math_verify": [True]},
    "content parts": {"messages": [{"role": "user", "content": [{"type": "text", "text": "1 + 1?"}]}, CHAT[1]]},
}


@pytest.mark.parametrize("row", SUPERVISED.values(), ids=SUPERVISED)
def test_supervised_forms(tmp_path: Path, row: Mapping[str, Any]) -> None:
    plain, weighted = sources.examples(write(tmp_path, row, {**row, "weight": 2, "labels": {"topic": "sums"}}))
    assert plain == Example(ASKED, "It is 2.", 1.0, "a-1", {})
    assert weighted == Example(ASKED, "It is 2.", 2.0, "a-2", {"topic": "sums"})


GRADED: dict[str, tuple[Mapping[str, Any], str]] = {
    "verl": (
        {
            "data_source": "gsm8k",
            "prompt": CHAT[:1],
            "reward_model": {"style": "rule", "ground_truth": "2"},
            "extra_info": {},
        },
        "2",
    ),
    "prompt_only, answer": ({"prompt": "1 + 1?", "answer": 2}, "2"),
    "prompt_only, ground_truth": ({"prompt": CHAT[:1], "ground_truth": "2"}, "2"),
    "prompt_only, boxed solution": (
        {"prompt": "1 + 1?", "solution": r"So \boxed{1}, no, \boxed{\frac{4}{2}}."},
        r"\frac{4}{2}",
    ),
    "prompt_only, solution": ({"prompt": "1 + 1?", "solution": "$2$"}, "$2$"),
    "maths": ({"problem": "1 + 1?", "answer": 2.0}, "2"),
    "maths, 0.1": ({"problem": "1 + 1?", "answer": 0.1}, "0.1"),
    "maths, boxed solution": ({"problem": "1 + 1?", "solution": r"It is \boxed{2}."}, "2"),
    "prompt_only, gsm8k": ({"prompt": "1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}, "2"),
    "maths, several lines": ({"question": "1 + 1?", "answer": "2\nor two"}, "2\nor two"),
    "messages": ({"messages": CHAT[:1], "answer": "2"}, "2"),
}


@pytest.mark.parametrize(("row", "gold"), GRADED.values(), ids=GRADED)
def test_forms_with_answers(tmp_path: Path, row: Mapping[str, Any], gold: str) -> None:
    (problem,) = sources.problems(write(tmp_path, row))
    assert (problem.prompt, problem.gold, problem.id) == (ASKED, gold, "a-1")


def test_records_of_our_own_are_read_back(tmp_path: Path) -> None:
    problem = Problem("p", ASKED, "2", {"level": "1"}, reference="It is 2.")
    example = Example(ASKED, "It is 2.", 0.5, "e", {"level": "1"})
    write_jsonl(tmp_path / "problems.jsonl", [problem])
    write_jsonl(tmp_path / "examples.jsonl", [example])
    assert sources.problems(tmp_path / "problems.jsonl") == [problem]
    assert sources.examples(tmp_path / "examples.jsonl") == [example]


def test_gsm8k(tmp_path: Path) -> None:
    row = {
        "question": "Clips?",
        "answer": "In May 48/2 = <<48/2=24>>24.\nIn all <<48+24=72>>1,272 - 1,200.\n#### 1,072",
    }
    file = write(tmp_path, row)
    response = "<think>\nIn May 48/2 = 24.\nIn all 1,272 - 1,200.\n\n\\boxed{1072}\n</think>"
    assert sources.examples(file) == [Example((Message("user", "Clips?"),), response, id="a-1")]
    assert sources.problems(file) == [Problem("a-1", (Message("user", "Clips?"),), "1072", {}, reference=response)]


def test_the_sample_of_gsm8k_is_read_whole() -> None:
    problems = sources.problems(SAMPLE / "train.jsonl")
    assert len(problems) == 40
    assert [problem.gold for problem in problems[:4]] == ["72", "10", "5", "42"]
    assert len(sources.problems(SAMPLE / "test.jsonl")) == 20
    assert not any("<<" in example.response for example in sources.examples(SAMPLE / "train.jsonl"))


def test_openr1_rows_with_nulls_in_parquet(tmp_path: Path) -> None:
    rows = [
        {"problem": "1 + 1?", "answer": "2", "uuid": "u1", "source": "olympiads", "generations": ["aaa", "bb", "c"],
         "correctness_math_verify": [True, True, False], "correctness_llama": None, "is_reasoning_complete": [True, True, True],
         "messages": CHAT},
        {"problem": "2 + 2?", "answer": "4", "uuid": "u2", "source": None, "generations": ["d", "e"],
         "correctness_math_verify": None, "correctness_llama": [True, None], "is_reasoning_complete": [False, True],
         "messages": CHAT},
    ]  # fmt: skip
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    first, second = sources.candidates(tmp_path / "a.parquet")
    assert (first.problem.id, first.problem.gold, first.problem.labels) == ("u1", "2", {"source": "olympiads"})
    assert (first.traces, first.correct) == (("aaa", "bb", "c"), (True, True, False))
    assert first.pass_rate == pytest.approx(2 / 3)
    assert first.problem.reference == "bb"
    assert (second.correct, second.pass_rate, second.problem.labels) == ((False, None), None, {})


def test_any_supervised_row_is_a_candidate_and_its_correctness_unknown(tmp_path: Path) -> None:
    (candidate,) = sources.candidates(write(tmp_path, {"messages": CHAT, "answer": 2, "pass_rate": 0.25, "weight": 3}))
    assert (candidate.problem.gold, candidate.traces, candidate.correct) == ("2", ("It is 2.",), (None,))
    assert (candidate.pass_rate, candidate.weight) == (0.25, 3)


def test_system_prompts_history_and_reasoning_reach_the_example(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, *CHAT, CHAT[0], {**CHAT[1], "reasoning_content": "Count."}]
    (example,) = sources.examples(write(tmp_path, {"messages": turns}))
    assert [message.role for message in example.prompt] == ["system", "user", "assistant", "user"]
    assert example.response == "<think>\nCount.\n</think>\n\nIt is 2."

    row = {"instruction": "And", "input": "2 + 2?", "output": "4", "system": "Be brief.", "history": [["1 + 1?", "2"]]}
    (example,) = sources.examples(write(tmp_path, row))
    said = [("system", "Be brief."), ("user", "1 + 1?"), ("assistant", "2"), ("user", "And\n2 + 2?")]
    assert [(message.role, message.content) for message in example.prompt] == said


GOOD = {"prompt": "1 + 1?", "completion": "2"}
UNUSABLE: list[tuple[Mapping[str, Any], str]] = [
    ({"text": "1"}, "columns: got text; wanted those of a form: verl, traces, messages"),
    ({**GOOD, "weight": "2"}, "weight: got text, wanted a number"),
    ({**GOOD, "weight": True}, "weight: got true or false, wanted a number"),
    ({**GOOD, "weight": float("nan")}, "weight: got nan, wanted a finite number of 0 or above"),
    ({**GOOD, "weight": float("inf")}, "weight: got inf, wanted a finite number of 0 or above"),
    ({**GOOD, "weight": -1}, "weight: got -1, wanted a finite number of 0 or above"),
    ({**GOOD, "pass_rate": 1.5}, "pass_rate: got 1.5, wanted a finite number from 0 to 1"),
    ({**GOOD, "labels": ["a"]}, "labels: got a list, wanted an object"),
    ({**GOOD, "id": []}, "id: got a list, wanted text or a number"),
    ({**GOOD, "correct": "yes"}, "correct: got ['yes'], wanted true or false for each of 1 traces"),
    ({**GOOD, "correct": False}, "response: got a trace that is marked as wrong"),
    ({**GOOD, "images": ["a.png"]}, "images: is not supported"),
    ({**GOOD, "completion": " "}, "completion: got empty text"),
    ({**GOOD, "completion": "\ud800"}, "completion: got half a surrogate pair at character 1"),
    ({**GOOD, "completion": 2}, "completion: got a number, wanted text"),
    ({**GOOD, "completion": [*CHAT, *CHAT]}, "completion: got messages of user, assistant, user, assistant, wanted one"),
    ({"prompt": CHAT[1:], "completion": "2"}, "prompt: got no user's message"),
    ({"instruction": "1", "output": "1", "history": 3}, "history: got a number, wanted a list of pairs"),
    ({"instruction": "1", "output": "1", "history": [["a"]]}, "history[0]: got a list, wanted a pair"),
    ({"messages": []}, "messages: got no messages, wanted a list of messages"),
    ({"messages": "hello"}, "messages: got text, wanted a list of messages"),
    ({"messages": ["hello"]}, "messages[0]: got text, wanted an object with role and content"),
    ({"messages": [CHAT[0]]}, "response: got none (form messages), wanted a trace to train on"),
    ({"messages": [*CHAT, {"role": "system", "content": "x"}]}, "messages: the last message is the system's, wanted the assistant's"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages[0].role: got 'robot', wanted one of system, user"),
    ({"messages": [{"role": "user", "content": None}]}, "messages[0].content: got nothing, wanted text"),
    ({"messages": [CHAT[0], {**CHAT[1], "tool_calls": [{}]}]}, "messages[1].tool_calls: is not supported"),
    ({"messages": [CHAT[0], {**CHAT[1], "loss": False}]}, "messages[1].loss: is not supported"),
    ({"conversations": [{"from": "human"}]}, "conversations[0].value: got nothing, wanted text"),
    ({"problem": "1", "generations": []}, "generations: got an empty list, wanted traces"),
    ({"problem": "1", "generations": ["a", "b"]}, "response: got 2 traces, wanted one: read with sources.candidates"),
    ({"problem": "1", "generations": ["a"], "correctness": [True, True]}, "correctness: got [True, True], wanted true or false"),
    ({"question": "1", "answer": "It is <<1=1>>1"}, "answer: got an end of 'It is <<1=1>>1', wanted '#### N'"),
    ({"question": "1", "answer": "One.\n#### one"}, "wanted '#### N' with a number N"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "message"), UNUSABLE, ids=range(len(UNUSABLE)))
def test_unusable_rows_are_named(tmp_path: Path, row: Mapping[str, Any], message: str) -> None:
    file = write(tmp_path, row)
    with pytest.raises(DataError) as error:
        sources.examples(file)
    assert str(error.value).startswith(f"{file}:1: {message}") or message in str(error.value)
    assert len(error.value.faults) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"problem": "1", "answer": None, "trace": "x"}, "answer: got none, wanted an answer"),
        ({"problem": "1", "answer": ""}, "answer: got empty text"),
        ({"problem": "1", "answer": ["1"]}, "answer: got a list, wanted an answer: text or a number"),
        ({"problem": "1", "answer": True}, "answer: got true or false, wanted an answer"),
        ({"problem": "1", "answer": float("nan")}, "answer: got nan, wanted a finite number"),
        ({"problem": "1", "solution": "No box."}, "answer: got none, wanted an answer"),
        ({"prompt": "1", "reward_model": "rule"}, "reward_model: got text, wanted an object with ground_truth"),
        ({"prompt": "1", "reward_model": {}}, "reward_model.ground_truth: got nothing, wanted an answer"),
    ],
)
def test_problems_without_a_usable_answer_are_named(tmp_path: Path, row: Mapping[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=r"a.jsonl:1: ") as error:
        sources.problems(write(tmp_path, row))
    assert message in str(error.value)


def test_all_faults_of_a_file_come_at_once(tmp_path: Path) -> None:
    file = write(tmp_path, GOOD, {**GOOD, "weight": -1}, {"text": "x"}, {**GOOD, "completion": ""})
    with file.open("a") as more:
        more.write("{broken\n")
    with pytest.raises(DataError) as error:
        sources.examples(file)
    assert sorted((fault.row or 0, fault.field) for fault in error.value.faults) == [
        (2, "weight"), (3, "columns"), (4, "completion"), (5, None),
    ]  # fmt: skip


def test_rows_of_another_form_are_named(tmp_path: Path) -> None:
    file = write(
        tmp_path, {"prompt": "1", "answer": "1"}, {"problem": "2", "answer": "2"}, {"problem": "3", "answer": "3"}
    )
    with pytest.raises(
        DataError, match=r"a.jsonl:1: columns: got the form prompt_only, wanted maths as in 2 other rows"
    ):
        sources.problems(file)


def test_two_problems_with_one_id_are_named(tmp_path: Path) -> None:
    file = write(tmp_path, {"id": 7, "problem": "1", "answer": "1"}, {"id": 7, "problem": "2", "answer": "2"})
    with pytest.raises(DataError, match=r"a.jsonl:2: id: got '7' again, wanted unique ids: .*a.jsonl:1 has it"):
        sources.problems(file)


@pytest.mark.parametrize(
    ("solution", "gold"),
    [
        (r"\boxed{1} then \boxed{2}", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{1} and \boxed{2", "1"),
        (r"\boxed{}", None),
        ("none", None),
    ],
)
def test_last_boxed(solution: str, gold: str | None) -> None:
    assert last_boxed(solution) == gold


COLUMNS = [
    *forms.QUESTION,
    *forms.ANSWER,
    *forms.TRACE,
    *forms.TRACES,
    *forms.MARKS,
    *forms.ID,
    *forms.LABELS,
    *forms.LOST,
]
COLUMNS += [
    "prompt",
    "completion",
    "messages",
    "conversations",
    "instruction",
    "input",
    "system",
    "history",
    "reward_model",
]
COLUMNS += ["weight", "pass_rate", "labels", "reference", "is_reasoning_complete", "correctness_llama"]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["1 #### 2", "user"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "from", "value", "ground_truth", "type", "text"]), inner, max_size=4
        )
    ),
    max_leaves=5,
)


BASES = [*SUPERVISED.values(), *(row for row, _ in GRADED.values()), {}]


@settings(deadline=None, max_examples=600)
@given(st.sampled_from(BASES), st.dictionaries(st.sampled_from(COLUMNS), ANYTHING, max_size=3))
def test_whatever_the_columns_hold_is_parsed_or_refused_by_name(
    base: Mapping[str, Any], changed: dict[str, Any]
) -> None:
    try:
        parsed = forms.parse(Row({**base, **changed}, Path("a.jsonl"), 1))
    except FieldError:
        return
    assert parsed.form in forms.FORMS
    assert len(parsed.traces) == len(parsed.correct)
    assert parsed.weight >= 0
    assert all(message.content.strip() for message in parsed.prompt)
    assert all(trace.strip() for trace in parsed.traces)
