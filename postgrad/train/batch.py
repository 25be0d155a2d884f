"""A micro-batch: documents packed back to back, no padding, attention never crossing from one to the next.

Shapes: T tokens of the pack, D documents, K trained tokens (those whose loss counts). Everything per-token that a loss
needs is kept for the K trained tokens alone, so the head computes K rows of logits and never T.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from postgrad.attention import Packed
from postgrad.train import head, instead
from postgrad.train.logprobs import logprobs_and_entropy
from postgrad.train.products import by_onednn


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
    prefix: int = 0
    """How many first tokens, none of them trained, all documents of this name share: the prompt of a group."""

    def __post_init__(self) -> None:
        for name, values in {"weights": self.weights, **self.streams}.items():
            if len(values) != len(self.ids):
                raise ValueError(f"{self.name!r}: {len(values)} {name} for {len(self.ids)} tokens")
        if self.weights[0] != 0:
            raise ValueError(f"{self.name!r}: its first token has a loss weight, but nothing before it predicts it")
        assert not self.weights[: self.prefix].any(), f"{self.name!r}: a shared token cannot have a loss of its own"


@dataclass(frozen=True, slots=True)
class Batch:
    input_ids_T: Tensor
    position_ids_T: Tensor
    lengths: tuple[int, ...]
    """Of what stands back to back: documents, and prompts that several of them share."""
    parents: Mapping[int, int]
    """Which of `lengths` continues which."""
    documents: tuple[Document, ...]
    """What was packed, D."""
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
        """On a GPU the host does not wait for the copies, so it packs and launches while the last update is at work."""

        def moved(tensor: Tensor) -> Tensor:
            if device.type == "cuda" and tensor.device.type == "cpu":
                return tensor.pin_memory().to(device, non_blocking=True)
            return tensor.to(device)

        return Batch(
            moved(self.input_ids_T),
            moved(self.position_ids_T),
            self.lengths,
            self.parents,
            self.documents,
            moved(self.targets_K),
            moved(self.predictors_K),
            moved(self.document_K),
            moved(self.weights_K),
            {name: moved(values) for name, values in self.streams_K.items()},
            self.count,
        )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(document.name for document in self.documents)


def pack(documents: Sequence[Document], *, count: float) -> Batch:
    """Documents -> one micro-batch. `count` is what the caller's normalisation says it adds to the denominator.

    Neighbours of one name that share a prefix share its computation too, where it is an eighth of the longest or more:
    below that the attention mask that sharing needs would cost more than the prompt.
    """
    pieces: list[tuple[int, ...]] = []
    starts: list[int] = []
    parents: dict[int, int] = {}
    trained, predictors, targets = [], [], []
    place = 0
    for prefix, family in _families(documents):
        if prefix:
            pieces.append(family[0].ids[:prefix])
            starts.append(0)
            place += prefix
        shared, last = len(pieces) - 1, place - 1
        for document in family:
            at_K = np.flatnonzero(document.weights)
            own_K = place + at_K - prefix
            # A completion's first token is predicted by the last of the prompt, wherever that stands.
            predictors.append(np.where(at_K == prefix, last, own_K - 1) if prefix else own_K - 1)
            targets.append(np.asarray(document.ids, dtype=np.int64)[at_K])
            trained.append(at_K)
            if prefix:
                parents[len(pieces)] = shared
            pieces.append(document.ids[prefix:])
            starts.append(prefix)
            place += len(document.ids) - prefix
    streams = {
        name: torch.from_numpy(
            np.concatenate([document.streams[name][at_K] for document, at_K in zip(documents, trained, strict=True)])
        )
        for name in documents[0].streams
    }
    weights_K = np.concatenate([document.weights[at_K] for document, at_K in zip(documents, trained, strict=True)])
    positions = [np.arange(start, start + len(ids)) for start, ids in zip(starts, pieces, strict=True)]
    return Batch(
        input_ids_T=torch.from_numpy(np.concatenate([np.asarray(ids, dtype=np.int64) for ids in pieces])),
        position_ids_T=torch.from_numpy(np.concatenate(positions)),
        lengths=tuple(map(len, pieces)),
        parents=parents,
        documents=tuple(documents),
        targets_K=torch.from_numpy(np.concatenate(targets)),
        predictors_K=torch.from_numpy(np.concatenate(predictors)),
        document_K=torch.from_numpy(np.repeat(np.arange(len(documents)), [len(at_K) for at_K in trained])),
        weights_K=torch.from_numpy(weights_K),
        streams_K=streams,
        count=count,
    )


def packed_length(documents: Sequence[Document]) -> int:
    """Tokens of their pack."""
    return sum(prefix + sum(len(d.ids) - prefix for d in family) for prefix, family in _families(documents))


def halves(batch: Batch) -> tuple[Batch, Batch]:
    """A pack of several documents as two, of about as many tokens. The first has the whole count: only a step's sum matters."""
    ends = list(itertools.accumulate(len(document.ids) for document in batch.documents))
    cut = min(range(1, len(ends)), key=lambda place: abs(2 * ends[place - 1] - ends[-1]))
    return pack(batch.documents[:cut], count=batch.count), pack(batch.documents[cut:], count=0.0)


