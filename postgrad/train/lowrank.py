"""One adapted linear layer: PEFT's module with a forward of ours. Imported once a model gets an adapter, because it imports PEFT.

    LoRA (arXiv 2106.09685)     y = x W^T + s (x A^T) B^T          s = alpha / r;  rsLoRA (arXiv 2312.03732): alpha / sqrt(r)
    DoRA (arXiv 2402.09353)     y = m / n (x W^T + s (x A^T) B^T)      n = rows' norm of W + s B A, a constant to the gradient

PEFT forms W + s B A in each pass to take its norm, some six passes over a matrix of W's size. The frozen W's norm is known, so ours is

    n^2 = |W|^2 + sum over r of (2 s W A^T + s^2 B (A A^T)) * B

which costs the products of r more tokens. Departures: the norm is float32 and so is m, whatever W is (a bfloat16 ratio of the two moves in
steps of 0.4 to 0.8 %); with dropout in training the forward is PEFT's own, where DoRA's base product sees what was dropped as well.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners import lora
from torch import Tensor, nn

NAME = "default"
"""Of the one adapter, as PEFT calls it."""


class Linear(lora.Linear):
    """`lora.Linear` by another forward; `adopt` makes one."""

    base_layer: nn.Linear
    norm2_O: Tensor
    """DoRA only: the squares of the base weight's row norms, float32."""

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        dropped = self.training and type(self.lora_dropout[NAME]) is not nn.Identity
        if args or kwargs or dropped or self.disable_adapters or self.merged or self.active_adapters != [NAME]:
            theirs: Tensor = super().forward(x, *args, **kwargs)
            return theirs
        low = self.lora_A[NAME](x) * self.scaling[NAME]
        if NAME not in self.lora_magnitude_vector:
            summed: Tensor = self.base_layer(x) + self.lora_B[NAME](low)
            return summed
        share_O = self.share()
        made: Tensor = ((self.base_layer(x) + self.lora_B[NAME](low)) * share_O).to(x.dtype)
        # The base has added its bias, which is not m / n's to change.
        bias_O = self.base_layer.bias
        return made if bias_O is None else made + (bias_O * (1 - share_O)).to(x.dtype)

    def as_one(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of a plain layer that says the same, for a sampler that lays weights out anyway; None: PEFT turned us off."""
        off = self.disable_adapters or self.merged or self.active_adapters != [NAME]
        return None if off else (merged(self), self.base_layer.bias)

    def share(self) -> Tensor:
        """m / n, [O] float32."""
        scaling, a_rD, b_Or = self.scaling[NAME], self.lora_A[NAME], self.lora_B[NAME].weight
        with torch.no_grad():
            # By the module, whose products are oneDNN's on a CPU.
            crossed_Or = a_rD(self.base_layer.weight).float()
            squared_Or = b_Or.float() @ a_rD(a_rD.weight).float()
            norm2_O = self.norm2_O + ((2 * scaling * crossed_Or + scaling**2 * squared_Or) * b_Or.float()).sum(1)
        share_O: Tensor = self.lora_magnitude_vector[NAME].weight / norm2_O.sqrt()
        return share_O


def adopt(module: Any) -> None:
    """Give PEFT's module our forward. Raises ValueError where it adapts anything but an `nn.Linear`."""
    base = getattr(module, "base_layer", module)
    if type(module) is not lora.Linear or not isinstance(base, nn.Linear):
        raise ValueError(
            f"target_modules reaches a {type(base).__name__}, and only nn.Linear layers are adapted here: name the linear layers"
        )
    module.__class__ = Linear
    if NAME in module.lora_magnitude_vector:
        norm_O = base.weight.detach().float().norm(dim=1)
        module.register_buffer("norm2_O", norm_O.square(), persistent=False)
        module.lora_magnitude_vector[NAME].weight = nn.Parameter(norm_O)


@torch.no_grad()
def merged(module: Linear) -> Tensor:
    """A new weight of the base's dtype that says what base and adapter say together: computed in float32 and rounded once."""
    a_rD, b_Or = (torch.as_tensor(part[NAME].weight).float() for part in (module.lora_A, module.lora_B))
    weight_OD = module.base_layer.weight.float() + module.scaling[NAME] * (b_Or @ a_rD)
    if NAME in module.lora_magnitude_vector:
        weight_OD *= (module.lora_magnitude_vector[NAME].weight / weight_OD.norm(dim=1))[:, None]
    made: Tensor = weight_OD.to(module.base_layer.weight.dtype)
    return made
