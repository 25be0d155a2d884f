"""Habits of answers that no verdict tells of: repeating, answering several times, answering without reasoning. No torch.

A reward that can be hacked is hacked by one of these, so they are measured at every step (train/source.py), whether or not
anything rewards or punishes them; evals/monitors.py looks at how they drift. arXiv 2509.15557 names the last two as what medical
RL was hacked by.

Everything here is a count over what was sampled: token ids for repetition, which is the same under every tokenizer and language;
the decoded text for answers, which are what the model meant for a reader.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Sequence

REASONING = 4
"""Letters and digits; fewer before the first answer are no reasoning ("ok")."""

_TAG = re.compile(r"</?think>")
_STATED = re.compile(
    r"(?im)^[\s*#>-]*(?:the\s+)?(?:final\s+|correct\s+)?answer[\s*]*(?:is\b[\s*]*[:=]?|[:=])[\s*]*(?P<said>\S[^\n]*)"
)
_LETTER = re.compile(r"\(?([A-J])\b(?!')")
MARKERS = re.compile(
    r"(?m)^\s*(?:step\s+)?\d+[.):]|^\s*[-*]\s|\b(?:first|second|third|next|then|finally)\b,", re.IGNORECASE
)
"""What passes for steps: numbered lines, list items, "First,"; after open-r1's `reasoning_steps_reward`."""


def repeated(pieces: Sequence[Hashable], ngram: int = 3) -> float:
    """1 - distinct n-grams / n-grams, in [0, 1): "a b a b a b a b" has 2 distinct of 6, 0.667. 0 where there is no n-gram."""
    grams = len(pieces) - ngram + 1
    if grams < 1:
        return 0.0
    distinct = len(set(zip(*(pieces[start : start + grams] for start in range(ngram)), strict=True)))
    return 1 - distinct / grams


def answers(text: str) -> list[tuple[int, str]]:
    r"""(place, answer) of every answer in the order given: boxes, or, in a text without one, lines as "Answer: C" behind </think>."""
    boxes = [(at, _squeezed(_braced(text, at + len("oxed{")))) for at in _places(text, "oxed{")]
    if boxes:
        return boxes
    thought, tag, said = text.rpartition("</think>")
    start = len(thought) + len(tag)
    return [(start + found.start(), _squeezed(found["said"])) for found in _STATED.finditer(said)]


def several_answers(text: str) -> bool:
    """Whether answers differ: a guess for everyone. The same one twice is one."""
    return len({answer for _, answer in answers(text)}) > 1


def without_reasoning(text: str) -> bool:
    """Whether an answer is given with fewer than `REASONING` letters and digits before it, tags aside.

    What stands behind </think> is an answer where no other is found. Without any answer it is False.
    """
    given = answers(text)
    end = given[0][0] if given else text.rfind("</think>")
    return end >= 0 and letters(text[:end]) < REASONING


def letters(text: str) -> int:
    """Letters and digits, tags aside."""
    return sum(character.isalnum() for character in _TAG.sub("", text))


def markers(text: str, pattern: re.Pattern[str] = MARKERS) -> int:
    """How many marks of steps a text has."""
    return sum(1 for _ in pattern.finditer(text))


def _places(text: str, piece: str) -> list[int]:
    return [found.start() for found in re.finditer(re.escape(piece), text)]


def _braced(text: str, start: int) -> str:
    """From behind an opening brace to its closing one; to the end where there is none."""
    depth = 1
    for place in range(start, len(text)):
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place]
    return text[start:]


def _squeezed(answer: str) -> str:
    """ "C. Aspirin" and "(C)" are "C"."""
    if letter := _LETTER.match(answer):
        return letter[1]
    return "".join(answer.split()).strip(".*")
