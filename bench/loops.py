"""How much each variant of the `loops` tasks gains over its reference, really: python -m bench.loops [--tasks 4] [FAMILY ...]

Every variant of some tasks of each family is built with `loops.FLAGS`, called in turn with its reference at the timed size, and
timed in CPU seconds of the process, which hold on a busy machine; a variant's gain is the ratio of medians. Prints a table by
family and techniques, and writes docs/results/loops.md.
"""

from __future__ import annotations

import argparse
import ctypes
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np

from postgrad.domains import loops
from postgrad.run import commit, hardware


def built(code: str, folder: Path, name: str) -> Callable[..., None]:
    source, library = folder / f"{name}.cpp", folder / f"{name}.so"
    source.write_text(code)
    subprocess.run(["g++", *loops.FLAGS, "-o", library, source], check=True, timeout=60)
    kernel: Callable[..., None] = ctypes.CDLL(str(library)).kernel
    return kernel


def timed(task: loops.Task, kernels: list[Callable[..., None]], rounds: int) -> list[float]:
    """Median CPU seconds of a call of each, called in turn, on the same values."""
    arrays = loops.inputs(task, task.timed, "normal", 0)
    out = np.empty(task.shapes(task.timed)[1], np.float32)
    pointers = (ctypes.c_void_p * len(arrays))(*(array.ctypes.data for array in arrays))
    n = (ctypes.c_long * len(task.timed))(*task.timed)
    found: list[list[float]] = [[] for _ in kernels]
    for number in range(rounds + 1):
        for seconds, kernel in zip(found, kernels, strict=True):
            start = time.process_time()
            kernel(pointers, ctypes.c_void_p(out.ctypes.data), n)
            # The first round touches the pages.
            seconds += [time.process_time() - start] if number else []
    return [statistics.median(seconds) for seconds in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(loops.FAMILIES))
    parser.add_argument("--tasks", type=int, default=4, help="of each family")
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/loops.md"))
    asked = parser.parse_args()
    machine, version = (
        hardware(),
        subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True),
    )
    page = [
        "# What the variants of the `loops` tasks gain",
        "",
        f"`python -m bench.loops`, commit {commit()}, one core of {machine['cpu']} ({machine['cores']} cores, busy), g++ {version.stdout.strip()} with "
        f"`{' '.join(loops.FLAGS)}`. Gain: the reference's median CPU time over the variant's, at the timed size, geometric mean over tasks "
        f"(least to most); {asked.rounds} calls of each in turn.",
    ]
    for family in asked.families:
        gains: dict[str, list[float]] = defaultdict(list)
        references, best = [], []
        for made in loops.tasks("train", asked.tasks, seed=asked.seed, families=[family]):
            written = loops.variants(made)
            with tempfile.TemporaryDirectory() as folder:
                kernels = [built(each.code, Path(folder), str(place)) for place, each in enumerate(written)]
                seconds = timed(made.task, kernels, asked.rounds)
            references.append(seconds[0])
            best.append(seconds[0] / min(seconds))
            for each, cost in zip(written, seconds, strict=True):
                gains[", ".join(each.tags) or "the reference"].append(seconds[0] / cost)
        page += [
            "",
            f"## {family}: the best variant {statistics.geometric_mean(best):.2f}x",
            "",
            f"{asked.tasks} tasks, whose references need {min(references) * 1e3:.1f} to {max(references) * 1e3:.1f} ms.",
            "",
            "| techniques | gain | least to most | tasks |",
            "| --- | --- | --- | --- |",
        ]
        page += [
            f"| {tags} | {statistics.geometric_mean(ratios):.2f}x | {min(ratios):.2f} to {max(ratios):.2f} | {len(ratios)} |"
            for tags, ratios in gains.items()
        ]
        print("\n".join(page[-len(gains) - 6 :]), flush=True)
    asked.out.write_text("\n".join(page) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
