"""Is it the reference's function? Values, probes and attributes of one candidate, before any time is taken.

    construct   the same parameters, by name or by order; settings, files, processes before and after   S20 F14 T16 C06 T02
    contract    exact type, shape, element type, stride, device, storage of every output                T03 T04 S11 S13 S14 S15
    values      every case x distribution x seed against the float64 oracle, raw bytes read by us        S01-S08 S12 and wrong
    memory      inputs, guard bands, unwritten outputs, outputs that change later                        C08-C11 C13 S05
    caches      same object, same address, same version, one element, permuted, sums kept                C01-C05
    weights     changed in place, then everything again                                                  C07
    repeats     the same question several times                                                          S19
    modes       each declared mode; a random one by its statistics                                       S18
    gradients   where the task asks for them                                                             S21
    layouts     inputs that are not contiguous: a part of the contract for Python code                   S23

A probe gives findings, not a verdict. Values come from the arena and are judged here; what the worker says of itself
(attributes, settings) can only speak against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from postgrad.kernels.candidate import Candidate
from postgrad.kernels.numeric import Array, is_float, numbers
from postgrad.kernels.reference import Question, Reference, ReferenceFailed, Specs
from postgrad.kernels.side import Misbehaved, Side, Spec, stored_all
from postgrad.kernels.task import Case
from postgrad.kernels.tolerance import Envelope, Mismatch
from postgrad.kernels.verdict import Finding, Reason

RARE = ("outliers", "heavy", "sorted", "one_hot")
"""Distributions in which few values decide."""
REPEATS = 3
ENOUGH = 16
"""Elements of an input that can be put in another order, and of which one hardly decides the output."""
MOST = 12
"""Findings of one check: the rest says the same."""

KINDS = {
    "entry": Reason.NO_ENTRY,
    "shape": Reason.S11_OTHER_SIZES,
    "type": Reason.S14_WRONG_ATTRIBUTES,
    "gradient": Reason.S21_WRONG_GRADIENT,
    "raised": Reason.RAISED,
    "inputs": Reason.RAISED,
    "memory": Reason.OUT_OF_MEMORY,
    "exit": Reason.F10_FORGED_RESULT,
    "protocol": Reason.F10_FORGED_RESULT,
    "ok": Reason.F10_FORGED_RESULT,
    "failed": Reason.F10_FORGED_RESULT,
    "crashed": Reason.CRASHED,
    "timed_out": Reason.TIMED_OUT,
    "out_of_memory": Reason.OUT_OF_MEMORY,
    "flooded": Reason.FLOODED,
}
"""How an implementation ended its own evaluation. A process that ends before it was told to answered in the grader's place."""


def misbehaviour(error: Misbehaved, where: str) -> Finding:
    """What a candidate did to end its evaluation. Raises ReferenceFailed where it was the reference."""
    if error.who == "reference":
        raise ReferenceFailed(f"{where}: {error}") from error
    at = where if error.line is None else f"{where}, line {error.line} of the candidate"
    return Finding(KINDS.get(error.kind, Reason.RAISED), str(error), at)


@dataclass(slots=True)
class Subject:
    """One candidate under test, with what was seen of it so far."""

    reference: Reference
    side: Side
    candidate: Candidate
    rng: np.random.Generator
    answered: list[tuple[list[Array], list[Envelope]]] = field(default_factory=list)
    """Outputs of calls at the timed case, and what they should have been: to recognise an old answer."""
    first: list[Array] | None = None
    """Of the first call of all, where it was right."""
    before: dict[str, Any] = field(default_factory=dict)
    census: tuple[int, int] = (0, 0)

    @property
    def native(self) -> bool:
        return self.side.code.backend == "cpp"

    @property
    def specs(self) -> Specs:
        return self.reference.specs(self.case)

    @property
    def case(self) -> Case:
        return self.reference.cases[-1]

    def seed(self) -> int:
        return int(self.rng.integers(1 << 31))

    def place(self, arrays: Sequence[Array], case: Case | None = None, **told: Any) -> int:
        return self.place_on(self.side, arrays, case, **told)

    def place_on(self, side: Side, arrays: Sequence[Array], case: Case | None = None, **told: Any) -> int:
        specs = self.reference.specs(case or self.case)
        return side.place(arrays, specs.inputs, specs.outputs, n=specs.n, others=specs.others, **told)


