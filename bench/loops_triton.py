"""How much each Triton variant of the `loops` tasks gains over PyTorch, step by step: python -m bench.loops_triton [--gpu 0] [--tasks 2] [FAMILY ...]

Every variant of some tasks of each family is judged by the evaluator on one GPU, with every check, and so is one mistake of each kind. Prints a
line a kernel, and writes docs/results/loops-triton.md: gains by family and techniques, and each verdict that is not what it should be. Takes some ten seconds a kernel.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

from postgrad.domains import loops
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.evaluate import Evaluator, Settings, on_gpu
from postgrad.kernels.task import of_loop
from postgrad.kernels.verdict import KernelVerdict
from postgrad.run import commit, hardware

FAMILIES = tuple(loops.LANGUAGES["triton"].families)


def judged(made: loops.Made, settings: Settings) -> Iterator[tuple[str, str, KernelVerdict]]:
    """(what should come of it: accepted or rejected, techniques or the mistake, the verdict) of every kernel of a task."""
    written = loops.kernels(made)
    mistakes = {one.name: one for one in loops.mistakes(made, written[-1])}
    texts = [("accepted", ", ".join(one.tags) or "the core alone", one.code) for one in written]
    texts += [("rejected", one.name, one.code) for one in mistakes.values()]
    with closing(Evaluator(of_loop(made.task, partial(loops.oracle, made.task)), settings, seed=0)) as evaluate:
        for wanted, name, code in texts:
            yield wanted, name, evaluate(Candidate(code, "triton"))


def page(family: str, made: Sequence[loops.Made], settings: Settings) -> list[str]:
    gains: dict[str, list[float]] = defaultdict(list)
    strange = []
    for one in made:
        for wanted, name, verdict in judged(one, settings):
            told = f"{verdict.speedup:.2f}x" if verdict.speedup is not None else ", ".join(verdict.reasons)
            print(f"{one.task.id}: {name}: {verdict.status} {told}", flush=True)
            if verdict.status != wanted:
                strange.append(f"- {one.task.id}: {name}: {verdict.status} where {wanted} is right: {told}")
            elif verdict.speedup is not None:
                gains[name].append(verdict.speedup)
    rows = [
        f"| {name} | {statistics.geometric_mean(found):.2f}x | {min(found):.2f} to {max(found):.2f} | {len(found)} |"
        for name, found in gains.items()
    ]
    head = ["", f"## {family}", "", "| techniques | gain | least to most | tasks |", "| --- | --- | --- | --- |"]
    return [*head, *rows, *(["", "Not as it should be:", "", *strange] if strange else [])]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(FAMILIES))
    parser.add_argument("--gpu", type=int, default=0, help="as nvidia-smi counts")
    parser.add_argument("--tasks", type=int, default=2, help="of each family")
    parser.add_argument("--seconds", type=float, default=2.0, help="of timing a kernel, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("docs/results/loops-triton.md"))
    asked = parser.parse_args()
    settings = on_gpu(asked.gpu, budget_s=asked.seconds)
    lines = [
        "# What the Triton variants of the `loops` tasks gain",
        "",
        f"`python -m bench.loops_triton`, commit {commit()}, {hardware()['gpu']}. Gain: the evaluator's speed-up over PyTorch, step by step, at the timed size, the L2 cache "
        "emptied; geometric mean over tasks (least to most).",
    ]
    for family in asked.families:
        lines += page(
            family, loops.tasks("train", asked.tasks, seed=asked.seed, families=[family], language="triton"), settings
        )
        asked.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
