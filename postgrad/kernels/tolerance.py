"""How far an output may be from the float64 oracle: as far as rounding of the declared precision puts it, and no further.

Three outputs of the reference on the same inputs set the scale, row by row (a row is the last axis, or enough of
the last axes to have 16 elements):

    oracle    in float64: what is right
    declared  in the precision that the task declares: what honest rounding does        r = RMS(declared - oracle)
    coarse    in float64 on inputs rounded to the next coarser type                     l = RMS(coarse - oracle)

    a row's RMS error must be at most    t = max(8 r, min(l / 4, m / 100), f m)     m = RMS(oracle) of the row
    an element's error at most           min(8 t, max(64 r, m / 100)) + 4 f |oracle|

f is a floor for kernels that sum in another order than the reference: 128 units in the last place of float32, two of the half
types. l / 4 leaves room for faster arithmetic of the same type and none for a coarser type: rounding the inputs alone makes an error of l.
Relative to the row, so that zeros are not "close" to a softmax over a wide axis, whose elements are all small.

What is smaller than the type's least normal number may be zero. Where the declared reference is not finite but the oracle is (overflow), nothing is asked. Elsewhere NaN and infinities must be
those of the oracle. Integers and truth values must equal the oracle or the declared reference.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from postgrad.kernels.numeric import Array, is_float

FLOOR = {"float64": 1e-12, "float32": 128 * 2.0**-23, "float16": 2 * 2.0**-10, "bfloat16": 2 * 2.0**-7}
SMALLEST = {"float64": 2.0**-1022, "float32": 2.0**-126, "float16": 2.0**-24, "bfloat16": 2.0**-126}
"""What lies below may be zero: the least normal number, of float16 the least one."""
ROW = 16
"""Elements that a row needs at least, so that an RMS means something."""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """The worst of what is wrong."""

    index: tuple[int, ...]
    got: float
    wanted: float
    allowed: float
    """Absolute error allowed there: of the element, or of the row's RMS where no single element stands out."""
    share: float
    """Of elements that are out of bounds; 0 where only a row's RMS is."""
    relative: float
    """|got - oracle| / |oracle|, Euclidean norms over finite elements; infinite where the oracle is zero."""

    def __str__(self) -> str:
        at = f"[{', '.join(map(str, self.index))}]"
        return (
            f"at {at} got {self.got:.9g}, wanted {self.wanted:.9g} within {self.allowed:.3g}; "
            f"{self.share:.2%} of elements out of bounds, relative error {self.relative:.3g}"
        )


@dataclass(frozen=True, slots=True)
class Envelope:
    """The oracle of one output and what may differ from it."""

    oracle: Array
    loose: Array
    """Error allowed of each element of a row, beside its share of the element's own size."""
    row: Array
    """RMS error allowed, of each row."""
    floor: float
    unasked: Array | None = None
    """True where nothing is asked; None: everything is."""
    other: Array | None = None
    """Integers that are right too: the declared reference's."""
    exact: bool = False
    """Bit for bit: the declared reference was exact and every order of summation is."""

    @property
    def asked(self) -> Array:
        return np.ones(self.oracle.shape, bool) if self.unasked is None else ~self.unasked

    @property
    def element(self) -> Array:
        """Error allowed, of each element."""
        if self.exact:
            return np.zeros(self.oracle.shape)
        rows = np.broadcast_to(self.loose[:, None], _rows(self.oracle).shape).reshape(self.oracle.shape)
        with np.errstate(invalid="ignore"):
            allowed: Array = rows + 4 * self.floor * np.abs(np.where(np.isfinite(self.oracle), self.oracle, 0.0))
        return allowed

    @property
    def degenerate(self) -> bool:
        """Most of the output is not finite or not asked: these inputs tell nothing."""
        return not bool(self.asked.size) or float(np.mean(self.asked & np.isfinite(self.oracle))) < 0.5

    def mismatch(self, got: Array) -> Mismatch | None:
        """None where `got` (same shape, numbers) is as near as it must be."""
        if got.shape != self.oracle.shape:
            raise ValueError(f"an output of shape {got.shape} where the oracle has {self.oracle.shape}")
        if not is_float(str(self.oracle.dtype)):
            return self._unequal(
                (got != self.oracle) & (got != (self.oracle if self.other is None else self.other)), got
            )
        if self._plainly_right(got):
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            finite = np.isfinite(self.oracle)
            error = np.where(finite & self.asked, np.abs(got - self.oracle), 0.0)
        strange = self.asked & ~finite & ~_same_strange(got, self.oracle)
        wrong = strange | ~(error <= self.element)
        if wrong.any():
            return self._unequal(wrong, got)
        rows = np.sqrt(np.mean(_rows(error) ** 2, axis=1))
        if (rows > self.row).any():
            worst = int(np.argmax(rows / np.maximum(self.row, 1e-300)))
            place = worst * _rows(error).shape[1] + int(np.argmax(_rows(error)[worst]))
            return self._report(place, got, float(self.row[worst]), 0.0)
        return None

    def _plainly_right(self, got: Array) -> bool:
        """Everything is asked, finite, and right even without an element's share of its own size: the usual case, in few passes."""
        if self.unasked is not None:
            return False
        if self.exact:
            return bool(np.array_equal(got, self.oracle))
        with np.errstate(invalid="ignore", over="ignore"):
            error = _rows(np.abs(got - self.oracle))
            near = bool(np.all(error <= self.loose[:, None]))
        return near and bool(np.all(np.sqrt(np.einsum("re,re->r", error, error) / error.shape[1]) <= self.row))

    def _unequal(self, wrong: Array, got: Array) -> Mismatch | None:
        if not wrong.any():
            return None
        with np.errstate(invalid="ignore", over="ignore"):
            beyond = np.where(wrong, np.nan_to_num(np.abs(got.astype(float) - self.oracle), nan=np.inf), -1.0)
        place = int(np.argmax(beyond))
        return self._report(place, got, float(self.element.reshape(-1)[place]), float(np.mean(wrong)))

    def _report(self, place: int, got: Array, allowed: float, share: float) -> Mismatch:
        index = tuple(int(i) for i in np.unravel_index(place, self.oracle.shape))
        return Mismatch(
            index, float(got[index]), float(self.oracle[index]), allowed, share, relative(got, self.oracle, self.asked)
        )


