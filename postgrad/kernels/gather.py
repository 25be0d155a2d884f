"""Successes gathered from a sampler: each task is asked for again until enough different answers are right, or tries are used up.

CUDA-L1's first stage (arXiv 2507.14111, section 3.1): 20 tries a task and model, two successes kept. Every attempt is given back, for the
archive wants the failures too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence

from postgrad.grading import grade
from postgrad.kernels.verifier import Parse
from postgrad.protocols import Sampler, Verifier
from postgrad.records import Graded, Problem, Status


def until_right(
    sampler: Sampler,
    problems: Sequence[Problem],
    verifier: Verifier,
    parse: Parse,
    *,
    keep: int,
    tries: int,
    asked: Callable[[int], None] = lambda done: None,  # noqa: ARG005
) -> list[list[Graded]]:
    """Every attempt at each problem, in order: [P][tries used]. Asks for as many at a time as are still missing.

    The sampler answers a problem the same way again, so asking for more begins with what was given before. `asked` is told
    before each round how many problems are done with.
    """
    rows: list[list[Graded]] = [[] for _ in problems]
    while True:
        more: dict[int, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            missing = min(keep - len(successes(row, parse)), tries - len(row))
            if missing > 0:
                more[len(row) + missing].append(place)
        places = [place for some in more.values() for place in some]
        asked(len(problems) - len(places))
        if not places:
            return rows
        traces = []
        for n, some in more.items():
            said = sampler.sample([problems[place] for place in some], n)
            traces += [row[len(rows[place]) :] for place, row in zip(some, said, strict=True)]
        graded = grade([problems[place] for place in places], traces, verifier)
        for place, group in zip(places, graded, strict=True):
            rows[place] += group


def successes(row: Sequence[Graded], parse: Parse) -> list[Graded]:
    """In order, each code once."""
    found: dict[str | None, Graded] = {}
    for item in row:
        if item.verdict.status is Status.CORRECT:
            found.setdefault(parse(item.trace.text), item)
    return list(found.values())
