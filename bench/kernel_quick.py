"""What judging a kernel costs in training: python -m bench.kernel_quick [--tasks 2] [--at-once 2] [FAMILY ...]

Kernels of the `loops` domain at their `quick` sizes, judged by `evaluate.quick`: some right variants of each task, mistakes that give wrong
values, mistakes that do not build, and the right ones once more. Prints milliseconds by stage and kind (medians of one after the other, the task's reference being
there), then what the same kernels take through `KernelVerifier`, everything included, in a batch and in the same batch again, and who was told falsely.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections import defaultdict
from functools import partial
from pathlib import Path

from postgrad.domains import loops
from postgrad.kernels.build import build
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.evaluate import Evaluator, quick, static
from postgrad.kernels.task import Task, of_loop
from postgrad.kernels.verifier import KernelVerifier
from postgrad.records import Status, Trace

KINDS = ("right", "wrong", "not built")


def code_of(text: str) -> str | None:
    _, found, rest = text.partition("```cpp\n")
    return rest.partition("```")[0] if found else None


def answers(made: loops.Made) -> list[tuple[str, str]]:
    """(kind, text)."""
    variants = loops.variants(made)
    mistakes = loops.mistakes(made, variants[-1])
    wrong = [("wrong", one.code) for one in mistakes if one.fails == "values"][:4]
    broken = [("not built", one.code) for one in mistakes if one.fails == "build"][:2]
    right = [("right", variants[place * (len(variants) - 1) // 3].code) for place in (1, 2, 3)]
    return list(dict.fromkeys((kind, loops.answer(code)) for kind, code in [*right, *wrong, *broken]))


def staged(task: Task, texts: list[tuple[str, str]], cache: Path, found: dict[str, list[list[float]]]) -> None:
    """Adds [parse and rules, build, check, clock, all] in milliseconds to its kind's."""
    with Evaluator(task, quick(cache), seed=0) as evaluate:
        evaluate(Candidate(task.source, "cpp"))
        for kind, text in texts:
            began = time.perf_counter()
            code = code_of(text)
            assert code is not None
            candidate = Candidate(code, "cpp")
            list(static(candidate, task))
            read = time.perf_counter()
            build(candidate, cache)
            built = time.perf_counter()
            timing = evaluate(candidate).timing
            done = time.perf_counter()
            clock = timing.spent_s if timing else 0.0
            # The evaluator reads the text again, and asks for a refused build again.
            again = read - began + (built - read if kind == "not built" else 0.0)
            found[kind].append(
                [
                    1e3 * s
                    for s in (read - began, built - read, done - built - clock - again, clock, done - began - again)
                ]
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(loops.FAMILIES))
    parser.add_argument("--tasks", type=int, default=2, help="of each family")
    parser.add_argument("--at-once", type=int, default=2, help="tasks that KernelVerifier judges side by side")
    asked = parser.parse_args()
    made = [one for name in asked.families for one in loops.tasks("train", asked.tasks, seed=1, families=[name])]
    tasks = {one.task.id: of_loop(one.task, partial(loops.oracle, one.task), timed=one.task.quick) for one in made}
    print(f"{len(tasks)} tasks; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'family':12} {'kind':10} kernels  parse+rules  build  check  clock    all  (ms, medians)")
    every: dict[str, list[list[float]]] = defaultdict(list)
    for name in asked.families:
        found: dict[str, list[list[float]]] = defaultdict(list)
        with tempfile.TemporaryDirectory() as cache:
            for one in made:
                if one.task.family == name:
                    staged(tasks[one.task.id], answers(one), Path(cache), found)
        for kind in KINDS:
            show(name, kind, found[kind])
            every[kind] += found[kind]
    for kind in KINDS:
        show("all", kind, every[kind])
    problems = [loops.problem(one) for one in made]
    rows = [[Trace(one.task.id, text, (), (), "stop") for _, text in answers(one)] for one in made]
    kernels = sum(map(len, rows))
    with (
        tempfile.TemporaryDirectory() as cache,
        KernelVerifier(tasks, code_of, quick(Path(cache)), seed=0, alive=len(tasks), at_once=asked.at_once) as verifier,
    ):
        for _ in range(2):
            began, cpu = time.perf_counter(), time.process_time()
            verifier.prepare(problems, rows)
            told = [verifier(p, trace) for p, row in zip(problems, rows, strict=True) for trace in row]
            took = time.perf_counter() - began
            statuses = [one.status for one in told]
            print(
                f"KernelVerifier, {asked.at_once} at once: {kernels} kernels in {took:.1f} s, {took / kernels:.3f} s each, "
                f"{(time.process_time() - cpu) / kernels:.3f} CPU-seconds of the grader's each; "
                + ", ".join(f"{statuses.count(one)} {one}" for one in dict.fromkeys(statuses))
                + f"; load {os.getloadavg()[0]:.1f}",
                flush=True,
            )
        for (name, kind), verdict in zip(
            [(one.task.id, kind) for one in made for kind, _ in answers(one)], told, strict=True
        ):
            if verdict.status is (Status.WRONG if kind == "right" else Status.CORRECT):
                print(f"told falsely: {name}, {kind}: {verdict.reason}")


def show(family: str, kind: str, rows: list[list[float]]) -> None:
    cells = [statistics.median(column) for column in zip(*rows, strict=True)]
    widths = (11, 5, 5, 5, 5)
    told = "  ".join(f"{cell:{width}.0f}" for cell, width in zip(cells, widths, strict=True))
    print(f"{family:12} {kind:10} {len(rows):7}  {told}", flush=True)


if __name__ == "__main__":
    main()
