"""Builds beside judging, by scripted builds: no judge waits for a build while another kernel is ready, and builds go on while it judges."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

from postgrad.kernels.build import Built, Refused, as_built
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.verdict import Reason

SOON = 20.0
"""Seconds after which a wait has failed; nothing here takes any."""
Script = dict[str, Callable[[], None]]


class Builds:
    """Each kernel's build does what the script says of it, and is told of when it begins."""

    def __init__(self, script: Script) -> None:
        self.script = script
        self.begun = {name: threading.Event() for name in script}

    def __call__(self, candidate: Candidate, _cache: Path | None) -> Built | Refused:
        self.begun[candidate.code].set()
        self.script[candidate.code]()
        if candidate.code == "broken":
            return Refused(Reason.BUILD_FAILED, "no")
        return Built(Path(candidate.code), candidate.code, 0.0)


def candidates(*names: str) -> list[Candidate]:
    return [Candidate(name, "cpp") for name in names]


def at_once() -> None:
    pass


def test_a_slow_build_holds_up_no_kernel_that_is_ready() -> None:
    judged: list[str] = []
    rest = threading.Event()
    missed: list[str] = []

    def slow() -> None:
        if not rest.wait(SOON):
            missed.append("the others were not judged while the slow one was built")

    make = Builds({"slow": slow, "one": at_once, "two": at_once, "broken": at_once})
    for candidate, made in as_built(candidates("slow", "one", "two", "broken"), workers=2, make=make):
        judged.append(candidate.code)
        assert isinstance(made, Refused) == (candidate.code == "broken")
        if len(judged) == 3:
            rest.set()
    assert not missed
    assert set(judged[:3]) == {"one", "two", "broken"}
    assert judged[3] == "slow"


def test_builds_go_on_while_a_kernel_is_judged() -> None:
    make = Builds({"one": at_once, "two": at_once, "three": at_once})
    some = as_built(candidates("one", "two", "three"), workers=1, make=make)
    first, _ = next(some)
    # The judge has the first and asks for nothing: all the others are built meanwhile.
    assert all(begun.wait(SOON) for begun in make.begun.values())
    assert {first.code, *(candidate.code for candidate, _ in some)} == {"one", "two", "three"}


def test_who_stops_judging_stops_the_builds_that_have_not_begun() -> None:
    stopping = threading.Event()

    def held() -> None:
        stopping.wait(SOON)

    make = Builds({"one": at_once, "two": held, "three": at_once})
    some = as_built(candidates("one", "two", "three"), workers=1, make=make)
    next(some)
    make.begun["two"].wait(SOON)
    threading.Timer(0.05, stopping.set).start()
    some.close()
    assert not make.begun["three"].is_set()
