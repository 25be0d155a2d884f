"""Is it the reference's function? Construction, attributes and values of one candidate, then the probes, before any time is taken.

    construct   the same parameters, by name or by order                                                 S20
    contract    exact type, shape, element type, stride, device, storage of every output                T03 T04 S11 S13 S14 S15
    values      every case x distribution x seed against the float64 oracle, raw bytes read by us        S01-S08 S12 and wrong
    probes      of memory, caches, weights, repeats, modes, gradients, layouts, settings (probes.py)

A step gives findings, not a verdict. Values come from the arena and are judged here; what the worker says of itself
(attributes, settings) can only speak against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from postgrad.kernels import probes
from postgrad.kernels.numeric import Array, is_float
from postgrad.kernels.side import Misbehaved, Spec
from postgrad.kernels.subject import (
    Asked,
    Subject,
    as_float,
    ask,
    described,
    equal,
    misbehaviour,
    set_parameters,
    stale,
)
from postgrad.kernels.verdict import Finding, Reason

RARE = ("outliers", "heavy", "sorted", "one_hot")
"""Distributions in which few values decide."""
MOST = 12
"""Findings of one check: the rest says the same."""


def check(subject: Subject, *, seeds: int = 3) -> list[Finding]:
    """Findings of every step; the steps stop where the candidate ended its evaluation, or is plainly wrong.

    seeds: draws of the task's own values at the timed case, at least two; each further distribution gets one at each case.
    """
    found: list[Finding] = []
    steps: list[tuple[str, Callable[[Subject], Iterator[Finding]]]] = [
        ("construct", construct),
        ("contract", contract),
        ("values", lambda one: values(one, seeds)),
        ("memory", probes.memory),
        ("caches", probes.caches),
        ("layouts", probes.layouts),
        ("repeats", probes.repeats),
        ("weights", probes.weights),
        ("modes", probes.modes),
        ("gradients", probes.gradients),
        ("settings", probes.settings),
    ]
    for name, step in steps:
        try:
            found += step(subject)
        except Misbehaved as error:
            found.append(misbehaviour(error, name))
            break
        # The settings of a candidate that is wrong are still worth reading: they may say why.
        if name in ("construct", "contract", "values") and found:
            if name != "construct":
                found += _last_words(subject)
            break
    return found[:MOST]


def _last_words(subject: Subject) -> list[Finding]:
    try:
        return [*probes.parameters_kept(subject), *probes.settings(subject)]
    except Misbehaved as error:
        if error.who == "reference":
            raise
        return []  # it is known to be wrong already


def construct(subject: Subject) -> Iterator[Finding]:
    """Load, construct with the task's own arguments and seed, take over the reference's parameters."""
    reference, side, task = subject.reference, subject.side, subject.reference.task
    subject.before = side.ask("settings")
    subject.census = side.census()
    mine = side.load(seed=reference.seed, init=reference.init, mode=task.modes[0], precision=task.precision)
    wanted = reference.state
    if subject.native:
        side.extra = [as_float(raw, one) for raw, one in zip(reference.parameters(), wanted, strict=True)]
        return
    if [one.shape for one in mine] != [one.shape for one in wanted] or [one.dtype for one in mine] != [
        one.dtype for one in wanted
    ]:
        yield Finding(
            Reason.S20_PARAMETERS,
            f"parameters and buffers are {_listed(mine)}; the reference has {_listed(wanted)}",
            "construct",
        )
        return
    if wanted:
        set_parameters(subject, reference.parameters(), "load")


def _listed(specs: Sequence[Spec]) -> str:
    return ", ".join(f"{one.name or '?'} {one.dtype}{list(one.shape)}" for one in specs[:12]) or "none"


# ---- Attributes -----------------------------------------------------------------------------------------------------


def contract(subject: Subject) -> Iterator[Finding]:
    """The first call of all; then what the outputs are, attribute by attribute, beside the reference's."""
    question = subject.reference.question(subject.case, "own", 0)
    k = subject.place(question.arrays)
    refused: Misbehaved | None = None
    try:
        subject.side.call(k)
    except Misbehaved as error:
        if error.kind not in ("shape", "type"):
            raise
        refused = error
    else:
        outputs = subject.side.output(k)
        if all(one.mismatch(got) is None for one, got in zip(question.envelopes, outputs, strict=True)):
            subject.first = outputs
    if subject.native:
        return
    wanted = described(subject, subject.reference.side, question)
    found = [
        finding
        for place, (one, other) in enumerate(zip(subject.side.ask("describe", k=k)["out"], wanted, strict=False))
        for finding in _attributes(f"output {place}", one, other)
    ]
    yield from found
    if refused is not None and not found:
        yield misbehaviour(refused, "contract")


