"""One recipe at several seeds: each claim's weakest seed, and the file in docs/results. demo, cuda_l1 and gazal_r1 share it."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postgrad.run import Run, hardware, write_json


def parser(description: str | None, out: str) -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    made.add_argument("--preset", default="laptop")
    made.add_argument("--out", type=Path, default=Path(out))
    made.add_argument("--results", type=Path, default=Path("docs/results"))
    return made


def weakest(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Of each claim the row of the seed that is furthest from it, with that seed's interval: it is met where every seed meets it.

    A claim that one seed could not even measure is told by its n, and is not met.
    """
    rows: dict[str, list[Mapping[str, Any]]] = {}
    for claims in runs:
        for row in claims:
            rows.setdefault(row["id"], []).append(row)
    return [
        {
            **(worst := min(found, key=_margin)),
            "statement": f"{worst['statement']}; the weakest of {len(found)} seeds",
            "met": len(found) == len(runs) and all(row["met"] for row in found),
        }
        for found in rows.values()
    ]


def _margin(row: Mapping[str, Any]) -> float:
    """How far the interval's worse end is on the right side of the threshold."""
    low, high = row["interval"]
    return float(low - row["threshold"] if row["op"] == ">=" else row["threshold"] - high)


def record(
    path: Path,
    recipe: str,
    preset: str,
    folders: Mapping[int, Path],
    metrics: Mapping[int, Mapping[str, Any]],
    claims: Sequence[Mapping[str, Any]],
) -> None:
    """Writes `path`. `folders` are the seeds' runs, which know their commit; `metrics` what is told of each seed."""
    head = {
        "recipe": recipe,
        "preset": preset,
        "commit": ", ".join(sorted({Run.open(folder).manifest["commit"] for folder in folders.values()})),
        "hardware": hardware(),
        "command": " ".join([f"python -m bench.{Path(sys.argv[0]).stem}", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
    }
    seeds = [{"seed": seed, "metrics": told} for seed, told in metrics.items()]
    write_json(path, {**head, "seeds": seeds, "claims": claims})
    print(path)
