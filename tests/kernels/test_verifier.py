"""Kernels as answers: right ones score their speed-up, wrong ones are wrong, and what cannot be told is unchecked."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from postgrad.domains import loops
from postgrad.grading import grade
from postgrad.kernels import clock
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.evaluate import Settings, quick
from postgrad.kernels.task import of_loop
from postgrad.kernels.verdict import UNCHECKED, KernelVerdict
from postgrad.kernels.verifier import KernelVerifier
from postgrad.records import Problem, Status, Trace

MADE = loops.tasks("train", 1, seed=0)[0]


def code_of(text: str) -> str | None:
    _, found, rest = text.partition("```cpp\n")
    return rest.partition("```")[0] if found else None


@pytest.fixture(scope="module")
def heard() -> list[KernelVerdict]:
    return []


@pytest.fixture(scope="module")
def verifier(tmp_path_factory: pytest.TempPathFactory, heard: list[KernelVerdict]) -> Iterator[KernelVerifier]:
    cache: Path = tmp_path_factory.mktemp("builds")
    # A machine that others use gives no narrow interval; here the path counts, not the number.
    rules = clock.Rules(bucket_rounds=3, buckets=8, gate=10.0, widest=10.0, late=10.0, disagree=100.0, overhead=1.0)
    settings = Settings(budget_s=0.5, seeds=1, rules=rules, admission=False, cache=cache)
    task = of_loop(MADE.task, lambda arrays: loops.oracle(MADE.task, arrays))

    def hear(problem: Problem, candidate: Candidate, verdict: KernelVerdict) -> None:
        heard.append(verdict)

    with KernelVerifier({MADE.task.id: task}, code_of, settings, seed=0, heard=hear) as made:
        yield made


def trace(text: str) -> Trace:
    return Trace(MADE.task.id, text, (), (), "stop")


def test_a_batch_of_answers(verifier: KernelVerifier, heard: list[KernelVerdict]) -> None:
    right = loops.variants(MADE)[-1]
    wrong = next(one for one in loops.mistakes(MADE, right) if one.fails == "values")
    broken = next(one for one in loops.mistakes(MADE, right) if one.fails == "build")
    texts = [*(loops.answer(code) for code in (right.code, wrong.code, broken.code, right.code)), "I do not know."]
    (graded,) = grade([loops.problem(MADE)], [[trace(text) for text in texts]], verifier)
    first, second, third, again, silent = (one.verdict for one in graded)
    assert first.status in (Status.CORRECT, Status.UNCHECKED), first.reason
    assert (first.score is not None and first.score > 0) == (first.status is Status.CORRECT)
    assert (second.status, second.score) == (Status.WRONG, 0.0)
    assert third.status is Status.WRONG
    assert "BUILD" in third.reason
    assert silent.status is Status.NO_ANSWER
    if first.status is Status.CORRECT:
        assert again == first, "a code is judged once"
        assert len(heard) == 3


def test_tasks_side_by_side_for_training(tmp_path: Path) -> None:
    """`quick` at the loops' `quick` sizes: wrong is wrong, right is right where the machine lets a number be had, and a batch asks once."""
    made = loops.tasks("train", 2, seed=3, families=["matmul", "softmax"])
    tasks = {one.task.id: of_loop(one.task, partial(loops.oracle, one.task), timed=one.task.quick) for one in made}
    rows = []
    for one in made:
        right = loops.variants(one)[-1]
        wrong = [each.code for each in loops.mistakes(one, right) if each.fails == "values"][:2]
        texts = [loops.answer(code) for code in (right.code, *wrong, wrong[0])] + ["nothing"]
        rows.append([Trace(one.task.id, text, (), (), "stop") for text in texts])
    problems = [loops.problem(one) for one in made]
    judged: list[tuple[str, str]] = []
    settings = quick(tmp_path)
    with KernelVerifier(
        tasks,
        code_of,
        settings,
        seed=0,
        at_once=2,
        heard=lambda problem, one, _: judged.append((problem.id, one.sha256)),
    ) as verifier:
        graded = grade(problems, rows, verifier)
        assert len(judged) == len(set(judged)) == 6
        for row in graded:
            first, *wrong, silent = (one.verdict for one in row)
            assert first.status in (Status.CORRECT, Status.UNCHECKED), first.reason
            assert [one.status for one in wrong] == [Status.WRONG] * 3
            assert silent.status is Status.NO_ANSWER
        unsure = sum(verdict.status is UNCHECKED for verdict in verifier.verdicts.values())
        grade(problems, rows, verifier)
        assert len(judged) == 6 + unsure, "what is unchecked is asked again by the next batch"


def test_what_is_timed_by_the_wall_is_timed_alone() -> None:
    with pytest.raises(ValueError, match="at_once=2: kernels that run side by side slow each other"):
        KernelVerifier({}, code_of, Settings(), at_once=2)


def test_a_problem_without_a_task_is_an_error(verifier: KernelVerifier) -> None:
    with pytest.raises(ValueError, match="problem 'other' has no kernel task"):
        verifier(Problem("other", (), None), trace("x"))
