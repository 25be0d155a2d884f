"""The schedule by hand, and what is decayed."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from postgrad.train import adamw, optim
from postgrad.train.settings import Optimization


def settings(**changed: Any) -> Optimization:
    return Optimization(**{"max_steps": 12, "learning_rate": 0.1} | changed)


def rates(**changed: Any) -> list[float]:
    asked = settings(**changed)
    return [optim.learning_rate(step, asked) for step in range(asked.max_steps)]


def test_the_schedule_by_hand() -> None:
    # Two steps of warm-up, then ten from the peak, of which the step after the last would be at the bottom.
    found = rates(warmup_steps=2, min_lr_ratio=0.1)
    assert found[:3] == pytest.approx([0.05, 0.1, 0.1])
    assert found[7] == pytest.approx(0.055), "half way: the mean of 0.1 and 0.01"
    assert found[11] == pytest.approx(0.01 + 0.09 * (1 + math.cos(0.9 * math.pi)) / 2)
    assert found[1:] == sorted(found[1:], reverse=True)


def test_no_warmup_and_no_floor() -> None:
    found = rates()
    assert found[0] == 0.1
    assert found[6] == pytest.approx(0.05)
    assert 0 < found[11] < 0.002


def test_leaving_early_does_not_hurry_the_schedule() -> None:
    assert optim.learning_rate(3, settings(stop_step=4)) == optim.learning_rate(3, settings())
    assert settings(stop_step=4).last_step == 4
    assert settings().last_step == 12


def test_a_schedule_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match="warmup_steps=12 must be smaller than max_steps=12"):
        settings(warmup_steps=12)
    with pytest.raises(ValueError, match="stop_step=13 must not exceed max_steps=12"):
        settings(stop_step=13)


def test_matrices_decay_and_vectors_do_not(model: Any) -> None:
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    optimizer = optim.adamw(model, settings(weight_decay=0.5, learning_rate=0.1))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    for name, parameter in model.named_parameters():
        wanted = before[name] * (0.95 if parameter.ndim > 1 else 1.0)
        assert torch.allclose(parameter, wanted, rtol=1e-6), name
    assert {parameter.ndim for parameter in model.parameters()} == {1, 2}


def test_the_numbers_of_adam_are_the_settings_and_its_first_step_is_the_rate() -> None:
    model = torch.nn.Linear(1, 1, bias=False)
    optimizer = optim.adamw(model, settings(adam_beta1=0.8, adam_beta2=0.95, adam_epsilon=1e-6))
    assert optimizer.defaults["betas"] == (0.8, 0.95)
    assert optimizer.defaults["eps"] == 1e-6
    with torch.no_grad():
        model.weight.fill_(1.0)
    model.weight.grad = torch.full((1, 1), -3.0)
    optimizer.step()
    assert float(model.weight.detach()) == pytest.approx(1.1)


def test_what_is_frozen_is_not_given_to_the_optimizer(model: Any) -> None:
    model.get_input_embeddings().weight.requires_grad_(False)
    given = {id(p) for group in optim.adamw(model, settings()).param_groups for p in group["params"]}
    assert given == {id(p) for p in model.parameters() if p.requires_grad}
    assert id(model.get_input_embeddings().weight) not in given


def test_torchs_own_optimizer_where_all_that_is_trained_is_float32_and_ours_with_masters_elsewhere() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 2))
    base, adapter = model[0].bfloat16(), model[1]
    base.requires_grad_(False)
    assert type(optim.adamw(model, settings())) is torch.optim.AdamW, "an adapter over a frozen base"
    base.requires_grad_(True)
    for masters in (True, False):
        ours = optim.adamw(model, settings(master_weights=masters, weight_decay=0.5))
        assert isinstance(ours, adamw.AdamW)
        assert [group["weight_decay"] for group in ours.param_groups] == [0.5, 0.0]
        for weight in model.parameters():
            weight.grad = torch.ones_like(weight)
        ours.step()
        assert ("residual" in ours.state[base.weight]) == masters
        assert "residual" not in ours.state[adapter.weight], "a float32 weight is its own master"
