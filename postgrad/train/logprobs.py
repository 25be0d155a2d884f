"""Log-probabilities of given tokens and the entropy of the whole distribution, from logits, in few passes over them.

    s = l - max l,  Z = sum exp s        logp = s[target] - log Z        d logp / d l = onehot(target) - exp(s) / Z
                                         H    = log Z - sum exp(s) s / Z           (no gradient)

Departure from log_softmax and gather: nothing of the logits' size is kept besides the logits, and what the backward pass
makes is the gradient alone; the passes go over a few rows at a time, so that a row is read from the cache the second time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ELEMENTS = 2**20
"""Logits worked on at once: 4 MiB, which is what the cores' own caches hold."""


class _LogProbs(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits_KV: Tensor, targets_K: Tensor) -> tuple[Tensor, Tensor]:
        peaks_K1 = logits_KV.amax(-1, keepdim=True)
        totals_K = torch.empty_like(peaks_K1[:, 0])
        entropy_K = torch.empty_like(totals_K)
        for rows in _rows(logits_KV):
            shifted = logits_KV[rows] - peaks_K1[rows]
            weights = shifted.exp()
            totals_K[rows] = weights.sum(-1)
            entropy_K[rows] = totals_K[rows].log() - weights.mul_(shifted).sum(-1) / totals_K[rows]
        ctx.save_for_backward(logits_KV, targets_K, peaks_K1, totals_K)
        ctx.mark_non_differentiable(entropy_K)
        chosen_K = (logits_KV.gather(-1, targets_K[:, None]) - peaks_K1)[:, 0]
        return chosen_K - totals_K.log(), entropy_K

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        logits_KV, targets_K, peaks_K1, totals_K = ctx.saved_tensors
        gradient_K = gradients[0]
        gradient_KV = torch.empty_like(logits_KV)
        for rows in _rows(logits_KV):
            torch.sub(logits_KV[rows], peaks_K1[rows], out=gradient_KV[rows])
            gradient_KV[rows].exp_().mul_((-gradient_K[rows] / totals_K[rows])[:, None])
        return gradient_KV.scatter_add_(-1, targets_K[:, None], gradient_K[:, None]), None


def _rows(logits_KV: Tensor) -> list[slice]:
    step = max(1, ELEMENTS // logits_KV.shape[-1])
    return [slice(start, start + step) for start in range(0, len(logits_KV), step)]


def logprobs_and_entropy(logits_KV: Tensor, targets_K: Tensor) -> tuple[Tensor, Tensor]:
    """Nats, float32 [K] each; only the first has a gradient. `logits_KV` is float32."""
    logprobs_K, entropy_K = _LogProbs.apply(logits_KV, targets_K)  # type: ignore[no-untyped-call]
    return logprobs_K, entropy_K
