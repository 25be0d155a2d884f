"""A row's outcome, and how contestants that must agree are kept from being compared where they do not."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from bench.gpu.place import Place


@dataclass(frozen=True, slots=True)
class Row:
    workload: str
    unit: str
    higher: bool
    """Whether more is better: a rate, not a cost."""
    ours: Sequence[float]
    peers: dict[str, Sequence[float] | str]
    """Each peer's numbers, one a round or step; or why it has none."""
    twin: dict[str, float]
    """How far ours and the peers' results are apart, each under its bound (`agree`)."""
    limit: float | None = None
    more: dict[str, Any] = field(default_factory=dict)

    def told(self, name: str) -> dict[str, Any]:
        best: Callable[[Sequence[float]], float] = max if self.higher else min
        measured = {peer: numbers for peer, numbers in self.peers.items() if not isinstance(numbers, str)}
        # The row stands against the fastest of them.
        first = best(list(measured), key=lambda peer: best(measured[peer])) if measured else None  # type: ignore[call-arg]
        ours, peer = best(self.ours), best(measured[first]) if first else None
        return {
            "name": name,
            "workload": self.workload,
            "unit": self.unit,
            "ours": ours,
            "peer": peer,
            "peer_name": first,
            "ratio": None if peer is None else ours / peer if self.higher else peer / ours,
            "median_ours": statistics.median(self.ours),
            "median_peer": statistics.median(measured[first]) if first else None,
            "peers": {
                peer: numbers if isinstance(numbers, str) else {"best": best(numbers), "all": list(numbers)}
                for peer, numbers in self.peers.items()
            },
            "twin": self.twin,
            "limit": self.limit,
            "fraction_of_limit": None
            if self.limit is None
            else ours / self.limit
            if self.higher
            else self.limit / ours,
            **self.more,
        }


def agree(place: Place, what: str, apart: float, *, bfloat16: float, float32: float) -> float:
    """How far apart two results are, if that is within what their number type explains. RuntimeError: they are not the same."""
    allowed = bfloat16 if place.dtype == torch.bfloat16 else float32
    if not apart <= allowed:
        raise RuntimeError(
            f"{what}: ours and the peer's differ by {apart:.3g}, and {allowed:g} is allowed: no time of the two can be compared"
        )
    return apart


def relative(ours: torch.Tensor, peer: torch.Tensor) -> float:
    return float((ours - peer).norm() / peer.norm())
