"""AdamW for bfloat16 weights, their exact float32 masters kept beside them in 16 more bits. arXiv 1711.05101, decoupled decay:

    m = b1 m + (1 - b1) g,   v = b2 v + (1 - b2) g^2
    w = w (1 - lr decay) - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)         in float32, as torch.optim.AdamW

The bits of a float32 number are those of the bfloat16 next to it, moved up by 16, plus its own last 16 read as a signed number:

    bits = (nearest << 16) + residual

so the weight that the model computes with and an int16 residual together are the master, to the last bit. A parameter takes
2 + 2 + 8 bytes besides its gradient, where masters and a bfloat16 copy would take 4 + 2 + 8. The nearest is rounded with ties
away from zero, because the even one of a tie can be 2^15 below, which int16 does not hold. What a checkpoint's
model.safetensors holds are the bfloat16 weights; the residuals are part of the optimizer's state.

Weights that are float32, such as a LoRA adapter's, are their own masters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from postgrad.train import shard


@dataclass(frozen=True, slots=True)
class Factors:
    """The numbers of one step that are the same for a whole tensor."""

    keep: float
    """1 - lr decay."""
    beta2: float
    new1: float
    """1 - b1."""
    new2: float
    """1 - b2."""
    stride: float
    """lr / (1 - b1^t)."""
    root2: float
    """sqrt(1 - b2^t)."""
    eps: float


class AdamW(torch.optim.Optimizer):
    """`master_weights` False: bfloat16 weights have no residual, and a change below half their spacing is lost."""

    def __init__(
        self,
        params: Iterable[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        master_weights: bool = True,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0})
        self.master_weights = master_weights
        self.scale: Tensor | None = None
        """Scalar that gradients are multiplied by as they are read; None: 1."""

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """From each weight's `grad`, bfloat16 or float32. The device is not waited for."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight] or self._begin(weight)
                state["step"] += 1
                own = {
                    name: shard.local(state[name]) for name in ("exp_avg", "exp_avg_sq", "residual") if name in state
                }
                self._apply(
                    shard.local(weight.detach()), shard.local(weight.grad), own, _factors(group, int(state["step"]))
                )

    def _begin(self, weight: Tensor) -> dict[str, Tensor]:
        state: dict[str, Tensor] = self.state[weight]
        state["step"] = torch.tensor(0.0)
        state["exp_avg"] = torch.zeros_like(weight, dtype=torch.float32)
        state["exp_avg_sq"] = torch.zeros_like(weight, dtype=torch.float32)
        if self.master_weights and weight.dtype == torch.bfloat16:
            state["residual"] = torch.zeros_like(weight, dtype=torch.int16)
        return state

    def _apply(self, weight: Tensor, gradient: Tensor, own: dict[str, Tensor], by: Factors) -> None:
        scale = torch.ones((), device=weight.device) if self.scale is None else self.scale
        apply = update
        if weight.is_cuda:
            from postgrad.train import adamw_triton

            apply = adamw_triton.update
        apply(weight, own.get("residual"), gradient, own["exp_avg"], own["exp_avg_sq"], scale, by)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it was saved. torch's own would round moments and residuals to their weight's dtype."""
        super().load_state_dict({**state_dict, "state": {}})
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, values in state_dict["state"].items():
            devices = {name: "cpu" if name == "step" else weights[index].device for name in values}
            self.state[weights[index]] = {name: value.to(devices[name]) for name, value in values.items()}


def _factors(group: dict[str, Any], step: int) -> Factors:
    beta1, beta2 = group["betas"]
    return Factors(
        keep=1 - group["lr"] * group["weight_decay"],
        beta2=beta2,
        new1=1 - beta1,
        new2=1 - beta2,
        stride=group["lr"] / (1 - beta1**step),
        root2=math.sqrt(1 - beta2**step),
        eps=group["eps"],
    )


def update(
    weight: Tensor,
    residual: Tensor | None,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    scale: Tensor,
    by: Factors,
) -> None:
    """One tensor's step, in place, with torch's plain operations; `adamw_triton.update` is the same on CUDA."""
    master = weight.float() if residual is None else joined(weight, residual)
    gradient = gradient.float() * scale
    master.mul_(by.keep)
    mean.lerp_(gradient, by.new1)
    square.mul_(by.beta2).addcmul_(gradient, gradient, value=by.new2)
    master.addcdiv_(mean, (square.sqrt() / by.root2).add_(by.eps), value=-by.stride)
    if weight.dtype == torch.bfloat16:
        nearest, rest = divided(master)
        weight.copy_(nearest)
        if residual is not None:
            residual.copy_(rest)


def joined(weight: Tensor, residual: Tensor) -> Tensor:
    """bfloat16 and int16 -> the float32 master."""
    return ((weight.view(torch.int16).to(torch.int32) << 16) + residual).view(torch.float32)


def divided(master: Tensor) -> tuple[Tensor, Tensor]:
    """float32 -> the bfloat16 nearest to it, ties away from zero, and the int16 residual. What is no number is kept by `joined` alone."""
    bits = master.view(torch.int32)
    residual = bits.to(torch.int16)
    return ((bits - residual) >> 16).to(torch.int16).view(torch.bfloat16), residual
