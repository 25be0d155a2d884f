"""What the experiments on a tiny model share: its problems, its steps, and claims over seeds in the form of docs/results."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from bench.claims import over_seeds
from postgrad.domains import arithmetic
from postgrad.records import Example
from postgrad.run import commit, hardware, write_json
from postgrad.train import fit, model, optim, source
from postgrad.train.batch import Document
from postgrad.train.loss import likelihood
from postgrad.train.settings import SftSettings

SHAPE = {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
}


def settings(**changed: Any) -> SftSettings:
    """1,024 tokens a step."""
    return SftSettings(**{"max_length": 512, "per_device_train_batch_size": 2, "adam_beta2": 0.98} | changed)


def made(width: int, seed: int) -> Any:
    shape = {**SHAPE, "hidden_size": width, "intermediate_size": 3 * width}
    return model.from_scratch(shape, arithmetic.tokenizer(), seed=seed, dtype=torch.float32, device=torch.device("cpu"))


def documents(
    split: arithmetic.Split, count: int, *, steps: tuple[int, int], recheck: float, seed: int
) -> list[Document]:
    problems = arithmetic.problems(split, count, min_steps=steps[0], max_steps=steps[1], seed=seed)
    examples = [
        Example(one.prompt, arithmetic.traces(one, 1, recheck=recheck, seed=seed)[0], id=one.id) for one in problems
    ]
    return source.supervised(arithmetic.tokenizer(), examples, settings(max_steps=1, learning_rate=1.0))[0]


def trained(learner: Any, texts: Sequence[Document], asked: SftSettings, seed: int) -> list[float]:
    """The loss of each step; every run of a seed sees the same steps."""
    feed = source.Packed(texts, asked, seed=seed)
    optimizer = optim.optimizer(learner, asked)
    losses = []
    for step in range(asked.last_step):
        rate = optim.learning_rate(step, asked)
        batches = feed.step(learner, step).batches
        losses.append(fit.update(learner, batches, likelihood, optimizer, rate, asked.max_grad_norm, step + 1)["loss"])
    return losses


def claim(name: str, statement: str, values: Sequence[float], op: str, threshold: float) -> dict[str, Any]:
    """Of one number a seed: their mean with Student's interval. Met where the interval's worse end is."""
    measured, interval = over_seeds(values)
    met = interval[0] >= threshold if op == ">=" else interval[1] <= threshold
    return {
        "id": name,
        "statement": statement,
        "measured": measured,
        "interval": interval,
        "op": op,
        "threshold": threshold,
        "n": len(values),
        "met": bool(met),
    }


def weakest(name: str, statement: str, values: Sequence[float], op: str, threshold: float) -> dict[str, Any]:
    """Of one number a seed: the worst, with their range. Met where it is, so where every seed meets it."""
    measured = min(values) if op == ">=" else max(values)
    return {
        "id": name,
        "statement": f"{statement}; the weakest of {len(values)} seeds, with their range",
        "measured": measured,
        "interval": [min(values), max(values)],
        "op": op,
        "threshold": threshold,
        "n": len(values),
        "met": measured >= threshold if op == ">=" else measured <= threshold,
    }


def record(name: str, results: Path, seeds: Sequence[int], metrics: Sequence[dict[str, Any]], claims: Any) -> None:
    """Writes `results`/NAME-laptop.json and prints the claims."""
    head = {"recipe": name, "preset": "laptop", "commit": commit(), "hardware": hardware()}
    rows = [{"seed": seed, "metrics": numbers} for seed, numbers in zip(seeds, metrics, strict=True)]
    command = " ".join([f"python -m bench.{name}", *sys.argv[1:]])
    told = {**head, "command": command, "date": time.strftime("%Y-%m-%d"), "seeds": rows, "claims": claims}
    write_json(results / f"{name}-laptop.json", told)
    for one in claims:
        print(json.dumps(one), flush=True)
