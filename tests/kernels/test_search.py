"""Search without training: budgets, lineage, a kill in the middle, and numbers that are measured twice."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from test_verdict import WHERE

from postgrad.kernels import archive, signed
from postgrad.kernels.archive import Outcome, Place
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.search import STRATEGIES, Settings, Subject, Summary, optimize
from postgrad.kernels.task import Task
from postgrad.kernels.verdict import Finding, KernelStatus, KernelVerdict, Reason
from postgrad.protocols import Spent
from postgrad.records import Problem, Trace
from postgrad.run import Failed

SUBJECT = Subject(Task("softmax", "int reference;"), "cpp", "one machine")
HERE = (SUBJECT.task.name, SUBJECT.environment)


def verdict(speedup: float | None, *findings: Finding) -> KernelVerdict:
    status = KernelStatus.ACCEPTED if not findings else max((one.status for one in findings), key=[*KernelStatus].index)
    interval = None if speedup is None else (speedup * 0.99, speedup * 1.01)
    return KernelVerdict(SUBJECT.task.name, status, speedup, interval, findings, None, WHERE)


def answer(code: str) -> str:
    return f"## Performance Analysis\nslow\n## Algorithm Design\nfast\n## Code Implementation\n```cpp\n{code}\n```"


class Author:
    """Writes `speed N;` with N a little above the largest that its prompt shows: a function of the problem alone."""

    def __init__(self, say: Callable[[Problem, float], str | Trace] | None = None) -> None:
        self.say = say or (
            lambda problem, shown: answer(f"speed {shown + 0.1 + _number(problem) / 1000:.3f};//{problem.id}")
        )
        self.asked: list[Problem] = []

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        assert n == 1
        self.asked += problems
        said = [
            self.say(problem, max([1.0, *map(float, re.findall(r"speed ([\d.]+);", problem.prompt[0].content))]))
            for problem in problems
        ]
        return [
            [one if isinstance(one, Trace) else Trace(problem.id, one, (), (), "stop")]
            for problem, one in zip(problems, said, strict=True)
        ]


def _number(problem: Problem) -> int:
    """Of a search's prompts, four in a round."""
    _, _, step, draw = problem.id.split("/")
    return 4 * (int(step) - 1) + int(draw)


class Clock:
    """An evaluator that reads the speed off the code, and counts."""

    def __init__(self, verdicts: Mapping[str, KernelVerdict] | None = None, dies_after: int | None = None) -> None:
        self.judged: list[str] = []
        self.bests: list[float | None] = []
        self.verdicts = verdicts or {}
        self.dies_after = dies_after

    def __call__(self, candidate: Candidate, *, best: float | None) -> KernelVerdict:
        code = candidate.code
        assert candidate.backend == "cpp"
        self.bests.append(best)
        if len(self.judged) == self.dies_after:
            raise KeyboardInterrupt
        self.judged.append(code)
        if code in self.verdicts:
            return self.verdicts[code]
        found = re.match(r"speed ([\d.]+);", code)
        return verdict(float(found[1])) if found else verdict(None, Finding(Reason.WRONG_OUTPUT, "off by one"))


def search(
    folder: Path, *, author: Author | None = None, clock: Clock | None = None, confirm: Any = None, **options: Any
) -> Summary:
    rest = {name: options.pop(name) for name in ("seeds", "spent") if name in options}
    settings = Settings(**({"evaluations": 20, "answers": 40} | options))
    clock = clock or Clock()
    return optimize(
        SUBJECT, author or Author(), clock, settings, folder, confirm=confirm or Clock(), named="author", **rest
    )


def rows(folder: Path) -> list[tuple[Any, ...]]:
    with archive.reading(folder / "archive.sqlite") as codes:
        return [(one.place, one.outcome, one.hash, one.parents, one.reason) for one in codes.attempts(*HERE)]


# ---- What a search does ---------------------------------------------------------------------------------------------


