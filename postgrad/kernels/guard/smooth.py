"""Reward smoothing: one outlier cannot dominate an update (CUDA-L1, arXiv 2507.14111, Eq. 6).

    r_norm = (r - mu) / max(sigma, floor);   r_smooth = clip(r_norm, -k, +k);   k = 1.5

mu and sigma are those of the running distribution of rewards, frozen for `refresh_every` rewards at a time (the authors
tell of 100 iterations), so that one batch is judged by one scale. The paper keeps one distribution; speed-ups differ by
orders of magnitude between tasks, so `per_task` keeps one for each. The running figures are Welford's for the first
`window` rewards and an exponential average with weight 1 / window after that, the point where both give the newest
reward the same weight: a policy that improves leaves its early rewards behind.

Degenerate cases. Until two rewards were seen nothing is known of the scale, and every reward is 0 (no preference, which
GRPO leaves out of its update). None stays None: what was not checked is no part of the distribution.

    smooth = per_task()
    smooth("matmul", [1.2, None, 0.9, 100.0])
    state = smooth.state()                  # plain numbers, for a checkpoint
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True)
class Running:
    """Mean and variance of a stream: exact (Welford) up to `window` rewards, then exponential."""

    window: int
    count: int = 0
    mean: float = 0.0
    variance: float = 0.0
    """Population variance."""

    def add(self, value: float) -> None:
        """With weight w = 1 / min(n, window): m += w d, v = (1 - w)(v + w d^2), where d = value - old mean.

        For w = 1 / n that is Welford's recurrence written for the variance instead of the sum of squares.
        """
        self.count += 1
        weight = 1 / min(self.count, self.window)
        distance = value - self.mean
        self.mean += weight * distance
        self.variance = (1 - weight) * (self.variance + weight * distance * distance)


@dataclass(slots=True)
class Scale:
    """What rewards are judged by between two refreshes."""

    running: Running
    mean: float | None = None
    """None: fewer than two rewards were seen."""
    sigma: float | None = None
    seen_since: int = 0


class Smoother:
    """Make it with `per_task` or `overall`."""

    def __init__(
        self, *, shared: bool, clip: float = 1.5, floor: float = 1e-3, window: int = 1000, refresh_every: int = 100
    ) -> None:
        if not (clip > 0 and floor > 0 and window >= 2 and refresh_every >= 1):
            raise ValueError(
                f"smoothing: clip={clip} and floor={floor} must be above 0, window={window} at least 2, "
                f"refresh_every={refresh_every} at least 1"
            )
        self.shared, self.clip, self.floor = shared, clip, floor
        self.window, self.refresh_every = window, refresh_every
        self._scales: dict[str, Scale] = {}

    def __call__(self, task: str, rewards: Sequence[float | None]) -> list[float | None]:
        """Smoothed rewards, in [-clip, clip]; the raw ones join the distribution first. ValueError for NaN or infinity."""
        if wrong := [value for value in rewards if value is not None and not math.isfinite(value)]:
            raise ValueError(f"task {task!r}: a reward is {wrong[0]}; give a finite number, or None to leave it out")
        key = "" if self.shared else task
        scale = self._scales.setdefault(key, Scale(Running(self.window)))
        for value in rewards:
            if value is not None:
                scale.running.add(value)
                scale.seen_since += 1
        if scale.running.count >= 2 and (scale.mean is None or scale.seen_since >= self.refresh_every):
            scale.mean, scale.sigma = scale.running.mean, math.sqrt(scale.running.variance)
            scale.seen_since = 0
        return [None if value is None else self._one(value, scale) for value in rewards]

    def _one(self, value: float, scale: Scale) -> float:
        if scale.mean is None or scale.sigma is None:
            return 0.0
        return max(-self.clip, min(self.clip, (value - scale.mean) / max(scale.sigma, self.floor)))

    def state(self) -> dict[str, Any]:
        """Everything that `load` needs to go on, as JSON."""
        return {key: asdict(scale) for key, scale in self._scales.items()}

    def load(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        self._scales = {
            key: Scale(**{**scale, "running": Running(**{**scale["running"], "window": self.window})})
            for key, scale in state.items()
        }


def per_task(**settings: Any) -> Smoother:
    """One distribution for each task."""
    return Smoother(shared=False, **settings)


def overall(**settings: Any) -> Smoother:
    """One distribution over all tasks, as the paper's equation has it."""
    return Smoother(shared=True, **settings)
