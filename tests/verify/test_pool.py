"""Answers that hang, explode or crash the algebra are UNCHECKED, and the next one is fine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from postgrad.records import Status
from postgrad.verify import extract
from postgrad.verify.maths import Maths, boxed
from postgrad.verify.pool import Pool

ROOT = Path(__file__).parents[2]
DEADLINE_S = 2.0


@pytest.fixture
def impatient() -> Iterator[Maths]:
    pool = Pool(deadline_s=DEADLINE_S, workers=1)
    yield Maths(extract.boxed, pool)
    pool.close()


def is_fine(verifier: Maths) -> bool:
    return verifier.compare(r"\sqrt{8}", r"2\sqrt{2}").status is Status.CORRECT


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize("bomb", ["9^9^9^9", "9^{9^{9^9}}", "(10^8)!", "(x+1)^{1000000}"])
def test_a_bomb_is_unchecked_within_the_deadline(impatient: Maths, bomb: str) -> None:
    assert is_fine(impatient)
    started = time.monotonic()
    verdict = impatient.compare("5+x", bomb)
    assert verdict.status is Status.UNCHECKED
    assert "no result in" in verdict.reason
    assert time.monotonic() - started < DEADLINE_S + 2
    if bomb == "9^9^9^9":  # once is enough: a new worker takes its time to start
        assert is_fine(impatient)


def test_out_of_memory_is_not_wrong() -> None:
    """math-verify catches every Exception and says "not equal"; this one must get past it."""
    out = run(
        "from math_verify import grader\n"
        "from postgrad.verify import algebra\n"
        "math = algebra._load()\n"
        "def explode(_): raise MemoryError\n"
        "grader.simplify = explode\n"
        r"print(algebra._compare(math, 'x^2 + y', '(x+y)^3'))"
    )
    assert out == "{'failed': 'memory'}\n"


def test_the_memory_limit_is_set() -> None:
    pool = Pool(memory=32 << 20, workers=1)
    verdict = Maths(extract.boxed, pool).compare("x+1", "1+x")
    assert verdict.status is Status.UNCHECKED
    assert verdict.reason.startswith("worker died")
    assert pool.pids() == []


def test_a_killed_worker_is_unchecked_and_replaced(impatient: Maths) -> None:
    assert is_fine(impatient)
    (pid,) = impatient.pool.pids()
    killer = threading.Timer(0.2, os.kill, (pid, signal.SIGKILL))
    killer.start()
    verdict = impatient.compare("5+x", "9^9^9^9")
    killer.join()
    assert verdict.status is Status.UNCHECKED
    assert verdict.reason.startswith("worker died")
    assert is_fine(impatient)
    assert not alive(pid)


def test_a_worker_killed_between_jobs_is_replaced(impatient: Maths) -> None:
    assert is_fine(impatient)
    os.kill(impatient.pool.pids()[0], signal.SIGKILL)
    assert impatient.compare(r"\sqrt{8}", r"2\sqrt{2}").status is Status.UNCHECKED
    assert is_fine(impatient)


def test_threads_get_the_same_verdicts() -> None:
    pairs = [
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("x+1", "1+x"),
        ("x+1", "x+2"),
        ("(x,1)", r"\{x,1\}"),
        ("5", "7"),
        ("y", "x)("),
    ] * 4
    alone = [boxed.compare(*pair).status for pair in pairs]
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda pair: boxed.compare(*pair).status, pairs)) == alone


def test_numbers_and_words_start_no_process() -> None:
    pool = Pool()
    verifier = Maths(extract.boxed, pool)
    for gold, answer in [
        ("25", "5"),
        ("1,000", "1000"),
        ("(1, 2)", r"\{1, 2\}"),
        ("no solution", "5"),
        (r"50\%", "0.5"),
    ]:
        verifier.compare(gold, answer)
    assert pool.pids() == []


def run(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=300, check=True
    )
    return done.stdout


def test_nothing_is_left_at_exit() -> None:
    pids = run(
        "from postgrad.verify.maths import boxed\n"
        "boxed.compare('x+1', '1+x')\n"
        "print(*boxed.pool.pids())\n"
    ).split()  # fmt: skip
    assert pids
    assert not any(alive(int(pid)) for pid in pids)


def test_a_forked_child_has_workers_of_its_own() -> None:
    out = run(
        "import os, sys\n"
        "from postgrad.verify.maths import boxed\n"
        "assert boxed.compare('x+1', '1+x').score == 1\n"
        "ours = boxed.pool.pids()\n"
        "child = os.fork()\n"
        "if not child:\n"
        "    assert boxed.pool.pids() == []\n"
        "    assert boxed.compare('x+1', '1+x').score == 1\n"
        "    assert boxed.pool.pids() != ours\n"
        "    sys.exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert boxed.compare('x+2', '1+x').score == 0\n"
        "assert boxed.pool.pids() == ours\n"
        "print('fine')\n"
    )
    assert out == "fine\n"
