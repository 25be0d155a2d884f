"""The archive of scored codes: nothing half, nothing twice, nothing lost by a kill."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from postgrad.kernels import archive
from postgrad.kernels.archive import Archive, Attempt, Outcome, Place, Scored
from postgrad.kernels.candidate import Backend, Candidate
from postgrad.kernels.verdict import KernelStatus

ACCEPTED, SUSPICIOUS, UNCHECKED, REJECTED = KernelStatus
BACKENDS: tuple[Backend, ...] = ("cpp", "torch")
HERE = ("softmax", "one machine")


def code(text: str, score: float | None = None, status: KernelStatus | None = None) -> Scored:
    return Scored(text, "cpp", status or (REJECTED if score is None else ACCEPTED), score, "", ("simd",), {"n": 1})


def attempt(place: tuple[int, int, int], scored: Scored | None, *parents: Scored) -> Attempt:
    outcome = Outcome.NO_CODE if scored is None else Outcome.JUDGED
    hashes = tuple(one.hash for one in parents)
    return Attempt(*HERE, Place(*place), "model", outcome, hashes, scored and scored.hash)


def put(codes: Archive, place: tuple[int, int, int], scored: Scored | None, *parents: Scored) -> bool:
    return codes.add(attempt(place, scored, *parents), scored)


def test_what_was_added_is_read_back(tmp_path: Path) -> None:
    fast, slow = code("fast", 2.5), code("slow", 0.5)
    with archive.opened(tmp_path / "a.sqlite") as codes:
        assert put(codes, (1, 0, 0), slow)
        assert put(codes, (2, 1, 3), fast, slow)
        assert put(codes, (1, 1, 0), None)
    with archive.reading(tmp_path / "a.sqlite") as codes:
        found = codes.find(*HERE, fast.hash)
        assert found is not None
        assert found == replace(fast, place=Place(2, 1, 3), time=found.time)
        assert found.time is not None
        first, second, third = codes.attempts(*HERE)
        assert [one.place for one in (first, second, third)] == [Place(1, 0, 0), Place(1, 1, 0), Place(2, 1, 3)]
        assert third == replace(attempt((2, 1, 3), fast, slow), time=third.time)
        assert (second.outcome, second.hash) == (Outcome.NO_CODE, None)
        assert [one.code for one in codes.best(*HERE, 5)] == ["fast", "slow"]


def test_scores_of_another_machine_or_task_are_not_seen(tmp_path: Path) -> None:
    one = code("fast", 2.5)
    with archive.opened(tmp_path / "a.sqlite") as codes:
        put(codes, (1, 0, 0), one)
        for elsewhere in (("softmax", "another machine"), ("matmul", "one machine")):
            assert codes.find(*elsewhere, one.hash) is None
            assert codes.successes(*elsewhere) == codes.attempts(*elsewhere) == []
            assert codes.add(replace(attempt((1, 0, 0), one), task=elsewhere[0], environment=elsewhere[1]), one)


def test_a_place_is_added_once_and_the_first_stays(tmp_path: Path) -> None:
    with archive.opened(tmp_path / "a.sqlite") as codes:
        assert put(codes, (1, 0, 0), code("first", 1.5))
        assert not put(codes, (1, 0, 0), code("second", 9.0))
        assert [one.code for one in codes.codes(*HERE)] == ["first"]
        assert len(codes.attempts(*HERE)) == 1


def test_a_code_that_comes_again_keeps_its_row(tmp_path: Path) -> None:
    with archive.opened(tmp_path / "a.sqlite") as codes:
        put(codes, (1, 0, 0), code("same", 1.5))
        put(codes, (2, 0, 0), code("same", 9.0))
        again = replace(attempt((3, 0, 0), code("same", 1.5)), outcome=Outcome.REPEATED)
        assert codes.add(again)
        (only,) = codes.codes(*HERE)
        assert (only.score, only.place) == (1.5, Place(1, 0, 0))
        assert len(codes.attempts(*HERE)) == 3


def test_what_could_not_be_checked_gives_way_to_a_verdict_and_never_the_other_way(tmp_path: Path) -> None:
    with archive.opened(tmp_path / "a.sqlite") as codes:
        put(codes, (1, 0, 0), code("k", status=UNCHECKED))
        assert codes.successes(*HERE) == []
        put(codes, (2, 0, 0), code("k", 3.0))
        put(codes, (3, 0, 0), code("k", status=UNCHECKED))
        (only,) = codes.codes(*HERE)
        assert (only.status, only.score, only.place) == (ACCEPTED, 3.0, Place(2, 0, 0))


def test_exemplars_are_accepted_codes_of_earlier_steps(tmp_path: Path) -> None:
    with archive.opened(tmp_path / "a.sqlite") as codes:
        for step, (text, status, score) in enumerate(
            [
                ("a", ACCEPTED, 1.1),
                ("b", REJECTED, None),
                ("c", SUSPICIOUS, None),
                ("d", UNCHECKED, None),
                ("e", ACCEPTED, 0.9),
            ]
        ):
            put(codes, (step, 0, 0), code(text, score, status))
        assert [one.code for one in codes.successes(*HERE)] == ["a", "e"]
        assert [one.code for one in codes.successes(*HERE, before=4)] == ["a"]
        assert codes.successes(*HERE, before=0) == []


def test_of_equals_the_first_is_best(tmp_path: Path) -> None:
    with archive.opened(tmp_path / "a.sqlite") as codes:
        for step, text in enumerate(["b", "a", "c"]):
            put(codes, (step, 0, 0), code(text, 2.0))
        assert [one.code for one in codes.best(*HERE, 2)] == ["b", "a"]


def test_ancestry_is_all_that_was_shown_on_the_way(tmp_path: Path) -> None:
    grandmother, mother, aunt, child = code("g", 1.1), code("m", 1.2), code("a", 1.3), code("c", 1.4)
    reference = code("r", 1.0)
    with archive.opened(tmp_path / "a.sqlite") as codes:
        put(codes, (0, 0, 0), grandmother)
        put(codes, (1, 0, 0), mother, reference, grandmother)
        put(codes, (1, 1, 0), aunt, grandmother)
        put(codes, (2, 0, 0), child, mother, grandmother)
        # Found again later, from elsewhere: not how it came to be.
        codes.add(replace(attempt((3, 0, 0), child, aunt), outcome=Outcome.REPEATED))
        assert [one.code for one in codes.ancestry(*HERE, child.hash)] == ["g", "m", "c"]


def test_a_run_that_goes_back_forgets_what_came_after(tmp_path: Path) -> None:
    with archive.opened(tmp_path / "a.sqlite") as codes:
        for step in range(5):
            put(codes, (step, 0, 0), code(f"k{step}", 1.0 + step))
        codes.forget(3)
        assert [one.place.step for one in codes.attempts(*HERE)] == [0, 1, 2]
        assert [one.code for one in codes.codes(*HERE)] == ["k0", "k1", "k2"]
        assert put(codes, (3, 0, 0), code("k4", 7.0))


# ---- What cannot be -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "score"),
    [
        (ACCEPTED, None),
        (REJECTED, 0.0),
        (UNCHECKED, 1.0),
        (SUSPICIOUS, 40.0),
        (ACCEPTED, 0.0),
        (ACCEPTED, float("inf")),
        (ACCEPTED, float("nan")),
    ],
)
def test_a_score_is_a_speed_up_of_an_accepted_code(status: KernelStatus, score: float | None) -> None:
    with pytest.raises(ValueError, match="score"):
        Scored("k", "cpp", status, score)


@pytest.mark.parametrize(
    ("outcome", "hash", "scored"),
    [
        (Outcome.JUDGED, "own", None),
        (Outcome.NO_CODE, None, code("k")),
        (Outcome.JUDGED, "other", code("k")),
        (Outcome.REPEATED, None, None),
        (Outcome.NO_CODE, "own", None),
        (Outcome.LOST, "own", None),
    ],
)
def test_an_attempt_and_its_code_belong_together(
    tmp_path: Path, outcome: Outcome, hash: str | None, scored: Scored | None
) -> None:
    hash = code("k").hash if hash == "own" else hash
    with archive.opened(tmp_path / "a.sqlite") as codes:
        with pytest.raises(ValueError, match=r"the attempt at Place\(step=1"):
            codes.add(Attempt(*HERE, Place(1, 0, 0), "model", outcome, (), hash), scored)
        assert codes.attempts(*HERE) == []


def test_the_hash_is_of_text_and_backend() -> None:
    hashes = {Scored(text, backend, REJECTED, None).hash for text in ("a", "a ", "ab") for backend in BACKENDS}
    assert len(hashes) == 6
    assert Candidate("a", "cpp").sha256 == code("a").hash


def test_an_api_store_is_no_archive(tmp_path: Path) -> None:
    from postgrad.sample import calls

    with calls.opened(tmp_path / "a.sqlite"):
        pass
    with pytest.raises(ValueError, match="no archive of kernels"), archive.opened(tmp_path / "a.sqlite"):
        pass


# ---- A kill ---------------------------------------------------------------------------------------------------------

WRITER = """
import sys
from pathlib import Path
from postgrad.kernels import archive
from postgrad.kernels.archive import Attempt, Outcome, Place, Scored
from postgrad.kernels.candidate import Backend, Candidate
from postgrad.kernels.verdict import KernelStatus
with archive.opened(Path(sys.argv[1])) as codes:
    done = {one.place.step for one in codes.attempts("t", "e")}
    for step in range(100_000):
        if step not in done:
            one = Scored("x" * 3000 + str(step), "cpp", KernelStatus.ACCEPTED, 1.0 + step)
            codes.add(Attempt("t", "e", Place(step, 0, 0), "m", Outcome.JUDGED, (), one.hash), one)
            print(step, flush=True)
