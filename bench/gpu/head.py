"""The head alone: log-probability and entropy of given tokens from hidden states, forward and backward, 30 % of the tokens masked out.

All are given the trained rows only. Liger's loss has no entropy and makes its gradients in the forward pass. Memory is the peak above
the inputs and includes the gradients of hidden states and weights, which no way can do without.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.gpu import limits
from bench.gpu.place import Place
from bench.gpu.row import Row, agree, relative
from postgrad.train.head import logprobs_and_entropy, weighted_nll

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(hidden [K, D], weight [V, D], targets [K]) -> the mean -log p; entropy is computed on the way."""


def ours(hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor) -> Tensor:
    return -logprobs_and_entropy(hidden_KD, weight_VD, targets_K)[0].mean()


def ours_forward(hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor) -> Tensor:
    """What supervised fine-tuning calls: gradients made in the forward pass."""
    weights_K = torch.full(targets_K.shape, 1 / len(targets_K), device=targets_K.device)
    return weighted_nll(hidden_KD, weight_VD, targets_K, weights_K)[0]


def chunked(hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor) -> Tensor:
    """As TRL's trainers call it."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer import utils

    width = utils._CHUNKED_LOGPROB_CHUNK_SIZE
    logprobs_K, *_ = ChunkedLogProbFunction.apply(
        hidden_KD, weight_VD, None, targets_K, 1.0, width, None, 1.0, ("entropy",)
    )
    return -logprobs_K.mean()


def liger(hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor) -> Tensor:
    from liger_kernel.transformers import LigerFusedLinearCrossEntropyLoss

    loss: Tensor = LigerFusedLinearCrossEntropyLoss()(weight_VD, hidden_KD, targets_K)
    return loss


def plain(hidden_KD: Tensor, weight_VD: Tensor, targets_K: Tensor) -> Tensor:
    logprobs_KV = (hidden_KD @ weight_VD.T).float().log_softmax(-1)
    with torch.no_grad():
        (logprobs_KV.exp() * logprobs_KV).sum(-1)
    return -logprobs_KV.gather(-1, targets_K[:, None]).mean()


def row(place: Place) -> Row:
    torch.manual_seed(0)
    length, width, vocabulary = place.pick(16_384, 64), place.pick(2048, 32), place.vocabulary
    trained = torch.rand(length, device=place.device) >= 0.3
    hidden_KD = torch.randn(length, width, device=place.device, dtype=place.dtype)[trained].requires_grad_()
    weight_VD = (0.02 * torch.randn(vocabulary, width, device=place.device, dtype=place.dtype)).requires_grad_()
    targets_K = torch.randint(vocabulary, (len(hidden_KD),), device=place.device)

    def step(loss: Loss) -> Tensor:
        hidden_KD.grad = weight_VD.grad = None
        value = loss(hidden_KD, weight_VD, targets_K)
        value.backward()
        return value.detach()

    ways: dict[str, Loss] = {
        "ours": ours,
        "ours, weighted_nll": ours_forward,
        "TRL, chunked": chunked,
        "torch, whole logits": plain,
    }
    if place.on_gpu:
        ways["Liger, without entropy"] = liger
    times: dict[str, list[float]] = {}
    absent: dict[str, str] = {}
    peaks: dict[str, float | None] = {}
    twin: dict[str, float] = {}
    value, grad_KD, grad_VD = step(ours), *_gradients(hidden_KD, weight_VD)
    for name, loss in ways.items():
        # Boundary: a peer that finds no memory is told of as such.
        try:
            hidden_KD.grad = weight_VD.grad = None
            with place.peak(place.held()) as peak:
                theirs = step(loss)
        except torch.cuda.OutOfMemoryError as error:
            absent[name] = f"out of memory: {str(error).splitlines()[0]}"
            continue
        peaks[name] = None if peak["gib"] is None else 1024 * peak["gib"]
        if name != "ours":
            twin |= _twins(place, name, (value, grad_KD, grad_VD), (theirs, *_gradients(hidden_KD, weight_VD)))
            place.clear()
    for _ in range(place.rounds * 5):
        for name in peaks:
            times.setdefault(name, []).append(place.seconds(lambda name=name: step(ways[name])))  # type: ignore[misc]
    rows = len(hidden_KD)
    floor = sum(
        min(limits.repeated(place, product, 5)) for product in _products(hidden_KD.detach(), weight_VD.detach())
    )
    second = times.pop("ours, weighted_nll")
    return Row(
        f"head, {rows} trained of {length} tokens, width {width}, vocabulary {vocabulary}",
        "s",
        higher=False,
        ours=times.pop("ours"),
        peers={**times, **absent},
        twin=twin,
        limit=floor,
        more={
            "limit_is": "its four matrix products alone, measured in this run",
            "limit_8kdv": 8 * rows * width * vocabulary / limits.matmul(place),
            "weighted_nll": {"best": min(second), "all": second},
            "peak_mib_above_inputs": peaks,
        },
    )


def _gradients(hidden_KD: Tensor, weight_VD: Tensor) -> tuple[Tensor, Tensor]:
    assert hidden_KD.grad is not None
    assert weight_VD.grad is not None
    return hidden_KD.grad, weight_VD.grad


def _twins(place: Place, name: str, ours: Sequence[Tensor], peer: Sequence[Tensor]) -> dict[str, float]:
    what = ("loss", "gradient of hidden states", "gradient of weights")
    return {
        f"{one}, {name}": agree(place, one, relative(a.float(), b.float()), bfloat16=bound, float32=1e-4)
        for one, a, b, bound in zip(what, ours, peer, (1e-3, 0.03, 0.03), strict=True)
    }


def _products(hidden_KD: Tensor, weight_VD: Tensor) -> list[Callable[[], Any]]:
    """Logits twice (the backward pass computes them again) and the two gradients."""
    logits_KV = hidden_KD @ weight_VD.T
    return [
        lambda: torch.mm(hidden_KD, weight_VD.T, out=logits_KV),
        lambda: torch.mm(hidden_KD, weight_VD.T, out=logits_KV),
        lambda: logits_KV @ weight_VD,
        lambda: logits_KV.T @ hidden_KD,
    ]
