"""Several processes of one node that work on one run, as `torchrun` starts them. Alone, every method is the plain thing.

All of them hold the same settings, data and step; what differs is which items a rank computes. Item i of a list belongs to
rank i modulo their number, so any number of ranks computes the same items, and `gather` gives every rank all the results in
the order of one process. torch is imported where ranks are joined, so that a command alone never waits for it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")

DEADLINE_S = 1800.0
"""How long a rank waits for the others inside a step: more than the slowest rank's rollout, or a checkpoint's writing."""
PATIENCE_S = 7 * 24 * 3600.0
"""And for what rank 0 does alone, such as preparing data. A peer that dies is noticed at once all the same."""


class PeerLost(ConnectionError):
    """Another rank of this run ended, or did not come to a meeting before its deadline."""


@dataclass(frozen=True, slots=True)
class Ranks:
    rank: int = 0
    size: int = 1
    steps: Any = None
    """Group of processes that meets within deadline_s; None: alone."""
    stages: Any = None
    """The same for PATIENCE_S."""
    deadline_s: float = DEADLINE_S

    @property
    def is_main(self) -> bool:
        """Rank 0 is the one that writes."""
        return self.rank == 0

    def everyone(self, value: T, *, patient: bool = False) -> list[T]:
        """The value of each rank, by rank. Every other method that meets is this one."""
        if self.size == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.size
        with self.guard():
            dist.all_gather_object(values, value, group=self.stages if patient else self.steps)
        return values

    def agree(self, value: T, *, patient: bool = False) -> T:
        """Rank 0's value."""
        return self.everyone(value, patient=patient)[0]

    def first(self, function: Callable[..., T], *arguments: Any) -> T:
        """What `function` returns on rank 0, the only one to call it."""
        value: Any = function(*arguments) if self.is_main else None
        agreed: T = self.agree(value)
        return agreed

    def share(self, items: Sequence[T]) -> list[T]:
        return list(items[self.rank :: self.size])

    def idle(self, items: int) -> int:
        """How many more of `items` the busiest rank has than this one: 0 or 1."""
        return -(-items // self.size) - len(range(self.rank, items, self.size))

    def gather(self, mine: Sequence[T]) -> list[T]:
        """The inverse of `share`: what every rank made of its share, in the order of the whole."""
        shares = self.everyone(list(mine))
        total = sum(map(len, shares))
        return [shares[index % self.size][index // self.size] for index in range(total)]

    def spread(self, function: Callable[[T], R], items: Sequence[T]) -> list[R]:
        """`function` of each item, computed on one rank and known on all.

        Every rank calls it equally often, one with fewer items once for nothing: a sharded model's forward pass is
        everyone's.
        """
        results = [function(item) for item in self.share(items)]
        for _ in range(self.idle(len(items))):
            function(items[0])
        return self.gather(results)

    def union(self, names: Iterable[str]) -> list[str]:
        """Each once, in the order of ranks."""
        return list(dict.fromkeys(name for mine in self.everyone(list(names)) for name in mine))

    @contextmanager
    def guard(self) -> Iterator[None]:
        """Boundary: torch's errors about peers, from inside a forward pass as well, become PeerLost."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_about_peers(error):
                raise
            raise PeerLost(
                f"rank {self.rank} of {self.size} lost another rank: it ended, or was {self.deadline_s:g} s late. Its own message says why; "
                f"then start all ranks again and resume ({str(error).splitlines()[0]})"
            ) from error


ALONE = Ranks()


@contextmanager
def joined(*, deadline_s: float = DEADLINE_S, meeting: str = "env://") -> Iterator[Ranks]:
    """The ranks that torchrun started, this process among them; ALONE without torchrun.

    Raises ValueError for more than one node.
    """
    size = int(os.environ.get("WORLD_SIZE", "1")) if "RANK" in os.environ else 1
    if size == 1:
        yield ALONE
        return
    from datetime import timedelta

    import torch
    import torch.distributed as dist

    rank, here = int(os.environ["RANK"]), int(os.environ.get("LOCAL_WORLD_SIZE", size))
    if here != size:
        raise ValueError(f"{size} ranks of which {here} are on this node: a run's ranks are those of one node")
    backend = "gloo"
    if torch.cuda.is_available():
        # Where there are fewer, a model on them is refused; one on CPU is not (train/shard.py).
        if rank < torch.cuda.device_count():
            torch.cuda.set_device(rank)
        backend = "cpu:gloo,cuda:nccl"
    deadline = timedelta(seconds=deadline_s)
    ranks = Ranks(rank, size, deadline_s=deadline_s)
    with ranks.guard():
        dist.init_process_group(backend, init_method=meeting, rank=rank, world_size=size, timeout=deadline)
        steps = dist.new_group(backend="gloo", timeout=deadline)
        stages = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE_S))
        ranks = replace(ranks, steps=steps, stages=stages)
        yield ranks
        ranks.everyone(None, patient=True)
    # Not after an error: tearing down waits for peers, and the end of this process tells them.
    dist.destroy_process_group()


def _is_about_peers(error: RuntimeError) -> bool:
    """gloo raises plain RuntimeErrors that name its files; NCCL and the store have types of their own."""
    import torch.distributed as dist

    return isinstance(error, dist.DistError) or "gloo" in str(error)
