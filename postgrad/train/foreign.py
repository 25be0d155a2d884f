"""Reward functions in other projects' forms, TRL's and verl's, as rewards of ours. No torch."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from postgrad.protocols import Reward
from postgrad.records import Graded
from postgrad.train.reward import checked_values, each, is_checked


def trl(function: Callable[..., Any], gold: str = "solution") -> Reward:
    """A reward function in TRL's form, f(prompts, completions, completion_ids=..., **columns) -> list[float | None].

    Called once for a group with TRL's conversational form (lists of messages). Columns: every label of the problem, its
    `id`, `reference` and, under the name `gold`, its gold answer (last, so they win over a label of the same name).
    Coroutine functions are run to their end; `log_extra` and `log_metric` are accepted and go nowhere. UNCHECKED traces
    are not shown to it. What it raises is raised again with the problem's id.
    """
    name = getattr(function, "__name__", type(function).__name__)

    def reward(group: Sequence[Graded]) -> list[float | None]:
        shown = [item for item in group if is_checked(item)]
        if not shown:
            return [None] * len(group)
        problem, count = shown[0].problem, len(shown)
        prompt = [{"role": message.role, "content": message.content} for message in problem.prompt]
        columns = {**problem.labels, "id": problem.id, "reference": problem.reference, gold: problem.gold}
        try:
            values = function(
                prompts=[prompt] * count,
                completions=[[{"role": "assistant", "content": item.trace.text}] for item in shown],
                completion_ids=[list(item.trace.token_ids) for item in shown],
                log_extra=_discard,
                log_metric=_discard,
                **{column: [value] * count for column, value in columns.items()},
            )
            if inspect.iscoroutine(values):
                # In a thread of its own: the caller may be a notebook, whose event loop is running already.
                with ThreadPoolExecutor(1) as thread:
                    values = thread.submit(asyncio.run, values).result()
        except Exception as error:
            raise RuntimeError(f"reward function {name} failed on problem {problem.id!r}: {error!r}") from error
        checked = iter(checked_values(values, shown, name))
        return [next(checked) if is_checked(item) else None for item in group]

    return reward


def verl(compute_score: Callable[..., Any], data_source: str = "") -> Reward:
    """A scorer in verl's form: compute_score(data_source, solution_str, ground_truth, extra_info) -> float or a dict.

    Called once for a trace. `data_source` is the problem's label of that name, or the argument; `extra_info` is the
    labels and the `id`. UNCHECKED traces are not shown to it. What it raises is raised again with the problem's id.
    """
    name = getattr(compute_score, "__name__", type(compute_score).__name__)

    def reward(group: Sequence[Graded]) -> list[float | None]:
        def one(item: Graded) -> float:
            problem = item.problem
            try:
                value = compute_score(
                    data_source=problem.labels.get("data_source", data_source),
                    solution_str=item.trace.text,
                    ground_truth=problem.gold,
                    extra_info={**problem.labels, "id": problem.id},
                )
                return float(value["score"] if isinstance(value, Mapping) else value)
            except Exception as error:
                raise RuntimeError(f"compute_score {name} failed on problem {problem.id!r}: {error!r}") from error

        return checked_values(each(group, one), group, name)

    return reward


def _discard(*_: Any, **__: Any) -> None:
    """Where a TRL function's own log lines go."""
