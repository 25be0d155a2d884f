"""cuda_l1 at several seeds, into docs/results: python -m bench.cuda_l1 --seeds 1 2 3

A claim's row is that of its weakest seed, with that seed's interval over tasks: it is met where every seed meets it. A run whose folder is there
already is continued, or read where it is done.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

from bench.claims import carry_out
from postgrad.recipes import cuda_l1
from postgrad.run import Run, hardware, write_json

KEPT = ("correct", "speedup", "fast", "kept", "best", "unchecked", "n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--out", type=Path, default=Path("runs/cuda_l1-seeds"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    runs = {
        seed: carry_out(asked.out / f"seed-{seed}", asked.preset, (f"seed={seed}",), cuda_l1) for seed in asked.seeds
    }
    manifests = {seed: Run.open(asked.out / f"seed-{seed}").manifest for seed in runs}
    path = asked.results / f"cuda_l1-{asked.preset}.json"
    head = {
        "recipe": "cuda_l1",
        "preset": asked.preset,
        "commit": ", ".join(sorted({one["commit"] for one in manifests.values()})),
        "hardware": hardware(),
        "command": " ".join(["python -m bench.cuda_l1", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
    }
    seeds = [{"seed": seed, "metrics": metrics(run)} for seed, run in runs.items()]
    write_json(path, {**head, "seeds": seeds, "claims": weakest(list(runs.values()))})
    print(path)


def metrics(run: dict[str, Any]) -> dict[str, Any]:
    return {
        "claims": {
            row["id"]: {name: row[name] for name in ("measured", "interval", "n", "met")} for row in run["claims"]
        },
        "models": {name: {key: told[key] for key in KEPT} for name, told in run["models"].items()},
        "comparisons": {
            row["name"]: {key: row[key] for key in ("value", "interval", "n")} for row in run["comparisons"]
        },
        "costs": run["kernels"]["costs"],
        "seconds": run["seconds"],
    }


def weakest(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        for row in run["claims"]:
            rows.setdefault(row["id"], []).append(row)
    # A claim that one seed could not even measure is told by its n, and is not met.
    return [
        {
            **(worst := min(found, key=lambda row: float(row["interval"][0]))),
            "statement": f"{worst['statement']}; the weakest of {len(found)} seeds",
            "met": len(found) == len(runs) and bool(worst["met"]),
        }
        for found in rows.values()
    ]


if __name__ == "__main__":
    main()
