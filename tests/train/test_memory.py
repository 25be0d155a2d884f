"""Bytes by hand."""

from __future__ import annotations

from typing import Any

import pytest

from postgrad.recipes import math_two_stage
from postgrad.train import memory
from tests import tiny

SHAPE = memory.Shape(parameters=1000, layers=3, hidden=8, intermediate=16, query_width=8, kv_width=4, vocabulary=50)


@pytest.mark.parametrize(
    ("dtype", "changed", "bytes_each"),
    [
        ("float32", {}, 4 + 8 + 4),
        ("float32", {"micro_batches": 2, "reference": True}, 4 + 8 + 4 + 4),
        ("bfloat16", {}, 2 + 2 + 8 + 2),
        ("bfloat16", {"micro_batches": 2}, 2 + 2 + 8 + 4),
        ("bfloat16", {"master_weights": False, "reference": True}, 2 + 8 + 2 + 2),
    ],
)
def test_the_state_of_training(dtype: str, changed: dict[str, Any], bytes_each: int) -> None:
    asked: dict[str, Any] = {"master_weights": True, "micro_batches": 1, "reference": False} | changed
    assert memory.state(SHAPE, dtype=dtype, **asked) == 1000 * bytes_each


def test_four_billion_parameters_train_on_80_gb() -> None:
    qwen = memory.Shape(4_022_468_096, 36, 2560, 9728, 4096, 1024, 151936)
    state = memory.state(qwen, dtype="bfloat16", master_weights=True, micro_batches=2, reference=False)
    peak = memory.activations(qwen, 16_384, 16_384, dtype="bfloat16", recomputed=True, on_cuda=True)
    assert 60 * memory.GIB < state + peak < 70 * memory.GIB


def test_activations() -> None:
    asked: dict[str, Any] = {"dtype": "bfloat16", "on_cuda": False}
    layer = 80 + 16 + 16 + 64
    head = 12 * 5 * 50
    assert memory.activations(SHAPE, 10, 5, recomputed=False, **asked) == 10 * 2 * 3 * layer + head
    assert memory.activations(SHAPE, 10, 5, recomputed=True, **asked) == 10 * 2 * (3 * 8 + layer) + head
    some = 24 + 16 + 8 + 32
    assert memory.activations(SHAPE, 10, 5, recomputed="selective", **asked) == 10 * 2 * (3 * some + layer) + head
    many = memory.activations(SHAPE, 1, 10**8, recomputed=True, dtype="float32", on_cuda=True)
    assert many == 4 * (3 * 8 + layer) + memory.TILES


def test_a_plan_says_what_each_stage_and_each_rank_holds() -> None:
    rows = math_two_stage.plan(tiny.settings("model.dtype=bfloat16", "model.device=cpu"))
    assert rows["model"].endswith(" parameters in bfloat16")
    assert {"sft memory", "rl memory", "ranks"} <= set(rows)
    assert "1/R of the state each" in rows["ranks"]