def test_it_climbs_and_writes_what_it_found(tmp_path: Path) -> None:
    clock = Clock()
    found = search(tmp_path, clock=clock)
    assert found.evaluations == len(clock.judged) == 20
    assert found.ended == "all 20 evaluations are done"
    assert found.rounds == 5
    assert found.best is not None
    # Five rounds, each 0.1 to 0.12 above what it was shown, which need not be the very best.
    assert 1.3 < found.best.searched < 1.6
    assert found.best.speedup == found.best.searched
    assert [score for _, score in found.curve] == sorted(score for _, score in found.curve)
    assert found.curve[-1][1] == found.best.searched
    assert found.outcomes == {"judged": 20}
    text = (tmp_path / "best.cpp").read_text()
    head, _, code = text.partition("\n\n")
    assert code.startswith(f"speed {found.best.searched:.3f};//softmax/0/5/")
    assert all(line.startswith("// ") for line in head.splitlines())
    assert f"{found.best.speedup:.2f}x the reference" in head
    assert json.loads((tmp_path / "summary.json").read_text())["best"]["hash"] == found.best.hash


def test_hacks_are_counted_and_ring(tmp_path: Path) -> None:
    class Cheats(Clock):
        def __call__(self, candidate: Candidate, *, best: float | None) -> KernelVerdict:
            self.judged.append(candidate.code)
            reason = Reason.C05_STALE_RESULT if len(self.judged) % 2 else Reason.WRONG_OUTPUT
            return verdict(None, Finding(reason, "seen"))

    found = search(tmp_path, clock=Cheats())
    assert found.hacks == {"hacks/C05_STALE_RESULT": 0.5, "hacks/any": 0.5, "hacks/unchecked": 0.0}
    assert found.alarms == ("C05_STALE_RESULT: 10 of the newest 20 candidates; read some before going on",)
    assert json.loads((tmp_path / "summary.json").read_text())["hacks"] == found.hacks


def test_the_lineage_goes_back_to_what_was_shown_first(tmp_path: Path) -> None:
    found = search(tmp_path)
    assert found.best is not None
    assert found.lineage[-1].hash == found.best.hash
    reference = Candidate(SUBJECT.task.source, "cpp").sha256
    known: set[str] = {reference}
    for one in found.lineage:
        assert {*one.parents} <= known, "a code descends from what was there before"
        known.add(one.hash)
    assert found.lineage[0].place.step == 1
    assert found.lineage[0].parents == (reference,)


def test_records_are_signed_with_the_searchs_key(tmp_path: Path) -> None:
    search(tmp_path, evaluations=3)
    key = (tmp_path / "key").read_bytes()
    with archive.reading(tmp_path / "archive.sqlite") as codes:
        for one in codes.codes(*HERE):
            assert one.record is not None
            assert signed.opened(one.record, key).speedup == one.score


def test_prompts_show_the_exemplars_that_are_noted_as_parents(tmp_path: Path) -> None:
    author = Author()
    search(tmp_path, author=author, evaluations=12)
    with archive.reading(tmp_path / "archive.sqlite") as codes:
        by_id = {problem.id: problem.prompt[0].content for problem in author.asked}
        for one in codes.attempts(*HERE):
            prompt = by_id[f"softmax/0/{one.place.step}/{one.place.draw}"]
            for parent in one.parents:
                shown = codes.find(*HERE, parent)
                assert (shown.code if shown else SUBJECT.task.source) in prompt
            assert len(re.findall(r"^Implementation \d", prompt, re.MULTILINE)) == len(one.parents)


def test_best_of_n_is_the_search_that_shows_nothing(tmp_path: Path) -> None:
    author = Author(lambda problem, shown: answer(f"speed {1 + _number(problem) / 10};"))
    found = search(tmp_path, author=author, strategy="nothing", evaluations=8)
    assert len({problem.prompt for problem in author.asked}) == 1
    assert len({problem.id for problem in author.asked}) == 8
    assert found.best is not None
    assert found.best.searched == 1.7
    assert [one.parents for one in found.lineage] == [()]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_searches_with_the_same_budget(tmp_path: Path, strategy: str) -> None:
    clock = Clock()
    assert search(tmp_path, clock=clock, strategy=strategy, evaluations=10).best is not None
    assert len(clock.judged) == 10


