"""`make demo` at several seeds, into docs/results: python -m bench.demo --seeds 1 2 3

A claim's row is that of its weakest seed, with that seed's interval over problems: it is met where every seed meets it.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.claims import carry_out
from postgrad.run import Run, hardware, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--out", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    runs = {seed: carry_out(asked.out / f"main-{seed}", asked.preset, (f"seed={seed}",)) for seed in asked.seeds}
    commits = {Run.open(asked.out / f"main-{seed}").manifest["commit"] for seed in runs}
    claims = []
    for rows in zip(*(run["claims"] for run in runs.values()), strict=True):
        weakest = min(rows, key=lambda row: row["interval"][0])
        claims.append({**weakest, "statement": f"{weakest['statement']}; the weakest of {len(rows)} seeds"})
    seeds = [
        {
            "seed": seed,
            "metrics": {
                **{
                    claim["id"]: {name: claim[name] for name in ("measured", "interval", "n", "met")}
                    for claim in run["claims"]
                },
                "sft": run["models"]["sft"],
                "rl": run["models"]["rl"],
                "seconds": run["seconds"],
            },
        }
        for seed, run in runs.items()
    ]
    path = asked.results / f"math_two_stage-{asked.preset}.json"
    command = " ".join(["python -m bench.demo", *sys.argv[1:]])
    head = {
        "recipe": "math_two_stage",
        "preset": asked.preset,
        "commit": ", ".join(sorted(commits)),
        "hardware": hardware(),
        "command": command,
    }
    write_json(path, {**head, "date": time.strftime("%Y-%m-%d"), "seeds": seeds, "claims": claims})
    print(path)


if __name__ == "__main__":
    main()
