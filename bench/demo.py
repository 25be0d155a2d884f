"""`make demo` at several seeds, into docs/results: python -m bench.demo --seeds 1 2 3

A claim's row is that of its weakest seed, with that seed's interval over problems: it is met where every seed meets it.
"""

from __future__ import annotations

from typing import Any

from bench import seeds
from bench.claims import carry_out


def main() -> None:
    asked = seeds.parser(__doc__, "runs/demo-seeds").parse_args()
    folders = {seed: asked.out / f"main-{seed}" for seed in asked.seeds}
    runs = {seed: carry_out(folder, asked.preset, (f"seed={seed}",)) for seed, folder in folders.items()}
    path = asked.results / f"math_two_stage-{asked.preset}.json"
    told = {seed: metrics(run) for seed, run in runs.items()}
    seeds.record(
        path, "math_two_stage", asked.preset, folders, told, seeds.weakest([run["claims"] for run in runs.values()])
    )


def metrics(run: dict[str, Any]) -> dict[str, Any]:
    return {
        **{
            claim["id"]: {name: claim[name] for name in ("measured", "interval", "n", "met")} for claim in run["claims"]
        },
        "sft": run["models"]["sft"],
        "rl": run["models"]["rl"],
        "seconds": run["seconds"],
    }


if __name__ == "__main__":
    main()
