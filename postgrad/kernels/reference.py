"""The reference at work: what inputs a task has, and what the right outputs are. Trusted, but in a worker all the same.

reference.specs(case)           types and shapes of inputs and outputs
reference.own(case, seed)       the task's own values: get_inputs at that seed, or standard normal
reference.envelope(case, ...)   the oracle in float64, the reference in its precision, and the bounds between which a candidate may be
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from postgrad.kernels import runtime, tolerance
from postgrad.kernels.build import Built, build
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.distributions import DISTRIBUTIONS, EXACT
from postgrad.kernels.numeric import BITS_BELOW, Array, is_float, numbers, rounded
from postgrad.kernels.side import Code, Misbehaved, Spec, spec, stored_all
from postgrad.kernels.task import Case, Task
from postgrad.sandbox import Limits

LIMITS = Limits(wall_s=3600, cpu_s=3600, memory_bytes=8 << 30, output_bytes=1 << 20)
EXACT_BELOW = 2.0**24
KEPT_BYTES = 1 << 29
"""Of all questions that are kept for the next candidate."""
SOME = ("own", "signs", "outliers")
"""Distributions at the timed case of a task that has smaller ones, which get all."""


@dataclass(frozen=True, slots=True)
class Specs:
    inputs: tuple[Spec, ...]
    outputs: tuple[Spec, ...]
    n: tuple[int, ...]
    others: tuple[Any, ...] = ()
    """One for each argument: None where it is a tensor, else the encoded value."""
    fixed: frozenset[int] = frozenset()
    """Inputs that no distribution changes: indices, masks, plain numbers."""


@dataclass(frozen=True, slots=True)
class Question:
    """Inputs of one call and what may be answered."""

    case: Case
    distribution: str
    arrays: list[Array]
    """Stored."""
    specs: Specs
    envelopes: list[tolerance.Envelope]

    @property
    def inputs(self) -> list[Array]:
        """Numbers."""
        return [numbers(array, one.dtype) for array, one in zip(self.arrays, self.specs.inputs, strict=True)]

    @property
    def degenerate(self) -> bool:
        return any(one.degenerate for one in self.envelopes)


class ReferenceFailed(Exception):
    """The task's own text does not build, load or run: nothing can be said about a candidate."""


