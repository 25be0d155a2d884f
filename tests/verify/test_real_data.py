"""The verifiers on real answers: gold answers, perturbed golds, and model outputs that others have graded.

    POSTGRAD_DATA=<folder> pytest -m slow -s tests/verify/test_real_data.py

The folder holds gsm8k/, math_cot_samples/ and math_symbolic/, as docs/results/verifier.md describes them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from postgrad.records import Problem, Status, Trace
from postgrad.verify.gold import Checked, keep_checkable
from postgrad.verify.maths import boxed, final_answer

pytestmark = pytest.mark.slow


def rows(*path: str) -> Iterator[dict[str, Any]]:
    folder = os.environ.get("POSTGRAD_DATA")
    if not folder:
        pytest.skip("POSTGRAD_DATA names no folder of real data")
    with Path(folder, *path).open(encoding="utf-8") as file:
        yield from map(json.loads, file)


def ask(gold: str, text: str) -> Problem | Any:
    return final_answer(Problem("", (), gold), Trace("", text, (), (), "stop"))


def show(checked: Checked) -> None:
    print(f"\nkept {len(checked.kept)}, rejected {len(checked.rejected)}")
    for rejected in checked.rejected:
        print(f"  {rejected.problem.id}: {' '.join(rejected.reason.split())}")


@pytest.mark.parametrize("file", ["train", "test_first300"])
def test_every_gold_of_gsm8k_is_checkable(file: str) -> None:
    golds = (row["answer"].rpartition("####")[2].strip() for row in rows("gsm8k", f"{file}.jsonl"))
    checked = keep_checkable((Problem(f"{file}-{i}", (), gold) for i, gold in enumerate(golds)), boxed)
    show(checked)
    assert not checked.rejected


def test_gsm8k_labels() -> None:
    differ = []
    n = 0
    for i, row in enumerate(rows("gsm8k", "example_model_solutions_first300.jsonl")):
        gold = row["ground_truth"].rpartition("A:")[2].strip()
        for model in ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification"):
            n += 1
            verdict = ask(gold, row[model]["solution"])
            if (verdict.status is Status.CORRECT) != row[model]["is_correct"] or verdict.status is Status.UNCHECKED:
                differ.append((i, model, row[model]["is_correct"], verdict, row[model]["solution"][-80:]))
    print(f"\n{n} outputs, {len(differ)} differ", *differ, sep="\n  ")
    assert n == 1200
    assert not differ


def test_math_cot_scores() -> None:
    differ, n = [], 0
    for row in rows("math_cot_samples", "math_cot.jsonl"):
        for k, (response, score) in enumerate(zip(row["response"], row["score"], strict=True)):
            n += 1
            verdict = boxed(Problem("", (), row["gt"]), Trace("", response, (), (), "stop"))
            if (verdict.status is Status.CORRECT) != score or verdict.status is Status.UNCHECKED:
                differ.append((row["idx"], k, score, verdict, response[-60:]))
    print(f"\n{n} responses, {len(differ)} differ", *differ, sep="\n  ")
    assert n == 448
    assert len(differ) <= 0.02 * n


def test_svamp_golds() -> None:
    checked = keep_checkable(
        (Problem(f"svamp-{i}", (), str(row["Answer"])) for i, row in enumerate(rows("math_symbolic", "svamp.jsonl"))),
        boxed,
    )
    show(checked)
    assert not checked.rejected


def test_college_math_golds() -> None:
    golds = (row["answer"] for row in rows("math_symbolic", "college_math_open.jsonl"))
    checked = keep_checkable((Problem(f"college-{i}", (), gold) for i, gold in enumerate(golds)), boxed)
    show(checked)
    assert not [rejected for rejected in checked.rejected if rejected.reason.startswith("accepts")]
    formulas = [r for r in checked.rejected if not r.reason.startswith("its own gold is unchecked: gold is prose")]
    n = len(checked.kept) + len(formulas)
    print(f"{n} golds that are not prose, {len(formulas)} of them rejected")
    assert len(formulas) <= 0.02 * n
