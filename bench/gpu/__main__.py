"""Training and sampling on one GPU beside the peers: python -m bench.gpu [ROW ...] [--rounds 2] [--minutes 8] [--tiny]

Peer and we run in turns in one process (vLLM in one of its own, which leaves the card before ours starts), on the same weights,
documents, prompts and number type. A row first proves that both compute the same thing, and fails where they do not. It stands
against the fastest of its peers; medians stand beside the best, and the limit is what this device was measured to reach
in the same run. Prints one JSON line a row; those with a result are merged into docs/results/bench-gpu.json after each row.

Models have random weights in the shapes of Qwen3. `--tiny` runs the same code on a CPU in seconds, to prove it; such times are
of no meaning and are kept nowhere unless `--results` says where.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import torch
import transformers

from bench.gpu import grpo, head, length, limits, rollout, serve, sft, two
from bench.gpu.place import Place
from bench.gpu.row import Row
from postgrad.run import commit, hardware, write_json
from postgrad.train.settings import Adapter

ROWS: dict[str, Callable[[Place], Row]] = {
    "limits": limits.both,
    "sft-0.6b": lambda place: sft.row(place, "0.6b", (False,)),
    "sft-1.7b": lambda place: sft.row(place, "1.7b", (False, True)),
    "sft-4b": lambda place: sft.row(place, "4b", (True,)),
    "lora-0.6b": lambda place: sft.row(place, "0.6b", (False,), Adapter(r=16)),
    "dora-0.6b": lambda place: sft.row(place, "0.6b", (False,), Adapter(r=16, use_dora=True, use_rslora=True)),
    "rollout-0.6b": lambda place: rollout.row(place, "0.6b"),
    "serve-0.6b": lambda place: serve.row(place, "0.6b", "mixed lengths"),
    "serve-4b": lambda place: serve.row(place, "4b", "mixed lengths"),
    "groups-0.6b": lambda place: serve.row(place, "0.6b", "16 to a prompt"),
    "groups-4b": lambda place: serve.row(place, "4b", "16 to a prompt"),
    "grpo-0.6b": lambda place: grpo.row(place, "0.6b"),
    "head": head.row,
    "length": lambda place: length.row(place, "0.6b"),
    "two-gpus-sft": lambda place: two.row(place, "0.6b", "sft"),
    "two-gpus-grpo": lambda place: two.row(place, "0.6b", "grpo"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}; none: all")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no row is begun after this time")
    parser.add_argument("--tiny", action="store_true", help="tiny shapes in float32 on a CPU")
    parser.add_argument("--results", type=Path, help="default: docs/results/bench-gpu.json, and none with --tiny")
    asked = parser.parse_args()
    if unknown := [name for name in asked.rows if name not in ROWS]:
        parser.error(f"no row {', '.join(unknown)}: there are {', '.join(ROWS)}")
    if not asked.tiny and not torch.cuda.is_available():
        parser.error("torch sees no GPU: run on one, or give --tiny to prove the rows on a CPU")
    results = asked.results or (None if asked.tiny else Path("docs/results/bench-gpu.json"))
    warnings.simplefilter("ignore")  # the peers' own; ours are errors in the tests
    transformers.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    began, broken = time.monotonic(), []
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(
            torch.device("cpu" if asked.tiny else "cuda"),
            torch.float32 if asked.tiny else torch.bfloat16,
            asked.tiny,
            asked.rounds,
            Path(scratch),
        )
        for name in asked.rows or ROWS:
            if time.monotonic() - began > 60 * asked.minutes:
                print(json.dumps({"name": name, "skipped": f"--minutes {asked.minutes:g} are over"}), flush=True)
                continue
            told = outcome(name, place)
            print(json.dumps(told), flush=True)
            if "failed" in told:
                broken.append(name)
            elif results is not None:
                merge(results, told)
    if broken:
        raise SystemExit(f"failed: {', '.join(broken)}")


def outcome(name: str, place: Place) -> dict[str, Any]:
    """Boundary: one row's failure is told in its place, and the others go on."""
    kind = hardware()
    about = {
        "commit": commit(),
        "hardware": f"{kind['cpu']}, tiny" if place.tiny else kind["gpu"] or "unknown GPU",
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "command": " ".join(["python -m bench.gpu", *sys.argv[1:]]),
    }
    try:
        return rounded(ROWS[name](place).told(name)) | about
    except Exception:
        return {"name": name, "failed": traceback.format_exc()} | about
    finally:
        place.clear()


def rounded(value: Any) -> Any:
    """Numbers to five digits: no clock is better."""
    match value:
        case float():
            return float(f"{value:.5g}")
        case dict():
            return {name: rounded(one) for name, one in value.items()}
        case list():
            return [rounded(one) for one in value]
        case _:
            return value


def merge(path: Path, row: dict[str, Any]) -> None:
    known = json.loads(path.read_text())["rows"] if path.is_file() else []
    write_json(path, {"rows": [one for one in known if one["name"] != row["name"]] + [row]})


if __name__ == "__main__":
    main()