class Reference:
    """Use as a context manager. Raises ReferenceFailed where the task's text is at fault, at any question."""

    def __init__(
        self,
        task: Task,
        *,
        seed: int,
        cache: Path | None = None,
        limits: Limits = LIMITS,
        gpu: int | None = None,
    ) -> None:
        """Raises ValueError for a C++ task on a GPU."""
        self.task, self.seed = task, seed
        self.timed = task.timed
        rng = np.random.default_rng([seed, 1])
        if task.kind == "cpp":
            if gpu is not None:
                raise ValueError(f"{task.name}: its reference is C++ for the CPU: leave the GPU out, or give PyTorch")
            built = build(Candidate(task.source, "cpp", task.name), cache)
            if not isinstance(built, Built):
                raise ReferenceFailed(f"{task.name}: the reference does not build: {built.log}")
            code = Code("cpp", library=built.library)
        else:
            code = Code("torch", task.source, "reference", task.entry)
        self.side = runtime.side(code, limits, rng=rng, gpu=gpu)
        self._specs: dict[Case, Specs] = {}
        self._questions: dict[tuple[Case, str, int], Question] = {}
        self._kept = 0
        self.note = ""
        """Why the oracle is not float64; empty where it is."""
        try:
            self._load()
        except BaseException:
            self.side.close()
            raise

    def __enter__(self) -> Reference:
        return self

    def __exit__(self, *error: object) -> None:
        self.side.close()

    def _load(self) -> None:
        task = self.task
        try:
            self.state = self.side.load(seed=self.seed, init=None, mode=task.modes[0], precision=task.precision)
            self.init: dict[str, Any] = {"l": []}
            """Constructor arguments, encoded."""
            if task.kind == "python":
                self.init = self.side.ask("survey", seed=0, shapes=_shapes(task.timed))["init"]
            if self.timed is None:
                self.timed = Case(tuple(one.shape for one in self._surveyed(None)[0]))
            self.specs(self.timed)
        except Misbehaved as error:
            line = "" if error.line is None else f" (line {error.line})"
            raise ReferenceFailed(f"{task.origin or task.name}: the reference fails: {error}{line}") from None

    # ---- Inputs

    @property
    def cases(self) -> tuple[Case, ...]:
        """Every case of the contract, the timed one last."""
        assert self.timed is not None
        return (*(case for case in self.task.cases if case != self.timed), self.timed)

    def specs(self, case: Case) -> Specs:
        if case not in self._specs:
            self._specs[case] = self._find(case)
        return self._specs[case]

    def _find(self, case: Case) -> Specs:
        if self.task.kind == "cpp":
            assert case.output is not None
            inputs = tuple(Spec("float32", shape or (1,)) for shape in case.inputs)
            fixed = frozenset(place for place, shape in enumerate(case.inputs) if not shape)
            return Specs(inputs, (Spec("float32", case.output),), case.lengths, fixed=fixed)
        inputs, others = self._surveyed(case)
        shaped = self.task.timed is not None
        fixed = frozenset(
            place for place, one in enumerate(inputs) if not is_float(one.dtype) or (shaped and not one.shape)
        )
        found = Specs(inputs, (), case.lengths, others, fixed)
        k = self.side.place(stored_all(self._values(found, case, 0), inputs), inputs, (), others=others)
        outputs = tuple(spec(view) for view in self.side.ask("outputs", k=k)["out"])
        return Specs(inputs, outputs, case.lengths, others, fixed)

    def _surveyed(self, case: Case | None, seed: int = 0) -> tuple[tuple[Spec, ...], tuple[Any, ...]]:
        shapes = _shapes(case) if self.task.timed is not None else None
        told = self.side.ask("survey", seed=seed, shapes=shapes)
        mine = [spec(view) for view in told["in"]]
        cast = [Spec(self.task.precision, one.shape) if is_float(one.dtype) else one for one in mine]
        return tuple(cast), tuple(told["others"])

    def own(self, case: Case, seed: int) -> list[Array]:
        """Numbers of each input, float64 where they are floating."""
        return self._values(self.specs(case), case, seed)

    def _values(self, specs: Specs, case: Case, seed: int) -> list[Array]:
        rng = np.random.default_rng([self.seed, seed, 2])
        if self.task.timed is not None:
            return [
                rng.uniform(0.5, 2.0, one.shape) if place in specs.fixed else rng.standard_normal(one.shape)
                for place, one in enumerate(specs.inputs)
            ]
        told = self.side.ask("survey", seed=int(rng.integers(1 << 31)), shapes=None)
        sampled = [spec(view) for view in told["in"]]
        return [numbers(raw, one.dtype) for raw, one in zip(self.side.fetch("sample", sampled), sampled, strict=True)]

    def drawn(self, case: Case, distribution: str, seed: int) -> list[Array]:
        """Stored inputs of a distribution; a function of its arguments."""
        specs = self.specs(case)
        rng = np.random.default_rng([self.seed, seed, list(DISTRIBUTIONS).index(distribution)])
        make = DISTRIBUTIONS[distribution]
        own = self.own(case, seed * len(DISTRIBUTIONS) + list(DISTRIBUTIONS).index(distribution))
        values = [value if place in specs.fixed else make(rng, value) for place, value in enumerate(own)]
        return stored_all(values, specs.inputs)

    # ---- Outputs

    def run(self, case: Case, arrays: Sequence[Array]) -> list[Array]:
        """Numbers of the reference's outputs, in the declared precision."""
        specs = self.specs(case)
        k = self.side.place(arrays, specs.inputs, specs.outputs, n=specs.n, others=specs.others)
        self.side.call(k)
        return self.side.output(k)

    def exact(self, case: Case, values: Sequence[Array]) -> list[Array]:
        """Numbers of the right outputs for numbers of inputs, in float64."""
        specs = self.specs(case)
        if self.task.oracle is not None:
            with np.errstate(all="ignore"):
                found = np.asarray(self.task.oracle(values), np.float64)
            return [found.reshape(specs.outputs[0].shape)]
        if self.note:
            return self.run(case, stored_all(values, specs.inputs))
        wide = [Spec("float64", one.shape) if is_float(one.dtype) else one for one in specs.inputs]
        outs = [Spec("float64", one.shape) if is_float(one.dtype) else one for one in specs.outputs]
        k = self.side.place(stored_all(values, wide), wide, outs, others=specs.others)
        try:
            self.side.ask("oracle", k=k)
        except Misbehaved as error:
            # A reference that names its own types cannot run in float64: then it is its own oracle, and the floor decides.
            self.note = f"the reference does not run in float64 ({error}): it is compared with itself"
            return self.run(case, stored_all(values, specs.inputs))
        return self.side.output(k)

    def envelope(self, case: Case, arrays: Sequence[Array], distribution: str = "own") -> list[tolerance.Envelope]:
        """Bounds for each output on stored inputs."""
        specs = self.specs(case)
        values = [numbers(array, one.dtype) for array, one in zip(arrays, specs.inputs, strict=True)]
        oracle, declared = self.exact(case, values), self.run(case, arrays)
        bits = BITS_BELOW[self.task.precision]
        coarse = self.exact(
            case, [rounded(v, bits) if is_float(one.dtype) else v for v, one in zip(values, specs.inputs, strict=True)]
        )
        exact = distribution in EXACT and self._any_order(case, values, oracle, declared)
        return [
            tolerance.envelope(*three, self.task.precision, exact=exact)
            for three in zip(oracle, declared, coarse, strict=True)
        ]

    def question(self, case: Case, distribution: str, index: int) -> Question:
        """The index-th question of a distribution, the same for every candidate; small ones are kept."""
        key = (case, distribution, index)
        if key in self._questions:
            return self._questions[key]
        arrays = self.drawn(case, distribution, 1000 + index)
        specs = self.specs(case)
        found = Question(case, distribution, arrays, specs, self.envelope(case, arrays, distribution))
        bytes_ = sum(array.nbytes for array in arrays) + sum(one.oracle.nbytes for one in found.envelopes)
        if self._kept + bytes_ <= KEPT_BYTES:
            self._kept += bytes_
            self._questions[key] = found
        return found

    def asks(self) -> list[tuple[Case, str]]:
        """What a candidate is asked about values: every distribution, of the large timed case only some."""
        *others, timed = self.cases
        return [(case, name) for case in others for name in DISTRIBUTIONS] + [
            (timed, name) for name in (SOME if others else DISTRIBUTIONS)
        ]

    def _any_order(self, case: Case, values: list[Array], oracle: list[Array], declared: list[Array]) -> bool:
        """The declared precision holds every partial sum: the reference is exact, and so large sums of magnitudes are too."""
        if self.task.precision != "float32" or not all(
            np.array_equal(a, b) for a, b in zip(oracle, declared, strict=True)
        ):
            return False
        magnitudes = self.exact(case, [np.abs(v) if is_float(str(v.dtype)) else v for v in values])
        whole = all(np.array_equal(one, np.round(one)) for one in oracle)
        return whole and all(float(np.max(np.abs(one), initial=0.0)) < EXACT_BELOW for one in magnitudes)

    # ---- Parameters

    def parameters(self) -> list[Array]:
        """Stored values of parameters and buffers."""
        return self.side.fetch("get_state", self.state) if self.state else []


def _shapes(case: Case | None) -> list[list[int]] | None:
    return None if case is None else [list(shape) for shape in case.inputs]
