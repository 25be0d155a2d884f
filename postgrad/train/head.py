"""Log-probabilities, entropy and likelihood from what the head takes in: on CUDA, logits exist one tile at a time.

    l = x W^T / temperature,  lse = log sum exp l        logp = l[target] - lse         H = lse - sum exp(l - lse) l  (no gradient)
    g = dL/dlogp * (onehot(target) - exp(l - lse)) / temperature        dL/dx = g W,  dL/dW = g^T x

`logprobs_and_entropy` walks over tiles of the vocabulary with all K rows: forwards it keeps each row's running sums, backwards it computes a
tile's logits again (as in Liger, arXiv 2410.10989, and Cut Your Losses, arXiv 2411.09009). A tile's rows of dL/dW are then complete at once,
and the terms of dL/dx add up in float32. Four products of K x D x V.

`weighted_nll` knows dL/dlogp beforehand, so it makes its gradients in the forward pass, some rows at a time: three products. It keeps of their
logits exp(l - m) in the weights' type, m being the row's maximum so far, so that a probability is rounded as its gradient is. dL/dW then
grows with every group of rows, in the weights' type.

Departure from both: matrix products by cuBLAS with float32 logits, and only what stands between them in Triton (head_triton.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from postgrad.train import logprobs

TILE = 48 * 2**20
"""Logits of a tile over all rows: 192 MiB, and half as much for their gradient. Larger tiles read and write dL/dx less often."""
WIDTHS = (2048, 8192)
"""The narrowest and the widest tile, powers of 2: below, a product is too small to fill the device; above, a row of it no longer fits registers."""
KEPT = 160 * 2**20
"""Logits of the rows that `weighted_nll` takes at once: 320 MiB in half precision. More rows add to dL/dW less often."""
LOGITS = torch.float32
"""Of a tile. Half precision would halve what is written and read between products and round a logit of 20 by up to 0.06."""


def logprobs_and_entropy(
    hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Nats, float32 [K] each; only the first has a gradient. `hidden_KD` and `weight_VD` are of one type."""
    if not _tiled(hidden_KD):
        logits_KV = (hidden_KD @ weight_VD.T).float()
        return logprobs.logprobs_and_entropy(logits_KV if temperature == 1 else logits_KV / temperature, targets_K)
    # Kernels start on the current device, wherever their tensors are.
    with torch.cuda.device_of(hidden_KD):
        logprobs_K, entropy_K = _LogProbs.apply(hidden_KD, weight_VD, targets_K, temperature)  # type: ignore[no-untyped-call]
    return logprobs_K, entropy_K


def weighted_nll(
    hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, weights_K: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The sum of -weight * logp, with gradient into `hidden_KD` and `weight_VD`; and logp and entropy, float32 [K], without."""
    if not _tiled(hidden_KD) or not torch.is_grad_enabled():
        logprobs_K, entropy_K = logprobs_and_entropy(hidden_KD, weight_VD, targets_K)
        return -(logprobs_K * weights_K).sum(), logprobs_K.detach(), entropy_K
    with torch.cuda.device_of(hidden_KD):
        total, logprobs_K, entropy_K = _Nll.apply(hidden_KD, weight_VD, targets_K, weights_K)  # type: ignore[no-untyped-call]
    return total, logprobs_K, entropy_K


def _tiled(hidden_KD: Tensor) -> bool:
    # On CPU logits fit, and few passes over them are faster: train/logprobs.py.
    return hidden_KD.is_cuda and len(hidden_KD) > 0


def product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """`a @ b`, summed in float32 and written as what `out` is: float32, or the operands' type."""
    if a.is_cuda:
        return torch.mm(a, b, out_dtype=out.dtype, out=out)
    # On CPU torch has no such product.
    return out.copy_(a.float() @ b.float())


def add_product(a: Tensor, b: Tensor, out: Tensor) -> Tensor:
    """`out += a @ b`, likewise."""
    if a.is_cuda:
        return torch.addmm(out, a, b, out_dtype=out.dtype, out=out)
    return out.copy_(out.float() + a.float() @ b.float())


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, temperature: float
    ) -> tuple[Tensor, Tensor]:
        widest = _width(len(hidden_KD))
        sums = _Sums(targets_K, temperature, widest)
        for first, weight_ND, logits_KN in _tiles(hidden_KD, weight_VD, widest):
            sums.absorb(product(hidden_KD, weight_ND.T, logits_KN), first)
        logprobs_K, entropy_K, lse_K = sums.done()
        ctx.save_for_backward(hidden_KD, weight_VD, targets_K, lse_K)
        ctx.temperature = temperature
        ctx.mark_non_differentiable(entropy_K)
        return logprobs_K, entropy_K

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        from postgrad.train import head_triton as kernels

        hidden_KD, weight_VD, targets_K, lse_K = ctx.saved_tensors
        gradient_K = gradients[0].contiguous()
        to_hidden_KD = torch.zeros_like(hidden_KD, dtype=torch.float32) if ctx.needs_input_grad[0] else None
        to_weight_VD = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        rows, widest = len(hidden_KD), _width(len(hidden_KD))
        gradient_KN = hidden_KD.new_empty(rows, widest)
        for first, weight_ND, logits_KN in _tiles(hidden_KD, weight_VD, widest):
            width = len(weight_ND)
            product(hidden_KD, weight_ND.T, logits_KN)
            kernels.differentiate[(rows,)](
                logits_KN, logits_KN.stride(0), first, width, 1 / ctx.temperature, targets_K, lse_K, gradient_K,
                gradient_KN, gradient_KN.stride(0), WIDTH=widest, num_warps=8,
            )  # fmt: skip
            if to_weight_VD is not None:
                product(gradient_KN[:, :width].T, hidden_KD, to_weight_VD[first : first + width])
            if to_hidden_KD is not None:
                add_product(gradient_KN[:, :width], weight_ND, to_hidden_KD)
        return None if to_hidden_KD is None else to_hidden_KD.to(hidden_KD.dtype), to_weight_VD, None, None


