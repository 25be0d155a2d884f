"""What was probably meant: the known keys or words that are nearest to a mistyped one."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from pydantic import BaseModel

from postgrad.config.schema import keys, starred


def nearest_keys(typed: str, model: type[BaseModel]) -> tuple[str, ...]:
    """Known keys that `typed` may stand for: slips of the keyboard, keys of another section, short forms."""
    indices = re.findall(r"\.(\d+)(?=\.|$)", typed)
    pattern = starred(typed)
    scored = [(score, name) for name in keys(model) if (score := _unlikeness(pattern, name)) is not None]
    if not scored:
        return ()
    best = min(score for score, _ in scored)
    return tuple(_fill(name, indices) for score, name in scored if score == best)[:3]


def nearest_words(typed: str, known: Iterable[str]) -> tuple[str, ...]:
    """Those of a few known words that `typed` may stand for."""
    near = (name for name in known if _edits(typed.lower(), name.lower(), limit=max(1, len(name) // 3)) is not None)
    return tuple(near)[:3]


def _unlikeness(typed: str, known: str) -> float | None:
    """Small where `known` may be meant; None where it is not.

    In order: a path without its first keys; a slip of the keyboard, or initials (lr); the right name in a wrong
    section, or some of the name's words; words of a name in another section.
    """
    if known.endswith(f".{typed}"):
        return 0.5
    slips = _edits(typed, known, limit=1 if len(typed) < 4 else 2 if len(typed) < 12 else 3)
    section, _, leaf = typed.rpartition(".")
    known_section, _, known_leaf = known.rpartition(".")
    elsewhere = _edits(leaf, known_leaf, limit=min(2, len(leaf) // 4))
    scores = [] if slips is None else [float(slips)]
    if elsewhere is not None:
        scores.append(elsewhere + 1.5)
    words = known_leaf.split("_")
    if len(leaf) > 1 and leaf == "".join(word[0] for word in words):
        scores.append(1.0 if section in ("", known_section) else 2.5)
    elif set(leaf.split("_")) < set(words):
        scores.append(1.5 if section == known_section else 4.5)
    return min(scores, default=None)


def _edits(a: str, b: str, limit: int) -> int | None:
    """Insertions, deletions, substitutions and swaps of neighbours between two words; None if more than `limit`."""
    if abs(len(a) - len(b)) > limit or len(_letters(a) ^ _letters(b)) > 2 * limit:
        return None
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, letter in enumerate(a, start=1):
        fresh = [limit + 1] * (len(b) + 1)
        fresh[0] = i
        for j in range(max(1, i - limit), min(len(b), i + limit) + 1):
            cost = min(row[j] + 1, fresh[j - 1] + 1, row[j - 1] + (letter != b[j - 1]))
            if i > 1 and j > 1 and letter == b[j - 2] and a[i - 2] == b[j - 1]:
                cost = min(cost, before[j - 2] + 1)
            fresh[j] = cost
        if min(fresh) > limit:
            return None
        before, row = row, fresh
    return row[-1] if row[-1] <= limit else None


@lru_cache(maxsize=1024)
def _letters(word: str) -> frozenset[str]:
    return frozenset(word)


def _fill(name: str, indices: Sequence[str]) -> str:
    left = iter(indices)
    return re.sub(r"\*", lambda _: next(left, "0"), name)


def alternatives(names: Sequence[str]) -> str:
    """'a', 'b' or 'c'."""
    quoted = [f"'{name}'" for name in names]
    return " or ".join(quoted if len(quoted) < 3 else [", ".join(quoted[:-1]), quoted[-1]])
