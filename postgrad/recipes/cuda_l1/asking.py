"""How a model is asked: each round's prompts show what the rounds before gave, and every code goes into an archive.

The prompter is postgrad/kernels/evolve.py's, here with this run's tasks and strategy. Training asks through it as well (policy.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from postgrad import wiring
from postgrad.grading import grade
from postgrad.protocols import Verifier
from postgrad.recipes.cuda_l1.settings import Config, Strategy
from postgrad.recipes.cuda_l1.tasks import Tasks
from postgrad.records import Graded, Problem
from postgrad.run import Run


def ask(
    config: Config,
    run: Run,
    known: Tasks,
    verifier: Verifier,
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    strategy: Strategy,
    rounds: int,
    name: str,
) -> list[list[Graded]]:
    """`eval.samples` answers to each problem in each round, what the rounds before gave shown by the strategy: [P][rounds * samples]."""
    from postgrad.kernels import archive

    path = run.folder / "archives" / f"{name}.sqlite"
    rows: list[list[Graded]] = [[] for _ in problems]
    sampler = wiring.measuring(config.eval, tokenizer, config.seed)
    with archive.opened(path) as codes:
        codes.forget(0)
        prompter = evolving(config, run, known, codes, strategy, name)
        for number in range(rounds):
            posed = prompter.pose(problems, number)
            # The step of the random streams, so that rounds differ.
            sampler.follow(model, number)
            groups = grade(posed, sampler.sample(posed, config.eval.samples), verifier)
            prompter.learn(groups, number)
            for row, group in zip(rows, groups, strict=True):
                row += group
    return rows


def evolving(config: Config, run: Run, known: Tasks, codes: Any, strategy: Strategy, sampler: str) -> Any:
    """The prompter of one stage: prompts by the strategy from the archive `codes`, into which what `sampler` writes goes."""
    from postgrad.kernels.evolve import Evolving
    from postgrad.kernels.search import STRATEGIES

    return Evolving(
        codes,
        {name: task.source for name, task in known.tasks.items()},
        known.write,
        known.parse,
        STRATEGIES[strategy],
        shown=config.contrast.exemplars,
        seed=config.seed,
        sampler=sampler,
        environment=environment(config, run),
        backend=known.backend,
    )


def environment(config: Config, run: Run) -> str:
    """What scores hold for: that of the run's beginning, wherever it is resumed."""
    where = "cpu" if config.judging.gpu is None else "gpu"
    return f"{run.manifest['hardware'][where]}, {config.judging.how}"
