"""Loops in Triton: every right text is right and every mistake fails in its way, run by Triton's interpreter; the language and its tokens."""

from __future__ import annotations

import ast
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from postgrad.domains import loops
from postgrad.domains.loops import rows
from postgrad.domains.loops.language import TRITON_FRAGMENTS
from postgrad.kernels.guard import flags
from tests.domains.interpret import Call, Job

FAMILIES = tuple(loops.LANGUAGES["triton"].families)
ROOT = Path(__file__).parents[2]
SIZES = {
    "elementwise": ((1,), (17,), (1003,), (5001,)),
    "line": ((1,), (7,), (2,), (1003,), (5001,)),
    "row": ((1, 1), (3, 5), (7, 67), (2, 1500)),
    "column": ((1, 1), (3, 5), (37, 41)),
}
"""More than one block of each variant, and no more rows than columns: a stride of R in the place of C reads no other's memory."""

interprets = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="no triton on this machine: its interpreter runs the kernels"
)


def made(split: loops.Split, count: int, seed: int) -> list[loops.Made]:
    return loops.tasks(split, count, seed=seed, language="triton")


@pytest.fixture(scope="module")
def generated() -> list[loops.Made]:
    return made("train", 30 * len(FAMILIES), 0)


# ---- Run by the interpreter -----------------------------------------------------------------------------------------


def call(task: loops.Task, size: Sequence[int], distribution: str, scale: float = 1.0) -> Call:
    """Numbers (no dims) have no axis here and keep their size."""
    shapes = task.shapes(size)[0]
    drawn = loops.inputs(task, size, distribution, seed=1)
    arrays = [
        np.asarray(array.reshape(shape) * np.float32(scale if shape else 1))
        for array, shape in zip(drawn, shapes, strict=True)
    ]
    with np.errstate(over="ignore"):
        return arrays, loops.oracle(task, arrays)


def calls(one: loops.Made) -> list[Call]:
    kind = one.spec.kind.split()[0]
    sizes = SIZES.get(one.task.family) or SIZES["column" if kind == "column" else "row"]
    found = [call(one.task, size, "normal") for size in sizes]
    return [*found, *(call(one.task, sizes[1], other) for other in loops.DISTRIBUTIONS if other != "normal")]


def failures(jobs: Sequence[Job], folder: Path) -> list[str | None]:
    given, told = folder / "jobs", folder / "told"
    given.write_bytes(pickle.dumps(jobs))
    program = [sys.executable, "-W", "ignore", "-m", "tests.domains.interpret", str(given), str(told)]
    done = subprocess.run(
        program, cwd=ROOT, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: list[str | None] = pickle.loads(told.read_bytes())
    return found


def assert_right(tasks: Sequence[loops.Made], folder: Path) -> None:
    texts = [(one, variant) for one in tasks for variant in loops.kernels(one)]
    asked = {one.task.id: calls(one) for one in tasks}
    found = failures([(variant.code, asked[one.task.id]) for one, variant in texts], folder)
    for (one, variant), failure in zip(texts, found, strict=True):
        assert failure is None, f"{failure}: {one.task.id} {variant.tags}\n{variant.code}"


def assert_wrong(texts: Sequence[tuple[loops.Made, loops.Mistake]], folder: Path) -> None:
    jobs = []
    for one, mistake in texts:
        asked = calls(one)
        if mistake.name == "maximum":
            asked = [call(one.task, (7, 67), "normal", scale=1000), *asked]
        jobs.append((mistake.code, asked))
    for (one, mistake), failure in zip(texts, failures(jobs, folder), strict=True):
        told = f"{mistake.name} shows in {failure}: {one.task.id} {mistake.tags}\n{mistake.code}"
        assert failure == mistake.fails, told


@interprets
def test_every_right_text_equals_the_oracle(tmp_path: Path) -> None:
    assert_right(made("test", len(FAMILIES), 3), tmp_path)


@interprets
def test_every_mistake_fails_in_its_way(tmp_path: Path) -> None:
    texts = []
    for number, one in enumerate(made("train", 2 * len(FAMILIES), 4)):
        written = loops.kernels(one)
        # One variant of each task, from another place in its list, and each kind of mistake once.
        kinds = {each.name: (one, each) for each in loops.mistakes(one, written[-1 - number % 4])}
        texts += kinds.values()
    assert {mistake.fails for _, mistake in texts} == {"build", "raises", "values"}
    assert {mistake.name for _, mistake in texts} == {
        *(
            "colon",
            "unclosed",
            "undeclared",
            "mask",
            "block",
            "stride",
            "padding",
            "maximum",
            "inverse",
            "tail",
            "ends",
        ),
        *("dropped", "constant", "swapped"),
    }
    assert_wrong(texts, tmp_path)


@pytest.mark.slow
@interprets
def test_many_tasks_are_as_few_are(tmp_path: Path) -> None:
    tasks = made("train", 4 * len(FAMILIES), 5) + made("test", 3 * len(FAMILIES), 6)
    assert_right(tasks, tmp_path)
    texts = [(one, wrong) for one in tasks for variant in loops.kernels(one) for wrong in loops.mistakes(one, variant)]
    assert_wrong(texts[::9], tmp_path)


# ---- Texts ----------------------------------------------------------------------------------------------------------


def test_the_reference_is_the_statement_in_torch(generated: list[loops.Made]) -> None:
    for one in generated:
        names: dict[str, Any] = {}
        exec(one.task.reference, names)
        arrays, wanted = call(one.task, one.task.sizes[-3], "normal")
        found = names["function"](*(torch.from_numpy(array).double() for array in arrays))
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-9)


