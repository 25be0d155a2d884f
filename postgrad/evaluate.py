"""`postgrad eval`: a model folder on a file of problems, with the engine and the verifier that training uses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def folder(
    model: str,
    data: Path,
    *,
    samples: int,
    max_tokens: int,
    temperature: float,
    limit: int | None,
    seed: int,
    out: Path | None,
) -> dict[str, Any]:
    """Counts and rates with intervals; with `out` also every trace in out/traces.jsonl and the numbers in out/score.json."""
    import torch

    from postgrad import progress
    from postgrad.data import sources
    from postgrad.evals import benchmark
    from postgrad.sample.engine import Engine, Sampling
    from postgrad.train import model as models
    from postgrad.verify import extract, maths

    if out is not None and (out / "traces.jsonl").exists():
        raise ValueError(f"{out} already holds a measurement: choose another --out")
    problems = sources.problems(data)[:limit]
    device = models.resolve_device("auto")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    tokenizer = models.load_tokenizer(model)
    engine = Engine(tokenizer, Sampling(max_tokens=max_tokens, temperature=temperature), seed=seed)
    engine.follow(models.load(model, dtype=dtype, device=device), 0)
    with progress.shown(progress.auto(), "eval", len(problems) * samples, "trace") as live:
        engine.report = lambda done, total: live.update(done)  # noqa: ARG005
        grades = benchmark.grade(engine, maths.boxed, problems, samples)
    found = benchmark.score(grades, lambda item: extract.boxed(item.trace.text), seed=seed)
    numbers: dict[str, Any] = {"model": model, "data": str(data), "problems": len(problems), **found.to_summary()}
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        benchmark.write_rows(out / "traces.jsonl", grades)
        (out / "score.json").write_text(json.dumps(numbers, indent=1) + "\n")
    return numbers
