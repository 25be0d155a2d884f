"""For one call, a model's head gives something else than logits, made from the same input and weight (train/head.py).

It passes through the model's own output, so that hooks on modules and outputs see it and its gradient as they would see logits: those by
which FSDP2 gathers and frees weights, and a tied weight's two gradients, need nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Compute = Callable[[Tensor, Tensor], Sequence[Tensor]]
"""From the head's input [K, D] and its weight [V, D], of one type."""

SHAPED = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier")
"""What configs call a change of the logits behind the head."""


def possible(model: Any) -> bool:
    """Whether logits are the product of the head's input and weight, and nothing more, on CUDA."""
    if next(model.parameters()).device.type != "cuda":
        return False
    head = model.get_output_embeddings()
    shaped = any(getattr(model.config, name, None) not in (None, 1) for name in SHAPED)
    # No subclass: those of adapters and of quantised weights compute something else.
    return type(head) is torch.nn.Linear and head.bias is None and not shaped


def of_logits(model: Any, compute: Compute, call: Callable[[], Tensor]) -> list[Tensor]:
    """`call` runs the model and returns its logits; this returns what `compute` gave in their place."""
    head = model.get_output_embeddings()
    given: list[Tensor] = []
    shapes: list[torch.Size] = []

    def forward(hidden_1KD: Tensor) -> Tensor:
        kind = hidden_1KD.device.type
        # As autocast would have done for the head's product.
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else head.weight.dtype
        with torch.autocast(kind, enabled=False):
            parts = compute(hidden_1KD[0].to(dtype), head.weight.to(dtype))
        shapes.extend(part.shape for part in parts)
        given.append(torch.cat([part.flatten() for part in parts])[None])
        return given[0]

    head.forward = forward
    try:
        output = call()
    finally:
        del head.forward
    assert output is given[0], f"{type(model).__name__} changes its logits in a way that SHAPED does not name"
    pieces = output[0].split([shape.numel() for shape in shapes])
    return [piece.view(shape) for piece, shape in zip(pieces, shapes, strict=True)]
