"""Source texts that a model wrote: made harmless and short, tagged, and compared line by line."""

from __future__ import annotations

from difflib import SequenceMatcher

from postgrad.report.kernels.blocks import Diff, Line
from postgrad.report.text import visible

CONTEXT = 3
MAX_LINES = 1500
"""Of one text in a comparison, whose cost grows with their product."""
MAX_WIDTH = 400
"""Characters of one line."""


def lines(code: str, limit: int) -> tuple[list[str], str]:
    """Lines without acting characters, and a note of what was left out."""
    shown = visible(code, limit).expandtabs(4).split("\n")
    note = "" if len(code) <= limit else f"{len(code) - limit:,} of {len(code):,} characters are left out. "
    if len(shown) > MAX_LINES:
        note += f"{len(shown) - MAX_LINES:,} lines are left out. "
        shown = shown[:MAX_LINES]
    return [visible(line, MAX_WIDTH) for line in shown], note


def diff(reference: str, candidate: str, limit: int, title: str = "What it changes in the reference") -> Diff:
    """Unified, with three lines around each change."""
    (old, cut_old), (new, cut_new) = lines(reference, limit), lines(candidate, limit)
    made: list[Line] = []
    added = removed = 0
    for number, group in enumerate(SequenceMatcher(None, old, new).get_grouped_opcodes(CONTEXT)):
        if number:
            made.append(Line("@", "", "", "…"))
        for kind, a, b, c, d in group:
            if kind == "equal":
                made += [Line(" ", str(a + i + 1), str(c + i + 1), old[a + i]) for i in range(b - a)]
                continue
            made += [Line("-", str(i + 1), "", old[i]) for i in range(a, b)]
            made += [Line("+", "", str(i + 1), new[i]) for i in range(c, d)]
            added, removed = added + d - c, removed + b - a
    told = f"{added:,} lines added, {removed:,} taken away." if made else "The two texts are the same."
    notes = [f"The reference: {cut_old}"] * bool(cut_old) + [f"The kernel: {cut_new}"] * bool(cut_new)
    return Diff(title, made, " ".join([told, *notes]).strip())