def _families(documents: Sequence[Document]) -> list[tuple[int, list[Document]]]:
    """Runs of documents with the length of the prefix that stands once for all of a run; 0 where none does."""
    runs: list[list[Document]] = []
    for document in documents:
        if runs and _alike(runs[-1][-1], document):
            runs[-1].append(document)
        else:
            runs.append([document])
    return [(run[0].prefix if len(run) > 1 else 0, run) for run in runs]


def _alike(one: Document, other: Document) -> bool:
    prefix, lengths = one.prefix, (len(one.ids), len(other.ids))
    same = one.name == other.name and prefix == other.prefix and one.ids[:prefix] == other.ids[:prefix]
    return same and 0 < prefix < min(lengths) and 8 * prefix >= max(lengths)


@dataclass(frozen=True, slots=True)
class Scores:
    """What the model says of the K trained tokens, at one temperature."""

    logprobs_K: Tensor
    """Nats, float32, of the tokens that were there."""
    entropy_K: Tensor
    """Nats, of the whole distribution; no gradient."""


def score(model: torch.nn.Module, batch: Batch, *, temperature: float = 1.0) -> Scores:
    """One packed forward pass; the logits of trained tokens only, and on CUDA not even those: train/head.py."""
    if instead.possible(model):
        logprobs_K, entropy_K = in_head(
            model, batch, lambda x_KD, w_VD: head.logprobs_and_entropy(x_KD, w_VD, batch.targets_K, temperature)
        )
        return Scores(logprobs_K, entropy_K.detach())
    logits_KV = _output(model, batch)[0].float()
    if temperature != 1:
        logits_KV = logits_KV / temperature
    logprobs_K, entropy_K = logprobs_and_entropy(logits_KV, batch.targets_K)
    return Scores(logprobs_K, entropy_K)


def in_head(model: torch.nn.Module, batch: Batch, compute: instead.Compute) -> list[Tensor]:
    """One packed forward pass: what `compute` makes of the head's input at the trained tokens, [K, D], and its weight."""
    return instead.of_logits(model, compute, lambda: _output(model, batch))


def _output(model: torch.nn.Module, batch: Batch) -> Tensor:
    """[1, K, V] logits of the trained tokens, or what stands in for them."""
    with by_onednn(model):
        logits: Tensor = model(
            input_ids=batch.input_ids_T[None],
            position_ids=batch.position_ids_T[None],
            logits_to_keep=batch.predictors_K,
            use_cache=False,
            layout=Packed(batch.lengths, batch.input_ids_T.device, batch.parents),
        ).logits
    return logits
