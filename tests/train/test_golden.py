"""Ten steps of supervised training whose numbers a refactor must reproduce.

Recorded on x86-64 with AVX-512 and torch 2.13. With AVX2 or without either, and on one thread or two, the same numbers
differ by 1.1e-7 at most, so 1e-5 leaves room for other processors (ARM was not measured) and none for another algorithm.
To record again, after a change that is meant to change them:

    PYTHONPATH=. python tests/train/test_golden.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

GOLDEN = Path(__file__).parent.parent / "golden" / "sft_tiny.json"
NAMES = ("loss", "grad_norm", "learning_rate", "entropy")


def curve() -> list[dict[str, float]]:
    import torch

    from postgrad.domains import arithmetic
    from postgrad.records import Example
    from postgrad.train import fit, loss, optim, source
    from postgrad.train import model as models
    from postgrad.train.settings import SftSettings
    from tests.conftest import SHAPE

    tokenizer = arithmetic.tokenizer()
    settings = SftSettings(
        max_steps=10,
        learning_rate=3e-3,
        warmup_steps=2,
        weight_decay=0.1,
        max_length=160,
        per_device_train_batch_size=2,
        gradient_accumulation_steps=2,
    )
    problems = arithmetic.problems("train", 40, min_steps=2, max_steps=5, seed=0)
    examples = [
        Example(p.prompt, text, id=p.id) for p in problems for text in arithmetic.traces(p, 1, recheck=0.3, seed=0)
    ]
    feed = source.Packed(source.supervised(tokenizer, examples, settings)[0], settings, seed=0)
    model = models.from_scratch(SHAPE, tokenizer, seed=0, dtype=torch.float32, device=torch.device("cpu"))
    optimizer = optim.adamw(model, settings)
    rows = []
    for taken in range(settings.max_steps):
        rate = optim.learning_rate(taken, settings)
        batches = feed.step(model, taken).batches
        numbers = fit.update(model, batches, loss.likelihood, optimizer, rate, settings.max_grad_norm, taken + 1)
        rows.append({name: numbers[name] for name in NAMES})
    return rows


def test_ten_steps_are_as_recorded() -> None:
    recorded: list[dict[str, Any]] = json.loads(GOLDEN.read_text())
    found = curve()
    assert len(found) == len(recorded) == 10
    assert recorded[-1]["loss"] < recorded[0]["loss"] - 0.5, "a curve that goes somewhere"
    for step, (ours, theirs) in enumerate(zip(found, recorded, strict=True), start=1):
        assert ours == pytest.approx(theirs, rel=1e-5), f"step {step}"


if __name__ == "__main__":
    import torch

    torch.set_num_threads(1)
    GOLDEN.write_text(json.dumps(curve(), indent=1) + "\n")
