"""Mistakes in a right Triton text, as people write them. What a task's own steps can go wrong in is told in generate.py."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Literal

from postgrad.domains.loops.spec import Spec

Fails = Literal["build", "raises", "values", "bounds"]

EDITS: Sequence[tuple[str, Fails, str, str]] = (
    ("colon", "build", r"\):\n", ")\n"),
    ("unclosed", "build", r"(tl\.store\(.*)\)\n", r"\1\n"),
    ("undeclared", "raises", r" +m = .*\n", ""),
    ("mask", "values", r"(m = .*< [NC])", r"\1 - 1"),
    ("block", "values", r"triton\.cdiv\(\w+, \w+\)", r"\g<0> - 1"),
    ("stride", "values", r"r \* C", "r * R"),
    # What lies beyond a row is part of its sum, or of its maximum.
    ("padding", "values", r"tl\.where\(m, v, 0\.0\)(?!(?:.*\n)*.*tl\.max)", "tl.where(m, v, 1.0)"),
    ("padding", "values", r"(tl\.where\(m, v, )-float", r"\1float"),
    ("padding", "values", r"(tl\.where\(m, v, )float", r"\1-float"),
    ("inverse", "values", r"1 / ", ""),
    # The last block of a loop is left out where it is not whole.
    ("tail", "values", r"range\(0, (\w), (\w)\)", r"range(0, \1 - \2 + 1, \2)"),
    # Beyond the ends of a line lies what lies there.
    ("ends", "values", r"tl\.minimum\(tl\.maximum\((.*), 0\), N - 1\)", r"tl.maximum(tl.minimum(\1, 0), N - 1)"),
)
"""(name, how it fails, pattern, replacement), once in the text of a right variant."""


def slips(spec: Spec, code: str) -> Iterator[tuple[str, Fails, str]]:
    """(name, how it fails, the text); the text is `code` where there is no such mistake to be made."""
    for name, fails, pattern, new in EDITS:
        yield name, fails, re.sub(pattern, new, code, count=1)
    # Exponentials of large values, where nothing keeps them small.
    if not any(step.op == "most" for step in spec.pre):
        yield "maximum", "values", code.replace(" - tl.max(v, 1)[:, None]", "")