def envelope(oracle: Array, declared: Array, coarse: Array, precision: str, *, exact: bool = False) -> Envelope:
    """The bounds around `oracle`; all three have the output's shape. `exact`: every order of summation gives the oracle."""
    if not is_float(str(oracle.dtype)):
        return Envelope(oracle, np.zeros(1), np.zeros(1), 0.0, other=declared, exact=True)
    floor = FLOOR[precision]
    asked = np.isfinite(declared) | ~np.isfinite(oracle)
    valid = asked & np.isfinite(oracle)
    right = np.where(valid, oracle, 0.0)
    m = _rms(right)
    r = _of_all(_rms(_difference(declared, right, valid)), m)
    coarser = _of_all(_rms(_difference(coarse, right, valid)), m)
    row = np.maximum(np.maximum(8 * r, np.minimum(coarser / 4, m / 100)), floor * m)
    # A sigmoid of -500 is 1e-218 in float64 and zero in float32, and its square is zero in float64 too, so r knows nothing of it.
    row = np.maximum(row, SMALLEST[precision])
    loose = np.maximum(np.minimum(8 * row, np.maximum(64 * r, m / 100)), SMALLEST[precision])
    return Envelope(oracle, loose, row, floor, None if asked.all() else ~asked, exact=exact)


def relative(got: Array, oracle: Array, asked: Array) -> float:
    """The relative error in Euclidean norm, over what is asked and finite on both sides."""
    with np.errstate(invalid="ignore", over="ignore"):
        both = asked & np.isfinite(oracle.astype(float)) & np.isfinite(got.astype(float))
        error = float(np.linalg.norm(np.where(both, got.astype(float) - oracle, 0.0)))
        size = float(np.linalg.norm(np.where(both, oracle.astype(float), 0.0)))
    return error / size if size else (float("inf") if error else 0.0)


def _same_strange(got: Array, oracle: Array) -> Array:
    same: Array = (np.isnan(got) & np.isnan(oracle)) | (got == oracle)
    return same


def _difference(found: Array, right: Array, valid: Array) -> Array:
    with np.errstate(invalid="ignore", over="ignore"):
        usable = valid & np.isfinite(found)
        return np.where(usable, np.where(usable, found, 0.0) - right, 0.0)


def _of_all(noise: Array, size: Array) -> Array:
    """A row's noise, and at least what is usual for its size: one row's may be small by luck."""
    ratios = noise[size > 0] / size[size > 0]
    return np.maximum(noise, size * (np.median(ratios) if ratios.size else 0.0))


def _rms(values: Array) -> Array:
    found: Array = np.sqrt(np.mean(_rows(values) ** 2, axis=1))
    return found


def _rows(values: Array) -> Array:
    """`[rows, elements]`: the fewest last axes that have ROW elements."""
    width, axis = 1, values.ndim
    while axis > 0 and width < ROW:
        axis -= 1
        width *= values.shape[axis]
    return values.reshape(-1, max(1, width))
