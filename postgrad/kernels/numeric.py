"""Element types and their precision, in numpy alone: the grader reads and writes raw bytes of tensors that it never owns.

numpy has no bfloat16: such arrays are stored as the upper 16 bits of a float32 (uint16) and computed on as float64.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]

STORAGE: Mapping[str, type] = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": np.uint16,
    "int64": np.int64,
    "int32": np.int32,
    "int16": np.int16,
    "int8": np.int8,
    "uint8": np.uint8,
    "bool": np.bool_,
}
"""Torch's name of an element type -> the numpy type whose bytes it shares."""
BITS: Mapping[str, int] = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}
"""Significant bits, the implicit one included."""
BITS_BELOW: Mapping[str, int] = {"float64": 24, "float32": 11, "float16": 8, "bfloat16": 4}
"""Those of the next coarser type that hardware computes in: float32, TF32 and float16, bfloat16, float8 (e4m3)."""


def is_float(dtype: str) -> bool:
    return dtype in BITS


def stored(values: Array, dtype: str) -> Array:
    """`values` rounded to `dtype`, in the numpy type that has its bytes. Raises ValueError for a type not known here."""
    if dtype not in STORAGE:
        raise ValueError(f"element type {dtype!r} is not one of {', '.join(STORAGE)}")
    if dtype != "bfloat16":
        with np.errstate(over="ignore"):
            return np.asarray(values).astype(STORAGE[dtype], copy=False)
    with np.errstate(over="ignore"):
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    # To nearest, ties to even; a NaN stays one.
    rounded = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where((bits & 0x7FFFFFFF) > 0x7F800000, np.uint16(0x7FC0), rounded)


def numbers(raw: Array, dtype: str) -> Array:
    """What stored elements mean: float64 for floating types, the array itself for others."""
    if dtype == "bfloat16":
        return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    # What a kernel leaves unwritten may be any bits, signalling NaN too.
    with np.errstate(invalid="ignore"):
        return raw.astype(np.float64) if is_float(dtype) else raw


def rounded(values: Array, bits: int) -> Array:
    """float64 values with only `bits` significant bits; the exponent's range is not narrowed."""
    fraction, exponent = np.frexp(values)
    result: Array = np.ldexp(np.round(np.ldexp(fraction, bits)), exponent - bits)
    return result
