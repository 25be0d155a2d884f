"""A question with options, as one text: the stem, then a line for each option, "A. text".

The readers of data and the domains write it, the verifier reads it back to ask the same in another order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

LETTERS = "ABCDEFGHIJ"


class Asked(NamedTuple):
    stem: str
    """What stands before the options."""
    options: tuple[str, ...]


def question(stem: str, options: Sequence[str]) -> str:
    """The one form of a question here: its options behind it, a line each, "A. text". `asked` reads it back.

    Raises ValueError for fewer than two options, more than letters, or one that would read as several.
    """
    if not 2 <= len(options) <= len(LETTERS):
        raise ValueError(f"got {len(options)} options, wanted 2 to {len(LETTERS)}")
    written = stem + "".join(f"\n{letter}. {option}" for letter, option in zip(LETTERS, options, strict=False))
    if asked(written) != Asked(stem, tuple(options)):
        raise ValueError(f"the options cannot be told apart in the question: {written[-200:]!r}")
    return written


def asked(text: str) -> Asked | None:
    """The stem and the options of a question that ends in its options; None where it does not."""
    lines = text.split("\n")
    starts = [at for at, line in enumerate(lines) if line.startswith("A. ")]
    if not starts:
        return None
    options: list[str] = []
    for line in lines[starts[-1] :]:
        following = LETTERS[len(options)] if len(options) < len(LETTERS) else None
        if following is not None and line.startswith(f"{following}. "):
            options.append(line[3:])
        else:
            # An option may have lines of its own.
            options[-1] += f"\n{line}"
    return Asked("\n".join(lines[: starts[-1]]), tuple(options)) if len(options) > 1 else None
