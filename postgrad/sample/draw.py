"""Tokens from logits: temperature, top-k, top-p, min-p, and a uniform number turned into a token by inverting the distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from postgrad.sample.request import Request


@dataclass(frozen=True, slots=True)
class Rule:
    """How each row's distribution is made. None: no row asks for it, and nothing is computed for it."""

    temperature_B1: Tensor | None = None
    greedy_B: Tensor | None = None
    """Rows that take the most probable token; their temperature stands as 1."""
    top_k_B1: Tensor | None = None
    top_p_B1: Tensor | None = None
    min_p_B1: Tensor | None = None

    @property
    def filters(self) -> bool:
        return any(x is not None for x in (self.top_k_B1, self.top_p_B1, self.min_p_B1))


@dataclass(frozen=True, slots=True)
class Drawn:
    """[B] each, or [steps, B]; see `Finished` for which log-probability is which."""

    ids: Tensor
    logprobs: Tensor
    sampled_logprobs: Tensor
    raw_logprobs: Tensor


def rule(requests: Sequence[Request], device: torch.device) -> Rule:
    def column(values: list[float], neutral: float) -> Tensor | None:
        return None if set(values) == {neutral} else torch.tensor(values, device=device)[:, None]

    greedy = [request.temperature == 0 for request in requests]
    return Rule(
        column([request.temperature or 1.0 for request in requests], 1.0),
        torch.tensor(greedy, device=device) if any(greedy) else None,
        # Off is a bound that nothing meets, so that rows with and without a filter can share a batch.
        column([request.top_k or 2.0**31 for request in requests], 2.0**31),
        column([request.top_p if request.top_p < 1 else 2.0 for request in requests], 2.0),
        column([request.min_p for request in requests], 0.0),
    )


def draw(logits_BV: Tensor, uniforms_B: Tensor, how: Rule) -> Drawn:
    """One token for each row; `uniforms_B` float64 in [0, 1)."""
    logits_BV = logits_BV.float()
    scaled_BV = logits_BV if how.temperature_B1 is None else logits_BV / how.temperature_B1
    peaks_B1 = scaled_BV.amax(-1, keepdim=True)
    weights_BV = (scaled_BV - peaks_B1).exp_()
    totals_B = weights_BV.sum(-1)
    filtered_BV = _filtered(weights_BV, how) if how.filters else weights_BV
    ids_B = invert(filtered_BV, uniforms_B)
    if how.greedy_B is not None:
        ids_B = torch.where(how.greedy_B, logits_BV.argmax(-1), ids_B)
    chosen_B = scaled_BV.gather(-1, ids_B[:, None])[:, 0] - peaks_B1[:, 0]
    logprobs_B = sampled_B = raw_B = chosen_B - totals_B.log()
    if how.filters:
        sampled_B = chosen_B - filtered_BV.sum(-1).log()
    if how.greedy_B is not None:
        sampled_B = torch.where(how.greedy_B, 0.0, sampled_B)
    if how.temperature_B1 is not None:
        raw_B = (logits_BV.gather(-1, ids_B[:, None]) - logits_BV.logsumexp(-1, keepdim=True))[:, 0]
    return Drawn(ids_B, logprobs_B, sampled_B, raw_B)


BLOCK = 128
BELOW = 1 - 1e-12
"""Keeps a target under the last edge, so that rounding can never choose a token of weight 0."""


def invert(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The token in which each uniform falls, of distributions given by weights that need not sum to 1.

    First the block, then the token in it, so that only the sums of blocks are accumulated in float64, not every weight.
    """
    wanting = -weights_BV.shape[-1] % BLOCK
    blocks_BNb = F.pad(weights_BV, (0, wanting)).unflatten(-1, (-1, BLOCK))
    sums_BN = blocks_BNb.sum(-1).double()
    edges_BN = sums_BN.cumsum(-1)
    targets_B1 = (uniforms_B[:, None] * edges_BN[:, -1:]).minimum(edges_BN[:, -1:] * BELOW)
    # "right": the first edge beyond the target, which is of a block, and then of a token, with weight.
    block_B1 = torch.searchsorted(edges_BN, targets_B1, right=True)
    rest_B1 = targets_B1 - (edges_BN - sums_BN).gather(-1, block_B1)
    inside_Bb = blocks_BNb.take_along_dim(block_B1[:, :, None], 1)[:, 0].double().cumsum(-1)
    rest_B1 = rest_B1.clamp_min(0).minimum(inside_Bb[:, -1:] * BELOW)
    return (block_B1 * BLOCK + torch.searchsorted(inside_Bb, rest_B1, right=True))[:, 0]


def _filtered(weights_BV: Tensor, how: Rule) -> Tensor:
    """Top-k, then top-p, then min-p, each of what the one before left; the most probable token always stays."""
    sorted_BV, order_BV = weights_BV.sort(dim=-1, descending=True, stable=True)
    if how.top_k_B1 is not None:
        ranks_V = torch.arange(sorted_BV.shape[-1], device=sorted_BV.device)
        sorted_BV = sorted_BV.masked_fill(ranks_V >= how.top_k_B1, 0.0)
    keep_BV = sorted_BV > 0
    if how.top_p_B1 is not None:
        before_BV = sorted_BV.cumsum(-1) - sorted_BV
        keep_BV &= before_BV < how.top_p_B1 * sorted_BV.sum(-1, keepdim=True)
    if how.min_p_B1 is not None:
        keep_BV &= sorted_BV >= how.min_p_B1 * sorted_BV[:, :1]
    return torch.zeros_like(weights_BV).scatter(-1, order_BV, sorted_BV * keep_BV)
