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
from itertools import accumulate

from postgrad.verify.numeral import number, rounds_to
from postgrad.verify.spelling import normal, plain, same_case, split_unit, units_agree, words


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
    if number(split_unit(text)[0]) is None:
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


def _is_prose(text: str) -> bool:
    """Sentences, or words among formulas. Up to four words alone ("no solution") are an answer."""
    bare = split_unit(text)[0]
    found = words(bare)
    if not found:
        return False
    parts = _split(bare, {",", ";"})
    if len(parts) > 1 and len(found) <= 4:
        return any(_is_prose(part) for part in parts)
    return len(bare.split()) > 4 or re.search(r"[\d=+^<>]|\\(?!text)[A-Za-z]", bare) is not None


def quick(gold: str, answer: str) -> bool | None:
    """Whether two leaves are the same; None where it takes algebra."""
    gold, gold_unit = split_unit(gold)
    answer, answer_unit = split_unit(answer)
    if not units_agree(gold_unit, answer_unit):
        return False
    if gold == answer:
        return True
    if words(gold) or words(answer):
        return plain(gold) == plain(answer)
    g, a = number(gold), number(answer)
    if g is None or a is None:
        return None if same_case(gold, answer) else False
    if g.percent != a.percent:
        percent, other = (g, a) if g.percent else (a, g)
        return other.value in (percent.value, percent.value / 100)
    if g.digits is not None and a.digits is not None:
        return g.value == a.value
    return g.value == a.value or rounds_to(g, a.value) or rounds_to(a, g.value)
