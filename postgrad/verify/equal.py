"""Whether two written answers are the same: their shape is compared here, and numbers; formulas go to `algebra`.

An answer is a tree: an unordered Bag ("7, 1", "\\{1, 7\\}", "\\pm 3", a union of intervals), an ordered Row whose
brackets count ("(1, 2)", "[1, 2)"), a Named value ("x = 3") or a Leaf. Two trees are the same where the shapes match and
every leaf does. math-verify has this too but finds {1, 2} equal to (1, 2), x + 1 = 5 equal to 5, and 1e-7 to 2e-7.

What is let pass: a missing name, unit or currency sign; "50%" for 0.5 and for 50; the braces of a set; a decimal of six
or more significant digits for the number that rounds to it. Nothing here runs for long or in another process.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from itertools import accumulate


class Prose(Exception):
    """The text is sentences, which cannot be compared."""


@dataclass(frozen=True)
class Leaf:
    """A formula, a number with its unit, or a word or two."""

    text: str


@dataclass(frozen=True)
class Named:
    name: str
    value: Tree
    text: str


@dataclass(frozen=True)
class Row:
    brackets: str
    items: tuple[Tree, ...]
    text: str


@dataclass(frozen=True)
class Bag:
    items: tuple[Tree, ...]
    text: str


Tree = Leaf | Named | Row | Bag
Compare = Callable[[str, str], bool]


def same(gold: Tree, answer: Tree, compare: Compare) -> bool:
    """Whether the trees match, asking `compare` about leaves."""
    if isinstance(gold, Named) and isinstance(answer, Named):
        return gold.name == answer.name and same(gold.value, answer.value, compare)
    if isinstance(gold, Named) and not is_relation(answer.text):
        return same(gold.value, answer, compare)
    if isinstance(answer, Named) and not is_relation(gold.text):
        return same(gold, answer.value, compare)
    if isinstance(gold, Row) and isinstance(answer, Row):
        return (
            gold.brackets == answer.brackets
            and len(gold.items) == len(answer.items)
            and all(same(g, a, compare) for g, a in zip(gold.items, answer.items, strict=True))
        )
    if not isinstance(gold, Row | Bag) and not isinstance(answer, Row | Bag):
        return is_relation(gold.text) == is_relation(answer.text) and compare(gold.text, answer.text)
    if (_INEQUALITY.search(gold.text) is None) != (_INEQUALITY.search(answer.text) is None):
        # An inequality may be answered by its interval, and the reverse; of other shapes only equal ones match.
        return compare(gold.text, answer.text)
    if isinstance(gold, Bag) or isinstance(answer, Bag):
        return _same_bag(_items(gold), _items(answer), compare)
    return False


def _items(tree: Tree) -> tuple[Tree, ...]:
    return tree.items if isinstance(tree, Bag) else (tree,)


def _same_bag(gold: tuple[Tree, ...], answer: tuple[Tree, ...], compare: Compare) -> bool:
    if len(gold) != len(answer):
        return False
    if all(isinstance(g, Named) for g in gold) != all(isinstance(a, Named) for a in answer):
        # "3, 4" for "x = 3, y = 4": without the names the order says which is which.
        names = {item.name for item in (*gold, *answer) if isinstance(item, Named)}
        if len(names) > 1:
            return all(same(g, a, compare) for g, a in zip(gold, answer, strict=True))
    left = list(answer)
    for g in gold:
        found = next((i for i, a in enumerate(left) if same(g, a, compare)), None)
        if found is None:
            return False
        del left[found]
    return True


# Reading

_LONGEST_ANSWER = 4000
"""Characters. The longest gold answer in the sets we measured on has 993."""
_DEEPEST = 40
"""Brackets within brackets: reading recurses on them."""


def read(written: str) -> Tree:
    """The tree of an answer as written. Raises Prose for sentences, ValueError for nothing and for too much."""
    if len(written) > _LONGEST_ANSWER:
        raise ValueError(f"of {len(written)} characters")
    text = normal(written)
    if not text:
        raise ValueError("empty")
    if _depth(text) > _DEEPEST:
        raise ValueError("nested too deeply")
    if _is_prose(text):
        raise Prose(text)
    return _tree(text)


def _tree(text: str) -> Tree:
    text = text.rstrip(" .:").lstrip(" :")
    if not _NUMBER.fullmatch(split_unit(text)[0]):
        parts = [part for piece in _split(text, {",", ";"}) for part in _signs(piece)]
        if len(parts) > 1:
            return Bag(tuple(map(_tree, parts)), text)
        pieces = _split(text, {r"\cup"})
        if len(pieces) > 1:
            return Bag(tuple(map(_tree, pieces)), text)
        sides = _split(text, {"=", r"\in"})
        if len(sides) > 1 and _NAME.fullmatch(sides[0]):
            return Named(sides[0], _tree(sides[-1]), text)
        if text.startswith(r"\{") and text.endswith(r"\}") and _encloses(text):
            return Bag(
                tuple(part for piece in _split(text[2:-2], {",", ";"}) for part in map(_tree, _signs(piece))), text
            )
        if text[:1] in ("(", "[") and text[-1:] in (")", "]") and _encloses(text):
            items = _split(text[1:-1], {",", ";"})
            if len(items) > 1:
                return Row(text[0] + text[-1], tuple(map(_tree, items)), text)
            if text[0] + text[-1] == "()":
                return _tree(text[1:-1])
    return Leaf(text)


_TOKEN = re.compile(r"\\(?:begin|end)\s*\{|\\[A-Za-z]+|\\.|.", re.DOTALL)
_OPENING = {"(", "[", "{", r"\{"}
_CLOSING = {")", "]", "}", r"\}"}


def _split(text: str, separators: set[str]) -> list[str]:
    """Split at separators that stand in no bracket and no environment."""
    pieces, depth, begin = [], 0, 0
    for token in _TOKEN.finditer(text):
        word = token[0]
        # \begin{ opens the environment and its own brace; \end{ closes the one and opens the other.
        depth += (word in _OPENING) - (word in _CLOSING) + 2 * word.startswith(r"\begin")
        if depth == 0 and word in separators:
            pieces.append(text[begin : token.start()])
            begin = token.end()
    return [piece.strip() for piece in (*pieces, text[begin:]) if piece.strip()]


def _depth(text: str) -> int:
    steps = ((token[0] in _OPENING) - (token[0] in _CLOSING) for token in _TOKEN.finditer(text))
    return max(accumulate(steps))


def _encloses(text: str) -> bool:
    """Whether the bracket that opens the text closes at its end, not before."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth += (token[0] in _OPENING) - (token[0] in _CLOSING)
        if depth == 0:
            return token.end() == len(text)
    return False


