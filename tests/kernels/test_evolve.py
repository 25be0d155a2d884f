"""The archive that grows with the policy, and the ledger of verdicts: what a prompt may show, and what a kill may not lose."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from postgrad.kernels import archive, exemplars
from postgrad.kernels.archive import Archive
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.environment import environment
from postgrad.kernels.evolve import Evolving
from postgrad.kernels.exemplars import Exemplar
from postgrad.kernels.ledger import Ledger
from postgrad.kernels.verdict import KernelStatus, KernelVerdict
from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict

TASK = Problem("task", (Message("user", "plain"),), "reference")


@pytest.fixture
def codes(tmp_path: Path) -> Iterator[Archive]:
    with archive.opened(tmp_path / "codes.sqlite") as opened:
        yield opened


def write(problem: Problem, shown: Sequence[Exemplar]) -> tuple[Message, ...]:
    if not shown:
        return problem.prompt
    return (Message("user", " ".join(f"{one.code}@{one.score:g}" for one in shown)),)


def evolving(codes: Archive, strategy: exemplars.Strategy = exemplars.buckets) -> Evolving:
    return Evolving(
        codes,
        {"task": "reference"},
        write,
        lambda text: text or None,
        strategy,
        shown=2,
        seed=0,
        sampler="m",
        environment="e",
    )


def answered(text: str, score: float | None) -> Graded:
    verdict = Verdict(Status.WRONG, 0.0) if score is None else Verdict(Status.CORRECT, score)
    return Graded(TASK, Trace("task", text, (), (), "stop"), verdict)


def asked(prompter: Evolving, step: int) -> str:
    (posed,) = prompter.pose([TASK], step)
    assert (posed.id, posed.gold) == ("task", "reference")
    return posed.prompt[0].content


def test_a_prompt_shows_what_was_learnt_before_its_step(codes: Archive) -> None:
    prompter = evolving(codes)
    assert asked(prompter, 0) == "reference@1"
    prompter.learn([[answered("fast", 3.0), answered("wrong", None)]], 0)
    assert asked(prompter, 1) == "reference@1 fast@3"
    prompter.learn([[answered("faster", 9.0)]], 1)
    assert asked(prompter, 2) == "fast@3 faster@9"
    (first, *_), *_ = [codes.attempts("task", "e")]
    assert (first.place.step, first.outcome, first.sampler) == (1, "judged", "m")


def test_a_step_asked_again_forgets_what_came_of_it_and_asks_the_same(codes: Archive) -> None:
    prompter = evolving(codes)
    for step, code in enumerate(("one", "two", "three")):
        told = asked(prompter, step)
        prompter.learn([[answered(code, 2.0 + step)]], step)
    resumed = evolving(codes)
    assert asked(resumed, 2) == told
    assert {one.code for one in codes.successes("task", "e")} == {"one", "two"}


def test_a_task_asked_twice_in_a_step_has_two_places_and_the_second_does_not_see_the_first(codes: Archive) -> None:
    prompter = evolving(codes)
    prompter.pose([TASK, TASK], 0)
    prompter.learn([[answered("one", 2.0)], [answered("two", 4.0)]], 0)
    assert [one.place.draw for one in codes.attempts("task", "e")] == [0, 1]
    # Asked for more in the same step, as where groups without variance are filled up.
    assert asked(prompter, 0) == "reference@1"
    assert len(codes.successes("task", "e")) == 2


def test_the_strategy_nothing_leaves_the_prompt_and_keeps_the_codes(codes: Archive) -> None:
    prompter = evolving(codes, exemplars.nothing)
    assert asked(prompter, 0) == "plain"
    prompter.learn([[answered("one", 2.0), answered("one", 2.0), answered("", None)]], 0)
    assert asked(prompter, 1) == "plain"
    assert [one.outcome for one in codes.attempts("task", "e")] == ["judged", "repeated", "no_code"]


def test_what_could_not_be_checked_is_never_shown_and_judged_when_it_comes_again(codes: Archive) -> None:
    prompter = evolving(codes)
    asked(prompter, 0)
    unknown = Graded(TASK, Trace("task", "one", (), (), "stop"), Verdict(Status.UNCHECKED, None, "late"))
    prompter.learn([[unknown]], 0)
    assert asked(prompter, 1) == "reference@1"
    prompter.learn([[answered("one", 2.0)]], 1)
    assert asked(prompter, 2) == "reference@1 one@2"


def test_seeds_stand_before_the_first_step(codes: Archive, tmp_path: Path) -> None:
    with archive.opened(tmp_path / "before.sqlite") as before:
        evolving(before).start_with([answered("old", 2.0), answered("bad", None)], "teacher", 0)
        kept = before.successes("task", "e")
    prompter = evolving(codes)
    for _ in range(2):  # as where a run is resumed
        prompter.start_from("task", kept, "gather", 0)
    assert asked(prompter, 0) == "reference@1 old@2"
    assert len(codes.attempts("task", "e")) == 1


def test_the_ledger_gives_back_what_was_judged_and_mends_a_torn_line(tmp_path: Path) -> None:
    where = environment(task="t", code="c", seeds={}, compiler=None)
    verdict = KernelVerdict("task", KernelStatus.ACCEPTED, 1.5, (1.4, 1.6), (), None, where)
    path = tmp_path / "verdicts.jsonl"
    assert Ledger(path).verdicts() == {}
    ledger = Ledger(path)
    ledger.add(TASK, one := Candidate("one", "cpp"), verdict)
    with path.open("a") as file:
        file.write('{"task": "task", "ha')
    again = Ledger(path)
    again.add(TASK, two := Candidate("two", "cpp"), verdict)
    assert Ledger(path).verdicts() == {("task", one.sha256): verdict, ("task", two.sha256): verdict}