def _attributes(where: str, got: dict[str, Any], wanted: dict[str, Any]) -> Iterator[Finding]:
    kind = got.get("type")
    if "exact" not in got:
        yield Finding(Reason.S15_OVERLOADED_RESULT, f"the output is a {kind}, not a tensor", where)
    elif not got["exact"]:
        yield Finding(Reason.T03_LAZY_TENSOR, f"the output is a {kind}; wanted exactly torch.Tensor", where)
    elif got["bits"] or not got["strided"]:
        yield Finding(Reason.T04_DISGUISED_TENSOR, f"a view or layout that computes when it is read: {got}", where)
    elif got["shape"] != wanted["shape"]:
        smaller = len(got["shape"]) <= len(wanted["shape"]) and np.prod(got["shape"]) < np.prod(wanted["shape"])
        reason = Reason.S13_BROADCAST if smaller and _broadcasts(got, wanted) else Reason.S11_OTHER_SIZES
        yield Finding(reason, f"shape {got['shape']}; the reference gives {wanted['shape']}", where)
    elif got["empty"]:
        yield Finding(Reason.T04_DISGUISED_TENSOR, "the output has no storage", where)
    elif got["dtype"] != wanted["dtype"] or got["device"] != wanted["device"]:
        told = f"{got['dtype']} on {got['device']}; the reference gives {wanted['dtype']} on {wanted['device']}"
        yield Finding(Reason.S14_WRONG_ATTRIBUTES, told, where)
    elif got["requires_grad"] != wanted["requires_grad"]:
        yield Finding(Reason.S14_WRONG_ATTRIBUTES, f"requires_grad={got['requires_grad']}", where)
    elif _repeats(got) and not _repeats(wanted):
        yield Finding(Reason.S13_BROADCAST, f"stride {got['stride']} repeats elements of shape {got['shape']}", where)
    elif got["overlaps"] and not wanted["overlaps"]:
        yield Finding(Reason.C09_ALIASED_OUTPUT, f"shares memory with {', '.join(got['overlaps'])}", where)


def _broadcasts(got: dict[str, Any], wanted: dict[str, Any]) -> bool:
    try:
        return np.broadcast_shapes(tuple(got["shape"]), tuple(wanted["shape"])) == tuple(wanted["shape"])
    except ValueError:
        return False


def _repeats(told: dict[str, Any]) -> bool:
    return any(step == 0 and length > 1 for step, length in zip(told["stride"], told["shape"], strict=True))


# ---- Values ---------------------------------------------------------------------------------------------------------


def values(subject: Subject, seeds: int) -> Iterator[Finding]:
    """Every case, distribution and seed, in an order that nobody can know; then what the pattern of failures says."""
    todo = [(case, name, 0) for case, name in subject.reference.asks()]
    todo += [(subject.case, "own", index) for index in range(1, seeds)]
    asked: list[Asked] = []
    for index in subject.rng.permutation(len(todo)):
        asked += ask(subject, subject.reference.question(*todo[index]))
    changed = [one for one in asked if one.changed]
    if changed:
        told = f"inputs {changed[0].changed} were written to in {len(changed)} of {len(asked)} calls"
        yield Finding(Reason.C10_INPUT_CHANGED, told, "values")
    wrong = [one for one in asked if one.wrong is not None]
    if wrong:
        yield explain(subject, asked, wrong)


