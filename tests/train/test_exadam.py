"""EXAdam by the published numbers and by an oracle of its formulas in float64; its state is float32 and kept to the last bit."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from postgrad.train import adamw, optim
from postgrad.train.exadam import EXAdam
from postgrad.train.settings import Optimization

GRADIENTS = (0.1, -0.2, 0.05)
DEFAULT = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8}


def taken(gradients: Any, **changed: Any) -> list[float]:
    """Of one weight that starts at 1, after each step."""
    weight = torch.nn.Parameter(torch.ones(1, 1))
    optimizer = EXAdam([{"params": [weight]}], **(DEFAULT | changed))
    found = []
    for gradient in gradients:
        weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        found.append(float(weight.detach()))
    return found


def test_the_published_update() -> None:
    assert taken(GRADIENTS) == pytest.approx([0.984055090578, 0.994483419452, 0.992572698408], abs=1e-7)


def test_the_growing_step_of_the_first_version() -> None:
    wanted = [0.988947830990, 0.998290359494, 0.996303743137]
    assert taken(GRADIENTS, growing_step=True) == pytest.approx(wanted, abs=1e-7)


def oracle(gradients: list[Tensor], weight: Tensor, decay: float, growing: bool) -> Tensor:
    """Line by line from the paper, in float64."""
    lr, (b1, b2), eps = DEFAULT["lr"], DEFAULT["betas"], DEFAULT["eps"]
    assert isinstance(lr, float)
    w, m, v = weight.double(), torch.zeros_like(weight).double(), torch.zeros_like(weight).double()
    for t, g in enumerate((g.double() for g in gradients), start=1):
        w = w - lr * decay * w
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        d1, d2 = 1 + v / (v + eps) * b2**t, 1 + m**2 / (m**2 + eps) * b1**t
        m_, v_, g_ = m / (1 - b1**t) * d1, v / (1 - b2**t) * d2, g / (1 - b1**t) * d1
        step = lr * math.log(math.sqrt(2) * math.sqrt(t + 1)) if growing else lr
        w = w - step * (m_ + g_) / (v_.sqrt() + eps)
    return w


def drawn(seed: int, scale: float) -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) * scale


@pytest.mark.parametrize("growing", [False, True])
@pytest.mark.parametrize("scale", [1.0, 1e-4, 1e-9], ids=["large", "near sqrt(eps)", "far below it"])
def test_steps_are_the_oracles(growing: bool, scale: float) -> None:
    gradients = [drawn(seed, scale) for seed in range(1, 40)]
    weight = torch.nn.Parameter(drawn(0, 1.0))
    optimizer = EXAdam([{"params": [weight], "weight_decay": 0.1}], **DEFAULT, growing_step=growing)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    wanted = oracle(gradients, drawn(0, 1.0), 0.1, growing)
    assert float((weight.detach().double() - wanted).abs().max()) < 3e-6
    plain = oracle(gradients, drawn(0, 1.0), 0.1, not growing)
    assert float((wanted - plain).abs().max()) > 1e-5, "and the two versions differ"


def test_bfloat16_weights_have_exact_masters_and_float32_state() -> None:
    start = drawn(0, 1.0).bfloat16()
    halved, whole = torch.nn.Parameter(start), torch.nn.Parameter(start.float())
    optimizers = [EXAdam([{"params": [weight]}], **DEFAULT) for weight in (halved, whole)]
    for seed in range(1, 20):
        gradient = drawn(seed, 1e-6).bfloat16()
        halved.grad, whole.grad = gradient, gradient.float()
        for optimizer in optimizers:
            optimizer.scale = torch.tensor(0.5)
            optimizer.step()
    state = optimizers[0].state[halved]
    assert {name: value.dtype for name, value in state.items() if name != "step"} == {
        "exp_avg": torch.float32,
        "exp_avg_sq": torch.float32,
        "residual": torch.int16,
    }
    assert torch.equal(adamw.joined(halved.detach(), state["residual"]), whole.detach())


def test_the_scale_is_that_of_the_gradient() -> None:
    found = []
    for scale, size in ((0.25, 1.0), (None, 0.25)):
        weight = torch.nn.Parameter(drawn(0, 1.0))
        optimizer = EXAdam([{"params": [weight]}], **DEFAULT)
        optimizer.scale = None if scale is None else torch.tensor(scale)
        weight.grad = drawn(1, size)
        optimizer.step()
        found.append(weight.detach())
    assert torch.equal(*found), "a quarter is exact"


def test_without_warmup_its_first_step_is_ten_to_sixteen_of_adams() -> None:
    for gradient in (0.01, 0.1, 10.0):
        (after,) = taken([gradient])
        assert 10 < (1 - after) / 1e-3 < 16.1


def test_it_goes_on_from_its_state_bit_for_bit(tmp_path: Any) -> None:
    def fresh(start: Tensor) -> tuple[torch.nn.Parameter, EXAdam]:
        weight = torch.nn.Parameter(start.clone())
        return weight, EXAdam([{"params": [weight], "weight_decay": 0.1}], **DEFAULT)

    def steps(weight: Any, optimizer: EXAdam, seeds: range) -> None:
        for seed in seeds:
            weight.grad = drawn(seed, 1.0).bfloat16()
            optimizer.step()

    weight, optimizer = fresh(drawn(0, 1.0).bfloat16())
    steps(weight, optimizer, range(1, 4))
    torch.save(optimizer.state_dict(), tmp_path / "optimizer.pt")
    again, resumed = fresh(weight.detach())
    resumed.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for one, other in ((weight, optimizer), (again, resumed)):
        steps(one, other, range(4, 8))
    assert torch.equal(weight.detach(), again.detach())
    for name, value in optimizer.state[weight].items():
        assert torch.equal(resumed.state[again][name], value), name


@pytest.mark.parametrize("name", ["exadam", "exadam_v1"])
def test_the_settings_name_it(model: Any, name: str) -> None:
    asked = Optimization(max_steps=2, learning_rate=0.1, weight_decay=0.5, optim=name, adam_beta2=0.95)
    made = optim.optimizer(model, asked)
    assert isinstance(made, EXAdam)
    assert made.growing_step == (name == "exadam_v1")
    assert (made.defaults["betas"], [group["weight_decay"] for group in made.param_groups]) == ((0.9, 0.95), [0.5, 0.0])
    assert not isinstance(optim.optimizer(model, asked.model_copy(update={"optim": "adamw"})), EXAdam)
