"""The clock with real processes in the sandbox. What is asserted is which finding there is, never how long anything took."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from bench.kernels_aa import Program
from postgrad.kernels.clock import Rules, measure
from postgrad.kernels.verdict import Reason, Timing
from postgrad.records import from_json, to_json
from postgrad.sandbox import Ended, Limits, Worker, channel, run


@pytest.fixture(scope="module", autouse=True)
def sandbox() -> None:
    tried = run([sys.executable, "-I", "-S", "-c", ""], limits=Limits(wall_s=60, cpu_s=60, memory_bytes=1 << 29))
    if tried.ended is not Ended.OK:
        pytest.skip(f"no sandbox here: {tried.ended} {tried.reason}")


# A kernel that is C inside: it releases Python's lock while it hashes, as a compiled kernel would.
PROGRAM = """
import hashlib, sys, threading
import channel

style, data = sys.argv[1], bytes(1 << 20)
idle = threading.Event()


def work(k, times):
    for _ in range(times):
        hashlib.blake2b(data, salt=k[-16:].rjust(16)).digest()


for number, message in enumerate(channel.messages()):
    if message == b"empty":
        channel.answer(b"")
    elif style == "late":
        channel.answer(b"done")
        work(message, 4)
    elif style == "thread":
        threading.Thread(target=work, args=(message, 4)).start()
        channel.answer(b"done")
    else:
        if style == "plain":
            work(message, 4)
        elif number % 4 == 0:
            work(message, 16)
        channel.answer(b"done")
"""


@contextmanager
def sides(*styles: str) -> Iterator[list[Program]]:
    limits = Limits(wall_s=300, cpu_s=300, memory_bytes=1 << 29)
    files = {"program.py": PROGRAM.encode(), "channel.py": channel.SOURCE}
    with ExitStack() as stack:
        argv = [
            sys.executable,
            "-I",
            "-S",
            "-c",
            "import sys; sys.path.insert(0, '.'); exec(open('program.py').read())",
        ]
        yield [Program(stack.enter_context(Worker([*argv, style], files=files, limits=limits))) for style in styles]


def timed(candidate: str, *, prepare_s: float = 0.0) -> Timing:
    with sides("plain", candidate) as (one, other):
        return measure(
            one,
            other,
            60,
            random.Random(0),
            rules=Rules(most_rounds=80),
            prepare=lambda _: time.sleep(prepare_s),
        )


def test_a_real_measurement_is_whole() -> None:
    timing = timed("plain")
    assert len(timing.reference_s) == len(timing.candidate_s) == len(timing.reference_first) == 80
    assert min(*timing.reference_s, *timing.candidate_s, *timing.overhead_s) > 0
    assert len(timing.bucket_means) == 8
    assert timing.ratio is not None
    assert timing.interval is not None
    assert timing.interval[0] <= timing.ratio <= timing.interval[1]
    assert min(*timing.reference_cpu_s, *timing.candidate_cpu_s) > 0
    # A busy machine may give no number. It never makes a cheat of an honest kernel.
    assert {one.reason for one in timing.findings} <= {
        Reason.T20_UNSTABLE,
        Reason.T15_REFERENCE_SLOWED,
        Reason.T19_TOO_SMALL,
    }
    assert from_json(Timing, json.dumps(json.loads(to_json(timing)), allow_nan=False)) == timing


@pytest.mark.parametrize(
    ("style", "prepare_s", "reason"),
    [
        ("late", 0.01, Reason.T02_LATE_WORK),
        ("thread", 0.01, Reason.T02_LATE_WORK),
        ("batch", 0.0, Reason.T09_BATCH_AND_SKIP),
    ],
)
def test_a_real_cheat_is_seen_by_the_second_clock(style: str, prepare_s: float, reason: Reason) -> None:
    """`prepare_s`: the grader writes inputs meanwhile, and a late worker works."""
    timing = timed(style, prepare_s=prepare_s)
    assert reason in {one.reason for one in timing.findings}
    assert timing.speedup is None