def _signs(text: str) -> list[str]:
    """Both values of a text with \\pm."""
    if r"\pm" not in text and r"\mp" not in text:
        return [text]
    upper = text.replace(r"\pm", "+").replace(r"\mp", "-")
    lower = text.replace(r"\pm", "-").replace(r"\mp", "+")
    return [upper.removeprefix("+").strip(), lower.removeprefix("+").strip()]


_NAME = re.compile(
    r"\\?[A-Za-z]+(?:\s*_\s*(?:\w|\{[^{}]*\}))?(?:\s*\^\s*(?:[A-Z]|\{[-\w]*\}|\\prime))?'*(?:\s*\([^()]*\))?"
    r"|\([A-Za-z, ]+\)|\|[^|]*\||\\text\s*\{[^{}]*\}|[A-Za-z]+\s*\([^=]*\)"
    r"|\\(?:angle|overline|triangle|operatorname|nabla|det|log|sin|cos|tan)\b[^=+]*|[-+\d\s().*/]+"
)
_INEQUALITY = re.compile(r"[<>]|\\(?:le|leq|leqslant|lt|ge|geq|geqslant|gt)(?![A-Za-z])")


def is_relation(text: str) -> bool:
    return len(_split(text, {"="})) > 1 or _INEQUALITY.search(text) is not None


# Spelling

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


_COMMANDS = re.compile(
    r"\\(?!text)[A-Za-z]+(?:\s*\{(?:array|[pbvBV]?matrix|aligned|cases)\}(?:\s*\{[lcr| ]*\})?)?|\\text"
)
_WORDS = re.compile(r"[A-Za-z]{4,}|\b(?:yes|no|odd|nan|inf)\b", re.IGNORECASE)


def _words(text: str) -> list[str]:
    return _WORDS.findall(_COMMANDS.sub(" ", text))


def is_words(text: str) -> bool:
    return bool(_words(text))


def _is_prose(text: str) -> bool:
    """Sentences, or words among formulas. Up to four words alone ("no solution") are an answer."""
    bare = split_unit(text)[0]
    words = _words(bare)
    if not words:
        return False
    parts = _split(bare, {",", ";"})
    if len(parts) > 1 and len(words) <= 4:
        return any(_is_prose(part) for part in parts)
    return len(bare.split()) > 4 or re.search(r"[\d=+^<>]|\\(?!text)[A-Za-z]", bare) is not None


# Leaves


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


def _units_agree(one: str, other: str) -> bool:
    """Either unit may be missing or abbreviate the other: same first letter, letters in order ("hr", "hours")."""
    short, long = sorted((one, other), key=len)
    if not short:
        return True
    letters = iter(long)
    return short[0] == long[0] and all(letter in letters for letter in short)


def quick(gold: str, answer: str) -> bool | None:
    """Whether two leaves are the same; None where it takes algebra."""
    gold, gold_unit = split_unit(gold)
    answer, answer_unit = split_unit(answer)
    if not _units_agree(gold_unit, answer_unit):
        return False
    if gold == answer:
        return True
    if _words(gold) or _words(answer):
        return _plain(gold) == _plain(answer)
    g, a = number(gold), number(answer)
    if g is None or a is None:
        return None if _same_case(gold, answer) else False
    if g.percent != a.percent:
        percent, other = (g, a) if g.percent else (a, g)
        return other.value in (percent.value, percent.value / 100)
    if g.digits is not None and a.digits is not None:
        return g.value == a.value
    return g.value == a.value or rounds_to(g, a.value) or rounds_to(a, g.value)


def _same_case(one: str, other: str) -> bool:
    """False for X against x. The algebra's reader folds case, and letters are names here."""
    letters = [set(re.findall(r"[A-Za-z]", _COMMANDS.sub(" ", text))) for text in (one, other)]
    folded = [{letter.lower() for letter in found} for found in letters]
    return folded[0] != folded[1] or letters[0] == letters[1]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"\\text|[^\w\s]", " ", text).casefold().split())


def rounds_to(rounded: Number, exact: Fraction) -> bool:
    if rounded.digits is None or rounded.digits < 6:
        return False
    return round(exact, len(rounded.written.partition(".")[2])) == rounded.value
