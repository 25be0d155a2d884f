"""Small loops: every right text is right and every mistake fails in its way, built by g++ and called; splits share nothing."""

from __future__ import annotations

import ctypes
import hashlib
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from postgrad.domains import loops
from postgrad.domains.loops.language import FRAGMENTS

FAMILIES = len(loops.FAMILIES)
GUARD = 64
"""Floats before and after `out` that a kernel must leave alone."""

compiles = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++ on this machine")


@pytest.fixture(scope="module")
def generated() -> dict[str, list[loops.Made]]:
    return {"train": loops.tasks("train", 40 * FAMILIES, seed=0), "test": loops.tasks("test", 15 * FAMILIES, seed=1)}


# ---- Built and called -----------------------------------------------------------------------------------------------


def build(code: str, stem: Path) -> Path | None:
    """The library; None where g++ refuses the text. These are our own texts, so there is no sandbox around it."""
    source, library = stem.with_suffix(".cpp"), stem.with_suffix(".so")
    source.write_text(code)
    done = subprocess.run(
        ["g++", *loops.FLAGS, "-o", library, source], capture_output=True, timeout=120, check=False, text=True
    )
    assert done.returncode == 0 or "error:" in done.stderr
    return library if done.returncode == 0 else None


def built(codes: Sequence[str], folder: Path) -> list[Path | None]:
    """Into a folder of its own: a library that was loaded once stays, whatever is written over its file."""
    folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(build, codes, [folder / str(place) for place in range(len(codes))]))


def failure(task: loops.Task, library: Path) -> str | None:
    """The first of "bounds" and "values" that a kernel gets wrong at some checked size and distribution."""
    kernel: Callable[..., None] = ctypes.CDLL(str(library)).kernel
    for size in task.sizes[:-1]:
        for distribution in loops.DISTRIBUTIONS:
            arrays = loops.inputs(task, size, distribution, seed=1)
            wanted = loops.oracle(task, arrays)
            # Reading past the end is not what is tested here.
            padded = [np.concatenate([array.ravel(), np.zeros(4096, np.float32)]) for array in arrays]
            out = np.full(wanted.size + 2 * GUARD, np.nan, np.float32)
            pointers = (ctypes.c_void_p * len(padded))(*(array.ctypes.data for array in padded))
            kernel(pointers, ctypes.c_void_p(out[GUARD:].ctypes.data), (ctypes.c_long * len(size))(*size))
            if not (np.isnan(out[:GUARD]).all() and np.isnan(out[-GUARD:]).all()):
                return "bounds"
            error = np.abs(out[GUARD:-GUARD] - wanted.ravel()).max()
            if not error <= 1e-6 + 1e-4 * np.abs(wanted).max():
                return "values"
    return None


def assert_right(made: Sequence[loops.Made], folder: Path) -> None:
    jobs = [(each, variant) for each in made for variant in loops.variants(each)]
    for (each, variant), library in zip(jobs, built([v.code for _, v in jobs], folder), strict=True):
        assert library is not None, f"does not build: {each.task.id} {variant.tags}\n{variant.code}"
        found = failure(each.task, library)
        assert found is None, f"{found}: {each.task.id} {variant.tags}\n{variant.code}"


def assert_wrong(jobs: Sequence[tuple[loops.Made, loops.Mistake]], folder: Path) -> None:
    for (each, mistake), library in zip(jobs, built([m.code for _, m in jobs], folder), strict=True):
        found = "build" if library is None else failure(each.task, library)
        assert found == mistake.fails, f"{mistake.name} shows in {found}: {each.task.id} {mistake.tags}\n{mistake.code}"


@compiles
def test_every_right_text_builds_and_equals_the_oracle(tmp_path: Path) -> None:
    assert_right(loops.tasks("test", FAMILIES, seed=3), tmp_path / "right")


@compiles
def test_every_mistake_fails_in_its_way(tmp_path: Path) -> None:
    jobs = []
    for number, made in enumerate(loops.tasks("train", FAMILIES, seed=4)):
        written = loops.variants(made)
        # One variant of each task, from another place in its list, and each kind of mistake once.
        kinds = {each.name: (made, each) for each in loops.mistakes(made, written[-1 - number % 3])}
        jobs += kinds.values()
    assert {mistake.fails for _, mistake in jobs} == {"build", "values", "bounds"}
    assert_wrong(jobs, tmp_path / "wrong")


