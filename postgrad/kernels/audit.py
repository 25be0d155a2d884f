"""What a folder of kernels, or CUDA-L1's released rows, amount to before anything runs on a GPU.

    rows = gather(path)                 what is there: pairs of a task and a candidate, or why there is none
    counts(rows)                        the table of static findings
    runs_here(row)                      it is Python that asks for no GPU, so `evaluate` can be tried on it
    statuses(records), gains(...)       what verdicts amount to (`dossier` writes them)

A folder holds pairs NAME.py (the task) and NAME_new.py or NAME_new.cpp (the candidate), or candidates alone, which are only read. A file of JSON
lines is CUDA-L1's (`released`).
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postgrad.kernels import released
from postgrad.kernels.candidate import SUFFIXES, Candidate, fault, from_file
from postgrad.kernels.guard import flags
from postgrad.kernels.guard.rule import Flag
from postgrad.kernels.released import PUBLISHED, SCORE, Released
from postgrad.kernels.task import Task, kernel_bench
from postgrad.kernels.verdict import ACCEPTED, REJECTED, KernelStatus, Reason

NEW = "_new"
OF_A_GPU = ("cuda", "triton", "cupy")
"""Words without which a text cannot use a GPU. A text that has one is not run here: its verdict would be about this machine."""


@dataclass(frozen=True, slots=True)
class Row:
    name: str
    candidate: Candidate | None
    """None where the row has no code."""
    task: Task | None
    """None where only the text can be looked at."""
    trouble: str
    """Why it cannot be used: no code, no Python, no ModelNew, a task that is none; empty where it can."""
    claimed: Mapping[str, float | None]

    @property
    def flags(self) -> list[Flag]:
        return flags.scan(self.candidate.code, self.candidate.backend) if self.candidate and not self.trouble else []


def gather(path: Path) -> list[Row]:
    """Raises ValueError where there is nothing, or no such path."""
    if path.is_dir():
        rows = _folder(path)
        wanted = f"files {', '.join(SUFFIXES)}"
    elif path.is_file():
        rows = [_released(one) for one in released.read(path)]
        wanted = "lines of JSON"
    else:
        raise ValueError(f"{path}: no such file or folder")
    if not rows:
        raise ValueError(f"{path}: nothing to audit; wanted: {wanted}")
    return rows


def _released(one: Released) -> Row:
    name = f"{one.level}-{one.task}"
    if one.code is None:
        return Row(name, None, None, "no code", one.claimed)
    if one.fault is not None:
        return Row(name, one.candidate(), None, one.fault, one.claimed)
    try:
        return Row(name, one.candidate(), one.as_task(), "", one.claimed)
    except ValueError as error:
        return Row(name, one.candidate(), None, str(error), one.claimed)


def _folder(folder: Path) -> list[Row]:
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES and path.is_file())
    tasks = {path.with_suffix("") for path in files if path.suffix == ".py"}
    new = [path for path in files if path.stem.endswith(NEW) and _of(path) in tasks]
    paired = {_of(path).with_suffix(".py") for path in new}
    return [_file(folder, path, path in new) for path in files if path not in paired]


def _of(path: Path) -> Path:
    """The task's path without suffix."""
    return path.with_name(path.stem.removesuffix(NEW))


def _file(folder: Path, path: Path, with_task: bool) -> Row:
    name = str(path.relative_to(folder))
    try:
        candidate = from_file(path)
        task = kernel_bench(_of(path).with_suffix(".py")) if with_task else None
    except ValueError as error:
        return Row(name, None, None, str(error), {})
    return Row(name, candidate, task, fault(candidate, task.wanted if task else "ModelNew") or "", {})


def runs_here(row: Row, *, gpu: bool = False) -> bool:
    """A task stands beside it, and neither names a GPU, where there is none; where there is one, both are Python."""
    if row.task is None or row.candidate is None or row.trouble:
        return False
    if gpu:
        return row.candidate.backend != "cpp" and row.task.kind == "python"
    text = (row.candidate.code + row.task.source).lower()
    return not any(word in text for word in OF_A_GPU)


def counts(rows: Sequence[Row]) -> list[dict[str, object]]:
    """Static rules, in how many candidates each is found, its tier and what it means; most first."""
    seen = Counter(rule for row in rows for rule in {flag.rule for flag in row.flags})
    return [
        {"rule": rule.name, "kernels": count, "tier": rule.tier, "meaning": rule.explains}
        for rule, count in seen.most_common()
    ]


Record = Mapping[str, Any]
"""A line of a dossier."""


def statuses(records: Sequence[Record]) -> list[dict[str, object]]:
    """Verdicts by their status and by the reason that made them so, most first."""
    seen: Counter[tuple[str, str]] = Counter()
    for record in records:
        status, findings = record["verdict"]["status"], record["verdict"]["findings"]
        deciding = [one for one in findings if (one["means"] or Reason[one["reason"]].status) == status]
        seen[status, deciding[0]["reason"] if deciding else ""] += 1
    return [{"status": status, "decided by": reason, "kernels": n} for (status, reason), n in seen.most_common()]


def gains(records: Sequence[Record], name: str) -> list[dict[str, str]]:
    """Speed-ups over eager: as the paper has them, as the file claims them for kernels that are usable, whose task is no degenerate
    one, whose text gives nothing away; and as they were measured. A mean is carried by its few largest values."""
    apart = [record for record in records if "degenerate" not in record]
    sets = {"usable": list(records), "without degenerate tasks": apart}
    sets |= {"text not rejected": _without(REJECTED, records), "both": _without(REJECTED, apart)}
    rows = []
    if name in PUBLISHED:
        mean, median = PUBLISHED[name]
        rows = [{"speed-ups": "published", "kernels": "250", "mean": f"{mean}", "median": f"{median}", "geomean": "-"}]
    rows += [_amount(f"claimed, {told}", [one["published"].get(SCORE) for one in kept]) for told, kept in sets.items()]
    for told in ("usable", "without degenerate tasks"):
        survivors = [one["verdict"] for one in sets[told] if one["verdict"]["status"] == ACCEPTED]
        rows.append(_amount(f"measured, {told}", [verdict["speedup"] for verdict in survivors]))
    return rows


def _without(status: KernelStatus, records: Sequence[Record]) -> list[Record]:
    return [record for record in records if record["verdict"]["status"] != status]


def _amount(told: str, given: Sequence[float | None]) -> dict[str, str]:
    values = [value for value in given if value is not None]

    def number(statistic: Callable[[Sequence[float]], float]) -> str:
        return f"{statistic(values):.2f}" if values else "-"

    mean, median = number(statistics.fmean), number(statistics.median)
    geomean = number(statistics.geometric_mean)
    return {"speed-ups": told, "kernels": str(len(values)), "mean": mean, "median": median, "geomean": geomean}
