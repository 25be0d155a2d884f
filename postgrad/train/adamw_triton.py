# mypy: disable-error-code="import-untyped,no-untyped-def,untyped-decorator"
"""adamw.update for all tensors of a kind in one Triton kernel: each number is read once and written once. Imported where there is a CUDA device.

The kernel finds its tensors by their addresses: a row of a table for each, and the gradients', new in each step, beside it. A
program takes CHUNK numbers of one tensor; a second table says which. Addresses from a table carry no promise, so a
program looks at its own: 16 bytes are moved at a time where all five are multiples of 16 and the chunk is full, and single numbers elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from postgrad.train.adamw import Factors, Part

BLOCK = 1024
CHUNK = 8 * BLOCK


@triton.jit
def _block(
    weight, residual, gradient, mean, square, at, inside, scale, keep, beta2, new1, new2, stride, root2, eps,
    BFLOAT16: tl.constexpr, MASTER: tl.constexpr,
):  # fmt: skip
    """The numbers `at`. BFLOAT16: `weight` are the bits of one, as int16; MASTER: and `residual` those below. `inside` None: all are."""
    # Fused by name: left to choose, the compiler fused v in two ways within one thread, so that bits depended on the place.
    raw = tl.load(gradient + at, mask=inside).to(tl.float32)
    m = tl.load(mean + at, mask=inside)
    v = tl.load(square + at, mask=inside)
    g = raw * scale
    m = tl.fma(tl.fma(raw, scale, -m), new1, m)
    v = tl.fma(g * new2, g, v * beta2)
    tl.store(mean + at, m, mask=inside)
    tl.store(square + at, v, mask=inside)
    change = tl.div_rn(m, tl.div_rn(tl.sqrt_rn(v), root2) + eps)
    w = tl.load(weight + at, mask=inside)
    if BFLOAT16:
        bits = w.to(tl.int32) << 16
        if MASTER:
            bits += tl.load(residual + at, mask=inside).to(tl.int32)
        bits = tl.fma(bits.to(tl.float32, bitcast=True), keep, -stride * change).to(tl.int32, bitcast=True)
        low = bits.to(tl.int16)
        if MASTER:
            tl.store(residual + at, low, mask=inside)
        tl.store(weight + at, ((bits - low.to(tl.int32)) >> 16).to(tl.int16), mask=inside)
    else:
        tl.store(weight + at, tl.fma(w, keep, -stride * change), mask=inside)


@triton.jit
def _adamw(
    parts, gradients, chunks, scale, keep, beta2, new1, new2, stride, root2, eps,
    BFLOAT16: tl.constexpr, MASTER: tl.constexpr, GRADIENT: tl.constexpr, BLOCK: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    """`parts` [R, 5] and `gradients` [R]: addresses, and the count of numbers; `chunks` [programs, 2]: row, chunk within it."""
    STORED: tl.constexpr = tl.int16 if BFLOAT16 else tl.float32
    row = tl.load(chunks + tl.program_id(0) * 2)
    begin = tl.load(chunks + tl.program_id(0) * 2 + 1).to(tl.int64) * CHUNK
    weight = tl.load(parts + row * 5)
    residual = tl.load(parts + row * 5 + 1)
    mean = tl.load(parts + row * 5 + 2)
    square = tl.load(parts + row * 5 + 3)
    numel = tl.load(parts + row * 5 + 4)
    gradient = tl.load(gradients + row)
    factor = tl.load(scale)
    lane = tl.arange(0, BLOCK)
    if ((weight | residual | gradient | mean | square) % 16 == 0) & (begin + CHUNK <= numel):
        for start in range(begin, begin + CHUNK, BLOCK):
            _block(
                tl.multiple_of(weight.to(tl.pointer_type(STORED)), 16),
                tl.multiple_of(residual.to(tl.pointer_type(tl.int16)), 16),
                tl.multiple_of(gradient.to(tl.pointer_type(GRADIENT)), 16),
                tl.multiple_of(mean.to(tl.pointer_type(tl.float32)), 16),
                tl.multiple_of(square.to(tl.pointer_type(tl.float32)), 16),
                start + lane, None, factor, keep, beta2, new1, new2, stride, root2, eps, BFLOAT16, MASTER,
            )  # fmt: skip
    else:
        for start in range(begin, tl.minimum(begin + CHUNK, numel), BLOCK):
            at = start + lane
            _block(
                weight.to(tl.pointer_type(STORED)),
                residual.to(tl.pointer_type(tl.int16)),
                gradient.to(tl.pointer_type(GRADIENT)),
                mean.to(tl.pointer_type(tl.float32)),
                square.to(tl.pointer_type(tl.float32)),
                at, at < numel, factor, keep, beta2, new1, new2, stride, root2, eps, BFLOAT16, MASTER,
            )  # fmt: skip


class Table:
    """Tensors of one device and kind, to be changed in place: all bfloat16 with residuals, all bfloat16 without, or all float32."""

    def __init__(self, parts: Sequence[Part]) -> None:
        assert all(tensor.is_contiguous() for part in parts for tensor in part if tensor is not None)
        self._first = parts[0]
        # Held, because the device knows their addresses only.
        self._parts = parts
        rows = [
            [*(0 if tensor is None else tensor.data_ptr() for tensor in part), part.weight.numel()] for part in parts
        ]
        sizes = torch.tensor([-(-part.weight.numel() // CHUNK) for part in parts])
        row = torch.repeat_interleave(sizes)
        chunk = torch.arange(len(row)) - (sizes.cumsum(0) - sizes)[row]
        self._rows = _sent(torch.tensor(rows), self._first.weight.device)
        self._chunks = _sent(torch.stack([row, chunk], 1).to(torch.int32), self._first.weight.device)

    def update(self, gradients: Sequence[Tensor], scale: Tensor, by: Factors) -> None:
        """Gradients of one dtype, in the parts' order. The device is not waited for."""
        if not len(self._chunks):
            return  # a rank's parts of small tensors can be empty, and a grid cannot
        # A copy of those that were not contiguous, which may go once the kernel is queued.
        gradients = [gradient.contiguous() for gradient in gradients]
        weight, residual, *_ = self._first
        with torch.cuda.device_of(weight):
            _adamw[(len(self._chunks),)](
                self._rows,
                _sent(torch.tensor([gradient.data_ptr() for gradient in gradients]), weight.device),
                self._chunks,
                scale,
                by.keep,
                by.beta2,
                by.new1,
                by.new2,
                by.stride,
                by.root2,
                by.eps,
                BFLOAT16=weight.dtype == torch.bfloat16,
                MASTER=residual is not None,
                GRADIENT=tl.bfloat16 if gradients[0].dtype == torch.bfloat16 else tl.float32,
                BLOCK=BLOCK,
                CHUNK=CHUNK,
            )


def _sent(numbers: Tensor, device: torch.device) -> Tensor:
    """On the device, in the stream's order: from pinned memory, which torch keeps until it is read, so nobody waits."""
    return (numbers.pin_memory() if device.type == "cuda" else numbers).to(device, non_blocking=True)