@pytest.mark.slow
@compiles
def test_many_tasks_are_as_few_are(tmp_path: Path) -> None:
    made = loops.tasks("train", 3 * FAMILIES, seed=5) + loops.tasks("test", 2 * FAMILIES, seed=6)
    assert_right(made, tmp_path / "right")
    jobs = [
        (each, wrong) for each in made for variant in loops.variants(each) for wrong in loops.mistakes(each, variant)
    ]
    assert_wrong(jobs[::9], tmp_path / "wrong")
    assert {wrong.name for _, wrong in jobs} == {
        *("semicolon", "undeclared", "unclosed", "start", "inverse", "tail", "short", "overrun", "dropped", "constant", "swapped")
    }  # fmt: skip


# ---- Tasks ----------------------------------------------------------------------------------------------------------


def test_no_split_shares_a_composition_or_constants_with_another(generated: dict[str, list[loops.Made]]) -> None:
    for key in ("composition", "constants"):
        seen = {
            split: {(made.task.family * (key == "composition"), made.task.labels[key]) for made in rows}
            for split, rows in generated.items()
        }
        assert all(len(found) > 50 for found in seen.values())
        assert not (seen["train"] & seen["test"]) - {("", "")}, "only tasks without constants share theirs"
    for name in loops.FAMILIES:
        for rows in generated.values():
            compositions = {made.task.labels["composition"] for made in rows if made.task.family == name}
            assert len(compositions) > 3, f"{name} has too few forms to learn from or to measure on"


def test_tasks_are_different_and_families_take_turns(generated: dict[str, list[loops.Made]]) -> None:
    for rows in generated.values():
        assert len({made.task.id for made in rows}) == len({made.task.reference for made in rows}) == len(rows)
        assert len(set(Counter(made.task.family for made in rows).values())) == 1


def test_texts_are_a_function_of_the_seed_in_any_process() -> None:
    program = (
        "import hashlib; from postgrad.domains import loops; made = loops.tasks('train', 14, seed=3); "
        "texts = [each.code for one in made for right in loops.variants(one) for each in (right, *loops.mistakes(one, right))]; "
        "print(hashlib.sha256('\\n'.join(texts).encode()).hexdigest())"
    )
    found = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    }
    assert len(found) == 1
    assert len(found.pop()) == 2 * hashlib.sha256().digest_size + 1


def test_the_statement_means_the_same_in_torch(generated: dict[str, list[loops.Made]]) -> None:
    for made in generated["test"]:
        names: dict[str, Any] = {}
        exec(made.task.statement, names)
        for size in made.task.sizes[:-1]:
            arrays = loops.inputs(made.task, size, "normal", 0)
            found = names["function"](torch, *(torch.from_numpy(array).double() for array in arrays))
            assert found.shape == made.task.shapes(size)[1], made.task.id
            np.testing.assert_allclose(found.numpy(), loops.oracle(made.task, arrays), rtol=1e-9, atol=1e-12)


def test_inputs_are_fresh_contiguous_and_of_their_seed() -> None:
    (made,) = loops.tasks("train", 1, seed=0, families=["matmul"])
    for name in loops.DISTRIBUTIONS:
        first, again, other = (loops.inputs(made.task, (3, 4, 5), name, seed) for seed in (0, 0, 1))
        assert all(each.dtype == np.float32 and each.flags.c_contiguous for each in first)
        assert all(np.array_equal(*pair) for pair in zip(first, again, strict=True))
        assert not all(np.array_equal(*pair) for pair in zip(first, other, strict=True))
    with pytest.raises(ValueError, match="distribution='gaussian' is not one of normal, below"):
        loops.inputs(made.task, (3, 4, 5), "gaussian", 0)


@pytest.mark.parametrize("distribution", ["normal", "outliers"])
def test_zeros_the_mean_and_another_output_are_far_from_right(
    generated: dict[str, list[loops.Made]], distribution: str
) -> None:
    for made in generated["test"]:
        right, other = (
            loops.oracle(made.task, loops.inputs(made.task, made.task.sizes[-2], distribution, seed)) for seed in (5, 6)
        )
        for wrong in (np.zeros_like(right), np.full_like(right, right.mean()), other):
            assert np.abs(right - wrong).max() > 0.01 * np.abs(right).max(), made.task.id


def test_what_cannot_be_made_is_an_error_that_says_what_to_change() -> None:
    with pytest.raises(ValueError, match=r"families=\['sort'\]: want some of elementwise, reduce"):
        loops.tasks("train", 1, seed=0, families=["sort"])


def test_variants_begin_with_the_reference_and_none_is_a_mistake(generated: dict[str, list[loops.Made]]) -> None:
    for made in generated["test"]:
        written = loops.variants(made)
        assert written[0].code == made.task.reference
        assert written[0].tags == ()
        assert len(written) >= 5
        right = {each.code for each in written}
        for each in written:
            wrong = loops.mistakes(made, each)
            assert len(wrong) >= 4
            assert not right & {mistake.code for mistake in wrong}, made.task.id


