"""EXAdam: Adam whose two corrections of bias know of each other, and which adds the gradient of the step itself. arXiv 2412.20302:

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
    d1 = 1 + v / (v + eps) b2^t        d2 = 1 + m^2 / (m^2 + eps) b1^t
    w = w (1 - lr decay) - lr (m + g) / (1 - b1^t) d1 / (sqrt(v / (1 - b2^t) d2) + eps)

Its paper's first version multiplied lr, not the decay, by ln(sqrt(2) sqrt(t + 1)), which grows without bound: `growing_step`. Formulas
of both as in the author's code (AhmedMostafa16/EXAdam, 9ff8463 and 5ad536f). Which of the two trained Gazal-R1 is not known.

What to expect: g comes with no (1 - b1), so the first step is 10 to 16 times Adam's at the same lr, and later ones are 2 times (a steady
gradient) to 5 times (noise): give it warm-up, and compare it with Adam over a range of rates only. Eps stands beside v and m^2, so
that a step depends on the gradient's scale where that is near sqrt(eps).

Departure: m, v, d1 and d2 are float32 whatever the weights are (the author's are of the weights' type, where m^2 underflows), and bfloat16
weights have the exact masters of train/adamw.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from postgrad.train import shard
from postgrad.train.adamw import MOMENTS, AdamW, divided, joined


class EXAdam(AdamW):
    """State, masters and `scale` are AdamW's."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        master_weights: bool = True,
        growing_step: bool = False,
    ) -> None:
        super().__init__(params, lr=lr, betas=betas, eps=eps, master_weights=master_weights)
        self.growing_step = growing_step

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """From each weight's `grad`, bfloat16 or float32. The device is not waited for."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._change(weight, weight.grad, group)

    def _change(self, weight: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state: dict[str, Tensor] = self.state[weight]
        state["step"] += 1
        taken, (beta1, beta2) = int(state["step"]), group["betas"]
        stride = group["lr"] * math.log(math.sqrt(2 * (taken + 1))) if self.growing_step else group["lr"]
        mean, square = (shard.local(state[name]) for name in MOMENTS)
        own = shard.local(weight.detach())
        residual = shard.local(state["residual"]) if "residual" in state else None
        master = own.float() if residual is None else joined(own, residual)
        gradient = shard.local(gradient).float()
        if self.scale is not None:
            gradient = gradient * self.scale
        master.mul_(1 - group["lr"] * group["weight_decay"])
        master.add_(_direction(gradient, mean, square, taken, beta1, beta2, group["eps"]), alpha=-stride)
        if own.dtype == torch.bfloat16:
            nearest, rest = divided(master)
            own.copy_(nearest)
            if residual is not None:
                residual.copy_(rest)


def _direction(
    gradient: Tensor, mean: Tensor, square: Tensor, taken: int, beta1: float, beta2: float, eps: float
) -> Tensor:
    """What lr is multiplied by; `mean` and `square`, m and v, move on in place."""
    mean.lerp_(gradient, 1 - beta1)
    square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
    d1 = (square / (square + eps)).mul_(beta2**taken).add_(1)
    m2 = mean.square()
    d2 = (m2 / (m2 + eps)).mul_(beta1**taken).add_(1)
    below = (square / (1 - beta2**taken)).mul_(d2).sqrt_().add_(eps)
    return (mean + gradient).div_(1 - beta1**taken).mul_(d1).div_(below)