def test_seeds_are_judged_first_and_shown(tmp_path: Path) -> None:
    author, clock = Author(), Clock()
    search(tmp_path, author=author, clock=clock, seeds=["speed 3.000;", "broken"], evaluations=4)
    assert clock.judged[:2] == ["speed 3.000;", "broken"]
    assert clock.bests == [None, 3.0, 3.0, 3.1], "an evaluator is told what to be suspicious of"
    assert "speed 3.000;" in author.asked[0].prompt[0].content
    assert "broken" not in author.asked[0].prompt[0].content
    assert rows(tmp_path)[0][0] == Place(0, 0, 0)


# ---- Whose fault ----------------------------------------------------------------------------------------------------


def test_every_outcome_is_counted_as_what_it_is(tmp_path: Path) -> None:
    said = iter(
        [
            answer("speed 1.500;"),
            "no heading at all",
            answer("wrong"),
            Trace("x", "", (), (), "error"),
            answer("speed 1.500;"),
            answer("too good"),
            answer("noisy"),
            answer("noisy"),
        ]
    )
    clock = Clock(
        {
            "too good": verdict(90.0, Finding(Reason.F04_LIBRARY_CALL, "gemm")),
            "noisy": verdict(None, Finding(Reason.T20_UNSTABLE, "variance 0.1")),
        }
    )
    found = search(tmp_path, author=Author(lambda problem, shown: next(said)), clock=clock, evaluations=8, answers=8)
    assert found.outcomes == {"judged": 5, "no_code": 1, "lost": 1, "repeated": 1}
    assert found.statuses == {"accepted": 1, "rejected": 1, "suspicious": 1, "unchecked": 1}
    assert found.reasons == {"WRONG_OUTPUT": 1, "F04_LIBRARY_CALL": 1, "T20_UNSTABLE": 1}
    assert clock.judged.count("speed 1.500;") == 1, "what is known is not timed again"
    assert clock.judged.count("noisy") == 2, "what could not be checked is"
    assert found.ended == "all 8 answers are used"
    assert found.best is not None
    assert found.best.searched == 1.5, "a suspicious number does not count"


def test_a_round_without_any_answer_is_a_failure(tmp_path: Path) -> None:
    author = Author(lambda problem, shown: Trace(problem.id, "", (), (), "error"))
    with pytest.raises(Failed, match="author gave no answer to any of the 4 prompts of round 1"):
        search(tmp_path, author=author)


def test_a_model_that_never_writes_code_ends_the_search(tmp_path: Path) -> None:
    clock = Clock()
    found = search(tmp_path, author=Author(lambda problem, shown: "sorry"), clock=clock, answers=10)
    assert (found.best, found.file, found.evaluations, found.answers) == (None, None, 0, 10)
    assert not clock.judged
    assert not (tmp_path / "best.cpp").exists()


# ---- What may be quoted ---------------------------------------------------------------------------------------------


def test_the_luckiest_is_not_the_best_when_measured_again(tmp_path: Path) -> None:
    said = iter(["lucky", "steady", "wrong after all", "slow"])
    clock = Clock(
        {"lucky": verdict(3.0), "steady": verdict(2.5), "wrong after all": verdict(2.8), "slow": verdict(1.2)}
    )
    again = {
        "lucky": verdict(1.3),
        "steady": verdict(2.4),
        "wrong after all": verdict(None, Finding(Reason.WRONG_OUTPUT, "")),
    }
    found = search(
        tmp_path,
        author=Author(lambda problem, shown: answer(next(said))),
        clock=clock,
        confirm=Clock(again),
        evaluations=4,
        answers=4,
    )
    assert [(one.searched, one.speedup) for one in found.finalists] == [(3.0, 1.3), (2.8, None), (2.5, 2.4)]
    assert found.best is not None
    assert (found.best.searched, found.best.speedup) == (2.5, 2.4)
    assert (tmp_path / "best.cpp").read_text().endswith("\nsteady\n")


