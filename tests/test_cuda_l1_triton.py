"""The recipe cuda_l1 with data.loops.language=triton: a whole run with a scripted judge, and the real evaluator on its tasks, without a GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from bench import loops_triton
from postgrad import config
from postgrad.domains import loops
from postgrad.kernels import archive
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.evaluate import Evaluator, Settings
from postgrad.kernels.verdict import REJECTED, UNCHECKED, Reason
from postgrad.recipes import cuda_l1
from postgrad.recipes.cuda_l1 import tasks
from postgrad.records import Example, read_jsonl
from postgrad.run import Run, read_lines
from tests import tiny_cuda_l1 as tiny
from tests.kernels.small_tasks import needs_sandbox

TRITON = ("data.loops.language=triton", "data.loops.families=[softmax, reduce]", "judging.how=full", "judging.gpu=0")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    out = tmp_path_factory.mktemp("cuda_l1_triton") / "run"
    with pytest.MonkeyPatch.context() as patch:
        tiny.scripted(patch)
        patch.setattr(cuda_l1, "check_machine", lambda _: None)
        cuda_l1.main(*tiny.start(out, *TRITON))
        yield out


def test_a_run_goes_through_and_says_what_came_of_it(finished: Path) -> None:
    run = Run.open(finished)
    assert all(stage["status"] == "done" for stage in run.stages().values())
    summary = json.loads((finished / "summary.json").read_text())
    assert list(summary["models"]) == ["sft", "self_supervised", "evolved", "grpo", "contrastive"]
    assert {shown["family"] for shown in summary["kernels"]["shown"]} <= {"softmax", "reduce"}
    assert run.stages()["data"]["result"]["families"]["train"] == {"softmax": 2, "reduce": 2}


def test_tasks_are_functions_of_torch_with_the_domain_s_oracle(finished: Path) -> None:
    known = cuda_l1.tasks_of(tiny.settings(*TRITON))
    assert known.backend == "triton"
    for name, task in known.tasks.items():
        one = known.made[name].task
        assert (task.kind, task.entry, task.wanted) == ("python", "function", "function")
        assert task.source == one.reference
        assert task.timed is not None
        assert task.timed.n == one.timed
        assert task.oracle is not None
        arrays = loops.inputs(one, one.sizes[0], "normal", 0)
        assert task.oracle(arrays).shape == one.shapes(one.sizes[0])[1]


def test_what_is_read_and_trained_on_is_triton(finished: Path) -> None:
    known = cuda_l1.tasks_of(tiny.settings(*TRITON))
    texts = list(read_jsonl(Example, finished / "data" / "sft.jsonl"))
    assert texts
    for row in texts:
        name = row.id.partition(" compared ")[0] if " compared " in row.id else row.id.rpartition(" ")[0]
        variants = {each.code.strip() for each in loops.kernels(known.made[name])}
        code = known.parse(row.response)
        assert code is not None
        # A scripted judge finds mistakes right too.
        assert code.strip() in variants or "@triton.jit" in code
        assert "```python\n" in row.prompt[0].content
        assert known.made[name].task.reference in row.prompt[0].content
    tokenizer = AutoTokenizer.from_pretrained(finished / "checkpoints" / "base")
    assert tokenizer.get_vocab() == loops.triton_tokenizer().get_vocab()


def test_prompts_show_the_reference_and_earlier_kernels(finished: Path) -> None:
    rows = [row for path in (finished / "rollouts").glob("contrastive-*.jsonl") for row in read_lines(path)]
    assert rows
    # What a model without any sense wrote may have fences of its own.
    assert all(row["prompt"].count("```python\n") >= 3 and row["prompt"].count("x:\n```python\n") >= 2 for row in rows)
    with archive.reading(finished / "archives" / "gather.sqlite") as codes:
        where = f"{Run.open(finished).manifest['hardware']['gpu']}, full"
        known = cuda_l1.tasks_of(tiny.settings(*TRITON))
        found = [one for name in known.tasks for one in codes.successes(name, where)]
    assert found
    assert all("@triton.jit" in one.code for one in found)


def test_kernels_are_judged_on_the_gpu_that_is_named(tmp_path: Path) -> None:
    asked, run = tiny.start(tmp_path / "run", *TRITON, "judging.gpu=3", "judging.seconds=1.5")
    found = tasks.evaluation(asked, run)
    assert (found.gpu, found.clock, found.budget_s, found.admission) == (3, "wall", 1.5, False)
    asked, run = tiny.start(tmp_path / "cpp")
    found = tasks.evaluation(asked, run)
    assert (found.gpu, found.clock) == (None, "cpu")


def test_settings_that_do_not_fit_are_told(finished: Path) -> None:
    with pytest.raises(config.ConfigError, match=r"how=quick is for data\.loops in C"):
        tiny.settings(*TRITON, "judging.how=quick")
    with pytest.raises(ValueError, match="which language=triton has"):
        cuda_l1.tasks_of(tiny.settings(*TRITON, "data.loops.families=[matmul]"))


# ---- The real evaluator, Triton's interpreter


@needs_sandbox
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="no triton on this machine")
def test_the_evaluator_finds_right_kernels_right_and_mistakes_wrong(finished: Path) -> None:
    """At sizes that the interpreter is quick at: a chain that divides by a positive number, so its root is one."""
    asked = tiny.settings(*TRITON, "data.loops.families=[elementwise]", "data.loops.train=24")
    known = cuda_l1.tasks_of(asked)
    name = next(name for name, one in known.made.items() if name in known.tasks and "over" in one.task.id)
    made, task = known.made[name], known.tasks[name]
    small = replace(task.cases[2], inputs=tuple((3001,) if shape else () for shape in task.cases[2].inputs), n=(3001,))
    with Evaluator(replace(task, timed=small, cases=task.cases[1:4]), Settings(seeds=2), seed=1) as judge:
        for right in loops.kernels(made)[::7]:
            found = judge(Candidate(right.code, known.backend))
            assert (found.status, found.reasons) == (UNCHECKED, (Reason.INTERPRETED,)), found.findings
        wrong = {each.name: each for each in loops.mistakes(made, loops.kernels(made)[-1])}
        for name in ("unclosed", "undeclared", "mask", "block", "inverse", "dropped"):
            assert judge(Candidate(wrong[name].code, known.backend)).status is REJECTED, name


# ---- The bench that awaits a GPU


def test_the_bench_tells_gains_by_techniques_and_what_is_not_as_it_should_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(loops_triton, "Evaluator", tiny.Scripted)
    out = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["loops_triton", "plane", "--tasks", "3", "--out", str(out)])
    loops_triton.main()
    told, page = capsys.readouterr().out, out.read_text()
    made = loops.tasks("train", 3, seed=0, families=["plane"], language="triton")
    assert told.count("\n") == sum(
        len(loops.kernels(one)) + len({each.name for each in loops.mistakes(one, loops.kernels(one)[-1])})
        for one in made
    )
    assert "\n## plane\n" in page
    assert "| fuse, rows, warps | " in page
    # A scripted judge accepts most mistakes.
    assert "mask: accepted where rejected is right: " in page
