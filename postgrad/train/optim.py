"""The optimizer and its schedule: linear warm-up, then a cosine to a share of the peak; gradients on their way into it."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from postgrad.train import shard
from postgrad.train.adamw import AdamW
from postgrad.train.exadam import EXAdam
from postgrad.train.settings import Optimization


def optimizer(model: torch.nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """The one that `settings.optim` names."""
    return adamw(model, settings) if settings.optim == "adamw" else exadam(model, settings)


def adamw(model: torch.nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    """torch's own for float32 weights, ours where some are bfloat16."""
    groups, betas = _groups(model, settings), (settings.adam_beta1, settings.adam_beta2)
    if all(weight.dtype != torch.bfloat16 for group in groups for weight in group["params"]):
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)
    return AdamW(
        groups,
        lr=settings.learning_rate,
        betas=betas,
        eps=settings.adam_epsilon,
        master_weights=settings.master_weights,
    )


def exadam(model: torch.nn.Module, settings: Optimization) -> torch.optim.Optimizer:
    return EXAdam(
        _groups(model, settings),
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        master_weights=settings.master_weights,
        growing_step=settings.optim == "exadam_v1",
    )


def _groups(model: torch.nn.Module, settings: Optimization) -> list[dict[str, Any]]:
    """Of what is trained. Decay on matrices only: norms and biases are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


class Gradients:
    """What a step's micro-batches add to the weights' `grad`: in float32 where there are several, as it comes where there is one."""

    def __init__(self, weights: Iterable[Tensor], micro_batches: int) -> None:
        """Begins a step: what an earlier one left is dropped."""
        self._summed: dict[Tensor, Tensor | None] = {}
        for weight in weights:
            weight.grad = None
            several = micro_batches > 1 and weight.dtype == torch.bfloat16
            # FSDP2 sets the gradient of a part itself, in the weight's dtype.
            weight.grad_dtype = torch.float32 if several and not isinstance(weight, DTensor) else weight.dtype
            if several and isinstance(weight, DTensor):
                self._summed[weight] = None

    def add(self) -> None:
        """After each backward pass."""
        for weight, total in self._summed.items():
            if weight.grad is not None:
                self._summed[weight] = weight.grad.float() if total is None else total.add_(weight.grad)
                weight.grad = None

    def finish(self) -> None:
        """After the last: `grad` is the sum."""
        for weight, total in self._summed.items():
            weight.grad_dtype = torch.float32
            weight.grad = total


def norm(gradients: list[Tensor]) -> Tensor:
    """Of all together; a scalar on their device, of float32 at least whatever their dtypes."""
    dtype = functools.reduce(torch.promote_types, {gradient.dtype for gradient in gradients}, torch.float32)
    return shard.full(torch.linalg.vector_norm(torch.stack(torch._foreach_norm(gradients, 2, dtype=dtype))))


def step(
    optimizer: torch.optim.Optimizer, weights: Sequence[Tensor], rate: float, total_norm: Tensor, max_norm: float
) -> None:
    """One step at this rate with the gradients scaled to a norm of at most `max_norm`; then they are let go."""
    if isinstance(optimizer, AdamW):
        # As they are read: no pass over them of its own.
        optimizer.scale = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
    else:
        torch.nn.utils.clip_grads_with_norm_(weights, max_norm, total_norm)
    for group in optimizer.param_groups:
        group["lr"] = rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def learning_rate(step: int, settings: Optimization) -> float:
    """Of optimizer step `step`, counted from 0. A function of the step alone, so there is no schedule state to save."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / (settings.max_steps - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine)
