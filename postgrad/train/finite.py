"""What is said of a loss or a gradient that is not a number: the first place where it is none. Every rank must ask."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from postgrad.ranks import Ranks
from postgrad.train import shard
from postgrad.train.batch import Batch
from postgrad.train.loss import LossSum


def loss(model: torch.nn.Module, step: int, mine: Sequence[Batch], losses: Sequence[LossSum], ranks: Ranks) -> str:
    """Which sample, which token, which tensor: the first place where a loss is not a number."""
    weights = ranks.union(name for name, w in model.named_parameters() if not shard.local(w).isfinite().all())
    found = [place for place in ranks.everyone(_place(step, mine, losses, weights, ranks)) if place is not None]
    whole = f"step {step}: the weighted loss is not finite although every token's is: look at the examples' weights"
    return found[0] if found else whole


def _place(
    step: int, mine: Sequence[Batch], losses: Sequence[LossSum], weights: Sequence[str], ranks: Ranks
) -> str | None:
    for index, (batch, one) in enumerate(zip(mine, losses, strict=True)):
        bad_K = ~one.token_losses_K.isfinite()
        if bad_K.any():
            first = int(bad_K.nonzero()[0])
            name = batch.names[int(batch.document_K[first])]
            streams = [stream for stream, values in batch.streams_K.items() if not values[first].isfinite()]
            cause = f"its {streams[0]} are not finite either" if streams else "the model's logits are not finite there"
            cause = f"the weights {weights[0]} are not finite" if weights else cause
            return (
                f"step {step}: the loss is {float(one.token_losses_K[first])} in micro-batch {index * ranks.size + ranks.rank}, sample {name!r}, tensor token_losses "
                f"at trained token {first} (id {int(batch.targets_K[first])}); {cause}. Nothing was updated: "
                "lower learning_rate, or look at that sample, and resume from the last checkpoint"
            )
    return None


def gradient(model: torch.nn.Module, step: int, total: float, ranks: Ranks) -> str:
    """Which weight's gradient, where the loss `total` is a number."""
    named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    broken = ranks.union(name for name, grad in named.items() if not shard.local(grad).isfinite().all())
    # Finite gradients can be so large that their squares are not.
    where = (
        f"gradient of {broken[0]} is not (nor of {len(broken) - 1} more tensors)"
        if broken
        else "gradient's norm is not"
    )
    return (
        f"step {step}: the loss is finite ({total:.6g}) but the {where}; nothing was updated. Lower learning_rate or max_grad_norm, or use dtype "
        "float32, and resume from the last checkpoint"
    )
