"""On a CPU, the products of a model's linear layers and their gradients by oneDNN instead of MKL, float32 throughout.

    y = x W^T + b        dL/dx = g W        dL/dW = g^T x        dL/db = sum of g's rows

torch hands float32 products to MKL, which leaves AVX-512 unused on AMD's processors; oneDNN does not. Where torch has oneDNN it is used
on every processor, so that a run's numbers do not depend on a choice made at its start. The sampler's products are oneDNN's too
(postgrad/sample/prepacked.py).

Source: the entry that torch's inductor calls for linear layers on a CPU (torch/_inductor/fx_passes/mkldnn_fusion.py); torch has no
gradient for it. Each plain `nn.Linear` changes its class for the time of a call, so that the model stays what it was.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


@contextmanager
def by_onednn(model: nn.Module) -> Iterator[None]:
    """Around a forward pass on a CPU; its gradients may be asked for later. Elsewhere nothing is changed.

    What has a `forward` of its own (a subclass, a hooked module, an adapter's wrapper) keeps it, a plain linear layer inside a wrapper does not.
    """
    swapped: list[nn.Module] = []
    try:
        if torch.backends.mkldnn.is_available() and next(model.parameters()).device.type == "cpu":
            for module in model.modules():
                if type(module) is nn.Linear and "forward" not in vars(module):
                    module.__class__ = _Linear
                    swapped.append(module)
        yield
    finally:
        for module in swapped:
            module.__class__ = nn.Linear


class _Linear(nn.Linear):
    # A class, because compiled layers share no graph where each of their parts has a `forward` of its own.
    def forward(self, input: Tensor) -> Tensor:
        """input [..., D] @ weight.T [D, O] + bias [O]."""
        # Asked here and not when it is swapped, because FSDP2 has the whole weight only by now. A compiler has products of its own.
        ours = _plain(input) and _plain(self.weight) and not torch.is_autocast_enabled("cpu")
        if not ours or torch.compiler.is_compiling():
            return super().forward(input)
        product: Tensor = _Product.apply(input, self.weight, self.bias)  # type: ignore[no-untyped-call]
        return product


def _plain(tensor: Tensor) -> bool:
    # From a part of a tensor oneDNN computes by its reference, a thousand times slower.
    return tensor.dtype is torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, weight_OD: Tensor, bias_O: Tensor | None) -> Tensor:
        ctx.save_for_backward(rows, weight_OD)
        return _product(rows, weight_OD, bias_O)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows, weight_OD = ctx.saved_tensors
        gradient = gradient.contiguous()
        to_rows, to_weight, to_bias = ctx.needs_input_grad
        gradient_NO, rows_ND = gradient.flatten(0, -2), rows.flatten(0, -2)
        return (
            _product(gradient, weight_OD.T) if to_rows else None,
            _weight_gradient(gradient_NO, rows_ND) if to_weight else None,
            gradient_NO.sum(0) if to_bias else None,
        )


def _weight_gradient(gradient_NO: Tensor, rows_ND: Tensor) -> Tensor:
    """[O, D]"""
    if gradient_NO.shape[1] <= rows_ND.shape[1]:
        return _product(gradient_NO.T, rows_ND.T)
    # Few rows by many columns are faster than many by few: 77 and 154 ms for 2,036 tokens, D of 256 and O of 16,384.
    return _product(rows_ND.T, gradient_NO.T).T.contiguous()


def _product(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x [..., I] @ weight.T [I, J] + bias [J]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return product
