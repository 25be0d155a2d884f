"""The head's numbers against torch's own log-softmax, in float64 by gradcheck, and what happens at the edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from postgrad.train import logprobs
from postgrad.train.logprobs import logprobs_and_entropy


def test_three_tokens_by_hand() -> None:
    logits_KV = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, float(torch.tensor(3.0).log())]])
    logp_K, entropy_K = logprobs_and_entropy(logits_KV, torch.tensor([0, 1, 1]))
    assert logp_K.tolist() == pytest.approx([-0.693147, -0.693147, -0.287682], abs=1e-6)
    # -(1/4 log 1/4 + 3/4 log 3/4)
    assert entropy_K.tolist() == pytest.approx([0.693147, 0.693147, 0.562335], abs=1e-6)


@given(
    rows=st.integers(1, 9), words=st.integers(1, 40), seed=st.integers(0, 99), scale=st.sampled_from([0.1, 1.0, 30.0])
)
def test_is_log_softmax_whatever_the_shape(rows: int, words: int, seed: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits_KV = (torch.randn(rows, words, generator=generator) * scale).requires_grad_()
    targets_K = torch.randint(words, (rows,), generator=generator)
    weights_K = torch.randn(rows, generator=generator)
    all_KV = logits_KV.log_softmax(-1)
    expected_K = all_KV.gather(-1, targets_K[:, None])[:, 0]
    (expected,) = torch.autograd.grad((expected_K * weights_K).sum(), logits_KV)
    logp_K, entropy_K = logprobs_and_entropy(logits_KV, targets_K)
    (gradient,) = torch.autograd.grad((logp_K * weights_K).sum(), logits_KV)
    assert (logp_K - expected_K).abs().max() <= 1e-6 * max(1, float(expected_K.detach().abs().max()))
    assert (entropy_K + (all_KV.exp() * all_KV).sum(-1)).abs().max() < 1e-4
    assert (gradient - expected).abs().max() < 1e-5


def test_rows_in_several_pieces_are_the_rows_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    logits_KV = torch.randn(10, 7)
    targets_K = torch.randint(7, (10,))
    whole = logprobs_and_entropy(logits_KV, targets_K)
    monkeypatch.setattr(logprobs, "ELEMENTS", 21)
    for one, other in zip(logprobs_and_entropy(logits_KV, targets_K), whole, strict=True):
        assert torch.equal(one, other)


def test_the_gradient_by_differences() -> None:
    logits_KV = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    targets_K = torch.tensor([0, 4, 2, 2])
    assert torch.autograd.gradcheck(lambda logits: logprobs_and_entropy(logits, targets_K)[0], (logits_KV,))


def test_entropy_has_no_gradient_and_large_logits_do_not_overflow() -> None:
    logits_KV = torch.tensor([[3e4, -3e4, 0.0]], requires_grad=True)
    logp_K, entropy_K = logprobs_and_entropy(logits_KV, torch.tensor([0]))
    assert not entropy_K.requires_grad
    assert logp_K.item() == 0.0
    assert entropy_K.item() == 0.0