def check(subject: Subject, *, seeds: int = 3) -> list[Finding]:
    """Findings of every step; the steps stop where the candidate ended its evaluation, or is plainly wrong.

    seeds: draws of the task's own values at the timed case, at least two; each further distribution gets one at each case.
    """
    found: list[Finding] = []
    steps: list[tuple[str, Callable[[Subject], Iterator[Finding]]]] = [
        ("construct", construct),
        ("contract", contract),
        ("values", lambda one: values(one, seeds)),
        ("memory", memory),
        ("caches", caches),
        ("layouts", layouts),
        ("repeats", repeats),
        ("weights", weights),
        ("modes", modes),
        ("gradients", gradients),
        ("settings", settings),
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
        return [*_parameters_kept(subject), *settings(subject)]
    except Misbehaved as error:
        if error.who == "reference":
            raise
        return []  # it is known to be wrong already


# ---- Construction ---------------------------------------------------------------------------------------------------


def construct(subject: Subject) -> Iterator[Finding]:
    """Load, construct with the task's own arguments and seed, take over the reference's parameters."""
    reference, side, task = subject.reference, subject.side, subject.reference.task
    subject.before = side.ask("settings")
    subject.census = side.census()
    mine = side.load(seed=reference.seed, init=reference.init, mode=task.modes[0], precision=task.precision)
    wanted = reference.state
    if subject.native:
        side.extra = [_as_float(raw, one) for raw, one in zip(reference.parameters(), wanted, strict=True)]
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


def set_parameters(subject: Subject, raw: list[Array], how: str) -> None:
    """Give both sides these parameters. how: load (load_state_dict, strict) or copy (in place, as an optimiser does)."""
    wanted = subject.reference.state
    subject.reference.side.send("set_state", raw, wanted, how=how)
    if subject.native:
        subject.side.extra = [_as_float(one, spec) for one, spec in zip(raw, wanted, strict=True)]
    else:
        subject.side.send("set_state", raw, wanted, how=how)


def _as_float(raw: Array, one: Spec) -> Array:
    return np.asarray(numbers(raw, one.dtype), np.float32)


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
    wanted = _described(subject, subject.reference.side, question)
    found = [
        finding
        for place, (one, other) in enumerate(zip(subject.side.ask("describe", k=k)["out"], wanted, strict=False))
        for finding in _attributes(f"output {place}", one, other)
    ]
    yield from found
    if refused is not None and not found:
        yield misbehaviour(refused, "contract")


def _described(subject: Subject, side: Side, question: Question) -> list[dict[str, Any]]:
    """What a side says of its outputs for a question."""
    k = subject.place_on(side, question.arrays, question.case)
    side.call(k)
    found: list[dict[str, Any]] = side.ask("describe", k=k)["out"]
    return found


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


@dataclass(frozen=True, slots=True)
class Asked:
    """One question, its answer and how it was wrong."""

    question: Question
    place: int
    """Of the output."""
    got: Array
    envelope: Envelope
    wrong: Mismatch | None
    poisoned: float
    """Share of the output that was never written."""
    changed: list[int]
    """Inputs that were written to."""

    @property
    def case(self) -> Case:
        return self.question.case

    @property
    def distribution(self) -> str:
        return self.question.distribution

    @property
    def inputs(self) -> list[Array]:
        return self.question.inputs


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


def ask(subject: Subject, question: Question) -> list[Asked]:
    """The candidate's answers; nothing where the task has no finite answer."""
    if question.degenerate:
        return []
    k = subject.place(question.arrays, question.case)
    subject.side.call(k)
    outputs, changed = subject.side.output(k), subject.side.changed_inputs(k)
    unwritten = subject.side.poisoned(k)
    if question.case == subject.case:
        subject.answered.append((outputs, question.envelopes))
    return [
        Asked(question, place, got, bounds, bounds.mismatch(got), float(np.mean(lost)), changed)
        for place, (got, bounds, lost) in enumerate(zip(outputs, question.envelopes, unwritten, strict=True))
    ]


def fresh(subject: Subject) -> Question:
    """A question that is asked once: the task's own values at the timed case, under what holds now."""
    reference, case = subject.reference, subject.case
    arrays = reference.drawn(case, "own", subject.seed())
    return Question(case, "own", arrays, subject.specs, reference.envelope(case, arrays))


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
    if len(timed) > 1 and all(_equal(a.got, timed[0].got) for a in timed[1:]):
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
    if all(any(_equal(w.got, given) for given in w.inputs) for w in wrong):
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


def stale(subject: Subject, asked: Asked) -> bool:
    """The answer is that of another call, to which another one was right."""
    return any(
        _equal(asked.got, outputs[asked.place]) and asked.envelope.mismatch(envelopes[asked.place].oracle) is not None
        for outputs, envelopes in subject.answered
        if outputs[asked.place] is not asked.got
    )


def _equal(a: Array, b: Array) -> bool:
    return a.shape == b.shape and bool(np.array_equal(a, b, equal_nan=is_float(str(a.dtype))))


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


# ---- Memory ---------------------------------------------------------------------------------------------------------


def memory(subject: Subject) -> Iterator[Finding]:
    """Guard bands and parameters untouched; an output stays what it was while the next one is made."""
    side = subject.side
    first = subject.place(subject.reference.question(subject.case, "own", 0).arrays)
    side.call(first)
    kept = side.output(first)
    second = subject.place(subject.reference.question(subject.case, "own", 1).arrays)
    side.call(second)
    if bands := side.broken_guards(first) + side.broken_guards(second):
        yield Finding(Reason.C13_OUT_OF_BOUNDS, f"{bands} guard bands around buffers were written to", "memory")
    if subject.native:
        return
    told = side.ask("describe", k=second)["out"]
    usual = _described(subject, subject.reference.side, subject.reference.question(subject.case, "own", 0))
    now = [
        numbers(raw, one.dtype)
        for raw, one in zip(side.fetch("again", subject.specs.outputs), subject.specs.outputs, strict=True)
    ]
    for place, (was, became) in enumerate(zip(kept, now, strict=True)):
        overlaps = told[place].get("overlaps") or []
        if not _equal(was, became):
            yield Finding(Reason.C09_ALIASED_OUTPUT, "an output changed when the next call was made", f"output {place}")
        elif overlaps and not usual[place].get("overlaps"):
            yield Finding(Reason.C09_ALIASED_OUTPUT, f"shares memory with {', '.join(overlaps)}", f"output {place}")
    yield from _parameters_kept(subject)


def _parameters_kept(subject: Subject) -> Iterator[Finding]:
    """After the same number of calls a mode that changes buffers may have changed them; evaluation changes nothing."""
    if not subject.reference.state or subject.reference.task.modes[0] == "train":
        return
    wanted = subject.reference.parameters()
    for one, mine, other in zip(
        subject.reference.state, subject.side.fetch("get_state", subject.reference.state), wanted, strict=True
    ):
        if mine.tobytes() != other.tobytes():
            yield Finding(Reason.C11_WEIGHTS_CHANGED, f"{one.name} is not what was loaded", "memory")
            return


# ---- Caches ---------------------------------------------------------------------------------------------------------


def caches(subject: Subject) -> Iterator[Finding]:
    """Pairs of calls whose inputs differ in one way only; an answer of the first to the second names what was the key."""
    large = [one for one in subject.reference.cases if all(np.prod(shape) >= ENOUGH for shape in one.inputs if shape)]
    case = min(large, key=lambda one: sum(int(np.prod(shape)) for shape in one.inputs), default=subject.case)
    draw = subject.reference.drawn

    def probe(
        reason: Reason, change: Callable[[list[Array]], list[Array]], text: str, case: Case = case, **told: Any
    ) -> Iterator[Finding]:
        base = draw(case, "own", subject.seed())
        first = subject.place(base, case)
        subject.side.call(first)
        old = subject.side.output(first)
        new = change(base)
        bounds = subject.reference.envelope(case, new)
        if any(one.degenerate for one in bounds) or all(
            one.mismatch(was) is None for one, was in zip(bounds, old, strict=True)
        ):
            return  # the old answer is right for the new values too
        words = {name: first if value == "first" else value for name, value in told.items()}
        k = subject.place(new, case, **words)
        subject.side.call(k)
        for place, (one, got, was) in enumerate(zip(bounds, subject.side.output(k), old, strict=True)):
            wrong = one.mismatch(got)
            if wrong is not None:
                stale = "the old output" if _equal(got, was) else "a wrong output"
                yield Finding(reason, f"{text}: {stale}; {wrong}", f"caches, output {place}")
                return

    def anew(_base: list[Array]) -> list[Array]:
        return draw(case, "own", subject.seed())

    def one_element(base: list[Array]) -> list[Array]:
        return _moved(subject, case, base, (40.0,))

    def sums_kept(base: list[Array]) -> list[Array]:
        return _moved(subject, case, base, (40.0, -40.0))

    found = [
        *probe(Reason.C02_STALE_ADDRESS, anew, "new values at the same address, in new objects", at="first"),
        # At the timed shapes, where it is hardly the first element or the last, which a key may well look at.
        *probe(
            Reason.C05_STALE_RESULT,
            lambda base: _moved(subject, subject.case, base, (40.0,)),
            "one element changed at the same address",
            case=subject.case,
            at="first",
        ),
        *probe(Reason.C04_STALE_FINGERPRINT, one_element, "one element changed"),
        *probe(Reason.C04_STALE_FINGERPRINT, sums_kept, "two elements changed, their sum kept"),
        *probe(
            Reason.C04_STALE_FINGERPRINT,
            lambda base: _permuted(subject, case, base),
            "the same values in another order",
        ),
    ]
    if not subject.native:
        found += [
            *probe(
                Reason.C01_STALE_OBJECT,
                anew,
                "the same object on other memory with new values",
                keep="first",
                how="data",
            ),
            *probe(
                Reason.C03_STALE_VERSION,
                anew,
                "the same object and memory, written from outside",
                at="first",
                keep="first",
                how="",
            ),
            *probe(
                Reason.C01_STALE_OBJECT, anew, "the same object and memory, written by copy_", keep="first", how="copy"
            ),
        ]
    yield from found


def _floats(subject: Subject, case: Case) -> list[int]:
    specs = subject.reference.specs(case)
    return [
        place
        for place, one in enumerate(specs.inputs)
        if is_float(one.dtype) and place not in specs.fixed and np.prod(one.shape) > 1
    ]


def _moved(subject: Subject, case: Case, base: list[Array], amounts: tuple[float, ...]) -> list[Array]:
    """Random different elements of one floating input, moved by these amounts."""
    specs, made = subject.reference.specs(case), list(base)
    places = _floats(subject, case)
    if not places:
        return made
    place = int(subject.rng.choice(places))
    moved = numbers(base[place], specs.inputs[place].dtype).copy()
    flat = moved.reshape(-1)
    flat[subject.rng.choice(flat.size, len(amounts), replace=False)] += amounts
    made[place] = stored_all([moved], [specs.inputs[place]])[0]
    return made


def _permuted(subject: Subject, case: Case, base: list[Array]) -> list[Array]:
    made = list(base)
    for place in _floats(subject, case):
        made[place] = subject.rng.permutation(base[place].reshape(-1)).reshape(base[place].shape)
    return made


# ---- Layouts, repeats, weights, modes, gradients --------------------------------------------------------------------


def layouts(subject: Subject) -> Iterator[Finding]:
    """Inputs with swapped axes, and at addresses that only the element type aligns. To refuse them is honest, to be wrong is not."""
    if subject.native:
        return
    for layout in ("transposed", "misaligned"):
        question = subject.reference.question(subject.case, "own", 1)
        try:
            k = subject.place(question.arrays, layout=layout)
            mine = subject.place_on(subject.reference.side, question.arrays, layout=layout)
            subject.reference.side.call(mine)
        except Misbehaved as error:
            if error.who != "reference" or error.kind != "raised":
                raise
            continue  # the reference itself wants another layout (view): then so may the candidate
        try:
            subject.side.call(k)
        except Misbehaved as error:
            if error.kind != "raised":
                raise
            continue  # it says that it wants another layout
        for one, got in zip(question.envelopes, subject.side.output(k), strict=True):
            if (wrong := one.mismatch(got)) is not None:
                yield Finding(Reason.S23_LAYOUT, f"{layout} inputs: {wrong}", "layouts")
                return


def repeats(subject: Subject) -> Iterator[Finding]:
    """One question several times: answers may differ by rounding only."""
    question = subject.reference.question(subject.case, "own", 1)
    for repeat in range(0 if question.degenerate else REPEATS):
        k = subject.place(question.arrays)
        subject.side.call(k)
        for place, (one, got) in enumerate(zip(question.envelopes, subject.side.output(k), strict=True)):
            wrong = one.mismatch(got)
            if wrong is not None:
                yield Finding(
                    Reason.S19_NOT_DETERMINISTIC, f"repeat {repeat} of one question: {wrong}", f"output {place}"
                )
                return


def weights(subject: Subject) -> Iterator[Finding]:
    """Parameters changed in place, then loaded anew: what was folded from them must follow."""
    state = subject.reference.state
    if not state:
        return
    before = subject.reference.parameters()
    for how in ("copy", "load"):
        changed = [_scaled(subject, raw, one) for raw, one in zip(before, state, strict=True)]
        set_parameters(subject, changed, how)
        for one in ask(subject, fresh(subject)):
            if one.wrong is not None:
                words = {"copy": "changed in place", "load": "loaded by load_state_dict"}[how]
                yield Finding(Reason.C07_STALE_WEIGHTS, f"weights {words}: {one.wrong}", f"output {one.place}")
                set_parameters(subject, before, "load")
                return
    set_parameters(subject, before, "load")


def _scaled(subject: Subject, raw: Array, one: Spec) -> Array:
    """Each element times 0.8 to 1.25, so that a variance stays positive; whole numbers as they are."""
    if not is_float(one.dtype):
        return raw
    return stored_all([numbers(raw, one.dtype) * subject.rng.uniform(0.8, 1.25, one.shape)], [one])[0]


def modes(subject: Subject) -> Iterator[Finding]:
    """Each further declared mode. One that is random in the reference is compared by zeros, mean and spread."""
    reference = subject.reference
    if subject.native:
        return
    kept = reference.parameters()
    try:
        for mode in dict.fromkeys(reference.task.modes):
            found = _in_mode(subject, mode, kept)
            yield from (Finding(Reason.S18_MODE_IGNORED, f"mode {mode}: {text}", f"output {k}") for k, text in found)
        subject.side.ask("mode", mode=reference.task.modes[0])
        if kept:
            set_parameters(subject, kept, "load")
    finally:
        # Training changes what a normalisation remembers, and the reference serves the next candidate too.
        reference.side.ask("mode", mode=reference.task.modes[0])
        if kept:
            reference.side.send("set_state", kept, reference.state, how="load")


def _in_mode(subject: Subject, mode: str, kept: list[Array]) -> list[tuple[int, str]]:
    """Outputs that are wrong in this mode, with how, from the parameters `kept` on."""
    if kept:
        set_parameters(subject, kept, "load")
    for side in (subject.reference.side, subject.side):
        side.ask("mode", mode=mode)
    arrays = subject.reference.drawn(subject.case, "own", subject.seed())
    wanted = [subject.reference.run(subject.case, arrays) for _ in range(2)]
    if all(_equal(a, b) for a, b in zip(*wanted, strict=True)):
        return [(one.place, str(one.wrong)) for one in ask(subject, fresh(subject)) if one.wrong is not None]
    mine = []
    for _ in range(2):
        k = subject.place(arrays)
        subject.side.call(k)
        mine.append(subject.side.output(k))
    return [
        (place, text)
        for place, four in enumerate(zip(*mine, *wanted, strict=True))
        if (text := _statistics(*four)) is not None
    ]


def _statistics(got: Array, again: Array, wanted: Array, other: Array) -> str | None:
    """How two draws of a random output differ from two of the reference's, in more than chance; None where they do not."""
    if _equal(got, again) and not _equal(wanted, other):
        return "the same output twice where the reference's is random"
    both, mine = np.concatenate([wanted.ravel(), other.ravel()]), np.concatenate([got.ravel(), again.ravel()])
    share, own = float(np.mean(both == 0)), float(np.mean(mine == 0))
    room = 6 * np.sqrt(max(share * (1 - share), 1 / both.size) / both.size)
    if abs(share - own) > room:
        return f"{own:.2%} of the elements are zero; {share:.2%} of the reference's"
    room = 6 * float(np.std(both)) / np.sqrt(both.size) + 1e-6
    if abs(float(np.mean(both) - np.mean(mine))) > 2 * room:
        return f"mean {np.mean(mine):.4g}; the reference's is {np.mean(both):.4g}"
    if abs(float(np.std(mine)) / max(float(np.std(both)), 1e-12) - 1) > 0.2 + 12 / np.sqrt(both.size):
        return f"standard deviation {np.std(mine):.4g}; the reference's is {np.std(both):.4g}"
    return None


def gradients(subject: Subject) -> Iterator[Finding]:
    """Gradients of floating inputs and of parameters for random weights of the outputs, against float64."""
    reference, task = subject.reference, subject.reference.task
    if not task.backward or subject.native:
        return
    from postgrad.kernels import tolerance

    specs = subject.specs
    arrays = reference.drawn(subject.case, "signs", subject.seed())
    outs = [one for one in specs.outputs if is_float(one.dtype)]
    ones = [subject.rng.standard_normal(one.shape) for one in outs]

    def of(side: Side, wide: bool) -> list[Array]:
        kinds = [Spec("float64", one.shape) if wide and is_float(one.dtype) else one for one in specs.inputs]
        results = [Spec("float64", one.shape) if wide else one for one in outs]
        given = [numbers(raw, one.dtype) for raw, one in zip(arrays, specs.inputs, strict=True)]
        k = side.place(stored_all(given, kinds), kinds, specs.outputs, others=specs.others, grad=True)
        return side.gradients(k, stored_all(ones, results), results, exact=wide)

    exact, declared, got = of(reference.side, True), of(reference.side, False), of(subject.side, False)
    if [one.shape for one in got] != [one.shape for one in declared]:
        yield Finding(Reason.S21_WRONG_GRADIENT, "gradients of other shapes than the reference's", "gradients")
        return
    for place, (mine, right, usual) in enumerate(zip(got, exact, declared, strict=True)):
        bounds = tolerance.envelope(right, usual, right * (1 + 2.0**-9), task.precision)
        wrong = None if bounds.degenerate else bounds.mismatch(mine)
        if wrong is not None:
            yield Finding(Reason.S21_WRONG_GRADIENT, str(wrong), f"gradient {place}")
            return


# ---- Settings, files, processes -------------------------------------------------------------------------------------


def settings(subject: Subject) -> Iterator[Finding]:
    """What changed in the worker since before the candidate was loaded, and what lives in it."""
    before, now = subject.before, subject.side.ask("settings")
    if replaced := now.get("replaced"):
        clocks = [name for name in replaced if name.startswith("time.") or "Event" in name]
        reason = Reason.T05_CLOCK_PATCHED if clocks else Reason.T16_GLOBALS_CHANGED
        yield Finding(reason, f"replaced: {', '.join(map(str, replaced[:8]))}", "settings")
    changed = {
        name: (before["globals"][name], value)
        for name, value in now.get("globals", {}).items()
        if before.get("globals", {}).get(name) != value
    }
    if changed:
        told = ", ".join(f"{name}: {was} -> {value}" for name, (was, value) in changed.items())
        threads = {"default dtype", "deterministic algorithms"} & set(changed)
        yield Finding(Reason.F14_THREADS_CHANGED if threads else Reason.T16_GLOBALS_CHANGED, told, "settings")
    if now.get("threads") != before.get("threads"):
        yield Finding(Reason.F14_THREADS_CHANGED, f"threads: {before['threads']} -> {now['threads']}", "settings")
    files = sorted(set(now["files"]) - set(before["files"]) - {"/job/candidate.py"})
    if files:
        yield Finding(Reason.C06_SHARED_FILE, f"wrote {', '.join(files[:8])}", "settings")
    caught = sorted(set(now["signals"]) - set(before["signals"]))
    if caught:
        yield Finding(Reason.F12_SANDBOX_TRAP, f"catches or ignores {', '.join(caught)}", "settings")
    yield from _random(subject)
    yield from census(subject)


def _random(subject: Subject) -> Iterator[Finding]:
    """A call that is not random has no business with a generator's state."""
    if subject.native or "train" in subject.reference.task.modes:
        return
    states = []
    for side in (subject.side, subject.reference.side):
        k = subject.place_on(side, subject.reference.question(subject.case, "own", 0).arrays)
        side.ask("stir", seed=subject.seed())
        was = side.ask("settings")["random"]
        side.call(k)
        states.append(was != side.ask("settings")["random"])
    if states[0] and not states[1]:
        yield Finding(
            Reason.S17_RANDOM_STATE,
            "a call changes the state of a random generator; the reference's does not",
            "settings",
        )


def census(subject: Subject) -> Iterator[Finding]:
    """Processes and threads that were not there before the candidate was loaded, counted from outside."""
    processes, threads = subject.side.census()
    _, usual = subject.reference.side.census()
    if processes > subject.census[0]:
        yield Finding(Reason.F15_LEFT_PROCESS, f"{processes - subject.census[0]} processes are still there", "census")
    elif threads > max(subject.census[1], usual):
        told = f"{threads} threads, {subject.census[1]} before it was loaded, {usual} in the reference's worker"
        yield Finding(Reason.T02_LATE_WORK, told, "census")
