"""Correct for a sampler whose probabilities are not quite the trainer's: another engine, another precision, older weights.

A server's kernels round differently, so tokens come from a policy that is near the trainer's and not it, and the gradient
is biased by what is trained on too often. With d = logp_trainer - logp_sampler of a token, of the weights that were sampled from,
each token's policy loss (not its KL) is multiplied by

    token_truncate   min(exp(d), C)                                          the bias is bounded, and 0 where C does not bind
    sequence_mask    exp(sum of d over its sequence), 0 where that exceeds C     unlikely sequences are left out

Importance sampling, truncated: Ionides, J. Comput. Graph. Statist. 17(2), 2008; for this mismatch: Yao et al., "Your Efficient
RL Framework Secretly Brings You Off-Policy RL Training", 2025; masked by sequence: Liu et al., "When Speed Kills Stability", 2025.
Names, default and meaning of C (`vllm_importance_sampling_clip_max`) are TRL's. It is exact only where the sampler's
log-probabilities are of the distribution that it drew from: with top-k, top-p or min-p they are of the one before.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from postgrad.train.batch import Batch

Correction = Callable[[Tensor, Batch], Tensor]
"""(d of the batch's trained tokens, [K]) -> factors [K]. NaN stays NaN and is found later."""


def token_truncate(clip_max: float) -> Correction:
    """`clip_max` is C; infinity is plain importance sampling. Raises ValueError."""
    _check(clip_max)

    def factors(difference_K: Tensor, batch: Batch) -> Tensor:  # noqa: ARG001
        return difference_K.exp().clamp(max=clip_max)

    return factors


def sequence_mask(clip_max: float) -> Correction:
    """`clip_max` is C. Raises ValueError."""
    _check(clip_max)

    def factors(difference_K: Tensor, batch: Batch) -> Tensor:
        sums_D = difference_K.new_zeros(len(batch.names)).index_add(0, batch.document_K, difference_K)
        ratios_D = sums_D.exp()
        return torch.where(ratios_D > clip_max, 0.0, ratios_D)[batch.document_K]

    return factors


MODES: dict[str, Callable[[float], Correction]] = {"token_truncate": token_truncate, "sequence_mask": sequence_mask}


def _check(clip_max: float) -> None:
    if not clip_max >= 1:
        raise ValueError(
            f"vllm_importance_sampling_clip_max={clip_max}: below 1 it would shrink tokens on which both agree; 3 is usual"
        )
