"""One task: what is computed, on which arrays, by which naive text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Language = Literal["cpp", "triton"]


@dataclass(frozen=True, slots=True)
class Input:
    name: str
    """The pointer's name in the reference and the argument's in the statement."""
    dims: tuple[str, ...]
    """Names from the task's dims, row-major; empty: one positive number."""


@dataclass(frozen=True, slots=True)
class Task:
    id: str
    family: str
    dims: tuple[str, ...]
    """What n[0], n[1], ... are called."""
    inputs: tuple[Input, ...]
    """in[0], in[1], ..."""
    output: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    """Values of `dims` to check at: small and odd ones, where tails and edges show, and last `timed`."""
    timed: tuple[int, ...]
    """Values of `dims` to time at: the reference needs about a millisecond or more on one core."""
    quick: tuple[int, ...]
    """Values of `dims` to time at where thousands of kernels are judged, in training: about a fifth of that."""
    reference: str
    """Naive and right. C++: separate passes, no thought for the order of loops; Python: PyTorch, an operation a line."""
    statement: str
    """Python, `def function(xp, ...)`: the inputs by name, as arrays of `xp`, which is numpy or torch."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """split, composition, constants, difficulty: what reports group by."""
    language: Language = "cpp"
    """What kernels are written in; the reference of Triton kernels is Python."""

    def shapes(self, size: Sequence[int]) -> tuple[list[tuple[int, ...]], tuple[int, ...]]:
        """Of the inputs, in order, and of the output, where `dims` have these values; () is one number."""
        lengths = dict(zip(self.dims, size, strict=True))
        inputs = [tuple(lengths[name] for name in each.dims) for each in self.inputs]
        return inputs, tuple(lengths[name] for name in self.output)


DISTRIBUTIONS: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], Any]] = {
    "normal": lambda rng, shape: rng.standard_normal(shape),
    "below": lambda rng, shape: rng.standard_normal(shape) - 3,
    "above": lambda rng, shape: rng.standard_normal(shape) + 3,
    "small": lambda rng, shape: rng.standard_normal(shape) * 0.01,
    "outliers": lambda rng, shape: rng.standard_normal(shape) * np.where(rng.random(shape) < 0.02, 8, 0.5),
    "bits": lambda rng, shape: rng.integers(0, 2, shape),
}
"""Name -> values of an array's elements. Sums of "bits" are exact in float32 as long as they are below 2^24."""


def inputs(task: Task, size: Sequence[int], distribution: str, seed: int) -> list[Array]:
    """Fresh float32 arrays for in[0], in[1], ...; a function of its arguments. Numbers (no dims) are between 0.5 and 2."""
    if distribution not in DISTRIBUTIONS:
        raise ValueError(f"distribution={distribution!r} is not one of {', '.join(DISTRIBUTIONS)}")
    made = []
    for place, shape in enumerate(task.shapes(size)[0]):
        rng = np.random.default_rng([seed, place, list(DISTRIBUTIONS).index(distribution)])
        values = DISTRIBUTIONS[distribution](rng, shape) if shape else rng.uniform(0.5, 2, (1,))
        made.append(np.ascontiguousarray(values, dtype=np.float32))
    return made


def oracle(task: Task, arrays: Sequence[Array]) -> NDArray[np.float64]:
    """What the kernel should write, from the statement in float64; the shape of `task.output`."""
    names: dict[str, Any] = {}
    exec(task.statement, names)  # our own text, never a model's
    with np.errstate(over="ignore"):  # 1 / (1 + exp(1000)) is 0
        found = names["function"](np, *(array.astype(np.float64) for array in arrays))
    return np.asarray(found, dtype=np.float64)
