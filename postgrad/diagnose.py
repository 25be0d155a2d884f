"""What a run's numbers show, read from its folder: the alarms that its monitors tell, or would have told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postgrad import config
from postgrad.evals import monitors
from postgrad.records import Alarm
from postgrad.run import read_lines


def diagnose(run: Path) -> tuple[dict[str, int], list[Alarm]]:
    """How many rows each stage of a run's folder has, and the alarms in their order. Raises ValueError for what is no run."""
    rows = _rows(run)
    stages: dict[str, int] = {}
    for row in rows:
        stages[row["stage"]] = stages.get(row["stage"], 0) + 1
    return stages, monitors.diagnose(rows, weights=_weights(run), held_out=_held_out(run))


def told(stages: Mapping[str, int], alarms: Sequence[Alarm]) -> str:
    """For people, stage by stage."""
    lines = []
    for stage, rows in stages.items():
        of_stage = [alarm for alarm in alarms if alarm.stage == stage]
        counts = {level: sum(alarm.level == level for alarm in of_stage) for level in ("alarm", "warning")}
        said = ", ".join(f"{count} {level}{'s' if count > 1 else ''}" for level, count in counts.items() if count)
        lines.append(f"{stage}: {rows} steps, {said or 'nothing seen'}")
        for alarm in of_stage:
            lines += [
                f"  {alarm.level}, told at step {alarm.step}: {alarm.name}",
                f"    seen   {alarm.seen}, since about step {alarm.since}",
                f"    helps  {alarm.help}",
            ]
    return "\n".join(lines)


def _rows(run: Path) -> list[dict[str, Any]]:
    if run.is_file():
        raise ValueError(f"{run} is a file: give the run's folder, such as {run.parent}")
    if not run.is_dir():
        raise ValueError(f"there is no folder {run}: give the --out of an earlier `postgrad run`")
    path = run / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(
            f"{run} has no metrics.jsonl: either it is no run's folder, or the run has not taken its first step"
        )
    rows = read_lines(path)
    for number, row in enumerate(rows, start=1):
        if not (isinstance(row, dict) and isinstance(row.get("stage"), str) and isinstance(row.get("step"), int)):
            raise ValueError(f"{path}:{number}: no row of metrics, which has a stage and a step: {str(row)[:80]}")
    if not rows:
        raise ValueError(f"{path} is empty: the run has not taken its first step")
    return rows


def _weights(run: Path) -> dict[str, float]:
    """Of the reward's parts, as the run's config has them; a part that is not in it counts as it is."""
    path = run / "config.yaml"
    document = config.read_yaml(path.read_text(encoding="utf-8"), str(path)) if path.is_file() else {}
    sections = document.values() if isinstance(document, dict) else ()
    rewards = [section["rewards"] for section in sections if isinstance(section, dict) and "rewards" in section]
    return {
        name: float(weight)
        for given in rewards
        if isinstance(given, dict)
        for name, weight in given.items()
        if isinstance(weight, int | float)
    }


def _held_out(run: Path) -> int:
    path = run / "data" / "validation.jsonl"
    if not path.is_file():
        return monitors.UNKNOWN_HELD_OUT
    with path.open("rb") as file:
        return max(1, sum(1 for _ in file))
