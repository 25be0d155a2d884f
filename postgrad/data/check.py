"""What a file holds and what is wrong with it: `postgrad data check FILE --model FOLDER --test FILE`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from postgrad import chat
from postgrad.data import sources
from postgrad.data.forms import Parsed
from postgrad.data.overlap import Kind, Overlap, overlap
from postgrad.data.rows import DataError, Fault
from postgrad.data.text import normal, prompt_text
from postgrad.records import Example, Message, Problem

QUANTILES = (0.0, 0.5, 0.95, 0.99, 1.0)


@dataclass(frozen=True, slots=True)
class Report:
    path: Path
    form: str | None
    """None: no row could be read."""
    rows: int
    """That could be read."""
    faults: tuple[Fault, ...]
    traces: int
    marked: dict[str, int]
    """Traces by the data's own mark: correct, wrong, unmarked."""
    without_gold: int
    duplicates: int
    """Rows whose problem an earlier row has, in the normal form of data/text.py."""
    unit: str
    """Of lengths: tokens of prompt and response, template and end included; characters where no model is given."""
    lengths: dict[float, int]
    """By quantile; of each trace, or of the prompts where rows have none."""
    overlong: int | None
    """Traces above the length asked about; None: none was."""
    weights: dict[float, int]
    """Rows by weight."""
    overlap: Overlap | None

    @property
    def ok(self) -> bool:
        """Nothing is wrong that would stop or spoil a run; duplicates and length are for a person to judge."""
        leaked = self.overlap is not None and any(self.overlap.counts()[kind] for kind in (Kind.EXACT, Kind.NGRAM))
        return not self.faults and not leaked

    def facts(self) -> list[tuple[str, str]]:
        """Name and value, in the order in which to read them."""
        facts = [
            ("file", str(self.path)),
            ("form", self.form or "none"),
            ("rows", f"{self.rows:,} read, {len(self.faults):,} faults"),
            ("traces", f"{self.traces:,}: " + ", ".join(f"{count:,} {mark}" for mark, count in self.marked.items())),
            ("gold answers", f"{self.rows - self.without_gold:,}, {self.without_gold:,} rows without"),
            ("duplicates", f"{self.duplicates:,} rows repeat an earlier problem"),
            ("weights", ", ".join(f"{weight:g}: {count:,} rows" for weight, count in list(self.weights.items())[:5])),
            ("length", ", ".join(f"{_quantile(q)} {length:,}" for q, length in self.lengths.items()) + f" {self.unit}"),
        ]
        if len(self.weights) > 5:
            facts[6] = ("weights", f"{len(self.weights):,} different, {min(self.weights):g} to {max(self.weights):g}")
        if self.overlong is not None:
            facts.append(("too long", f"{self.overlong:,} traces"))
        if self.overlap is not None:
            matches = ", ".join(f"{count:,} {kind}" for kind, count in self.overlap.counts().items())
            facts.append(("overlap", f"{matches} (rows that match one of {self.overlap.test:,} test problems)"))
        return facts

    def __str__(self) -> str:
        lines = [f"{name:<13} {value}" for name, value in self.facts()]
        return "\n".join([*lines, *([str(DataError(self.faults))] if self.faults else [])])

    def __rich__(self) -> Table:
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in self.facts():
            table.add_row(Text(name, style="bold"), Text(value))
        for line in str(DataError(self.faults)).splitlines() if self.faults else []:
            table.add_row(Text("fault", style="bold red"), Text(line))
        return table


def check(
    path: str | Path,
    model: str | Path | None = None,
    max_length: int | None = None,
    test: str | Path | None = None,
) -> Report:
    """`model`: a folder with the tokenizer and chat template that lengths are measured with.

    Raises ValueError where the model or the test file is unusable; what is wrong with `path` itself is in the report.
    """
    parsed, faults = sources.survey(path)
    measure = _characters if model is None else _tokens(model)
    lengths = []
    for row in parsed:
        try:
            lengths += [measure(row, trace) for trace in row.traces or (None,)]
        except ValueError as error:
            faults.append(Fault(row.file, row.number, None, str(error)))
    marks = [mark for row in parsed for mark in row.correct]
    return Report(
        path=Path(path),
        form=parsed[0].form if parsed else None,
        rows=len(parsed),
        faults=tuple(faults),
        traces=len(marks),
        marked={"correct": marks.count(True), "wrong": marks.count(False), "unmarked": marks.count(None)},
        without_gold=sum(row.gold is None for row in parsed),
        duplicates=len(parsed) - len({normal(prompt_text(row.prompt)) for row in parsed}),
        unit="characters" if model is None else "tokens",
        lengths=_quantiles(lengths),
        overlong=None if max_length is None else sum(length > max_length for length in lengths),
        weights=dict(Counter(sorted(row.weight for row in parsed))),
        overlap=None if test is None else overlap([_problem(row) for row in parsed], sources.problems(test)),
    )


def _problem(row: Parsed) -> Problem:
    return Problem(row.id, row.prompt, row.gold)


def _characters(row: Parsed, trace: str | None) -> int:
    return sum(len(message.content) for message in row.prompt) + len(trace or "")


def _tokens(model: str | Path) -> Callable[[Parsed, str | None], int]:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(str(model))
    # A tokenizer without a template fails here, once, and not on every row.
    chat.prompt_text(tokenizer, (Message("user", "1 + 1"),))

    def measure(row: Parsed, trace: str | None) -> int:
        if trace is None:
            return len(chat.prompt_ids(tokenizer, row.prompt))
        return len(chat.encode(tokenizer, Example(row.prompt, trace, id=row.id)).ids)

    return measure


def _quantiles(lengths: Sequence[int]) -> dict[float, int]:
    """Nearest rank: each is a length that occurs."""
    ordered = sorted(lengths)
    return {q: ordered[min(int(q * len(ordered)), len(ordered) - 1)] for q in QUANTILES} if ordered else {}


def _quantile(q: float) -> str:
    return {0.0: "min", 0.5: "median", 1.0: "max"}.get(q, f"{q:.0%}")
