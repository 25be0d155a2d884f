"""The value of a number as written: "1,000", "-.5", "12\\frac{3}{5}", "8.4 \\times 10^{-3}", "50%". Exact, as a Fraction."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property


@dataclass(frozen=True)
class Number:
    value: Fraction
    written: str
    percent: bool

    @cached_property
    def digits(self) -> int | None:
        """Significant digits of a decimal; None for whole numbers and fractions, which are exact."""
        if not re.fullmatch(r"-?[\d,]*\.\d+", self.written):
            return None
        return len(re.sub(r"\D", "", self.written).lstrip("0"))


_DECIMAL = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?|\.\d+"
_NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<ten>10\^\{{?\s*(?P<alone>-?\d+)\s*\}}?)"
    rf"|(?P<mantissa>{_DECIMAL})\s*(?:(?:\\times|\\cdot|x|\*)\s*10\s*\^\s*\{{?\s*(?P<power>[-+]?\d+)\s*\}}?|[eE](?P<e>[-+]?\d+))"
    rf"|(?:(?P<whole>\d+)\s*)?\\frac\s*\{{\s*(?P<top>-?(?:{_DECIMAL}))\s*\}}\s*\{{\s*(?P<under>-?(?:{_DECIMAL}))\s*\}}"
    rf"|(?:(?P<units>\d+)\s+)?(?P<over>{_DECIMAL})\s*/\s*(?P<below>{_DECIMAL})"
    rf"|(?P<plain>{_DECIMAL}))\s*(?P<percent>%?)"
)
LONGEST = 300
"""Digits, and powers of ten, up to which numbers are worked out in this process: beyond, they could hang it."""


def number(text: str) -> Number | None:
    """The value of a plain number, fraction, mixed number or power of ten; None for anything else."""
    match = _NUMBER.fullmatch(text)
    if match is None or len(text) > LONGEST:
        return None
    power = int(match["alone"] or match["power"] or match["e"] or 0)
    if abs(power) > LONGEST:
        return None
    value = _decimal(match["mantissa"] or match["plain"] or match["top"] or match["over"] or "1")
    under = _decimal(match["under"] or match["below"] or "1")
    if under == 0:
        return None
    value = Fraction(match["whole"] or match["units"] or 0) + value / under
    value *= Fraction(10) ** power * (-1 if match["sign"] == "-" else 1)
    return Number(value, text.rstrip("% "), bool(match["percent"]))


def _decimal(text: str) -> Fraction:
    return Fraction(text.replace(",", "").rstrip("."))


def rounds_to(rounded: Number, exact: Fraction) -> bool:
    """Whether a decimal of six or more significant digits is this number rounded to its places."""
    if rounded.digits is None or rounded.digits < 6:
        return False
    return round(exact, len(rounded.written.partition(".")[2])) == rounded.value
