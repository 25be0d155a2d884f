"""gazal_r1 at several seeds beside its control, into docs/results: python -m bench.gazal_r1 --seeds 2 3 4

    B6  SFT on structured traces, then GRPO: accuracy after each stage on the multi-step slice, the asked form
    B3  the control: from the same schooled model SFT on the same cases for as many steps, with nothing but the answer

The recipe's claims stand in its config. Those of the control stand below; both were written before these seeds were run:
structured traces are worth >= 5 points on the multi-step slice, and nothing on the recall slice, where there is nothing to reason about.
As many steps are more passes for the control, whose texts are shorter. The alarms are those that the monitors raised in the main runs.

A claim's row is that of its weakest seed, with that seed's interval over problems. A run whose folder is there already is continued, or read
where it is done.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench import seeds
from bench.claims import carry_out
from postgrad.evals import stats
from postgrad.evals.stats import Estimate
from postgrad.recipes import gazal_r1
from postgrad.run import read_lines
from postgrad.train import checkpoint

MIN_TRACES_GAIN = 0.05
MAX_RECALL_GAIN = 0.0
SLICES = ("multi_step", "recall")


def control(main: Path, seed: int) -> tuple[str, ...]:
    schooled = checkpoint.best(main / "checkpoints" / "school").resolve()
    return (
        f"seed={seed}",
        f"model.path={schooled}",
        "model.scratch=null",
        "school=null",
        "rl=null",
        "data.clinic.traces=answer_only",
    )


def outcomes(folder: Path, part: str) -> dict[str, list[float]]:
    """Of SFT's model: a problem's id -> 1 for each right trace of it and 0 for each other."""
    found: dict[str, list[float]] = {}
    for row in read_lines(folder / "evals" / "sft.jsonl"):
        if row["labels"]["slice"] == part:
            found.setdefault(row["problem_id"], []).append(float(row["status"] == "correct"))
    return found


def gain(main: Path, other: Path, part: str) -> Estimate:
    """Structured traces over answers alone, on the same problems."""
    ours, theirs = outcomes(main, part), outcomes(other, part)
    assert ours.keys() == theirs.keys(), "both were asked the same"
    return stats.paired_rate_difference([theirs[name] for name in ours], list(ours.values()))


def claims(main: Path, gains: dict[str, Estimate]) -> list[dict[str, Any]]:
    """Those that the recipe does not make itself."""

    def claim(name: str, statement: str, found: Estimate, op: str, threshold: float) -> dict[str, Any]:
        met = found.value >= threshold if op == ">=" else found.value <= threshold
        return {
            "id": name,
            "statement": statement,
            "measured": found.value,
            "interval": list(found.interval),
            "op": op,
            "threshold": threshold,
            "n": found.n,
            "met": bool(met),
        }

    alarms = float(len(raised(main)))
    said = "accuracy after SFT on structured traces minus after SFT on answers alone"
    return [
        claim("B3 multi-step", f"{said}, multi-step slice", gains["multi_step"], ">=", MIN_TRACES_GAIN),
        claim("B3 recall", f"{said}, recall slice", gains["recall"], "<=", MAX_RECALL_GAIN),
        claim(
            "false alarms", "alarms of the monitors in a healthy run", Estimate(alarms, (alarms, alarms), 1), "<=", 0
        ),
    ]


def raised(main: Path) -> list[dict[str, Any]]:
    """A run without events has no such file."""
    events = main / "events.jsonl"
    return [row for row in read_lines(events) if row["level"] == "alarm"] if events.is_file() else []


def main() -> None:
    asked = seeds.parser(__doc__, "runs/gazal_r1-seeds").parse_args()
    folders = {seed: asked.out / f"main-{seed}" for seed in asked.seeds}
    metrics: dict[int, dict[str, Any]] = {}
    rows = []
    for seed, folder in folders.items():
        run = carry_out(folder, asked.preset, (f"seed={seed}",), gazal_r1)
        other = asked.out / f"answer_only-{seed}"
        alone = carry_out(other, asked.preset, control(folder, seed), gazal_r1)
        gains = {part: gain(folder, other, part) for part in SLICES}
        rows.append([*run["claims"], *claims(folder, gains)])
        metrics[seed] = {
            "claims": {
                row["id"]: {name: row[name] for name in ("measured", "interval", "n", "met")} for row in rows[-1]
            },
            "slices": run["slices"],
            "answer_only": alone["slices"]["sft"],
            "traces_gain": {part: found.to_summary() for part, found in gains.items()},
            "form": run["form"],
            "alarms": raised(folder),
            "seconds": run["seconds"],
        }
    path = asked.results / f"gazal_r1-{asked.preset}.json"
    seeds.record(path, "gazal_r1", asked.preset, folders, metrics, seeds.weakest(rows))


if __name__ == "__main__":
    main()
