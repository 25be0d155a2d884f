"""The head's tiles against one float64 softmax and against the CPU's way; kernels on Triton's interpreter, or compiled where there is a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from postgrad.train import head

pytest.importorskip("triton", reason="its interpreter runs the kernels")
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(autouse=True)
def tiles_of_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles of 16 words and groups of 128 rows, and on CPU too, so that every seam is crossed."""
    monkeypatch.setattr(head, "WIDTHS", (16, 16))
    monkeypatch.setattr(head, "KEPT", 0)
    monkeypatch.setattr(head, "_tiled", lambda hidden_KD: True)


def case(
    rows: int, words: int, dtype: torch.dtype, seed: int = 0, scale: float = 2.0
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    hidden_KD = (torch.randn(rows, 8, generator=generator) * scale).to(DEVICE, dtype).requires_grad_()
    weight_VD = torch.randn(words, 8, generator=generator).to(DEVICE, dtype).requires_grad_()
    targets_K = torch.randint(words, (rows,), generator=generator).to(DEVICE)
    weights_K = torch.randn(rows, generator=generator).to(DEVICE)
    return hidden_KD, weight_VD, targets_K, weights_K


def reference(
    hidden: Tensor, weight: Tensor, targets: Tensor, weights: Tensor, temperature: float
) -> tuple[Tensor, ...]:
    """logp, entropy and the two gradients of sum(weight * logp), in float64."""
    wide = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    all_KV = (wide[0] @ wide[1].T / temperature).log_softmax(-1)
    logp_K = all_KV.gather(-1, targets[:, None])[:, 0]
    gradients = torch.autograd.grad((logp_K * weights).sum(), wide)
    return logp_K.detach(), -(all_KV.exp() * all_KV).sum(-1).detach(), *gradients


def close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    # 1e-5: a logit of 40 is rounded by 4e-6, and so is what its probability lacks to 1, however small the gradient itself.
    return bool((ours.double() - theirs).norm() <= tolerance * theirs.norm() + 1e-5)


EXACT = {torch.float32: 1e-5, torch.bfloat16: 1e-2}


@given(
    rows=st.integers(1, 9),
    words=st.integers(1, 70),
    temperature=st.sampled_from([0.5, 1.0, 3.0]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    seed=st.integers(0, 99),
)
@settings(max_examples=25)
def test_log_probabilities_entropy_and_gradients_are_those_of_one_softmax(
    rows: int, words: int, temperature: float, dtype: torch.dtype, seed: int
) -> None:
    inputs = case(rows, words, dtype, seed)
    logp_K, entropy_K = head.logprobs_and_entropy(*inputs[:3], temperature)
    gradients = torch.autograd.grad((logp_K * inputs[3]).sum(), inputs[:2])
    expected = reference(*inputs, temperature)
    # Logits are never rounded: the two sums agree in float32 whatever the operands.
    assert (logp_K - expected[0]).abs().max() < 1e-4
    assert (entropy_K - expected[1]).abs().max() < 1e-4
    assert not entropy_K.requires_grad
    for ours, theirs, operand in zip(gradients, expected[2:], inputs[:2], strict=True):
        assert ours.dtype == operand.dtype
        assert close(ours, theirs, EXACT[dtype])


@pytest.mark.parametrize("dtype", EXACT, ids=str)
@pytest.mark.parametrize(("rows", "words"), [(1, 2), (5, 16), (130, 33), (300, 70)])
def test_the_likelihood_and_its_gradients_are_those_of_one_softmax(rows: int, words: int, dtype: torch.dtype) -> None:
    inputs = case(rows, words, dtype)
    total, logp_K, entropy_K = head.weighted_nll(*inputs)
    expected = reference(*inputs, 1.0)
    assert (logp_K - expected[0]).abs().max() < 1e-4
    assert (entropy_K - expected[1]).abs().max() < 1e-4
    assert not logp_K.requires_grad
    assert float(total.detach()) == pytest.approx(-float((expected[0] * inputs[3]).sum()), rel=1e-4, abs=1e-4)
    # The interpreter rounds half precision towards 0, a GPU to the nearest.
    for ours, theirs in zip(torch.autograd.grad(total, inputs[:2]), expected[2:], strict=True):
        assert close(-ours, theirs, EXACT[dtype])


def test_what_the_likelihood_is_divided_by_is_not_rounded() -> None:
    """1/3 is no bfloat16: rounded, it would scale every gradient."""
    inputs = case(40, 33, torch.bfloat16)
    whole, third = (torch.autograd.grad(head.weighted_nll(*inputs)[0] / by, inputs[:2]) for by in (1, 3))
    for one, other in zip(whole, third, strict=True):
        one, other = one.double(), 3 * other.double()
        assert float((one * other).sum() / (one * one).sum()) == pytest.approx(1, abs=1e-3), (
            "rounded it is off by 0.002"
        )


def through(words: Callable[..., Any], inputs: tuple[Tensor, ...]) -> list[Tensor | None]:
    """The gradients of whichever operands have one."""
    found = words(*inputs)
    (found[0] * inputs[3]).sum().backward()
    return [inputs[0].grad, inputs[1].grad]


@pytest.mark.parametrize("frozen", [0, 1], ids=["hidden", "weight"])
@pytest.mark.parametrize(
    "function", [lambda *x: head.logprobs_and_entropy(*x[:3]), head.weighted_nll], ids=["logprobs", "nll"]
)
def test_what_needs_no_gradient_gets_none_and_the_other_the_same(frozen: int, function: Any) -> None:
    whole = through(function, case(6, 40, torch.float32))
    inputs = case(6, 40, torch.float32)
    inputs[frozen].requires_grad_(False)
    part = through(function, inputs)
    assert part[frozen] is None
    expected = whole[1 - frozen]
    assert expected is not None
    assert torch.equal(part[1 - frozen], expected)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:All-NaN slice encountered")  # the interpreter's numpy
def test_large_logits_do_not_overflow_and_what_is_not_finite_stays_so() -> None:
    hidden_KD, weight_VD, targets_K, weights_K = case(3, 40, torch.float32, scale=3e4)
    logp_K, entropy_K = head.logprobs_and_entropy(hidden_KD, weight_VD, targets_K)
    expected = reference(hidden_KD, weight_VD, targets_K, weights_K, 1.0)
    assert close(logp_K, expected[0], 1e-5)
    assert entropy_K.isfinite().all()
    with torch.no_grad():
        hidden_KD[1, 0] = torch.nan
        assert head.logprobs_and_entropy(hidden_KD, weight_VD, targets_K)[0].isfinite().tolist() == [True, False, True]


def test_without_gradients_nothing_is_kept_and_numbers_are_the_same() -> None:
    inputs = case(7, 50, torch.float32)
    with torch.no_grad():
        still = head.weighted_nll(*inputs)
    for ours, theirs in zip(still, head.weighted_nll(*inputs), strict=True):
        assert not ours.requires_grad
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_the_cpus_own_way_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = case(6, 40, torch.float32)
    tiled = [
        through(lambda *x: head.logprobs_and_entropy(*x[:3], 0.7), inputs),
        through(head.weighted_nll, case(6, 40, torch.float32)),
    ]
    monkeypatch.setattr(head, "_tiled", lambda hidden_KD: False)
    plain = [
        through(lambda *x: head.logprobs_and_entropy(*x[:3], 0.7), case(6, 40, torch.float32)),
        through(head.weighted_nll, case(6, 40, torch.float32)),
    ]
    for ours, theirs in zip(tiled, plain, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            assert a is not None
            assert b is not None
            assert close(a, b.double(), 1e-5)


@pytest.mark.parametrize(("rows", "width"), [(1, 8192), (6000, 8192), (11469, 4096), (16384, 2048), (100_000, 2048)])
def test_tiles_are_as_wide_as_their_room(rows: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head, "WIDTHS", (2048, 8192))
    assert head._width(rows) == width
