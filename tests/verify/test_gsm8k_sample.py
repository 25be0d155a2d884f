"""Every gold of the sample can be checked, and every labelled model output gets its label's verdict."""

from __future__ import annotations

import json
from pathlib import Path

from postgrad.records import Problem, Status, Trace
from postgrad.verify.gold import keep_checkable
from postgrad.verify.maths import boxed, final_answer

SAMPLE = Path(__file__).parents[1] / "data" / "gsm8k"
MODELS = ("6b_finetuning", "6b_verification", "175b_finetuning", "175b_verification")


def test_golds_are_checkable() -> None:
    rows = [json.loads(line) for line in (SAMPLE / "test_30.jsonl").read_text(encoding="utf-8").splitlines()]
    problems = [Problem(f"gsm8k-{i}", (), row["answer"].rpartition("####")[2].strip()) for i, row in enumerate(rows)]
    checked = keep_checkable(problems, boxed)
    assert len(checked.kept) == 30
    assert keep_checkable(problems, final_answer, "So it is done.\n#### {}".format).kept == checked.kept


def test_model_outputs_get_their_labels() -> None:
    lines = (SAMPLE / "example_model_solutions_15.jsonl").read_text(encoding="utf-8").splitlines()
    seen = []
    for row in map(json.loads, lines):
        problem = Problem("", (), row["ground_truth"].rpartition("A:")[2].strip())
        for model in MODELS:
            verdict = final_answer(problem, Trace("", row[model]["solution"], (), (), "stop"))
            assert verdict.status is (Status.CORRECT if row[model]["is_correct"] else Status.WRONG), verdict
            seen.append(verdict.status)
    assert len(seen) == 60
    assert {Status.CORRECT, Status.WRONG} == set(seen)
