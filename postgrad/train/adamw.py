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
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from postgrad.train import shard

MOMENTS = ("exp_avg", "exp_avg_sq")


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


class Part(NamedTuple):
    """What this rank changes of one weight."""

    weight: Tensor
    residual: Tensor | None
    mean: Tensor
    """exp_avg: m."""
    square: Tensor
    """exp_avg_sq: v."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Weights of one parameter group that are changed together: of one device, one kind, one dtype of gradient and one count of steps."""

    places: list[int]
    """Among the group's weights that have a gradient."""
    step: Tensor
    """Counted once: "step" in the state of each."""
    apply: Callable[[Sequence[Tensor], Tensor, Factors], None]
    """(their gradients, scale, factors): one step."""


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
        self._sorted: dict[int, tuple[list[Any], list[Alike]]] = {}
        """Of each parameter group, by its place: what its weights were when they were sorted, and how they were."""
        # Now, not in the first step: what is left is the room that micro-batches are made to fit (train/room.py).
        for group in self.param_groups:
            for weight in group["params"]:
                self._begin(weight)

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """From each weight's `grad`, bfloat16 or float32. The device is not waited for."""
        for place, group in enumerate(self.param_groups):
            weights = [weight for weight in group["params"] if weight.grad is not None]
            gradients = [shard.local(weight.grad) for weight in weights]
            for alike in self._alike(place, weights, gradients):
                alike.step.add_(1)
                scale = torch.ones((), device=gradients[alike.places[0]].device) if self.scale is None else self.scale
                alike.apply([gradients[at] for at in alike.places], scale, _factors(group, int(alike.step)))

    def _alike(self, place: int, weights: list[Tensor], gradients: list[Tensor]) -> list[Alike]:
        """Sorted anew only where this differs from the step before: addresses too, because a kernel knows weights by them."""
        now = [
            *map(id, weights),
            *[shard.local(weight).data_ptr() for weight in weights],
            *[gradient.dtype for gradient in gradients],
        ]
        before, found = self._sorted.get(place, (None, []))
        if now != before:
            found = self._sort(weights, gradients)
            self._sorted[place] = now, found
        return found

    def _sort(self, weights: list[Tensor], gradients: list[Tensor]) -> list[Alike]:
        kinds: dict[Any, list[int]] = {}
        for at, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
            state = self.state[weight]
            kind = weight.device, weight.dtype, "residual" in state, gradient.dtype, int(state["step"])
            kinds.setdefault(kind, []).append(at)
        sorted_ = []
        for (device, *_, taken), places in kinds.items():
            step = torch.tensor(float(taken))
            parts = []
            for at in places:
                state = self.state[weights[at]]
                state["step"] = step
                residual = shard.local(state["residual"]) if "residual" in state else None
                moments = [shard.local(state[name]) for name in MOMENTS]
                parts.append(Part(shard.local(weights[at].detach()), residual, *moments))
            sorted_.append(Alike(places, step, _on(device, parts)))
        return sorted_

    def _begin(self, weight: Tensor) -> None:
        state: dict[str, Tensor] = self.state[weight]
        state["step"] = torch.tensor(0.0)
        for name in MOMENTS:
            state[name] = torch.zeros_like(weight, dtype=torch.float32)
        if self.master_weights and weight.dtype == torch.bfloat16:
            state["residual"] = torch.zeros_like(weight, dtype=torch.int16)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As it was saved. torch's own would round moments and residuals to their weight's dtype."""
        super().load_state_dict({**state_dict, "state": {}})
        self._sorted.clear()
        weights = [weight for group in self.param_groups for weight in group["params"]]
        for index, weight in enumerate(weights):
            if index not in state_dict["state"]:
                self._begin(weight)
                continue
            values = state_dict["state"][index]
            devices = {name: "cpu" if name == "step" else weight.device for name in values}
            self.state[weight] = {name: value.to(devices[name]) for name, value in values.items()}


def _on(device: torch.device, parts: list[Part]) -> Callable[[Sequence[Tensor], Tensor, Factors], None]:
    if device.type == "cuda":
        from postgrad.train import adamw_triton

        return adamw_triton.Table(parts).update

    def one_by_one(gradients: Sequence[Tensor], scale: Tensor, by: Factors) -> None:
        for part, gradient in zip(parts, gradients, strict=True):
            update(part, gradient, scale, by)

    return one_by_one


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


def update(part: Part, gradient: Tensor, scale: Tensor, by: Factors) -> None:
    """One tensor's step, in place, with torch's plain operations; `adamw_triton.Table` is the same for many on CUDA."""
    weight, residual, mean, square = part
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