class _Nll(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor, weights_K: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        from postgrad.train import head_triton as kernels

        rows, vocabulary, widest = len(hidden_KD), len(weight_VD), WIDTHS[1]
        to_hidden_KD = torch.empty_like(hidden_KD) if ctx.needs_input_grad[0] else None
        to_weight_VD = torch.empty_like(weight_VD) if ctx.needs_input_grad[1] else None
        # Rows of whole blocks of 128, as the products compute them, spread evenly over the groups.
        most = max(128, KEPT // vocabulary // 128 * 128)
        step = -(-rows // -(-rows // most))
        tiles = -(-vocabulary // widest)
        # A stride of whole blocks of 8 numbers, which the products want.
        kept_RV = hidden_KD.new_empty(step, -(-vocabulary // 8) * 8)
        references_NR = targets_K.new_empty(tiles, step, dtype=torch.float32)
        found = []
        for start in range(0, rows, step):
            part_RD, ids_R, part_R = (x[start : start + step] for x in (hidden_KD, targets_K, -weights_K.float()))
            size = len(part_RD)
            sums = _Sums(ids_R, 1.0, widest)
            for tile, (first, weight_ND, logits_RN) in enumerate(_tiles(part_RD, weight_VD, widest)):
                product(part_RD, weight_ND.T, logits_RN)
                sums.absorb(logits_RN, first, kept_RV[:, first:], references_NR[tile])
            found.append(sums.done())
            kernels.differentiate_kept[(size, tiles)](
                kept_RV, kept_RV.stride(0), vocabulary, ids_R, references_NR, step, found[-1][2], part_R,
                WIDTH=widest, num_warps=8,
            )  # fmt: skip
            gradient_RV = kept_RV[:size, :vocabulary]
            if to_hidden_KD is not None:
                product(gradient_RV, weight_VD, to_hidden_KD[start : start + step])
            if to_weight_VD is not None:
                (add_product if start else product)(gradient_RV.T, part_RD, to_weight_VD)
        ctx.gradients = to_hidden_KD, to_weight_VD
        logprobs_K, entropy_K, _ = (torch.cat(parts) for parts in zip(*found, strict=True))
        ctx.mark_non_differentiable(logprobs_K, entropy_K)
        return -(logprobs_K * weights_K).sum(), logprobs_K, entropy_K

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        # In place, so once only. As a matrix, because a number would be rounded to the gradients' type before it multiplies them.
        found, ctx.gradients = ctx.gradients, ()
        assert found, "the gradients of a likelihood are given out once"
        by_11 = gradients[0].float().view(1, 1)
        return *(None if one is None else torch.mul(one, by_11, out=one) for one in found), None, None


class _Sums:
    """What a row's logits come to, tile by tile."""

    def __init__(self, targets_K: Tensor, temperature: float, widest: int) -> None:
        self.targets_K = targets_K.contiguous()
        self.inverse, self.widest = 1 / temperature, widest
        # Finite, so that the first tile's 0 * (old - new maximum) is 0.
        self.peaks_K = torch.full_like(targets_K, -1e30, dtype=torch.float32)
        self.totals_K, self.products_K, self.chosen_K = torch.zeros(3, len(targets_K), device=targets_K.device)

    def absorb(
        self, logits_KN: Tensor, first: int, kept_KN: Tensor | None = None, references_K: Tensor | None = None
    ) -> None:
        from postgrad.train import head_triton as kernels

        rows, width = logits_KN.shape
        kernels.absorb[(rows,)](
            logits_KN, logits_KN.stride(0), first, width, self.inverse, self.targets_K,
            self.peaks_K, self.totals_K, self.products_K, self.chosen_K,
            kept_KN, 0 if kept_KN is None else kept_KN.stride(0), references_K,
            WIDTH=self.widest, KEEP=kept_KN is not None, num_warps=8,
        )  # fmt: skip

    def done(self) -> tuple[Tensor, Tensor, Tensor]:
        """Log-probability, entropy and log-sum-exp, [K] each."""
        log_totals_K = self.totals_K.log()
        lse_K = self.peaks_K + log_totals_K
        return self.chosen_K - lse_K, log_totals_K - self.products_K / self.totals_K, lse_K


def _width(rows: int) -> int:
    least, most = WIDTHS
    return max(least, min(most, 1 << (TILE // rows).bit_length() - 1))


def _tiles(hidden_KD: Tensor, weight_VD: Tensor, width: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The vocabulary in tiles: where each begins, its weights, and room for its logits, one and the same for all."""
    room_KN = hidden_KD.new_empty(len(hidden_KD), width, dtype=LOGITS)
    for first in range(0, len(weight_VD), width):
        weight_ND = weight_VD[first : first + width]
        yield first, weight_ND, room_KN[:, : len(weight_ND)]
