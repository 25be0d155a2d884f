"""`postgrad kernels check`: one kernel of one task, with other forms of the reference and a checker's advice where they are asked for."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from postgrad.kernels.against import Against
    from postgrad.kernels.candidate import Candidate
    from postgrad.kernels.evaluate import Settings
    from postgrad.kernels.guard.judge import Opinion
    from postgrad.kernels.task import Task

MAX_TOKENS = 2048
"""Of a checker's reply."""


def check(task: Task, candidate: Candidate, settings: Settings, *, baselines: bool) -> Against:
    """The verdict, and the gain over every baseline that can be had here, where `baselines` asks for them."""
    from postgrad.kernels.against import Against, against
    from postgrad.kernels.evaluate import Evaluator

    with Evaluator(task, settings) as evaluate:
        verdict = evaluate(candidate)
        return against(evaluate, candidate, verdict) if baselines else Against(verdict, {}, {})


def check_with_judge(
    task: Task,
    candidate: Candidate,
    settings: Settings,
    *,
    baselines: bool,
    judge: str,
    name: str | None,
    key_variable: str | None,
) -> tuple[Against, list[Opinion | None]]:
    """The same, and what a checker said of the text: nothing where the static rules had rejected it.

    judge: a model's folder, or an address whose model `name` names; see optimize.sampler_of.
    """
    from postgrad.kernels.evaluate import advised
    from postgrad.kernels.guard.cases import Cases, known
    from postgrad.kernels.guard.judge import Judge
    from postgrad.optimize import sampler_of

    opinions: list[Opinion | None] = []
    with (
        tempfile.TemporaryDirectory() as folder,
        sampler_of(judge, name, key_variable, Path(folder), 0.0, MAX_TOKENS, 0) as (sampler, _, _),
    ):
        scan = advised(Judge(sampler, Cases(seed=known())), opinions.append)
        return check(task, candidate, replace(settings, scan=scan), baselines=baselines), opinions
