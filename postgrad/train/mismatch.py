"""Correct for a sampler whose probabilities are not quite the trainer's: another engine, another precision, older weights.

A server's kernels round differently, so tokens come from a policy that is near the trainer's and not it, and the gradient
is biased by what is trained on too often. Each token's weight is therefore multiplied by

    min(exp(logp_trainer - logp_sampler), cap)

Truncated importance sampling: Ionides, J. Comput. Graph. Statist. 17(2), 2008; for this mismatch, per token: Yao et al.,
"Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025. The cap bounds the variance and leaves a bias
where it binds; below it the correction is exact. It corrects only when the sampler's log-probabilities are of the distribution
that it drew from: with top-k, top-p or min-p they are of the one before.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Corrected:
    weights_K: Tensor
    """What the token losses are multiplied by, detached. The step's count stays: corrected weights do not sum to it."""
    sums: dict[str, Tensor]
    """For the log: sums over trained tokens, as in LossSum."""
    peaks: dict[str, Tensor]
    """For the log: largest values."""


def truncated(weights_K: Tensor, logprobs_K: Tensor, sampled_logprobs_K: Tensor, *, cap: float = 2.0) -> Corrected:
    """Token weights times the truncated ratio. No gradient flows through it.

    `logprobs_K` are the trainer's for the weights that were sampled from: `old_logprobs` where several steps share a rollout,
    else those of the step itself. `cap` is at least 1; infinity is plain importance sampling. Raises ValueError.
    """
    if not cap >= 1:
        raise ValueError(f"cap={cap}: below 1 it would shrink tokens on which both agree; 2 is usual")
    if not logprobs_K.shape == sampled_logprobs_K.shape == weights_K.shape:
        raise ValueError(
            f"shapes differ: weights {tuple(weights_K.shape)}, the trainer's {tuple(logprobs_K.shape)}, the sampler's "
            f"{tuple(sampled_logprobs_K.shape)}"
        )
    with torch.no_grad():
        ratios_K = (logprobs_K.float() - sampled_logprobs_K.float()).exp()
        # minimum, not clamp: NaN stays NaN and is found by the check for finite losses.
        kept_K = torch.minimum(ratios_K, torch.full_like(ratios_K, cap))
        return Corrected(
            weights_K * kept_K,
            {
                "sampling/importance_sampling_ratio/mean": ratios_K.sum(),
                "sampling/importance_sampling_capped": (ratios_K > cap).sum(),
            },
            {"sampling/importance_sampling_ratio/max": ratios_K.max()} if len(ratios_K) else {},
        )
