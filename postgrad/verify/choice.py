"""Multiple choice, A to J: one letter, or nothing.

The last box counts, else the last statement ("the answer is (C)", "Answer: C"), else a reply that is only a letter or
ends in one in bold or brackets. Where that place names more than one letter ("A or C") there is NO_ANSWER: a hedge is
not a choice. A letter in running text is never taken: "A" opens many sentences.

Who knows the answer knows it wherever it stands. `turned` asks the same question with its options moved on by some places,
and `consistent` says whether the same option, by its text, was chosen each time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from postgrad.options import LETTERS, asked, question
from postgrad.records import Graded, Problem, Status, Trace, Verdict
from postgrad.verify import extract

_FONT = re.compile(r"\\(?:text|mathrm|mathbf|textbf)\s*\{([^{}]*)\}")
_LETTER = r"(?<![A-Za-z0-9'\\])[A-J](?![A-Za-z0-9'])"
_STATED = re.compile(
    r"\b(?:answer|choice|option)(?:\*\*)?\s*(?:is|:|=|(?:should|would|must) be)?[\s*:]*"
    r"(?:option|choice)?\s*(?P<said>[^\n.;]*)",
    re.IGNORECASE,
)
_OPENS = re.compile(rf"[\s*$(\[]*(?P<first>{_LETTER})(?P<after>[^\n]*)")
_HEDGE = re.compile(rf"[\s*)$\]]*(?:,|/|&|\b(?:or|and)\b)[\s*$(\[]*(?:either\s+)?{_LETTER}")
_MARKED = re.compile(rf"\*\*\(?({_LETTER})\)?[.:)]?(?:[^*\n]*)\*\*|\(({_LETTER})\)")


def choice(problem: Problem, trace: Trace) -> Verdict:
    gold = _one(problem.gold or "")
    if gold is None:
        return Verdict(Status.UNCHECKED, None, f"gold not a letter: {problem.gold!r}")
    answer = chosen(trace.text)
    if answer is None:
        return Verdict(Status.NO_ANSWER, None, "no single letter found")
    right = answer == gold
    return Verdict(Status.CORRECT if right else Status.WRONG, float(right), f"{answer} against gold {gold}")


def chosen(text: str) -> str | None:
    """The letter that a completion settles on; None where it gives none or several."""
    inside = extract.boxed(text)
    if inside is not None:
        return _one(_FONT.sub(r"\1", inside))
    text = _FONT.sub(r"\1", text.rpartition("</think>")[2]).strip()
    stated = [letter for said in _STATED.finditer(text) if (letter := _opening(said["said"])) is not None]
    if stated:
        return _single(stated[-1])
    whole = _one(text)
    if whole is not None:
        return whole
    marked = {bold or bracketed for bold, bracketed in _MARKED.findall(text.rpartition("\n")[2])}
    return marked.pop() if len(marked) == 1 else None


def _one(text: str) -> str | None:
    """The letter of "C", "(C)", "C. an option" or "**C**"."""
    opening = _opening(text)
    if opening is None or not re.match(r"[\s*)\].:$]*$|[*)\]$]*[.:)]\s", opening["after"]):
        return None
    return _single(opening)


def _opening(text: str) -> re.Match[str] | None:
    return _OPENS.match(text)


def _single(opening: re.Match[str]) -> str | None:
    return None if _HEDGE.match(opening["after"]) else opening["first"]


# ---- The order of options -------------------------------------------------------------------------------------------


def turned(problem: Problem, places: int) -> Problem:
    """The problem with its options moved on by `places`, the first of them to the front again, and its gold with them.

    Its id is `<id>@<places>`; a reference would name the wrong letter and is left out. Raises ValueError where the prompt does not
    end in lettered options, or the gold is none of them.
    """
    message = problem.prompt[-1]
    found, gold = asked(message.content), _one(problem.gold or "")
    if found is None or gold is None or LETTERS.index(gold) >= len(found.options):
        raise ValueError(
            f"problem {problem.id!r}: wanted a prompt that ends in lines of options 'A. ...' and one of their letters as gold, got "
            f"{message.content[-80:]!r} with gold {problem.gold!r}"
        )
    count = len(found.options)
    options = [found.options[(at - places) % count] for at in range(count)]
    return replace(
        problem,
        id=f"{problem.id}@{places}",
        prompt=(*problem.prompt[:-1], replace(message, content=question(found.stem, options))),
        gold=LETTERS[(LETTERS.index(gold) + places) % count],
        reference=None,
    )


def content(problem: Problem, trace: Trace) -> str | None:
    """The text of the option that a trace settles on; None where it settles on none of this problem's."""
    found, letter = asked(problem.prompt[-1].content), chosen(trace.text)
    if found is None or letter is None or LETTERS.index(letter) >= len(found.options):
        return None
    return found.options[LETTERS.index(letter)]


def consistent(turns: Sequence[Graded]) -> bool | None:
    """Whether one question's turns got the same option by its text; None where one of them is unchecked.

    A trace without an answer agrees with nothing, so a model that never answers is not consistent.
    """
    if any(item.verdict.status is Status.UNCHECKED for item in turns):
        return None
    said = {content(item.problem, item.trace) for item in turns}
    return len(said) == 1 and None not in said
