"""Read what there is of a run's folder; a missing or damaged piece is a sentence in `troubles`, never an exception.

A report is wanted most when a run went wrong, so nothing here insists. docs/architecture.md says what the files hold.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

MAX_LINE = 64 * 2**20
"""Bytes; a longer line is left out and counted."""
MAX_ROWS = 1_000_000
MAX_TEXT = 200_000
"""Bytes of config.yaml and command.txt that are read."""


def number(value: object) -> float | None:
    """A float within 1e150 of zero, or None for anything else: NaN, infinities, text, what would overflow a chart."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        result = float(value)
    except OverflowError:
        return None
    return result if abs(result) <= 1e150 else None


def mapping(value: object) -> dict[str, Any]:
    return {str(key): item for key, item in value.items()} if isinstance(value, Mapping) else {}


def listing(value: object) -> list[Any]:
    return list(value) if isinstance(value, list | tuple) else []


def string(value: object) -> str:
    """Text as it is, a plain value written out, and nothing for what has parts."""
    return value if isinstance(value, str) else str(value) if isinstance(value, int | float) else ""


def interval(value: object) -> tuple[float, float] | None:
    ends = [number(v) for v in listing(value)]
    return (ends[0], ends[1]) if len(ends) == 2 and ends[0] is not None and ends[1] is not None else None


@dataclass(slots=True)
class Evaluated:
    """What evals/<model>.jsonl says, added up."""

    statuses: Counter[str] = field(default_factory=Counter)
    lengths: list[float] = field(default_factory=list)
    by_label: dict[str, dict[str, Counter[str]]] = field(default_factory=dict)
    """label -> value -> status -> traces."""
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)


@dataclass(slots=True)
class Folder:
    path: Path
    troubles: list[str] = field(default_factory=list)
    manifest: dict[str, Any] = field(default_factory=dict)
    stages: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    reward_order: dict[str, Any] = field(default_factory=dict)
    """reward_order.json, which is there before summary.json is."""
    config: str = ""
    command: str = ""
    metrics: dict[str, dict[str, list[tuple[float, float]]]] = field(default_factory=dict)
    """stage -> metric -> (step, value) in order of steps; where a step was run again after a resume, the later one."""
    events: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    samples_total: int = 0
    evals: dict[str, Evaluated] = field(default_factory=dict)
    rollouts: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """step -> traces, for the first and the last step only."""
    rollout_steps: int = 0


def _text(folder: Folder, name: str) -> str:
    path = folder.path / name
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_TEXT + 1)
    except FileNotFoundError:
        return ""
    except OSError as error:
        folder.troubles.append(f"{name} could not be read: {error.strerror}.")
        return ""
    if len(raw) > MAX_TEXT:
        folder.troubles.append(f"{name} is longer than {MAX_TEXT:,} bytes; its start is shown.")
    return raw[:MAX_TEXT].decode("utf-8", errors="replace")


