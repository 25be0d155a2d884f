"""How answers are written: one spelling for what is typeset alike, units apart from quantities, words apart from formulas.

Every pattern here runs on text that a model wrote: each is linear or runs on a bounded text (`equal.read` sees to that).
"""

from __future__ import annotations

import re

_SIGNS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "×": r"\times ", "·": r"\cdot ", "÷": "/", "±": r"\pm ", "√": r"\sqrt ",
        "π": r"\pi ", "∞": r"\infty ", "≤": r"\le ", "≥": r"\ge ", "∪": r"\cup ", "∈": r"\in ", "²": "^{2}", "³": "^{3}",
        "°": "", "€": "", "£": "", "\n": " ", "~": " ", "\xa0": " ",
    }
)  # fmt: skip
_SPELLINGS = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"^\s*(?i:the\s+)?(?i:solution|answer)s?\s+(?:is|are)\s*:?\s*", ""),
        (r"\\boxed\s*\{(.*)\}", r"\1"),
        (r"(?<=\d)(?:\\[,!]|\{,\}|,\\!)(?=\d{3})", ","),
        (r"\\?\$|(?<!\\)\\[()\[\]]", ""),
        (
            r"(?<!\\)\\(?:left|right|bigg?[lr]?|Bigg?[lr]?|displaystyle|limits|,|;|!|:|quad|qquad)(?![A-Za-z])\.?|(?<!\\)\\ ",
            " ",
        ),
        (r"\\langle(?![A-Za-z])", "("),
        (r"\\rangle(?![A-Za-z])", ")"),
        (r"\\(?:text(?:bf|rm|it|normal|sf)?|mbox|hbox)\s*\{", r"\\text{"),
        (r"\\(?:mathbf|mathit|mathrm|boldsymbol|bf|rm|vec|overrightarrow|operatorname)\s*\{([A-Za-z])\}", r"\1"),
        (r"\\mathrm\s*\{", r"\\text{"),
        (r"(\\text\{[^{}]*)\}\s*/\s*\\text\{", r"\1/"),
        (r"\\text\{\s*(?:and|or),?\s*\}|(?<![A-Za-z])(?:and|or)(?![A-Za-z])", ","),
        (r",\s*,", ","),
        (r"\\[dtc]frac(?![A-Za-z])", r"\\frac"),
        (r"\\frac\s*(\d)\s*(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac\s*(\d)\s*\{", r"\\frac{\1}{"),
        (r"(\\frac\s*\{[^{}]*\})\s*(\d)", r"\1{\2}"),
        (r"\\sqrt\s*(\d|[A-Za-z])", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])sqrt\s*\(([^()]*)\)", r"\\sqrt{\1}"),
        (r"(?<![\\A-Za-z])(pi|infty|sin|cos|tan|log|ln|exp)(?![A-Za-z])", r"\\\1 "),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ|\{\s*\})|\\degree(?![A-Za-z])|\\text\{\s*degrees?\s*\}", ""),
        (r"\\%|(?<=\d)\s*\\?text\{\s*percent\s*\}|(?<=\d)\s*percent(?![A-Za-z])", "%"),
        (r"\*\*(?=\S)(.*\S)\*\*$", r"\1"),
        (r"\*\*", "^"),
        (r"(?<=\d)\s*(?i:([ap])\.?m)(?![A-Za-z])\.?", r"\\text{\1m}"),
        (r"(?<=\d) (?=\d{3}(?![\d/]))", ","),
        (r"_\s*(\d)", r"_{\1}"),
        (r"\^\s*(-?\d{2,})", r"^{\1}"),
        (r"\\(leq|leqslant)(?![A-Za-z])", r"\\le"),
        (r"\\(geq|geqslant)(?![A-Za-z])", r"\\ge"),
        (r"\s+", " "),
    )
]


_TOWER = re.compile(r"\^(\d+(?:\^\d+)+)")
"""TeX refuses 2^3^2 and math-verify reads (2^3)^2; it means 2^(3^2)."""


def normal(written: str) -> str:
    """One spelling for what is typeset alike: fractions, signs, spaces, fonts, degrees, currency."""
    text = _TOWER.sub(
        lambda tower: "^{" + tower[1].replace("^", "^{") + "}" * tower[1].count("^") + "}", written.translate(_SIGNS)
    )
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    return text.strip().rstrip(".,;:").strip()


_UNIT_NAMES = r"(?:[A-Za-z]{4,}|cm|mm|km|m|ft|in|kg|mg|g|mL|ml|mph|min|sec|hrs?|days?|yd|lbs?|oz)(?:\^\{?\d\}?)?"
_UNIT = re.compile(
    rf"(?P<base>.*\S)\s*(?:\\text\{{(?P<set>[^{{}}]*)\}}(?P<power>\s*\^\s*\{{?\d\}}?)?"
    rf"|(?<=[\d}}\)%\s]) (?P<bare>{_UNIT_NAMES}(?:(?:\s+|/|\s*per\s+){_UNIT_NAMES})*))",
)


def split_unit(text: str) -> tuple[str, str]:
    """A quantity and its unit: "5 \\text{ cm}" is ("5", "cm"). The unit is "" where there is none."""
    match = _UNIT.fullmatch(text)
    if match is None or match["base"].count("{") != match["base"].count("}"):
        return text, ""
    unit = (match["set"] or match["bare"] or "") + (match["power"] or "")
    return match["base"].strip(), re.sub(r"[^a-z\d]", "", unit.lower())


def units_agree(one: str, other: str) -> bool:
    """Either unit may be missing or abbreviate the other: same first letter, letters in order ("hr", "hours")."""
    short, long = sorted((one, other), key=len)
    if not short:
        return True
    letters = iter(long)
    return short[0] == long[0] and all(letter in letters for letter in short)


_COMMANDS = re.compile(
    r"\\(?!text)[A-Za-z]+(?:\s*\{(?:array|[pbvBV]?matrix|aligned|cases)\}(?:\s*\{[lcr| ]*\})?)?|\\text"
)
_WORDS = re.compile(r"[A-Za-z]{4,}|\b(?:yes|no|odd|nan|inf)\b", re.IGNORECASE)


def words(text: str) -> list[str]:
    """What reads as words: runs of four letters, and a few short ones that are answers."""
    return _WORDS.findall(_COMMANDS.sub(" ", text))


def same_case(one: str, other: str) -> bool:
    """False for X against x. The algebra's reader folds case, and letters are names here."""
    letters = [set(re.findall(r"[A-Za-z]", _COMMANDS.sub(" ", text))) for text in (one, other)]
    folded = [{letter.lower() for letter in found} for found in letters]
    return folded[0] != folded[1] or letters[0] == letters[1]


def plain(text: str) -> str:
    """Words without case and punctuation."""
    return " ".join(re.sub(r"\\text|[^\w\s]", " ", text).casefold().split())
