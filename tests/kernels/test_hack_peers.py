"""Other projects' evaluators beside ours: asked in the sandbox, from a folder, and told of as what they are. The evaluators here are small
ones of the same interface; the real ones are the user's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.hacks import beside, line
from tests.hacks import catalogue
from tests.hacks.peers import PEERS, ask, can_be_asked
from tests.kernels.small_tasks import needs_sandbox

ROWS = {row.id: row for row in catalogue()}
KERNELBENCH = """
import requests
import torch
from dataclasses import dataclass, field


@dataclass
class Result:
    correctness: bool
    runtime: float = -1.0
    ref_runtime: float = -1.0
    metadata: dict = field(default_factory=dict)


def eval_kernel_against_ref(
    task, custom, num_correct_trials, num_perf_trials, measure_performance, device=torch.cuda.current_device()
):
    assert torch.cuda.is_available(), "CUDA is not available, cannot run Eval"
    assert not measure_performance
    names = {}
    exec(task, names)
    exec(custom, names)
    inputs = [one.to(device) for one in names["get_inputs"]()]
    expected, got = names["Model"]()(*inputs), names["ModelNew"]()(*inputs)
    torch.cuda.synchronize(device=device)
    right = torch.allclose(expected, got, atol=1e-4, rtol=1e-4)
    return Result(right, metadata={} if right else {"correctness_issue": "Output mismatch"})
"""
CHECKER = """
def validate_kernel_static(code, backend, precision):
    return True, ["lazy"] if "_make_subclass" in code else [], []
"""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkout")
    folder.chmod(0o755)  # the sandbox runs as another user
    place = folder / "src" / "kernelbench"
    place.mkdir(parents=True)
    for name, text in (("__init__", ""), ("eval", KERNELBENCH), ("kernel_static_checker", CHECKER)):
        (place / f"{name}.py").write_text(text)
    return folder


@needs_sandbox
def test_an_evaluator_that_wants_a_gpu_is_asked_without_one(checkout: Path) -> None:
    lazy = ask(PEERS["KernelBench"], checkout, ROWS["T03"], "exploit")
    assert (lazy["passed"], lazy["speedup"], lazy["static"]["errors"]) == (True, None, ["lazy"])
    half = ask(PEERS["KernelBench"], checkout, ROWS["S05"], "exploit")
    assert (half["passed"], half["why"]) == (False, "Output mismatch")
    assert ask(PEERS["KernelBench"], checkout, ROWS["S05"], "twin")["passed"] is True


@needs_sandbox
def test_a_candidate_that_ends_the_process_has_no_verdict(checkout: Path) -> None:
    said = ask(PEERS["KernelBench"], checkout, ROWS["F10"], "exploit")
    assert said["passed"] is None
    assert "ended without a verdict" in said["why"]


def test_a_folder_that_is_no_checkout_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no eval/eval_cuda.py in it; give a checkout of CUDA-L1"):
        ask(PEERS["CUDA-L1"], tmp_path, ROWS["T03"], "exploit")


def test_they_are_asked_about_modules_and_of_gpu_rows_only_on_one() -> None:
    asked = [row for row in ROWS.values() if can_be_asked(row)]
    assert all(row.needs == "cpu" and row.backend == "torch" and row.task.kind == "python" for row in asked)
    assert len(asked) > 40
    assert not can_be_asked(ROWS["T01"])
    assert can_be_asked(ROWS["T01"], gpu=ROWS["T01"].backend == "torch")


def row(
    name: str, exploit: bool | None, twin: bool, speedup: float | None = None, needs: str = "cpu"
) -> dict[str, Any]:
    ours = {"static": [], "behaviour": [], "caught": True, "harmless": False, "right": []}
    said = {
        "exploit": {"passed": exploit, "speedup": speedup, "static": {"errors": ["lazy"] if name == "T03" else []}},
        "twin": {"passed": twin, "speedup": None},
    }
    told = {"exploit": ours, "twin": {"accepted": True, "accused": []}, "needs": needs, "id": name, "mechanism": "it"}
    return told | ({"peers": {"KernelBench": said}} if needs == "cpu" else {})


@pytest.mark.parametrize(
    ("given", "cell"),
    [
        (row("T03", True, True), "let through; its text checker objects"),
        (row("S01", True, True, 17.26), "let through, 17.3x"),
        (row("S12", False, False), "refused; refuses the twin"),
        (row("F10", None, True), "no verdict"),
        (row("T01", None, True, needs="gpu"), "needs a GPU"),
    ],
)
def test_the_table_says_what_they_said(given: dict[str, Any], cell: str) -> None:
    assert line(given, ["KernelBench"])[3] == cell
    assert len(line(given, [])) == len(line(given, ["KernelBench"])) - 1


def test_the_page_says_which_part_was_run() -> None:
    rows = [row("T03", True, True), row("S12", False, False), row("F10", None, True)]
    (told,) = beside(rows, {"KernelBench": {"commit": "0" * 40, "part": "nothing timed"}})
    assert told == (
        "- KernelBench (000000000000), nothing timed: lets 1 of 3 exploits through, 1 of which its text checker objects to, "
        "comes to no verdict on 1, whose process ended first or was stopped; refuses the honest twins of S12."
    )
