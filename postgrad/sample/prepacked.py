"""On a CPU, the weights of a model's products laid out as oneDNN reads them, for as long as they are read and not trained.

A decoding step of few sequences is little more than reading every weight once. torch hands float32 products to MKL, which lays
the weights out anew in every call (and leaves AVX-512 unused on AMD's processors); oneDNN takes weights laid out beforehand, and
a layout serves any number of rows. Both are float32 throughout. The layout costs one pass over the weights and a copy of them.

Source: what torch's inductor does when it freezes weights (torch/_inductor/fx_passes/mkldnn_fusion.py). We swap the `forward` of
each plain `nn.Linear` in the place of compiling the model, because the weights change between any two samplings.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn


@contextmanager
def prepacked(model: Any) -> Iterator[None]:
    """Products of float32 on a CPU with the weights as they are on entering; everything else computes as ever.

    Without gradients only. What has a `forward` of its own (a subclass, a hooked module, an adapter's wrapper) keeps it, a plain linear layer
    inside a wrapper does not. A layer of several products that says `as_one` what they make together (train/lowrank.py) becomes one.
    """
    assert not torch.is_grad_enabled(), "a product with laid out weights has no gradient"
    swapped: list[nn.Module] = []
    inside: set[int] = set()
    try:
        for module in model.modules():
            if id(module) in inside or "forward" in vars(module) or (found := _one_product(module)) is None:
                continue
            weight, bias = found
            packed = torch.ops.mkldnn._reorder_linear_weight(weight)
            module.forward = partial(_product, module, packed, bias)
            inside.update(map(id, module.modules()))
            swapped.append(module)
        yield
    finally:
        for module in swapped:
            del module.forward


def _one_product(module: Any) -> tuple[Tensor, Tensor | None] | None:
    """Weight and bias, if that is all there is to it."""
    if type(module) is nn.Linear and _readable(module.weight):
        return module.weight, module.bias
    if hasattr(module, "as_one") and _readable(module.base_layer.weight):
        made: tuple[Tensor, Tensor | None] | None = module.as_one()
        return made
    return None


def _readable(weight: Tensor) -> bool:
    # The exact type, because a divided or quantised weight is a subclass of it.
    plain = type(weight) is nn.Parameter and weight.device.type == "cpu" and weight.dtype is torch.float32
    return plain and torch.backends.mkldnn.is_available()


def _product(layer: Any, packed: Tensor, bias: Tensor | None, rows: Tensor) -> Tensor:
    """rows [..., D] @ weight.T [D, O] + bias."""
    if torch.is_autocast_enabled("cpu"):
        plain: Tensor = type(layer).forward(layer, rows)
        return plain
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return product
