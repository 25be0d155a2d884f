"""Rows of supervised training that answer a contrastive prompt: with speed-ups that were measured, or with mere claims.

A small model from nothing has never seen two kernels compared. Claims let it read such texts in plenty before anything is measured, as a
general model has read what people say of their code.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from random import Random

from postgrad.domains.loops import prompts
from postgrad.domains.loops.generate import Made, kernels, variants
from postgrad.records import Example

FASTER = 1.01


def claimed(made: Made, *, most: int, seed: int) -> list[Example]:
    """One comparison of at most `most` variants, answered by another. Nothing in it tells which is faster: variants and numbers are drawn
    apart, the reference's 1 aside. Empty where the task has one variant."""
    rng = Random(json.dumps([seed, made.task.id, "claims"]))
    known = variants(made)
    if len(known) < 2:
        return []
    better = known[rng.randint(1, len(known) - 1)]
    others = [one for one in known if one is not better]
    shown = rng.sample(others, min(len(others), rng.randint(1, most)))
    # The reference is 1 by definition.
    codes = sorted(((one, 1.0 if one is known[0] else 10 ** rng.random()) for one in shown), key=lambda one: one[1])
    prompt = prompts.contrastive(made.task, [(one.code, claim) for one, claim in codes])
    text = prompts.compared(codes, better, made.task.language)
    return [Example(prompt, text, id=f"{made.task.id} claimed")]


def measured(made: Made, speedups: Mapping[str, float], count: int, *, most: int, seed: int) -> list[Example]:
    """At most `count` comparisons of at most `most` codes, the reference among those to choose from, each answered by one that was
    measured to be faster than all it shows. `speedups`: code -> speed-up; a code that is no variant is left out, as its techniques are not
    known."""
    known = {one.code.strip(): one for one in variants(made)}
    scored = {made.task.reference.strip(): 1.0}
    for code, speedup in speedups.items():
        if code.strip() in known:
            scored.setdefault(code.strip(), speedup)
    ranked = sorted(scored.items(), key=lambda one: (one[1], one[0]))
    answers = {one.code.strip() for one in kernels(made)}
    rows = []
    for number in range(count):
        rng = Random(json.dumps([seed, made.task.id, number]))
        shown = sorted(rng.sample(range(len(ranked)), min(len(ranked), rng.randint(1, most))))
        least = FASTER * ranked[shown[-1]][1]
        faster = [place for place, (code, speedup) in enumerate(ranked) if speedup > least and code in answers]
        if faster:
            codes = [(known[ranked[place][0]], ranked[place][1]) for place in shown]
            better = known[ranked[rng.choice(faster)][0]]
            prompt = prompts.contrastive(made.task, [(one.code, speedup) for one, speedup in codes])
            text = prompts.compared(codes, better, made.task.language)
            rows.append(Example(prompt, text, id=f"{made.task.id} compared {number}"))
    return rows