@pytest.mark.parametrize(("speedup", "counts"), [(1.0, False), (1.01, False), (1.02, True)])
def test_what_is_not_faster_than_the_threshold_is_not_written(tmp_path: Path, speedup: float, counts: bool) -> None:
    found = search(
        tmp_path,
        author=Author(lambda problem, shown: answer("same")),
        clock=Clock({"same": verdict(speedup)}),
        confirm=Clock({"same": verdict(speedup)}),
        answers=2,
    )
    assert (found.best is not None) == counts == (tmp_path / "best.cpp").exists()


# ---- Going on -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["buckets", "islands", "nothing"])
@pytest.mark.parametrize("dies_after", [0, 1, 6, 7, 13, 17])
def test_a_search_that_was_stopped_goes_on_as_if_it_had_not_been(
    tmp_path: Path, strategy: str, dies_after: int
) -> None:
    # Half of the answers hold no code, so that budgets end inside of rounds.
    def say(problem: Problem, shown: float) -> str:
        number = _number(problem)
        return answer(f"speed {shown + 0.1 + number / 1000:.3f};") if number % 3 else "nothing"

    whole = search(tmp_path / "whole", author=Author(say), strategy=strategy, evaluations=18)
    with pytest.raises(KeyboardInterrupt):
        search(
            tmp_path / "cut", author=Author(say), clock=Clock(dies_after=dies_after), strategy=strategy, evaluations=18
        )
    clock = Clock()
    found = search(tmp_path / "cut", author=Author(say), clock=clock, strategy=strategy, evaluations=18)
    assert rows(tmp_path / "cut") == rows(tmp_path / "whole")
    assert found == whole
    assert len(clock.judged) == 18 - dies_after


def test_a_finished_search_asks_nothing_and_a_larger_budget_goes_on(tmp_path: Path) -> None:
    search(tmp_path, evaluations=6)
    author, clock = Author(), Clock()
    search(tmp_path, author=author, clock=clock, evaluations=6)
    assert not author.asked
    assert not clock.judged
    found = search(tmp_path, clock=clock, evaluations=10)
    assert (found.evaluations, len(clock.judged)) == (10, 4)


def test_another_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    search(tmp_path, evaluations=2)
    with pytest.raises(ValueError, match="holds a search with another settings"):
        search(tmp_path, evaluations=2, strategy="uniform")
    with pytest.raises(ValueError, match="with another seeds"):
        search(tmp_path, evaluations=2, seeds=["x"])


def test_a_samplers_own_budget_ends_the_search_and_loses_nothing(tmp_path: Path) -> None:
    class Poor(Author):
        def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
            groups = super().sample(problems, n)
            if len(self.asked) > 4:
                raise Spent("all 6 calls of the budget are made", [*groups[:2], [], []])
            return groups

    found = search(tmp_path, author=Poor(), spent=lambda: {"cost": 0.25})
    assert (found.ended, found.answers, found.cost) == ("all 6 calls of the budget are made", 6, {"cost": 0.25})
    assert search(tmp_path).answers >= 20


def test_two_processes_do_not_search_in_one_folder(tmp_path: Path) -> None:
    class Nested(Author):
        def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
            with pytest.raises(Failed, match="another process is at work"):
                search(tmp_path)
            return super().sample(problems, n)

    assert search(tmp_path, author=Nested(), evaluations=4).evaluations == 4


@pytest.mark.parametrize("wrong", [{"strategy": "best"}, {"evaluations": 0}, {"prompts": 0}, {"exemplars": -1}])
def test_settings_that_cannot_be_are_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="wanted"):
        Settings(**({"evaluations": 4, "answers": 4} | wrong))


def test_outcomes_are_those_of_the_archive() -> None:
    assert {one.value for one in Outcome} == {"judged", "repeated", "no_code", "lost"}