def explain(subject: Subject, asked: list[Asked], wrong: list[Asked]) -> Finding:
    """One finding for all wrong answers: what they have in common names the reason."""
    timed = [one for one in asked if one.case == subject.case and one.place == wrong[0].place]
    worst = max(wrong, key=lambda one: one.wrong.relative if one.wrong is not None else 0.0)
    share = f"{len(wrong)} of {len(asked)} outputs wrong; "
    where = f"{worst.distribution} at {list(worst.case.inputs)}, output {worst.place}"
    reason = _pattern(subject, asked, wrong, timed)
    return Finding(reason, f"{share}{worst.wrong}", where)


def _pattern(subject: Subject, asked: list[Asked], wrong: list[Asked], timed: list[Asked]) -> Reason:
    one = wrong[0]
    if any(w.poisoned > 0 for w in wrong):
        return Reason.S05_PARTIAL_WORK
    if any(
        bool((~np.isfinite(w.got) & np.isfinite(w.envelope.oracle) & w.envelope.asked).any())
        for w in wrong
        if is_float(str(w.got.dtype))
    ):
        return Reason.S12_NOT_FINITE
    if len(timed) > 1 and all(equal(a.got, timed[0].got) for a in timed[1:]):
        # The first answer forever, or one that was there before any question.
        if subject.first is not None or not _constant(timed[0].got):
            return Reason.T14_PRECOMPUTED
        if _by_shape(asked, wrong):
            return Reason.S08_SHAPES_SNIFFED
        zero = not np.any(one.got) and float(np.max(np.abs(one.envelope.oracle), initial=0.0)) < 0.01
        return Reason.S02_BELOW_TOLERANCE if zero else Reason.S01_CONSTANT_OUTPUT
    if all(_constant(w.got) and not _constant(w.envelope.oracle) for w in wrong):
        return Reason.S01_CONSTANT_OUTPUT
    if any(stale(subject, w) for w in wrong if w.case == subject.case):
        return Reason.C05_STALE_RESULT
    if all(any(equal(w.got, given) for given in w.inputs) for w in wrong):
        return Reason.S03_IDENTITY
    if (
        is_float(str(one.got.dtype))
        and float(np.median([w.wrong.relative for w in wrong if w.wrong is not None])) < 0.03
    ):
        return Reason.S04_LOW_PRECISION
    if all(w.wrong is not None and w.wrong.share < 0.999 and _unworked(w) for w in wrong):
        return Reason.S05_PARTIAL_WORK
    right = [a for a in asked if a.wrong is None]
    if _by_shape(asked, wrong):
        return Reason.S08_SHAPES_SNIFFED
    if {w.case for w in wrong}.isdisjoint(a.case for a in right if a.distribution == "own"):
        return Reason.WRONG_OUTPUT
    if "own" in {a.distribution for a in right} and "own" not in {w.distribution for w in wrong}:
        return Reason.S06_TRUNCATED if any(w.distribution in RARE for w in wrong) else Reason.S07_INPUTS_SNIFFED
    return Reason.WRONG_OUTPUT


def _by_shape(asked: list[Asked], wrong: list[Asked]) -> bool:
    """At some shapes nothing is wrong, at the others the task's own values are."""
    cases = {one.case for one in wrong}
    right = {one.case for one in asked if one.wrong is None and one.distribution == "own"}
    return cases.isdisjoint(right) and cases != {one.case for one in asked}


def _constant(values: Array) -> bool:
    return values.size > 1 and bool(np.all(values == values.reshape(-1)[0]))


def _unworked(asked: Asked) -> bool:
    """Every wrong element is zero, not finite, or an input's: nothing was computed there."""
    with np.errstate(invalid="ignore"):
        off = ~(np.abs(asked.got - asked.envelope.oracle) <= asked.envelope.element)
    left = asked.got[off]
    same = [given[off] == left for given in asked.inputs if given.shape == asked.got.shape]
    return bool(left.size) and bool(
        np.all((left == 0) | ~np.isfinite(left) | (np.any(same, axis=0) if same else False))
    )
