"""`postgrad eval`: a model folder or an endpoint on a file of problems, with the engine and the verifiers that training uses.

Questions whose prompts end in lettered options are checked by letter (verify/choice.py), all others by their boxed answer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from postgrad.protocols import Sampler, Verifier
from postgrad.records import Graded, Message, Problem, Status

MOST_VALUES = 20
"""A label with more values than this is a name, not a group."""


def measure(
    model: str,
    data: Path,
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    limit: int | None,
    seed: int,
    out: Path | None,
    system: str | None,
    turns: int,
    name: str | None,
    key_variable: str | None,
) -> dict[str, Any]:
    """Counts and rates with intervals; with `out` also every trace in out/traces.jsonl and the numbers in out/score.json.

    `turns` above 1 asks each question with its options in so many orders, and tells how often the same option was chosen in
    all of them.
    """
    from postgrad import progress
    from postgrad.data import sources
    from postgrad.evals import benchmark
    from postgrad.options import asked
    from postgrad.verify import choice

    if out is not None and (out / "traces.jsonl").exists():
        raise ValueError(f"{out} already holds a measurement: choose another --out")
    problems = [_with_system(problem, system) for problem in sources.problems(data)[:limit]]
    lettered = all(asked(problem.prompt[-1].content) is not None for problem in problems)
    if turns > 1:
        if not lettered:
            raise ValueError(
                f"--turns {turns} moves options about, and not all prompts of {data} end in lettered options"
            )
        problems = [choice.turned(problem, places) for problem in problems for places in range(turns)]
    verifier, answer = _checked_by(lettered)
    with (
        _sampler(model, name, key_variable, out, temperature, max_tokens, seed) as (sampler, tells_tokens),
        progress.shown(progress.auto(), "eval", len(problems) * samples, "trace") as live,
    ):
        if hasattr(sampler, "report"):
            sampler.report = lambda done, total: live.update(done)  # noqa: ARG005
        grades = benchmark.grade(sampler, verifier, problems, samples)
    # The orders of one question are no more independent than its samples.
    by_question = [[item for row in rows for item in row] for rows in _by_question(grades, turns)]
    found = benchmark.score(by_question, answer, seed=seed)
    numbers: dict[str, Any] = {
        "model": model if name is None else name,
        "data": str(data),
        "problems": len(problems) // turns,
        "checked_by": "letter" if lettered else "box",
        **found.to_summary(),
        "unparsed": _unparsed(by_question),
        "by_label": {
            label: {value: estimate.to_summary() for value, estimate in values.items()}
            for label, values in found.by_label.items()
            if len(values) <= MOST_VALUES
        },
    }
    if not tells_tokens:
        numbers["tokens"] = None
    if turns > 1:
        numbers |= {"turns": turns, "consistent": _consistent(grades, turns)}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        benchmark.write_rows(out / "traces.jsonl", grades)
        (out / "score.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return numbers


def _with_system(problem: Problem, system: str | None) -> Problem:
    if system is None or problem.prompt[0].role == "system":
        return problem
    return replace(problem, prompt=(Message("system", system), *problem.prompt))


def _checked_by(lettered: bool) -> tuple[Verifier, Callable[[Graded], Hashable | None]]:
    """The verifier, and what a trace votes for."""
    from postgrad.verify import choice, extract, maths

    if lettered:
        return choice.choice, lambda item: choice.content(item.problem, item.trace)
    return maths.boxed, lambda item: extract.boxed(item.trace.text)


def _by_question(grades: Sequence[Sequence[Graded]], turns: int) -> list[Sequence[Sequence[Graded]]]:
    """[questions][turns][samples]"""
    return [grades[start : start + turns] for start in range(0, len(grades), turns)]


def _unparsed(grades: Sequence[Sequence[Graded]]) -> dict[str, Any] | None:
    """Share of the checked traces without an answer that could be read: in the accuracy they are wrong."""
    from postgrad.evals import stats

    checked = [[item for item in row if item.verdict.status is not Status.UNCHECKED] for row in grades]
    if not any(checked):
        return None
    silent = [[float(item.verdict.status is Status.NO_ANSWER) for item in row] for row in checked]
    return stats.clustered_rate(silent).to_summary()


def _consistent(grades: Sequence[Sequence[Graded]], turns: int) -> dict[str, Any] | None:
    """Share of the questions for which every order of the options got the same one; None where none could be checked."""
    from postgrad.evals import stats
    from postgrad.verify import choice

    said = [[choice.consistent(orders) for orders in zip(*rows, strict=True)] for rows in _by_question(grades, turns)]
    known = [[float(same) for same in row if same is not None] for row in said]
    return stats.clustered_rate(known).to_summary() if any(known) else None


@contextmanager
def _sampler(
    model: str,
    name: str | None,
    key_variable: str | None,
    out: Path | None,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> Iterator[tuple[Sampler, bool]]:
    """And whether its traces hold their tokens, which endpoints do not tell."""
    if model.startswith(("http://", "https://")):
        from postgrad.sample import calls
        from postgrad.sample.api import ApiSampler, Endpoint

        if name is None or out is None:
            raise ValueError(
                f"{model} is an address: name the model that it serves with --name, and a folder for its calls with --out"
            )
        out.mkdir(parents=True, exist_ok=True)
        with calls.opened(out / "calls.sqlite") as store:
            parameters = {"max_tokens": max_tokens, "temperature": temperature}
            yield ApiSampler(Endpoint(model, name, parameters, key_variable), store, seed=seed), False
        return
    if name is not None or key_variable is not None:
        raise ValueError(f"--name and --key-variable are for an address, and {model} is a folder or a hub id")
    import torch

    from postgrad.sample.engine import Engine, Sampling
    from postgrad.train import model as models

    device = models.resolve_device("auto")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    engine = Engine(models.load_tokenizer(model), Sampling(max_tokens=max_tokens, temperature=temperature), seed=seed)
    engine.follow(models.load(model, dtype=dtype, device=device), 0)
    yield engine, True
