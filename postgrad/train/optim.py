"""AdamW and its schedule: linear warm-up, then a cosine to a share of the peak."""

from __future__ import annotations

import math

import torch

from postgrad.train.settings import Optimization


def adamw(model: torch.nn.Module, settings: Optimization) -> torch.optim.AdamW:
    """Decay on matrices only: norms and biases are left alone."""
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim >= 2]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim < 2]
    return torch.optim.AdamW(
        [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
        fused=True,
    )


def learning_rate(step: int, settings: Optimization) -> float:
    """Of optimizer step `step`, counted from 0. A function of the step alone, so there is no schedule state to save."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    progress = (step - settings.warmup_steps) / (settings.max_steps - settings.warmup_steps)
    cosine = 0.5 * (1 + math.cos(math.pi * progress))
    return settings.learning_rate * (settings.min_lr_ratio + (1 - settings.min_lr_ratio) * cosine)
