"""`postgrad kernels optimize`: search for a faster kernel with a model folder or an endpoint, and no training."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from postgrad.kernels.clock import Clock
    from postgrad.kernels.search import Summary
    from postgrad.protocols import Sampler

CONFIRM = 3
"""The finalists' second measurement gets so many times the seconds of the search's own."""


def search(
    task: Path,
    model: str,
    out: Path,
    *,
    name: str | None,
    key_variable: str | None,
    budget: int,
    seconds: float,
    strategy: str,
    clock: Clock,
    temperature: float,
    max_tokens: int,
    seed: int,
) -> Summary:
    """Into `out`, or on from where a search there stood. `model`: a folder, or an address whose model `name` names.

    Raises ValueError for a task, a folder or an address that cannot be used; see search.optimize for the rest.
    """
    from postgrad.kernels import evaluate as evaluation
    from postgrad.kernels import search as searches
    from postgrad.kernels.clock import any_gain
    from postgrad.kernels.environment import environment
    from postgrad.kernels.task import kernel_bench

    given = kernel_bench(task)
    where = environment(task=given.source, code="", seeds={}, compiler=None)
    told = ", ".join(f"{key} {value}" for key, value in sorted({**where.hardware, **where.versions}.items()))
    quick = evaluation.Settings(budget_s=seconds, clock=clock)
    slow = evaluation.Settings(budget_s=CONFIRM * seconds, clock=clock, again=any_gain)
    settings = searches.Settings(evaluations=budget, answers=4 * budget, strategy=strategy, seed=seed)
    out.mkdir(parents=True, exist_ok=True)
    with (
        sampler_of(model, name, key_variable, out, temperature, max_tokens, seed) as (sampler, named, spent),
        evaluation.Evaluator(given, quick) as evaluate,
        evaluation.Evaluator(given, slow) as confirm,
    ):
        return searches.optimize(
            searches.Subject(given, "torch", told),
            sampler,
            evaluate,
            settings,
            out,
            confirm=confirm,
            named=named,
            spent=spent,
        )


@contextmanager
def sampler_of(
    model: str, name: str | None, key_variable: str | None, out: Path, temperature: float, max_tokens: int, seed: int
) -> Iterator[tuple[Sampler, str, Any]]:
    """A sampler, its name, and its account of what it spent (None for a folder): of a model folder, or of an address, whose calls are kept in `out`."""
    if model.startswith(("http://", "https://")):
        from postgrad.sample import calls
        from postgrad.sample.api import ApiSampler, Endpoint

        if name is None:
            raise ValueError(f"{model} is an address: name the model that it serves with --name")
        parameters: Mapping[str, Any] = {"max_tokens": max_tokens, "temperature": temperature}
        with calls.opened(out / "calls.sqlite") as store:
            asked = ApiSampler(Endpoint(model, name, parameters, key_variable), store, seed=seed)
            yield asked, name, asked.spent
        return
    if name is not None or key_variable is not None:
        raise ValueError(f"--name and --key-variable are for an address, and {model} is a folder or a hub id")
    import torch

    from postgrad.sample.engine import Engine, Sampling
    from postgrad.train import model as models

    device = models.resolve_device("auto")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    loaded = models.load(model, dtype=dtype, device=device)
    engine = Engine(models.load_tokenizer(model), Sampling(max_tokens=max_tokens, temperature=temperature), seed=seed)
    engine.follow(loaded, 0)
    yield engine, model, None
