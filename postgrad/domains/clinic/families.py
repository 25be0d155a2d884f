"""The four families of the paper, and recall. Each draws one case of a world, or None where the draw has no single best answer.

    diagnosis     findings, a negative test   the disease with most points that the test does not rule out    argmax of the posterior
    treatment     a disease, conditions       the first of its drugs that no condition forbids
    uncertainty   chances of diseases         the test after which the likeliest disease is most often right  value of information
    prognosis     a score's factors           the band of the sum; one more factor never lowers it
    recall        an agent's code             its organ: one fact, nothing to reason about

The level, 1 to 3, is the number of findings less one, of conditions, of diseases less one, of factors less two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from postgrad.domains.clinic.language import (
    BANDS,
    CODES,
    CONDITIONS,
    DISEASES,
    DRUGS,
    FACTORS,
    FINDINGS,
    ORGANS,
    SCORES,
    TESTS,
    lettered,
    numbered,
)
from postgrad.domains.clinic.world import LINES, World, band

LEVELS = (1, 2, 3)


@dataclass(frozen=True, slots=True)
class Case:
    key: str
    """What the case is about, whatever the order of its words and options: splits are disjoint in keys."""
    stem: str
    options: tuple[str, ...]
    answer: str
    """One of the options."""
    solution: str
    """Worked, a line for each step: options are taken up under their letters, findings under their numbers. A fact stands close to the
    names that it is about: a small model looks up what it has just read far sooner than what is elsewhere."""
    turn: int = 0
    """How the answer came about, below the family's number of turns. Each is wanted equally often: no turn is a good guess."""


@dataclass(frozen=True, slots=True)
class Family:
    draw: Callable[[World, int, np.random.Generator], Case | None]
    turns: int


def diagnosis(world: World, level: int, rng: np.random.Generator) -> Case | None:
    findings, options = _some(rng, FINDINGS, level + 1), _some(rng, DISEASES, 4)
    (test,) = _some(rng, TESTS, 1)
    out = [disease for disease in options if disease in world.positive[test]]
    total = {disease: sum(world.points[disease, finding] for finding in findings) for disease in options}
    answer = _best({disease: points for disease, points in total.items() if disease not in out})
    if answer is None or not out:
        return None
    steps = [
        f"{disease}; negative {test}{_judged(disease not in out)}"
        f"{numbered([f'{finding}{world.points[disease, finding]}' for finding in findings])}={total[disease]}"
        for disease in options
    ]
    stem = f"Findings{numbered(findings)}; negative {test}. Diagnosis?"
    # Does the case turn on the test: has a disease that it rules out more points than the answer?
    turned = max(total[disease] for disease in out) > total[answer]
    return Case(_key(findings, [test], options), stem, options, answer, lettered(steps), int(turned))


def treatment(world: World, level: int, rng: np.random.Generator) -> Case | None:
    (disease,), conditions = _some(rng, DISEASES, 1), _some(rng, CONDITIONS, level)
    lines = world.lines[disease]
    allowed = [drug for drug in lines if not world.forbidden[drug] & set(conditions)]
    if not allowed:
        return None
    (other,) = _some(rng, [drug for drug in DRUGS if drug not in lines], 1)
    options = _some(rng, (*lines, other), 4)
    rank = {drug: lines.index(drug) + 1 if drug in lines else 0 for drug in options}
    steps = [
        f"{drug} {disease}{rank[drug]}" + numbered([at + _judged(at not in world.forbidden[drug]) for at in conditions])
        for drug in options
    ]
    stem = f"Treat {disease} with{numbered(conditions)}. Drug?"
    key = _key([disease], conditions, [other])
    return Case(key, stem, options, allowed[0], lettered(steps), lines.index(allowed[0]))


def uncertainty(world: World, level: int, rng: np.random.Generator) -> Case | None:
    diseases, options = _some(rng, DISEASES, level + 1), _some(rng, TESTS, 4)
    cuts = sorted(int(cut) for cut in rng.choice(np.arange(1, 10), level, replace=False))
    tenths = [high - low for low, high in zip([0, *cuts], [*cuts, 10], strict=True)]
    chances = dict(zip(diseases, tenths, strict=True))
    value, steps = {}, []
    for test in options:
        there = max((chances[disease] for disease in diseases if disease in world.positive[test]), default=0)
        away = max((chances[disease] for disease in diseases if disease not in world.positive[test]), default=0)
        value[test] = there + away
        signs = [f"{one}{chances[one]}{'+' if one in world.positive[test] else '-'}" for one in diseases]
        steps.append(f"{test}{numbered(signs)}={there}+{away}={value[test]}")
    answer = _best(value)
    if answer is None:
        return None
    said = [f"{disease}{tenth}" for disease, tenth in chances.items()]
    return Case(_key(said, options), f"Chances{numbered(said)}. Next test?", options, answer, lettered(steps))


def prognosis(world: World, level: int, rng: np.random.Generator) -> Case:
    (score,), factors = _some(rng, SCORES, 1), _some(rng, FACTORS, level + 2)
    points = [world.risks[score, factor] for factor in factors]
    answer, options = band(sum(points)), _some(rng, BANDS, 4)
    said = numbered([f"{factor}{point}" for factor, point in zip(factors, points, strict=True)])
    solution = f"\nScore {score}{said}={sum(points)} {answer}{lettered(_matched(options, answer))}"
    stem = f"Score {score}{numbered(factors)}. Risk?"
    return Case(_key([score], factors), stem, options, answer, solution, BANDS.index(answer))


def recall(world: World, level: int, rng: np.random.Generator) -> Case:
    del level  # One fact is one fact.
    (code,) = _some(rng, CODES, 1)
    answer = world.seats[code]
    others = _some(rng, [organ for organ in ORGANS if organ != answer], 3)
    options = _some(rng, (answer, *others), 4)
    solution = f"\nAgent {code} {answer}{lettered(_matched(options, answer))}"
    return Case(_key([code], others), f"Agent {code}. Organ?", options, answer, solution)


FAMILIES: Mapping[str, Family] = {
    "diagnosis": Family(diagnosis, turns=2),
    "treatment": Family(treatment, turns=LINES),
    "uncertainty": Family(uncertainty, turns=1),
    "prognosis": Family(prognosis, turns=len(BANDS)),
    "recall": Family(recall, turns=1),
}


def _some(rng: np.random.Generator, names: Sequence[str], count: int) -> tuple[str, ...]:
    return tuple(names[at] for at in rng.permutation(len(names))[:count])


def _judged(fits: bool) -> str:
    return " ok" if fits else " no"


def _matched(options: Sequence[str], answer: str) -> list[str]:
    return [option + _judged(option == answer) for option in options]


def _best(values: Mapping[str, int]) -> str | None:
    """The name of the largest; None where several have it."""
    if not values:
        return None
    highest = max(values.values())
    return next(name for name in values if values[name] == highest) if Counter(values.values())[highest] == 1 else None


def _key(*parts: Sequence[str]) -> str:
    return "/".join(" ".join(sorted(part)) for part in parts)
