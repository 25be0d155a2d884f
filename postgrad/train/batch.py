"""A micro-batch: documents packed back to back, no padding, attention never crossing from one to the next.

Shapes: T tokens of the pack, D documents, K trained tokens (those whose loss counts). Everything per-token that a loss
needs is kept for the K trained tokens alone, so the head computes K rows of logits and never T.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from postgrad.attention import Packed


@dataclass(frozen=True, slots=True)
class Document:
    """One sequence on its way into a pack."""

    name: str
    """What errors call it: an example's or a problem's id."""
    ids: tuple[int, ...]
    weights: np.ndarray[Any, np.dtype[np.float32]]
    """[len(ids)] weight of each token's own loss; 0: context. The first token has nothing to be predicted from: 0."""
    streams: Mapping[str, np.ndarray[Any, np.dtype[np.float32]]] = field(default_factory=dict)
    """[len(ids)] each: advantages, old and reference log-probabilities."""

    def __post_init__(self) -> None:
        for name, values in {"weights": self.weights, **self.streams}.items():
            if len(values) != len(self.ids):
                raise ValueError(f"{self.name!r}: {len(values)} {name} for {len(self.ids)} tokens")
        if self.weights[0] != 0:
            raise ValueError(f"{self.name!r}: its first token has a loss weight, but nothing before it predicts it")


@dataclass(frozen=True, slots=True)
class Batch:
    input_ids_T: Tensor
    position_ids_T: Tensor
    lengths: tuple[int, ...]
    names: tuple[str, ...]
    targets_K: Tensor
    """Ids of the trained tokens."""
    predictors_K: Tensor
    """Where in the pack each is predicted: one before its own place."""
    document_K: Tensor
    """Which document each belongs to, 0 to D - 1."""
    weights_K: Tensor
    streams_K: Mapping[str, Tensor]
    count: float
    """This micro-batch's share of the step's denominator; `fit` divides the step's sum of losses by the sum of counts."""

    def to(self, device: torch.device) -> Batch:
        return Batch(
            self.input_ids_T.to(device),
            self.position_ids_T.to(device),
            self.lengths,
            self.names,
            self.targets_K.to(device),
            self.predictors_K.to(device),
            self.document_K.to(device),
            self.weights_K.to(device),
            {name: values.to(device) for name, values in self.streams_K.items()},
            self.count,
        )


def pack(documents: Sequence[Document], *, count: float) -> Batch:
    """Documents -> one micro-batch. `count` is what the caller's normalisation says it adds to the denominator."""
    ids_T = np.concatenate([np.asarray(document.ids, dtype=np.int64) for document in documents])
    positions_T = np.concatenate([np.arange(len(document.ids)) for document in documents])
    weights_T = np.concatenate([document.weights for document in documents])
    document_T = np.repeat(np.arange(len(documents)), [len(document.ids) for document in documents])
    trained_K = np.flatnonzero(weights_T)
    names = documents[0].streams.keys()
    streams = {
        name: torch.from_numpy(np.concatenate([document.streams[name] for document in documents])[trained_K])
        for name in names
    }
    return Batch(
        input_ids_T=torch.from_numpy(ids_T),
        position_ids_T=torch.from_numpy(positions_T),
        lengths=tuple(len(document.ids) for document in documents),
        names=tuple(document.name for document in documents),
        targets_K=torch.from_numpy(ids_T[trained_K]),
        predictors_K=torch.from_numpy(trained_K - 1),
        document_K=torch.from_numpy(document_T[trained_K]),
        weights_K=torch.from_numpy(weights_T[trained_K]),
        streams_K=streams,
        count=count,
    )


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says of the K trained tokens, at one temperature."""

    logprobs_K: Tensor
    """Nats, float32, of the tokens that were there."""
    entropy_K: Tensor
    """Nats, of the whole distribution; no gradient."""


def score(model: torch.nn.Module, batch: Batch, *, temperature: float = 1.0) -> Scores:
    """One packed forward pass; the logits of trained tokens only."""
    logits_KV = model(
        input_ids=batch.input_ids_T[None],
        position_ids=batch.position_ids_T[None],
        logits_to_keep=batch.predictors_K,
        use_cache=False,
        layout=Packed(batch.lengths, batch.input_ids_T.device),
    ).logits[0]
    # The engine forms its log-probabilities from float32 logits in the same two steps; see sample/engine.py.
    logits_KV = logits_KV.float() / temperature
    all_KV = logits_KV.log_softmax(-1)
    logprobs_K = all_KV.gather(-1, batch.targets_K[:, None])[:, 0]
    with torch.no_grad():
        entropy_K = -(all_KV.exp() * all_KV).sum(-1)
    return Scores(logprobs_K, entropy_K)
