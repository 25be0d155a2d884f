"""Where the answer stands in a completion.

`boxed` reads the last \\boxed{...} with balanced braces; `final` also reads the usual closing forms ("#### 72",
"A: 72", "the answer is 72") and, failing those, the last formula or number. Both prefer what follows </think>.

Departures from the usual regexes: one pass over the braces, so a completion of ten thousand unclosed boxes costs no
more than any other; boxes joined only by commas, "and" or "or" are one answer with several parts, so that
"\\boxed{5} or \\boxed{7}" does not pass for either.
"""

from __future__ import annotations

import re

_BRACES = re.compile(r"\\boxed\s*\{|\\.|[{}]", re.DOTALL)
_JOINT = re.compile(r"(?:\s|\$|\\[()\[\],;]|,|;|\band\b|\bor\b|\\text\s*\{\s*(?:and|or)\s*\})*")


def boxed(text: str) -> str | None:
    """The content of the last box; None where no box is closed."""
    boxes = _boxes(text)
    answered = text.rfind("</think>")
    boxes = [box for box in boxes if box[0] > answered] or boxes
    if not boxes:
        return None
    parts = [boxes.pop()]
    while boxes and _JOINT.fullmatch(text, boxes[-1][2], parts[0][0]):
        parts.insert(0, boxes.pop())
    return ", ".join(text[start:end].strip() for _, start, end in ((a, b, c - 1) for a, b, c in parts))


def _boxes(text: str) -> list[tuple[int, int, int]]:
    """The outermost closed boxes in order: where each begins, where its content begins, and where it ends."""
    boxes: list[tuple[int, int, int]] = []
    opened: list[re.Match[str]] = []
    for brace in _BRACES.finditer(text):
        if brace[0].endswith("{") and brace[0] != r"\{":
            opened.append(brace)
        elif brace[0] == "}" and opened:
            opening = opened.pop()
            if opening[0] != "{":
                while boxes and boxes[-1][0] > opening.start():
                    boxes.pop()
                boxes.append((opening.start(), opening.end(), brace.end()))
    return boxes


_FORMS = re.compile(
    r"####[ \t]*(?P<hashes>[^\n]+)"
    r"|^[ \t]*A:[ \t]*(?P<line>[^\n]+)"
    r"|\banswer(?:\*\*)?[ \t]*(?:is|:|=)(?:\*\*)?[ \t]*:?[ \t]*(?P<said>[^\n]+)",
    re.IGNORECASE | re.MULTILINE,
)
_NUMBER = r"[-−]?[$€£]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:/\d+)?%?|[-−]?\.\d+"
_FORMULA = re.compile(rf"(?<!\\)\$\$?(.+?)(?<!\\)\$\$?|\\\((.+?)\\\)|\\\[(.+?)\\\]|({_NUMBER})", re.DOTALL)
_SENTENCE_END = re.compile(r"[.!?](?:\s|$)")


def final(text: str) -> str | None:
    """The box if there is one, else the last closing form, else the last formula or number."""
    inside = boxed(text)
    if inside is not None:
        return inside
    text = text.rpartition("</think>")[2]
    forms = list(_FORMS.finditer(text))
    if forms:
        stated = _SENTENCE_END.split(forms[-1][forms[-1].lastgroup or 0], maxsplit=1)[0]
        return _only_value(stated)
    values = [_value(match) for match in _FORMULA.finditer(text)]
    return values[-1] if values else None


def _only_value(stated: str) -> str | None:
    """The one value of "18 dollars a day"; a statement with several ("5 or 7") is left whole, hedges and all."""
    stated = stated.strip().strip("*").strip()
    values = [_value(match) for match in _FORMULA.finditer(stated)]
    prose = re.search(r"[A-Za-z]{2}", _FORMULA.sub("", stated))
    return values[0] if len(values) == 1 and prose else stated or None


def _value(match: re.Match[str]) -> str:
    return next(group for group in match.groups() if group is not None).strip()
