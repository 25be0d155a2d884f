"""The evaluation told to people: the headline, the tables and the kernels of the report's page. Nothing is measured here."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from postgrad.recipes.cuda_l1.settings import ARMS, Config
from postgrad.recipes.cuda_l1.tasks import Tasks
from postgrad.records import Graded, Status
from postgrad.run import Run, read_lines

TITLES = {
    "sft": "SFT",
    "self_supervised": "Self-supervised",
    "evolved": "Self-supervised, asked contrastively",
    "grpo": "Plain GRPO",
    "contrastive": "Contrastive GRPO",
}


def headline(found: Mapping[str, Mapping[str, Any]], compared: Sequence[Mapping[str, Any]]) -> str:
    """What came of both claims, in a sentence; a part that could not be measured is left out."""
    by_name = {row["name"]: row for row in compared}
    told = [
        f"{TITLES[name]} is right in {100 * found[name]['correct'].value:.0f} % of answers"
        for name in ("sft", "self_supervised")
        if found[name]["correct"]
    ]
    ratio = by_name.get("speedup ratio, grpo to contrastive")
    if ratio:
        low, high = ratio["interval"]
        speeds = [found[name]["speedup"] for name in ARMS]
        told.append(
            f"plain GRPO writes kernels of {speeds[0].value:.2f}x, contrastive GRPO of {speeds[1].value:.2f}x, a ratio of "
            f"{ratio['value']:.2f} [{low:.2f}, {high:.2f}] on held-out tasks"
        )
    return "; ".join(told) + "." if told else "Nothing could be checked."


def by_stage(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Of each model the measures of postgrad/evals/speed.py with their intervals."""
    return {
        "columns": [
            "Stage",
            "Correct",
            "Speed-up of right answers",
            "Above 1.01x",
            "Reference kept where wrong or slower",
            "Fastest of a task",
        ],
        "rows": [
            [
                TITLES[name],
                _times(one["correct"], " %", 100, 1),
                _times(one["speedup"]),
                _times(one["fast"], " %", 100, 1),
                _times(one["kept"]),
                _times(one["best"]),
            ]
            for name, one in found.items()
        ],
    }


def by_family(grades: Mapping[str, Sequence[Sequence[Graded]]]) -> dict[str, Any]:
    """Share of right answers and their geometric mean, by family and model."""
    from postgrad.evals import speed

    found = {name: speed.by_label(rows, "family") for name, rows in grades.items()}
    families = sorted({family for told in found.values() for family in told})

    def cell(share: float | None, mean: float | None) -> str:
        return "-" if share is None else f"{100 * share:.0f} %" + ("" if mean is None else f", {mean:.2f}x")

    rows = [[family, *(cell(*told.get(family, (None, None))) for told in found.values())] for family in families]
    return {"columns": ["Family", *(TITLES[name] for name in grades)], "rows": rows}


def shown(config: Config, known: Tasks, grades: Mapping[str, Sequence[Sequence[Graded]]]) -> list[dict[str, Any]]:
    """Of each family the fastest code that the contrastive model wrote for a held-out task."""
    best: dict[str, Graded] = {}
    for row in grades["contrastive"]:
        for item in row:
            known_best = best.get(item.problem.labels["family"])
            if item.verdict.status is Status.CORRECT and (
                known_best is None or (item.verdict.score or 0) > (known_best.verdict.score or 0)
            ):
                best[item.problem.labels["family"]] = item
    return [
        {
            "task": item.problem.id,
            "family": family,
            "speedup": item.verdict.score,
            "reference": known.tasks[item.problem.id].source,
            "code": known.parse(item.trace.text),
        }
        for family, item in sorted(best.items())[: config.eval.shown]
    ]


def costs(run: Run) -> dict[str, Any]:
    """What judging cost, by stage, over all processes of the run; that of the evaluation is written as it ends."""
    sums: dict[str, Counter[str]] = {}
    for row in read_lines(run.folder / "costs.jsonl"):
        own = sums.setdefault(row["stage"], Counter())
        own["asked"] += sum(row["asked"].values())
        own["without code"] += row["asked"].get("no_answer", 0)
        own["judged"] += sum(row["judged"].values())
        own["unchecked"] += row["asked"].get("unchecked", 0)
        own["cpu_seconds"] += row["cpu_seconds"]
    return {
        "columns": [
            "Stage",
            "Answers",
            "Without code",
            "Judged anew",
            "Known already",
            "Unchecked",
            "CPU-seconds, all of the stage",
        ],
        "rows": [
            [
                TITLES.get(stage, stage.capitalize()),
                *(f"{own[name]:,}" for name in ("asked", "without code", "judged")),
                f"{max(0, own['asked'] - own['without code'] - own['judged']):,}",
                f"{own['unchecked']:,}",
                f"{own['cpu_seconds']:,.0f}",
            ]
            for stage, own in sums.items()
        ],
    }


def _times(found: Any, unit: str = "x", scale: float = 1.0, digits: int = 2) -> str:
    if found is None:
        return "-"
    low, high = (scale * end for end in found.interval)
    return f"{scale * found.value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"
