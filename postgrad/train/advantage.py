"""Rewards of one problem's group -> advantages: what each trace earned against its siblings.

A reward of None (the trace could not be rewarded) gives an advantage of None and takes no part in the mean or the
spread. A group with fewer than two rewards has no sibling to be measured against, so all its advantages are None: it
gives no gradient and is counted, where 0.0 would claim "exactly average". No torch.

An advantage is unchanged when the whole group's rewards are multiplied by a constant (`group_std`, up to `eps`):
scaling rewards for each label or problem therefore does nothing here; weight the loss instead.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def group_std(rewards: Sequence[float | None], eps: float = 1e-4) -> list[float | None]:
    """(R - mean) / (std + eps), std unbiased (divided by n - 1): GRPO (arXiv 2402.03300) as TRL computes it.

    [2.5, 1.6, 0, -0.4] -> [1.158, 0.496, -0.680, -0.974]. A group without signal gives exact zeros: rounding noise is
    not divided by a small `eps` and taken for a preference.
    """
    centred = group_mean(rewards)
    present = [value for value in centred if value is not None]
    if not present or not has_signal(rewards):
        return centred
    std = math.sqrt(math.fsum(value * value for value in present) / (len(present) - 1))
    return [None if value is None else value / (std + eps) for value in centred]


def group_mean(rewards: Sequence[float | None]) -> list[float | None]:
    """R - mean, in the units of the reward: Dr. GRPO (arXiv 2503.20783), no bias by difficulty."""
    present = _present(rewards)
    if len(present) < 2:
        return [None] * len(rewards)
    if not has_signal(rewards):
        return [None if reward is None else 0.0 for reward in rewards]
    mean = math.fsum(present) / len(present)
    return [None if reward is None else reward - mean for reward in rewards]


def as_given(rewards: Sequence[float | None]) -> list[float | None]:
    """The reward itself: REINFORCE without a baseline. With rewards of 1 and 0 only successes are learnt from (CUDA-L1, arXiv 2507.14111, 3.1).

    A failure has exactly no gradient. At the start most samples fail, and a baseline would push the model away from what is half right.
    """
    _present(rewards)
    return list(rewards)


def has_signal(rewards: Sequence[float | None], tolerance: float = 1e-8) -> bool:
    """Whether the group can teach anything: two rewards further apart than `tolerance` * max(1, largest |reward|).

    Equal sums of different parts differ in the last bit (0.1 + 0.2 is not 0.3), so testing `std == 0` finds signal in
    rounding noise (NVIDIA-NeMo/RL#4158).
    """
    present = _present(rewards)
    if len(present) < 2:
        return False
    low, high = min(present), max(present)
    return high - low > tolerance * max(1.0, abs(low), abs(high))


def _present(rewards: Sequence[float | None]) -> list[float]:
    present = [reward for reward in rewards if reward is not None]
    if not all(math.isfinite(reward) for reward in present):
        raise ValueError(f"rewards must be finite, or None where a trace could not be rewarded: {list(rewards)}")
    return present
