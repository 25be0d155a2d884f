"""Which tokens are trained, to see before a run: an all-zero or shifted mask is plain at a glance.

encoded = chat.encode(tokenizer, example)
show(console, [tokenizer.decode([token]) for token in encoded.ids], encoded.trained)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from rich.console import Console
from rich.text import Text

TRAINED = ("black on green", "black on bright_green")
"""Two shades in turn, so that the borders of tokens show."""
CONTEXT = ("dim", "dim underline")


def show(console: Console, tokens: Sequence[str], trained: Sequence[bool]) -> None:
    """In colour where the console has it, with marks where it has not (a file, NO_COLOR)."""
    coloured = console.color_system is not None and not console.no_color
    console.print(preview(tokens, trained) if coloured else Text(marked(tokens, trained)))


def preview(tokens: Sequence[str], trained: Sequence[bool]) -> Text:
    """Trained tokens on green, the others dim; line breaks shown as ↵."""
    text = Text(_count(trained), style="bold")
    for place, (token, mark) in enumerate(zip(tokens, trained, strict=True)):
        text.append(_visible(token), style=(TRAINED if mark else CONTEXT)[place % 2])
    return text


def marked(tokens: Sequence[str], trained: Sequence[bool]) -> str:
    """The same without colour: runs of trained tokens stand in [[ ]]."""
    parts = []
    for mark, run in groupby(zip(tokens, trained, strict=True), key=lambda pair: bool(pair[1])):
        said = "".join(_visible(token) for token, _ in run)
        parts.append(f"[[{said}]]" if mark else said)
    return _count(trained) + "".join(parts)


def _count(trained: Sequence[bool]) -> str:
    return f"{sum(trained)} of {len(trained)} tokens are trained\n"


def _visible(token: str) -> str:
    return token.replace("\n", "↵\n")
