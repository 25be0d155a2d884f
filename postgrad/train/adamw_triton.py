# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"
"""adamw.update as one Triton kernel: each number is read once and written once. Imported where there is a CUDA device."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from postgrad.train.adamw import Factors

BLOCK = 1024


@triton.jit
def _adamw(
    weight, residual, gradient, mean, square, scale, numel, keep, beta2, new1, new2, stride, root2, eps,
    BFLOAT16: tl.constexpr, MASTER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A program has BLOCK numbers. BFLOAT16: `weight` are the bits of one, as int16; MASTER: and `residual` those below."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numel
    g = tl.load(gradient + at, mask=inside).to(tl.float32) * tl.load(scale)
    m = tl.load(mean + at, mask=inside)
    v = tl.load(square + at, mask=inside)
    m = m + new1 * (g - m)
    v = v * beta2 + new2 * g * g
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, v, mask=inside)
    change = tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root2) + eps)
    w = tl.load(weight + at, mask=inside)
    if BFLOAT16:
        bits = w.to(tl.int32) << 16
        if MASTER:
            bits += tl.load(residual + at, mask=inside).to(tl.int32)
        bits = (bits.to(tl.float32, bitcast=True) * keep - stride * change).to(tl.int32, bitcast=True)
        low = bits.to(tl.int16)
        if MASTER:
            tl.store(residual + at, low, mask=inside)
        tl.store(weight + at, ((bits - low.to(tl.int32)) >> 16).to(tl.int16), mask=inside)
    else:
        tl.store(weight + at, w * keep - stride * change, mask=inside)


def update(
    weight: Tensor,
    residual: Tensor | None,
    gradient: Tensor,
    mean: Tensor,
    square: Tensor,
    scale: Tensor,
    by: Factors,
) -> None:
    """In place; every tensor on one device."""
    if not weight.numel():
        return  # a rank's part of a small tensor can be empty, and a grid cannot
    assert weight.is_contiguous(), "the optimizer made its state like it"
    halved = weight.dtype == torch.bfloat16
    with torch.cuda.device_of(weight):
        _adamw[(triton.cdiv(weight.numel(), BLOCK),)](
            weight.view(torch.int16) if halved else weight,
            residual,
            gradient.contiguous(),
            mean,
            square,
            scale,
            weight.numel(),
            by.keep,
            by.beta2,
            by.new1,
            by.new2,
            by.stride,
            by.root2,
            by.eps,
            BFLOAT16=halved,
            MASTER=residual is not None,
            BLOCK=BLOCK,
        )