def _object(folder: Folder, name: str) -> dict[str, Any]:
    try:
        value = json.loads((folder.path / name).read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        folder.troubles.append(f"{name} could not be read: {error}.")
        return {}
    if not isinstance(value, dict):
        folder.troubles.append(f"{name} is not a JSON object and was left out.")
    return mapping(value)


def _lines(folder: Folder, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a JSON-lines file. A last line cut short is what a killed run leaves: left out, and said."""
    bad: list[int] = []
    row, ended = 0, True
    try:
        with (folder.path / name).open("rb") as file:
            while line := file.readline(MAX_LINE):
                row += 1
                if row > MAX_ROWS:
                    folder.troubles.append(f"{name} has more than {MAX_ROWS:,} lines; the rest was left out.")
                    return
                ended = line.endswith(b"\n")
                if len(line) == MAX_LINE and not ended:
                    while (rest := file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
                        pass
                    bad.append(row)
                    ended = True
                    continue
                if not line.strip():
                    continue
                try:
                    value = json.loads(line.decode("utf-8", errors="replace"))
                except (ValueError, RecursionError):
                    bad.append(row)
                    continue
                if isinstance(value, dict):
                    yield mapping(value)
                else:
                    bad.append(row)
    except FileNotFoundError:
        return
    except OSError as error:
        folder.troubles.append(f"{name} could not be read: {error.strerror}.")
    if bad == [row] and not ended:
        folder.troubles.append(f"{name}: the last line ({row}) is torn and was left out.")
    elif bad:
        rows = ", ".join(map(str, bad[:5])) + (", …" if len(bad) > 5 else "")
        folder.troubles.append(f"{name}: {len(bad)} unreadable line{'s' * (len(bad) > 1)} left out (line {rows}).")


def _metrics(folder: Folder) -> None:
    found: dict[str, dict[str, dict[float, float]]] = {}
    strange: Counter[str] = Counter()
    for line in _lines(folder, "metrics.jsonl"):
        step = number(line.get("step"))
        if step is None:
            continue
        stage = string(line.get("stage"))
        for name, value in line.items():
            if name in ("stage", "step", "time") or isinstance(value, bool) or not isinstance(value, int | float):
                continue
            finite = number(value)
            if finite is None:
                strange[f"{name} ({stage})"] += 1
            else:
                found.setdefault(stage, {}).setdefault(name, {})[step] = finite
    folder.metrics = {stage: {name: sorted(s.items()) for name, s in names.items()} for stage, names in found.items()}
    for name, times in strange.most_common(10):
        folder.troubles.append(
            f"{times:,} value{'s' * (times > 1)} of {name} {'are' if times > 1 else 'is'} not finite and not drawn."
        )


def _evals(folder: Folder) -> None:
    for path in sorted((folder.path / "evals").glob("*.jsonl")):
        if path.name == "samples.jsonl":
            continue
        seen = Evaluated()
        for line in _lines(folder, f"evals/{path.name}"):
            status = string(line.get("status"))
            seen.statuses[status] += 1
            length = number(line.get("n_tokens"))
            if length is not None:
                seen.lengths.append(length)
            for label, value in mapping(line.get("labels")).items():
                groups = seen.by_label.setdefault(label, {})
                if len(groups) <= 64:
                    groups.setdefault(string(value), Counter())[status] += 1
            reason = string(line.get("reason"))[:200]
            if status != "correct" and reason and (len(seen.reasons) < 5000 or (status, reason) in seen.reasons):
                seen.reasons[status, reason] += 1
        if seen.statuses:
            folder.evals[path.stem] = seen


def _rollouts(folder: Folder) -> None:
    by_stage: dict[str, dict[int, str]] = {}
    for path in (folder.path / "rollouts").glob("*.jsonl"):
        if match := re.fullmatch(r"(\w+)-(\d+)\.jsonl", path.name):
            by_stage.setdefault(match[1], {})[int(match[2])] = path.name
    # The last of the stages that sampled.
    order = list(folder.stages)
    last = max(by_stage, key=lambda stage: (order.index(stage) if stage in order else len(order), stage), default="")
    steps = by_stage.get(last, {})
    folder.rollout_steps = len(steps)
    for step in sorted({min(steps), max(steps)}) if steps else ():
        traces = list(_lines(folder, f"rollouts/{steps[step]}"))
        if traces:
            folder.rollouts[step] = traces


def read(path: Path, *, max_problems: int) -> Folder:
    """max_problems: how many problems of evals/samples.jsonl are kept; all are counted."""
    if not path.is_dir():
        raise FileNotFoundError(f"{path}: no such folder; give the folder of a run (the one that holds config.yaml)")
    folder = Folder(path)
    folder.manifest = _object(folder, "manifest.json")
    folder.stages = _object(folder, "stages.json")
    folder.summary = _object(folder, "summary.json")
    folder.reward_order = _object(folder, "reward_order.json")
    folder.config = _text(folder, "config.yaml")
    folder.command = _text(folder, "command.txt").strip()
    _metrics(folder)
    folder.events = list(_lines(folder, "events.jsonl"))
    kept: set[str] = set()
    problems: set[str] = set()
    for sample in _lines(folder, "evals/samples.jsonl"):
        problem = string(sample.get("problem_id"))
        problems.add(problem)
        if len(kept) < max_problems:
            kept.add(problem)
        if problem in kept:
            folder.samples.append(sample)
    folder.samples_total = len(problems)
    _evals(folder)
    _rollouts(folder)
    return folder