# ---- Language, prompts, teachers ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return loops.tokenizer()


def test_kernels_are_short(generated: dict[str, list[loops.Made]], tokenizer: Any) -> None:
    lengths = []
    for made in generated["train"]:
        for each in loops.variants(made):
            ids = tokenizer(loops.answer(each.code), add_special_tokens=False)["input_ids"]
            assert tokenizer.decode(ids) == loops.answer(each.code)
            lengths.append(len(ids))
    assert max(lengths) <= 200
    assert np.median(lengths) <= 80


def test_a_contrastive_prompt_is_short_and_its_answer_has_the_code_last(
    generated: dict[str, list[loops.Made]], tokenizer: Any
) -> None:
    for made in generated["test"]:
        slow, fast, *_, best = loops.variants(made)
        scored = [(fast, 2.5), (slow, 1.0)]
        prompt = loops.contrastive(made.task, [(each.code, speedup) for each, speedup in scored])
        text = loops.compared(scored, best)
        ids = tokenizer.apply_chat_template(
            [{"role": prompt[0].role, "content": prompt[0].content}, {"role": "assistant", "content": text}],
            return_dict=True,
        )["input_ids"]
        assert len(ids) <= 700
        assert "Code 1 ran at 2.50x:\n```cpp\n" + fast.code in prompt[0].content
        headings = [line for line in text.splitlines() if line.startswith("## ")]
        assert headings == ["## Performance Analysis", "## Algorithm Design", "## Code Implementation"]
        assert "\nCode 1 is faster. It uses: " in text
        assert text.rpartition("```cpp\n")[2] == best.code + "```"
    with pytest.raises(ValueError, match="at least one earlier code"):
        loops.contrastive(made.task, [])


@given(
    text=st.text(st.characters(exclude_categories=["Cs"]))
    | st.lists(st.sampled_from([*FRAGMENTS, "<|im_end|>", " ", "  x", "12.3f"])).map("".join)
)
def test_no_character_is_lost(text: str) -> None:
    made = loops_tokenizer()
    assert made.decode(made(text, add_special_tokens=False)["input_ids"]) == text


def loops_tokenizer(kept: list[Any] = []) -> Any:  # noqa: B006  # made once
    if not kept:
        kept.append(loops.tokenizer())
    return kept[0]


def test_the_tokenizer_is_saved_and_loaded(tmp_path: Path, tokenizer: Any) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "for (long i = 0; i < N; i++) o[i] = x[i] * 1.5f;\nλ"
    assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.eos_token == "<|im_end|>"


def test_teachers_write_what_they_know_and_slip_as_often_as_they_do(generated: dict[str, list[loops.Made]]) -> None:
    made = generated["train"][: 10 * FAMILIES]
    problems = [loops.problem(each) for each in made]
    right = {each.task.id: {loops.answer(v.code): v for v in loops.variants(each)} for each in made}
    for name, skill in loops.TEACHERS.items():
        teacher = loops.Teacher(name, made, lambda text: [len(text)], seed=0)
        said = teacher.sample(problems, 4)
        assert said == loops.Teacher(name, made, lambda text: [len(text)], seed=0).sample(problems, 4)
        codes = [right[trace.problem_id].get(trace.text) for row in said for trace in row]
        assert all(skill.knows.issuperset(each.tags) for each in codes if each)
        slips = codes.count(None) / len(codes)
        assert slips == pytest.approx(skill.slips, abs=4 * (skill.slips * (1 - skill.slips) / len(codes)) ** 0.5)
    with pytest.raises(ValueError, match="expert was not given the tasks of 1 problems, first 'reduce: "):
        loops.Teacher("expert", made[:1], lambda text: [0], seed=0).sample(problems[1:2], 1)
    with pytest.raises(ValueError, match="name='genius' is not one of novice"):
        loops.Teacher("genius", made, lambda text: [0], seed=0)


# ---- Rows that compare ----------------------------------------------------------------------------------------------


def test_claims_begin_with_the_reference_at_one_and_rise() -> None:
    from postgrad.domains.loops import rows

    made = loops.tasks("train", 30, seed=3)
    for one in made:
        (row,) = rows.claimed(one, most=2, seed=0)
        _, *shown = row.prompt[0].content.split("\nCode ")
        claims = [float(text.partition(" ran at ")[2].partition("x:")[0]) for text in shown]
        assert 1 <= len(claims) <= 2
        assert claims == sorted(claims)
        for text, claim in zip(shown, claims, strict=True):
            assert (one.task.reference in text) == (claim == 1.0)
        assert row == rows.claimed(one, most=2, seed=0)[0]
        assert "## Performance Analysis" in row.response