def test_tasks_are_those_of_cpp_at_other_sizes(generated: list[loops.Made]) -> None:
    cpp = {one.task.id: one for one in loops.tasks("train", len(generated), seed=0, families=FAMILIES)}
    for one in generated:
        same = cpp[one.task.id]
        assert one.spec == same.spec
        assert (one.task.statement, one.task.labels, one.task.output) == (
            same.task.statement,
            same.task.labels,
            same.task.output,
        )
        assert np.prod(one.task.timed) > np.prod(same.task.timed)
        assert one.task.reference != same.task.reference
        assert one.task.timed == one.task.sizes[-1]


def test_the_reference_comes_first_and_is_no_answer(generated: list[loops.Made]) -> None:
    for one in generated:
        reference, *written = loops.variants(one)
        assert (reference.code, reference.tags) == (one.task.reference, ())
        assert written == loops.kernels(one)
        assert len(written) >= 6
        assert len({each.tags for each in written}) == len(written), "one text for each set of techniques"
        right = {each.code for each in written}
        for each in written:
            wrong = loops.mistakes(one, each)
            assert len(wrong) >= 5
            assert not right & {mistake.code for mistake in wrong}


def test_no_rule_of_the_guard_objects_to_a_right_text(generated: list[loops.Made]) -> None:
    for one in generated[:16]:
        for each in loops.kernels(one):
            found = flags.scan(each.code, "triton")
            assert not found, f"{found}\n{each.code}"
        assert [flag.reason.name for flag in flags.scan(one.task.reference, "triton")] == ["F03_DECOY_KERNEL"]


def test_mistakes_but_two_are_python(generated: list[loops.Made]) -> None:
    for one in generated[:8]:
        for wrong in loops.mistakes(one, loops.kernels(one)[-1]):
            if wrong.fails == "build":
                with pytest.raises(SyntaxError):
                    ast.parse(wrong.code)
            else:
                ast.parse(wrong.code)


def test_a_family_that_is_not_rendered_is_refused_by_name() -> None:
    with pytest.raises(
        ValueError, match=r"families=\['matmul'\]: want some of elementwise, .* which language=triton has"
    ):
        loops.tasks("train", 1, seed=0, families=["matmul"], language="triton")


# ---- Language, prompts, teachers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return loops.triton_tokenizer()


def test_texts_are_short(generated: list[loops.Made], tokenizer: Any) -> None:
    lengths = []
    for one in generated:
        for text in (
            loops.plain(one.task)[0].content,
            *(wrong.code for wrong in loops.mistakes(one, loops.kernels(one)[0])),
        ):
            assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
        assert len(tokenizer(loops.plain(one.task)[0].content)["input_ids"]) <= 60
        for each in loops.kernels(one):
            text = loops.answer(each.code, "triton")
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == text
            lengths.append(len(ids))
    assert min(lengths) >= 30
    assert max(lengths) <= 75
    assert np.median(lengths) <= 50


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.sampled_from([*TRITON_FRAGMENTS, "<|im_end|>", " ", "  x", "12.3"])).map("".join)
)
def test_no_character_is_lost(tokenizer: Any, text: str) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_prompts_and_answers_are_fenced_as_python(generated: list[loops.Made]) -> None:
    one = generated[0]
    slow, *_, best = loops.kernels(one)
    scored = [(loops.variants(one)[0], 1.0), (slow, 1.7)]
    (prompt,) = loops.contrastive(one.task, [(each.code, speedup) for each, speedup in scored])
    assert prompt.content.count("```python\n") == 3
    assert "```cpp" not in prompt.content
    text = loops.compared(scored, best, "triton")
    assert "Code 2 is faster. It uses: nothing. It lacks: fuse" in text
    assert text.endswith(f"```python\n{best.code}```")
    assert loops.plain(one.task)[0].content.endswith(f"```python\n{one.task.reference}```")


def test_teachers_never_answer_with_the_reference(generated: list[loops.Made]) -> None:
    problems = [loops.problem(one) for one in generated]
    right = {one.task.id: {loops.answer(v.code, "triton"): v for v in loops.kernels(one)} for one in generated}
    for name, skill in loops.TEACHERS.items():
        said = loops.Teacher(name, generated, lambda _: (), seed=0).sample(problems, 4)
        found = [right[trace.problem_id].get(trace.text) for row in said for trace in row]
        assert all(skill.knows.issuperset(each.tags) for each in found if each)
        assert len({each.tags for each in found if each}) > 1, f"{name} has a choice"
        slips = found.count(None) / len(found)
        assert slips == pytest.approx(skill.slips, abs=4 * (skill.slips * (1 - skill.slips) / len(found)) ** 0.5)
        assert not any(
            one.task.reference in trace.text for one, row in zip(generated, said, strict=True) for trace in row
        )


def test_rows_that_compare_show_the_reference_and_answer_with_a_kernel(generated: list[loops.Made]) -> None:
    shown = 0
    for one in generated:
        answers = {loops.answer(each.code, "triton").rpartition("## ")[2] for each in loops.kernels(one)}
        # The slowest kernels are slower than the reference.
        speeds = {each.code: 0.5 + place / 2 for place, each in enumerate(loops.kernels(one))}
        texts = [*rows.claimed(one, most=2, seed=0), *rows.measured(one, speeds, 6, most=2, seed=0)]
        assert texts
        for row in texts:
            shown += row.prompt[0].content.count(one.task.reference) > 1
            assert row.response.rpartition("## ")[2] in answers
    assert shown > 10
