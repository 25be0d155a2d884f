"""The contrastive prompt's blocks in their order, and a parser that finds the code or says why there is none."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.kernels.archive import Place
from postgrad.kernels.contrast import CODE, LANGUAGES, NoCode, fenced, parse, prompt
from postgrad.kernels.exemplars import Exemplar
from postgrad.kernels.task import Case, Task, native

MODULE = Task("module", "class Model: ...")
TASK = native("relu", "void reference();", timed=Case(((4,),), (4,)), oracle=lambda inputs: inputs[0])
SLOW, FAST = Exemplar("void slow();", 1.0, "s"), Exemplar("void fast();", 2.5, "f", Place(1, 0, 0))


def text(*exemplars: Exemplar, backend: str = "cpp", task: Task = TASK, **options: int) -> str:
    (message,) = prompt(task, exemplars, backend, **options)  # type: ignore[arg-type]
    assert message.role == "user"
    return message.content


def test_the_blocks_come_in_the_papers_order() -> None:
    said = text(SLOW, FAST)
    wanted = [
        "You are an expert in C++ performance optimisation",
        "void reference();",
        "# Previous implementations with scores",
        "Implementation 1 (the reference), speed-up 1.00x",
        "void slow();",
        "Implementation 2, speed-up 2.50x",
        "void fast();",
        "## Performance Analysis",
        "## Algorithm Design",
        "## Code Implementation",
        "# Requirements",
        "or the score is 0",
        "# Restrictions",
        "no caching",
        "hyper-parameters",
    ]
    places = [said.index(part) for part in wanted]
    assert places == sorted(places)


def test_without_exemplars_nothing_speaks_of_them() -> None:
    said = text()
    assert "arlier" not in said.replace("earlier calls", "")
    assert "Previous" not in said
    assert "which implementation is faster" not in said
    assert "## Performance Analysis" in said


def test_word_limits_are_the_callers() -> None:
    assert re.findall(r"At most (\d+) words", text()) == ["200", "300"]
    assert re.findall(r"At most (\d+) words", text(analysis_words=50, design_words=75)) == ["50", "75"]


def test_the_interface_is_the_evaluators() -> None:
    assert 'extern "C" void kernel(const float* const* in, float* out, const long* n)' in text()
    assert "Define `ModelNew` with the arguments and results of the reference's `Model`" in text(
        task=MODULE, backend="torch"
    )


def test_each_text_stands_in_a_block_of_its_own_language() -> None:
    said = text(Exemplar(MODULE.source, 1.0, "r"), FAST, task=MODULE)
    assert said.count("```python\nclass Model: ...\n```") == 2
    assert said.count("```cpp\nvoid fast();\n```") == 1


@pytest.mark.parametrize("backend", LANGUAGES)
def test_every_backend_is_spoken_to_in_its_language(backend: str) -> None:
    language = LANGUAGES[backend]  # type: ignore[index]
    said = text(FAST, backend=backend)
    assert language.expert in said
    assert f"```{language.fence}\nvoid fast();\n```" in said


def test_the_prompt_does_not_answer_itself() -> None:
    """A model that repeats its prompt has written no code of its own: block d, with the headings, holds no block."""
    assert parse(text(SLOW, FAST)) is NoCode.NO_BLOCK


# ---- The parser -----------------------------------------------------------------------------------------------------

ANSWER = """## Performance Analysis
The first is slow:
```cpp
int slow;
```
## Algorithm Design
Tiles.

## Code Implementation
First a draft:
```cpp
int draft;
```
and then the whole:
```cpp
int x;

int y;
```
That is all.
"""


def test_the_last_block_beneath_the_third_heading_is_the_code() -> None:
    assert parse(ANSWER) == "int x;\n\nint y;"
    assert parse(ANSWER.replace("\n", "\r\n")) == "int x;\n\nint y;"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", NoCode.NO_HEADING),
        ("```cpp\nint x;\n```", NoCode.NO_HEADING),
        ("### Code Implementation\n```cpp\nint x;\n```", NoCode.NO_HEADING),
        ("# Code Implementation\n```cpp\nint x;\n```", NoCode.NO_HEADING),
        ("Code Implementation\n```cpp\nint x;\n```", NoCode.NO_HEADING),
        ("##Code Implementation\n```cpp\nint x;\n```", NoCode.NO_HEADING),
        ("```\n## Code Implementation\n```\n```cpp\nint x;\n```", NoCode.NO_HEADING),
        ("## Code Implementation\nint x;", NoCode.NO_BLOCK),
        ("## Code Implementation\n`int x;`", NoCode.NO_BLOCK),
        ("## Code Implementation\n## Notes\n```cpp\nint x;\n```", NoCode.NO_BLOCK),
        ("```cpp\nint x;\n```\n## Code Implementation\n", NoCode.NO_BLOCK),
        ("## Code Implementation\n```cpp\nint x;\n```\nAgain:\n## Code Implementation\nas above", NoCode.NO_BLOCK),
        ("## Code Implementation\n```cpp\nint x;", NoCode.UNCLOSED),
        ("## Code Implementation\n```cpp\nint x;\n```\n```cpp\nint cut", NoCode.UNCLOSED),
        ("## Code Implementation\n````cpp\nint x;\n```", NoCode.UNCLOSED),
        ("## Code Implementation\n```cpp\n```", NoCode.EMPTY),
        ("## Code Implementation\n```cpp\n  \n\n```", NoCode.EMPTY),
    ],
)
def test_what_is_no_code_says_why(answer: str, why: NoCode) -> None:
    assert parse(answer) is why


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        ("## Code Implementation\n```\nint x;\n```", "int x;"),
        ("## code implementation:\n```cpp\nint x;\n```", "int x;"),
        ("##  Code Implementation  \n~~~cpp\nint x;\n~~~", "int x;"),
        ("## Code Implementation\n````md\n```cpp\nint x;\n```\n````", "```cpp\nint x;\n```"),
        ("## Code Implementation\n```cpp\n## Code Implementation\nint x;\n```", "## Code Implementation\nint x;"),
        ("## Code Implementation\n```cpp title=a\nint x;\n`````", "int x;"),
        ("## Code Implementation\n```cpp\nint a;\n```\n<think>\n## Code Implementation\n```cpp\nint b;\n```", "int b;"),
        ("## Code Implementation\n```python\na = '\x0c\u2028'\n```", "a = '\x0c\u2028'"),
        ("## Code Implementation\n```cpp\nint x;\n```\n## Notes\n```sh\nmake\n```", "int x;"),
    ],
)
def test_what_is_code_comes_out_as_it_was_written(answer: str, code: str) -> None:
    assert parse(answer) == code


@given(st.text(alphabet="`~#a \n{", min_size=1, max_size=60).filter(str.strip))
def test_any_code_survives_its_fence(code: str) -> None:
    assert parse(f"## {CODE}\n{fenced(code, 'cpp')}") == code.rstrip()


@given(st.text(alphabet="`~#a \n", max_size=200))
def test_any_answer_is_parsed(answer: str) -> None:
    found = parse(f"## {CODE}\n{answer}")
    assert isinstance(found, NoCode) or found.strip()
