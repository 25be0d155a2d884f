"""cuda_l1 at several seeds, into docs/results: python -m bench.cuda_l1 --seeds 5 6 7

A claim's row is that of its weakest seed, with that seed's interval over tasks: it is met where every seed meets it. A run whose folder is there
already is continued, or read where it is done.
"""

from __future__ import annotations

from typing import Any

from bench import seeds
from bench.claims import carry_out
from postgrad.recipes import cuda_l1

KEPT = ("correct", "speedup", "fast", "kept", "best", "unchecked", "n")


def main() -> None:
    asked = seeds.parser(__doc__, "runs/cuda_l1-seeds").parse_args()
    folders = {seed: asked.out / f"seed-{seed}" for seed in asked.seeds}
    runs = {seed: carry_out(folder, asked.preset, (f"seed={seed}",), cuda_l1) for seed, folder in folders.items()}
    path = asked.results / f"cuda_l1-{asked.preset}.json"
    told = {seed: metrics(run) for seed, run in runs.items()}
    seeds.record(path, "cuda_l1", asked.preset, folders, told, seeds.weakest([run["claims"] for run in runs.values()]))


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


if __name__ == "__main__":
    main()
