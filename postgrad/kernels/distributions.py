"""Values to check kernels on: each is where some dishonest or careless kernel shows.

A task brings values of its own (`get_inputs`, or a standard normal); the others are made from those, of the same shape.
Only floating arrays change: indices, masks and plain numbers stay what the task gave, drawn anew for every seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from postgrad.kernels.numeric import Array

Make = Callable[[np.random.Generator, Array], Array]


def _signs(rng: np.random.Generator, own: Array) -> Array:
    made: Array = own * rng.choice([-1.0, 1.0], own.shape)
    return made


def _outliers(rng: np.random.Generator, own: Array) -> Array:
    """A few elements at random places are 64 times as large: a truncated reduction that trusts light tails misses them."""
    made = own.copy()
    flat = made.reshape(-1)
    flat[rng.choice(flat.size, max(1, flat.size // 200), replace=False)] *= 64.0
    return made


def _heavy(rng: np.random.Generator, own: Array) -> Array:
    return np.clip(rng.standard_t(2, own.shape), -1e3, 1e3)


def _one_hot(rng: np.random.Generator, own: Array) -> Array:
    """One element of each row of the last axis is not zero."""
    made: Array = np.zeros(own.shape)
    if made.ndim:
        rows = made.reshape(-1, made.shape[-1])
        rows[np.arange(len(rows)), rng.integers(0, rows.shape[1], len(rows))] = 3.0 * rng.choice([-1.0, 1.0], len(rows))
    return made


def _sorted(rng: np.random.Generator, own: Array) -> Array:
    rising = np.sort(rng.standard_normal(own.shape), axis=-1) if own.ndim else own
    return rising if rng.random() < 0.5 else rising[..., ::-1]


def _integers(rng: np.random.Generator, own: Array) -> Array:
    """-1, 0, 1 and a few 2049 (2^11 + 1): exact in float32, not in TF32, float16 or bfloat16."""
    made = rng.integers(-1, 2, own.shape).astype(np.float64)
    flat = made.reshape(-1)
    flat[rng.choice(flat.size, max(1, flat.size // 100), replace=False)] = 2049.0
    return made


DISTRIBUTIONS: Mapping[str, Make] = {
    "own": lambda _, own: own,
    "signs": _signs,
    "scaled": lambda _, own: own * 32.0,
    "small": lambda _, own: own / 256.0,
    "shifted": lambda _, own: own + 3.0,
    "below": lambda _, own: own - 3.0,
    "outliers": _outliers,
    "heavy": _heavy,
    "sorted": _sorted,
    "one_hot": _one_hot,
    "bits": lambda rng, own: rng.integers(0, 2, own.shape).astype(np.float64),
    "integers": _integers,
}
"""Name -> (generator, the task's own values) -> values, float64."""
EXACT = ("bits", "integers")
"""Whose sums and products float32 holds exactly while they stay below 2^24."""
