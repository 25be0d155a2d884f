"""Objectives. Each scores a micro-batch and returns a weighted SUM of token losses; `fit` alone divides, by the step's count.

What a token's loss is divided by (its normalisation) is decided where batches are made (train/source.py), as weights
and a count. So every objective here works under every normalisation and under any split into micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from postgrad.train import head, instead
from postgrad.train.batch import Batch, Scores, in_head, score
from postgrad.train.mismatch import Correction


@dataclass(frozen=True, slots=True)
class LossSum:
    total: Tensor
    """Scalar with gradient: the sum over tokens of weight * loss."""
    token_losses_K: Tensor
    """Unweighted, detached: what names the token when something is not finite."""
    sums: dict[str, Tensor]
    """For the log, detached: sums over trained tokens. `fit` divides by the step's number of trained tokens."""
    peaks: dict[str, Tensor] = field(default_factory=dict)
    """For the log, detached: largest values, of which `fit` takes the largest."""
    lows: dict[str, Tensor] = field(default_factory=dict)
    """For the log, detached: smallest values, of which `fit` takes the smallest."""


@dataclass(frozen=True, slots=True)
class Told:
    """A LossSum as numbers, which ranks can tell each other."""

    total: float
    sums: dict[str, float]
    peaks: dict[str, float]
    lows: dict[str, float]


def read(losses: Sequence[LossSum], *others: Tensor) -> tuple[list[Told], list[float]]:
    """Losses and other scalars as numbers. The device is waited for once, however many there are."""
    named = [(one.sums, one.peaks, one.lows) for one in losses]
    scalars = [
        value
        for one, parts in zip(losses, named, strict=True)
        for value in (one.total.detach(), *(value for part in parts for value in part.values()))
    ]
    numbers = iter(torch.stack([value.double() for value in (*scalars, *others)]).tolist())
    told = [Told(next(numbers), *({name: next(numbers) for name in part} for part in parts)) for parts in named]
    return told, list(numbers)


Objective = Callable[[torch.nn.Module, Batch], LossSum]


def likelihood(model: torch.nn.Module, batch: Batch) -> LossSum:
    """Supervised fine-tuning: -log p(token)."""
    if instead.possible(model):
        total, logprobs_K, entropy_K = in_head(
            model, batch, lambda x_KD, w_VD: head.weighted_nll(x_KD, w_VD, batch.targets_K, batch.weights_K)
        )
        return LossSum(total, -logprobs_K.detach(), {"entropy": entropy_K.detach().sum()})
    scores = score(model, batch)
    losses_K = -scores.logprobs_K
    return LossSum((losses_K * batch.weights_K).sum(), losses_K.detach(), {"entropy": scores.entropy_K.sum()})


def policy(
    *, epsilon_low: float, epsilon_high: float, beta: float, temperature: float, correct: Correction | None = None
) -> Objective:
    """The clipped policy gradient of PPO and GRPO, with an optional KL to a reference.

        ratio = exp(logp - logp_old)
        loss  = -min(ratio * A, clip(ratio, 1 - epsilon_low, 1 + epsilon_high) * A) * c + beta * k3
        k3    = exp(logp_ref - logp) - (logp_ref - logp) - 1

    GRPO: arXiv 2402.03300; the higher upper bound: DAPO, arXiv 2503.14476; k3: Schulman, "Approximating KL divergence".
    Streams: `advantages`; `old_logprobs` where several steps share a rollout (without it the policy is its own old one and
    the ratio is 1 with gradient); `ref_logprobs` where beta > 0; `sampled_logprobs`, the sampler's own, to measure its
    agreement with the trainer and, where `correct` is given, for the factor c of train/mismatch.py (else 1).
    """

    def objective(model: torch.nn.Module, batch: Batch) -> LossSum:
        return policy_loss(
            score(model, batch, temperature=temperature),
            batch,
            epsilon_low=epsilon_low,
            epsilon_high=epsilon_high,
            beta=beta,
            correct=correct,
        )

    return objective


def policy_loss(
    scores: Scores,
    batch: Batch,
    *,
    epsilon_low: float,
    epsilon_high: float,
    beta: float,
    correct: Correction | None = None,
) -> LossSum:
    logprobs_K = scores.logprobs_K
    advantages_K = batch.streams_K["advantages"]
    old_K = batch.streams_K.get("old_logprobs", logprobs_K.detach())
    ratio_K = (logprobs_K - old_K).exp()
    clipped_K = ratio_K.clamp(1 - epsilon_low, 1 + epsilon_high)
    losses_K = -torch.minimum(ratio_K * advantages_K, clipped_K * advantages_K)
    low_K = (ratio_K < 1 - epsilon_low) & (advantages_K < 0)
    high_K = (ratio_K > 1 + epsilon_high) & (advantages_K > 0)
    sums = {
        "entropy": scores.entropy_K.sum(),
        "clip_ratio/low_mean": low_K.sum(),
        "clip_ratio/high_mean": high_K.sum(),
        "clip_ratio/region_mean": (low_K | high_K).sum(),
    }
    peaks, lows = {}, {}
    if "sampled_logprobs" in batch.streams_K:
        # `old_K` is the trainer's own view of the weights that were sampled from, in the first step on a rollout and the last.
        difference_K = old_K - batch.streams_K["sampled_logprobs"]
        sums["sampling/sampling_logp_difference/mean"] = difference_K.abs().sum()
        peaks["sampling/sampling_logp_difference/max"] = difference_K.abs().max()
        if correct is not None:
            factors_K = correct(difference_K, batch)
            losses_K = losses_K * factors_K
            sums["sampling/importance_sampling_ratio/mean"] = factors_K.sum()
            peaks["sampling/importance_sampling_ratio/max"] = factors_K.max()
            lows["sampling/importance_sampling_ratio/min"] = factors_K.min()
    if beta:
        log_ratio_K = batch.streams_K["ref_logprobs"] - logprobs_K
        k3_K = log_ratio_K.exp() - log_ratio_K - 1
        losses_K = losses_K + beta * k3_K
        sums["kl"] = k3_K.detach().sum()
    return LossSum((losses_K * batch.weights_K).sum(), losses_K.detach(), sums, peaks, lows)
