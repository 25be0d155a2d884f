"""cuda_l1's laptop preset shrunk to seconds, and a judge that times nothing: a kernel's speed follows from its text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from postgrad import config
from postgrad.kernels import contrast, verifier
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.environment import environment
from postgrad.kernels.verdict import ACCEPTED, Finding, KernelVerdict, Reason, conclude
from postgrad.recipes import cuda_l1
from postgrad.recipes.cuda_l1 import tasks
from postgrad.run import Run

OVERRIDES = (
    "model.scratch.hidden_size=32",
    "model.scratch.num_hidden_layers=2",
    "model.scratch.num_attention_heads=2",
    "model.scratch.num_key_value_heads=1",
    "model.scratch.intermediate_size=64",
    "data.loops.families=[plane]",
    "data.loops.train=4",
    "data.loops.validation=2",
    "data.loops.test=3",
    "data.loops.read=8",
    "pretrain.max_steps=6",
    "pretrain.warmup_steps=1",
    "pretrain.eval_steps=6",
    "pretrain.save_steps=3",
    "sft.max_steps=6",
    "sft.warmup_steps=1",
    "sft.eval_steps=3",
    "sft.save_steps=3",
    "self_supervised.max_steps=2",
    "self_supervised.eval_steps=2",
    "self_supervised.save_steps=1",
    "self_supervised.prompts_per_step=2",
    "self_supervised.num_generations=2",
    "self_supervised.per_device_train_batch_size=4",
    "self_supervised.max_completion_length=48",
    "rl.max_steps=3",
    "rl.eval_steps=3",
    "rl.save_steps=1",
    "rl.prompts_per_step=2",
    "rl.num_generations=2",
    "rl.per_device_train_batch_size=4",
    "rl.max_prompt_length=448",
    "rl.max_completion_length=48",
    "eval.samples=1",
    "eval.max_tokens=48",
    "eval.bootstrap=200",
)


def settings(*overrides: str) -> cuda_l1.Config:
    layers = [config.preset("cuda_l1", "laptop"), *map(config.Override, (*OVERRIDES, *overrides))]
    return config.load(cuda_l1.Config, layers).settings


def start(out: Path, *overrides: str) -> tuple[cuda_l1.Config, Run]:
    asked = settings(*overrides)
    return asked, Run.create(out, recipe="cuda_l1", preset="laptop", config=asked, command=["postgrad", "run"])


class Scripted:
    """In the place of kernels.evaluate.Evaluator. Of all texts a quarter is wrong, one in sixteen cannot be checked."""

    judged = 0

    def __init__(self, task: Any, settings: Any = None, *, seed: int | None = None) -> None:
        del settings, seed
        self.task = task

    def __call__(self, candidate: Candidate, *, best: float | None = None) -> KernelVerdict:
        del best
        Scripted.judged += 1
        drawn = int(candidate.sha256[:8], 16)
        findings = {
            0: (Finding(Reason.WRONG_OUTPUT, "by its hash"),),
            1: (Finding(Reason.WRONG_OUTPUT, "by its hash"),),
            2: (Finding(Reason.BUILD_FAILED, "by its hash"),),
            3: (Finding(Reason.S13_BROADCAST, "by its hash"),),
            4: (Finding(Reason.SANDBOX_BROKEN, "by its hash"),),
        }.get(drawn % 16, ())
        status = conclude(findings)
        speedup = 0.5 + drawn // 16 % 400 / 100 if status is ACCEPTED else None
        where = environment(task=self.task.source, code=candidate.code, seeds={}, compiler=None)
        between = None if speedup is None else (speedup, speedup)
        return KernelVerdict(self.task.name, status, speedup, between, findings, None, where)

    def close(self) -> None:
        pass


def scripted(patch: pytest.MonkeyPatch) -> None:
    """No kernel is built or timed, and a model too small to open a code block has written one all the same."""

    def code(text: str) -> str | None:
        found = contrast.parse(text)
        return found if isinstance(found, str) else text.strip() or None

    patch.setattr(verifier, "Evaluator", Scripted)
    patch.setattr(verifier, "build_all", lambda *_, **__: ())
    patch.setattr(tasks, "admission", lambda *_: {})
    patch.setattr(tasks, "_code", code)
