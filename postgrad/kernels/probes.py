"""What a candidate does besides giving right values: probes of its memory, its caches, its modes and its worker.

    memory      inputs, guard bands, unwritten outputs, outputs that change later                        C08-C11 C13 S05
    caches      same object, same address, same version, one element, permuted, sums kept                C01-C05
    layouts     inputs that are not contiguous: a part of the contract for Python code                   S23
    repeats     the same question several times                                                          S19
    weights     changed in place, then everything again                                                  C07
    modes       each declared mode; a random one by its statistics                                       S18
    gradients   where the task asks for them                                                             S21
    settings    settings, files, signals, random state, processes and threads, before and after          F14 T16 C06 S17 T02

Each takes a subject that was constructed and yields findings; `correct.check` says in which order they are asked.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from postgrad.kernels import tolerance
from postgrad.kernels.numeric import Array, is_float, numbers
from postgrad.kernels.side import Misbehaved, Side, Spec, stored_all
from postgrad.kernels.subject import Subject, ask, described, equal, fresh, set_parameters
from postgrad.kernels.task import Case
from postgrad.kernels.verdict import Finding, Reason

REPEATS = 3
ENOUGH = 16
"""Elements of an input that can be put in another order, and of which one hardly decides the output."""


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
    usual = described(subject, subject.reference.side, subject.reference.question(subject.case, "own", 0))
    now = [
        numbers(raw, one.dtype)
        for raw, one in zip(side.fetch("again", subject.specs.outputs), subject.specs.outputs, strict=True)
    ]
    for place, (was, became) in enumerate(zip(kept, now, strict=True)):
        overlaps = told[place].get("overlaps") or []
        if not equal(was, became):
            yield Finding(Reason.C09_ALIASED_OUTPUT, "an output changed when the next call was made", f"output {place}")
        elif overlaps and not usual[place].get("overlaps"):
            yield Finding(Reason.C09_ALIASED_OUTPUT, f"shares memory with {', '.join(overlaps)}", f"output {place}")
    yield from parameters_kept(subject)


def parameters_kept(subject: Subject) -> Iterator[Finding]:
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
                stale = "the old output" if equal(got, was) else "a wrong output"
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
    if all(equal(a, b) for a, b in zip(*wanted, strict=True)):
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
    if equal(got, again) and not equal(wanted, other):
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
        clocks = [name for name in replaced if name.startswith("time.") or "Event" in name or "synchronize" in name]
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
