"""What pages about kernels are made of: sections of blocks, each of limited size, which one template shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from postgrad.report.text import visible
from postgrad.report.view import Figure, Limits, Table

LEVELS = (
    Limits(20, 40_000, 1000),
    Limits(12, 16_000, 400),
    Limits(6, 6000, 150),
    Limits(3, 1500, 50),
    Limits(1, 200, 10),
)
"""problems: codes shown in full; rows: of tables, and kernels in a list."""


@dataclass(frozen=True, slots=True)
class Facts:
    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Reasoned:
    """One finding, explained."""

    status: str
    reason: str
    meaning: str
    evidence: str
    where: str
    advice: str
    rows: str
    """Of the catalogue of reward hacks."""


@dataclass(frozen=True, slots=True)
class Findings:
    items: Sequence[Reasoned]
    more: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    sign: str
    """+, - or a space; @ where lines are left out."""
    old: str
    new: str
    text: str


@dataclass(frozen=True, slots=True)
class Diff:
    title: str
    lines: Sequence[Line]
    note: str


@dataclass(frozen=True, slots=True)
class Source:
    title: str
    text: str


@dataclass(frozen=True, slots=True)
class Tags:
    label: str
    items: Sequence[str]


@dataclass(frozen=True, slots=True)
class Text:
    text: str


@dataclass(frozen=True, slots=True)
class Fold:
    """Blocks beneath a line that opens them."""

    title: str
    status: str
    blocks: Sequence[Block]
    open: bool = False


@dataclass(frozen=True, slots=True)
class Beside:
    """Side by side where there is room."""

    blocks: Sequence[Block]


Block = Facts | Findings | Diff | Source | Tags | Text | Fold | Beside | Table | Figure


@dataclass(frozen=True, slots=True)
class Section:
    key: str
    title: str
    blocks: Sequence[Block]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    level: str
    """alarm, warning or unread."""
    message: str
    where: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    title: str
    headline: str
    status: str
    """Of the one verdict that the page is about; empty where it is about several."""
    facts: Sequence[str]
    sections: Sequence[Section]
    notices: Sequence[Notice] = field(default_factory=tuple)


def capped(table: Table, limit: int, what: str) -> Table:
    """The first rows, with a note of how many are left out."""
    if len(table.rows) <= limit:
        return table
    note = f"{len(table.rows) - limit:,} of {len(table.rows):,} {what} are left out here."
    return replace(table, rows=table.rows[:limit], note=f"{table.note} {note}".strip())


def unread(troubles: Sequence[str]) -> list[Notice]:
    told = [Notice("unread", visible(one, 400)) for one in troubles[:12]]
    rest = len(troubles) - len(told)
    return [*told, Notice("unread", f"And {rest:,} more.")] if rest else told
