"""Text that people read: numbers with the right digits, and model output made harmless and visible.

Nothing here escapes HTML: the template does, for everything. What is done here is what escaping cannot do: characters
that act (control, bidirectional, invisible) or cannot be encoded (lone surrogates) are replaced by a picture or their
number, and long text is cut in the middle with a sentence that says how much.
"""

from __future__ import annotations

import math
import re

SPACE = "\u00a0"
MINUS = "\u2212"

_ACTING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff0-\ufffb\ufffe\uffff"
    "\ud800-\udfff\U000e0000-\U000e0fff]"
)


def _picture(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"


def visible(text: str, limit: int = 2000) -> str:
    """At most about `limit` characters of `text`, every acting or invisible one shown.

    Example: visible("a\\x1b[31mb") == "a␛[31mb"; a longer text keeps two thirds of the limit from its start and one
    third from its end, around "… 9,998,000 characters cut …".
    """
    if len(text) > limit:
        head, tail = limit - limit // 3, limit // 3
        cut = len(text) - head - tail
        text = f"{text[:head]} … {cut:,} characters cut … {text[len(text) - tail :]}"
    return _ACTING.sub(_picture, text)


def short(value: float | None, digits: int = 3) -> str:
    """Up to three significant digits: 0.0013, 0.412, 143, 1,234, 3.2e−5; a dash where there is no number."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size == 0:
        return "0"
    if size >= 1e7 or size < 1e-4:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        if "." in mantissa:
            mantissa = mantissa.rstrip("0").rstrip(".")
        return f"{mantissa}e{int(exponent)}".replace("-", MINUS)
    if size >= 10 ** (digits - 1) or (value == int(value) and size >= 10):
        return f"{value:,.0f}".replace("-", MINUS)
    places = max(0, digits - 1 - math.floor(math.log10(size)))
    shown = f"{value:,.{places}f}"
    return (shown.rstrip("0").rstrip(".") if "." in shown else shown).replace("-", MINUS)


def count(value: float | None) -> str:
    return "–" if value is None else short(value) if value != int(value) else f"{int(value):,}".replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """0.912 -> "91.2 %"."""
    return "–" if value is None else f"{100 * value:z.{digits}f}{SPACE}%".replace("-", MINUS)


def points(value: float | None, digits: int = 1) -> str:
    """A difference of shares: 0.0104 -> "+1.0 points"."""
    return "–" if value is None else f"{100 * value:+z.{digits}f}{SPACE}points".replace("-", MINUS)


def span(low: float, high: float, scale: float = 1, digits: int | None = None) -> str:
    """An interval: "[89.3, 92.9]"."""

    def one(value: float) -> str:
        if digits is None:
            return short(value * scale)
        return f"{value * scale:z,.{digits}f}".replace("-", MINUS)

    return f"[{one(low)},{SPACE}{one(high)}]"


def duration(seconds: float | None) -> str:
    """75 -> "1 min 15 s"."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 60:
        return f"{seconds:.1f}{SPACE}s" if seconds < 10 else f"{seconds:.0f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60:,}{SPACE}h {minutes % 60}{SPACE}min"
