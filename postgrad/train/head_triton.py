# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"
"""The elementwise steps of head.py: one pass over a tile of logits each. A program has one row of the tile, whole, in registers."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def absorb(
    logits, row_stride, first, width, inverse_temperature, targets, peaks, totals, products, chosen,
    kept, kept_stride, references, WIDTH: tl.constexpr, KEEP: tl.constexpr,
):  # fmt: skip
    """Take a tile into each row's running m = max l, z = sum exp(l - m), sum exp(l - m) (l - m), and the target's l where it is here.

    KEEP: also write exp(l - m) and the m that it was taken with.
    """
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    real = at < width
    s = tl.load(logits + row * row_stride + at, mask=real, other=-float("inf")).to(tl.float32) * inverse_temperature
    old_peak = tl.load(peaks + row)
    old_total = tl.load(totals + row)
    peak = tl.maximum(old_peak, tl.max(s, 0))
    # Not s alone: 0 * -inf is no number.
    shifted = tl.where(real, s - peak, 0.0)
    weights = tl.where(real, tl.exp(shifted), 0.0)
    scale = tl.exp(old_peak - peak)
    product = scale * (tl.load(products + row) + old_total * (old_peak - peak)) + tl.sum(weights * shifted, 0)
    tl.store(peaks + row, peak)
    tl.store(totals + row, scale * old_total + tl.sum(weights, 0))
    tl.store(products + row, product)
    target = tl.load(targets + row) - first
    here = (target >= 0) & (target < width)
    value = tl.load(logits + row * row_stride + target, mask=here, other=0.0).to(tl.float32) * inverse_temperature
    tl.store(chosen + row, value, mask=here)
    if KEEP:
        tl.store(kept + row * kept_stride + at, weights.to(kept.dtype.element_ty), mask=real)
        tl.store(references + row, peak)


@triton.jit
def differentiate(
    logits, row_stride, first, width, inverse_temperature, targets, lses, gradients, out, out_stride,
    WIDTH: tl.constexpr,
):  # fmt: skip
    """out = gradient * d logp / d l = gradient * (onehot(target) - exp(l - lse)) / temperature."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, WIDTH)
    real = at < width
    s = tl.load(logits + row * row_stride + at, mask=real, other=0.0).to(tl.float32) * inverse_temperature
    onehot = tl.where(at == tl.load(targets + row) - first, 1.0, 0.0)
    gradient = tl.load(gradients + row) * inverse_temperature * (onehot - tl.exp(s - tl.load(lses + row)))
    tl.store(out + row * out_stride + at, gradient.to(out.dtype.element_ty), mask=real)


@triton.jit
def differentiate_kept(
    kept, kept_stride, size, targets, references, rows, lses, gradients, WIDTH: tl.constexpr
):  # fmt: skip
    """The same in place of what `absorb` kept of all the tiles, at temperature 1: exp(l - lse) = kept * exp(m - lse)."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    at = tile * WIDTH + tl.arange(0, WIDTH)
    real = at < size
    scale = tl.exp(tl.load(references + tile * rows + row) - tl.load(lses + row))
    p = tl.load(kept + row * kept_stride + at, mask=real, other=0.0).to(tl.float32) * scale
    onehot = tl.where(at == tl.load(targets + row), 1.0, 0.0)
    gradient = tl.load(gradients + row) * (onehot - p)
    tl.store(kept + row * kept_stride + at, gradient.to(kept.dtype.element_ty), mask=real)