"""


def test_a_kill_loses_nothing_that_was_acknowledged_and_leaves_nothing_half(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    acknowledged: list[int] = []
    for target in (3, 20, 60):
        process = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged.append(int(line))
            if len(acknowledged) >= target:
                break
        os.kill(process.pid, signal.SIGKILL)
        # What it still said before it died was on disk too; a last line may be torn.
        acknowledged += [int(line) for line in process.stdout if line.endswith("\n")]
        process.stdout.close()
        assert process.wait() == -signal.SIGKILL
        with archive.opened(path) as codes:
            steps = [one.place.step for one in codes.attempts("t", "e")]
            assert steps == list(range(len(steps)))
            assert {*acknowledged} <= {*steps}
            assert [one.place.step for one in codes.codes("t", "e") if one.place] == steps
    assert len(acknowledged) == len({*acknowledged})


def test_several_processes_may_write(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    program = WRITER.replace('"t", "e", Place', 'sys.argv[2], "e", Place').replace("100_000", "15")
    started = [
        subprocess.Popen([sys.executable, "-c", program, str(path), task], stdout=subprocess.DEVNULL) for task in "uvw"
    ]
    assert [process.wait(60) for process in started] == [0, 0, 0]
    with archive.reading(path) as codes:
        assert [len(codes.codes(task, "e")) for task in "uvw"] == [15, 15, 15]


def test_a_row_that_contradicts_itself_is_refused_by_the_file(tmp_path: Path) -> None:
    with archive.opened(tmp_path / "a.sqlite"):
        pass
    database = sqlite3.connect(tmp_path / "a.sqlite")
    with pytest.raises(sqlite3.IntegrityError):
        database.execute(
            "INSERT INTO code VALUES ('t', 'e', 'h', 'cpp', 'k', 'rejected', 2.0, '', '[]', NULL, 0, 0, 0, 0)"
        )
    database.close()
