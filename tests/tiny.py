"""The laptop preset shrunk to seconds: the same recipe, the same parts, a model too small to learn much."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from postgrad import config
from postgrad.recipes import math_two_stage
from postgrad.run import Run

OVERRIDES = (
    "model.scratch.hidden_size=32",
    "model.scratch.num_hidden_layers=2",
    "model.scratch.num_attention_heads=2",
    "model.scratch.num_key_value_heads=1",
    "model.scratch.intermediate_size=64",
    "data.arithmetic.train=300",
    "data.arithmetic.validation=12",
    "data.arithmetic.test=24",
    "data.arithmetic.max_steps=3",
    "sft.max_steps=24",
    "sft.warmup_steps=2",
    "sft.max_length=256",
    "sft.eval_steps=8",
    "sft.save_steps=3",
    "rl.max_steps=12",
    "rl.warmup_steps=1",
    "rl.eval_steps=6",
    "rl.save_steps=3",
    "rl.prompts_per_step=4",
    "rl.num_generations=4",
    "rl.per_device_train_batch_size=8",
    "rl.max_completion_length=24",
    "rl.rewards.max_length=24",
    "eval.samples=2",
    "eval.max_tokens=24",
    "eval.bootstrap=200",
)


def settings(*overrides: str) -> math_two_stage.Config:
    layers = [config.preset("math_two_stage", "laptop"), *map(config.Override, (*OVERRIDES, *overrides))]
    return config.load(math_two_stage.Config, layers).settings


def start(out: Path, *overrides: str) -> tuple[math_two_stage.Config, Run]:
    asked = settings(*overrides)
    return asked, Run.create(out, recipe="math_two_stage", preset="laptop", config=asked, command=["postgrad", "run"])


def run(out: Path, *overrides: str) -> dict[str, Any]:
    return math_two_stage.main(*start(out, *overrides))
