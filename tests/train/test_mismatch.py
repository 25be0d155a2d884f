"""Truncated importance sampling by hand, and what it is for: an expectation under another policy."""

from __future__ import annotations

import math

import pytest
import torch

from postgrad.train.mismatch import truncated


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([math.log(p) for p in probabilities])


def test_a_ratio_is_kept_below_the_cap_and_cut_above_it() -> None:
    # Ratios 0.5, 1, 1.5, 4.
    corrected = truncated(
        torch.tensor([1.0, 2.0, 1.0, 0.5]), logs(0.2, 0.3, 0.6, 0.8), logs(0.4, 0.3, 0.4, 0.2), cap=2.0
    )
    assert corrected.weights_K.tolist() == pytest.approx([0.5, 2.0, 1.5, 1.0])
    assert {name: float(value) for name, value in corrected.sums.items()} == pytest.approx(
        {"sampling/importance_sampling_ratio/mean": 7.0, "sampling/importance_sampling_capped": 1.0}
    )
    assert float(corrected.peaks["sampling/importance_sampling_ratio/max"]) == pytest.approx(4.0)


def test_equal_policies_change_nothing() -> None:
    weights = torch.tensor([0.25, 0.0, 3.0])
    same = logs(0.1, 0.5, 0.9)
    assert torch.equal(truncated(weights, same, same).weights_K, weights)


def test_it_gives_the_trainers_expectation_where_the_cap_does_not_bind() -> None:
    trainer, sampler, value = logs(0.5, 0.3, 0.2), logs(0.4, 0.35, 0.25), torch.tensor([1.0, -2.0, 5.0])
    weighted = truncated(sampler.exp(), trainer, sampler).weights_K * value
    assert float(weighted.sum()) == pytest.approx(float((trainer.exp() * value).sum()))


def test_no_gradient_flows_through_the_ratio() -> None:
    trainer = logs(0.5, 0.3).requires_grad_()
    corrected = truncated(torch.ones(2), trainer, logs(0.4, 0.4))
    assert not corrected.weights_K.requires_grad
    (corrected.weights_K * trainer).sum().backward()
    assert trainer.grad is not None
    assert trainer.grad.tolist() == pytest.approx([1.25, 0.75])


def test_an_overflowing_ratio_is_the_cap_and_what_is_not_a_number_stays_so() -> None:
    corrected = truncated(torch.ones(2), torch.tensor([0.0, math.nan]), torch.tensor([-500.0, -1.0]), cap=3.0)
    assert float(corrected.weights_K[0]) == 3.0
    assert math.isnan(corrected.weights_K[1])


def test_half_precision_is_compared_in_single() -> None:
    trainer = torch.tensor([-1.0]).bfloat16()
    assert float(truncated(torch.ones(1), trainer, torch.tensor([-1.001])).weights_K) == pytest.approx(math.exp(0.001))


def test_nothing_trained_gives_nothing() -> None:
    none = torch.zeros(0)
    assert truncated(none, none, none).peaks == {}


def test_bad_arguments_are_named() -> None:
    with pytest.raises(ValueError, match=r"cap=0.5: below 1"):
        truncated(torch.ones(1), torch.zeros(1), torch.zeros(1), cap=0.5)
    with pytest.raises(ValueError, match="cap=nan"):
        truncated(torch.ones(1), torch.zeros(1), torch.zeros(1), cap=math.nan)
    with pytest.raises(ValueError, match=r"shapes differ: weights \(1,\), the trainer's \(2,\)"):
        truncated(torch.ones(1), torch.zeros(2), torch.zeros(2))
