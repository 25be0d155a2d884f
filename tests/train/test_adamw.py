"""Masters in 16 + 16 bits are exact, and the steps are those of torch's AdamW on float32 masters."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from postgrad.train import adamw, adamw_triton

BITS = st.integers(-(2**31), 2**31 - 1)


def number(bits: int) -> Tensor:
    return torch.tensor([bits], dtype=torch.int32).view(torch.float32)


@given(BITS)
@example(0x3F808000)  # a tie above an odd bfloat16
@example(0x3F818000)  # and above an even one, where the even neighbour is 2^15 below
@example(0x3F80FFFF)  # a carry into the exponent's neighbour
@example(0x3FFF8000)  # a carry through the whole mantissa
@example(0x7F7FFFFF)  # the largest number, nearest to infinity
@example(0x00000001)  # subnormal
@example(-(2**31) + 1)
@example(-(2**31))  # -0
@example(-1)
def test_weight_and_residual_are_the_master_to_the_last_bit(bits: int) -> None:
    weight, residual = adamw.divided(number(bits))
    assert (weight.dtype, residual.dtype) == (torch.bfloat16, torch.int16)
    assert adamw.joined(weight, residual).view(torch.int32).item() == bits


@given(BITS.filter(lambda bits: math.isfinite(number(bits).item())))
@example(0x3F808000)
@example(0x7F7FFFFF)
def test_the_weight_is_the_nearest_and_of_two_the_larger(bits: int) -> None:
    master = number(bits)
    weight, _ = adamw.divided(master)
    if (bits & 0xFFFF) == 0x8000:
        assert weight.abs().double() >= master.abs().double()
    else:
        assert torch.equal(weight.view(torch.int16), master.bfloat16().view(torch.int16))


def test_every_last_half_and_every_bfloat16_goes_there_and_back() -> None:
    for high in (0x0000, 0x0080, 0x3F80, 0x3F81, 0x7F7F, 0x8000, 0xBFFF, 0xFF7F):
        bits = torch.from_numpy((np.arange(2**16, dtype=np.uint32) + (high << 16)).view(np.int32).copy())
        assert torch.equal(adamw.joined(*adamw.divided(bits.view(torch.float32))).view(torch.int32), bits)
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    weight, residual = adamw.divided(bits.view(torch.bfloat16).float())
    real = ~bits.view(torch.bfloat16).isnan()
    assert torch.equal(weight.view(torch.int16)[real], bits[real])
    assert not residual[real].any(), "a weight as it was loaded is its own master"


# ---- Steps ----------------------------------------------------------------------------------------------------------

SHAPES = [(7, 5), (3,), (1025,)]
GROUP = {"lr": 0.02, "betas": (0.9, 0.95), "eps": 1e-6}


def drawn(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator) * scale for shape in SHAPES]


class Pair:
    """Ours on weights of `dtype` and torch's on float32 masters, given the same gradients."""

    def __init__(self, dtype: torch.dtype, **changed: Any) -> None:
        starts = [start.to(dtype) for start in drawn(0)]
        self.ours = [torch.nn.Parameter(start) for start in starts]
        self.theirs = [torch.nn.Parameter(start.float()) for start in starts]
        groups = lambda of: [{"params": of[:1], "weight_decay": 0.1}, {"params": of[1:]}]  # noqa: E731
        self.optimizer = adamw.AdamW(groups(self.ours), **GROUP, **changed)
        self.oracle = torch.optim.AdamW(groups(self.theirs), **GROUP, weight_decay=0.0, foreach=False)

    def step(self, gradients: list[Tensor]) -> None:
        for own, their, gradient in zip(self.ours, self.theirs, gradients, strict=True):
            own.grad = gradient.to(own.dtype)
            their.grad = own.grad.float()
        self.optimizer.step()
        self.oracle.step()

    def masters(self) -> list[Tensor]:
        return [
            adamw.joined(weight.detach(), state["residual"]) if "residual" in state else weight.detach()
            for weight in self.ours
            for state in [self.optimizer.state[weight]]
        ]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_steps_are_torchs_on_float32_masters_bit_for_bit(dtype: torch.dtype) -> None:
    pair = Pair(dtype)
    for seed in range(1, 9):
        for group in (*pair.optimizer.param_groups, *pair.oracle.param_groups):
            group["lr"] = 0.02 / seed
        pair.step(drawn(seed))
    for own, master, their in zip(pair.ours, pair.masters(), pair.theirs, strict=True):
        assert torch.equal(master, their.detach())
        if dtype == torch.bfloat16:
            assert torch.equal(own.detach(), adamw.divided(master)[0])
        state, wanted = pair.optimizer.state[own], pair.oracle.state[their]
        assert torch.equal(state["exp_avg"], wanted["exp_avg"])
        assert torch.equal(state["exp_avg_sq"], wanted["exp_avg_sq"])
        assert state["step"] == wanted["step"] == 8


def test_steps_too_small_for_bfloat16_add_up_in_the_master_and_are_lost_without_one() -> None:
    kept, lost = Pair(torch.bfloat16), Pair(torch.bfloat16, master_weights=False)
    for pair in (kept, lost):
        for group in (*pair.optimizer.param_groups, *pair.oracle.param_groups):
            group["lr"], group["weight_decay"] = 1e-6, 0.0
        for _ in range(300):
            pair.step([torch.ones(shape) for shape in SHAPES])
    for with_it, without, theirs, start in zip(kept.masters(), lost.ours, kept.theirs, drawn(0), strict=True):
        assert torch.equal(with_it, theirs.detach())
        assert not torch.equal(with_it, start.bfloat16().float())
        large = start.abs() > 0.01
        assert torch.equal(without.detach()[large], start.bfloat16()[large]), "below half a spacing"
    assert "residual" not in lost.optimizer.state[lost.ours[0]]


def test_the_scale_is_that_of_the_gradient() -> None:
    scaled, plain = Pair(torch.bfloat16), Pair(torch.bfloat16)
    scaled.optimizer.scale = torch.tensor(0.25)
    for seed in (1, 2):
        scaled.step(drawn(seed))
        plain.step(drawn(seed, 0.25))
    for a, b in zip(scaled.masters(), plain.masters(), strict=True):
        assert torch.equal(a, b), "a quarter is exact"


def test_a_weight_without_gradient_stays_and_takes_no_step() -> None:
    pair = Pair(torch.bfloat16)
    before = pair.ours[0].detach().clone()
    pair.ours[1].grad = torch.ones_like(pair.ours[1])
    pair.optimizer.step()
    assert torch.equal(pair.ours[0].detach(), before)
    assert set(pair.optimizer.state) == {pair.ours[1]}


def test_a_gradient_may_be_float32_where_micro_batches_were_added_up() -> None:
    pair = Pair(torch.bfloat16)
    for own, their, gradient in zip(pair.ours, pair.theirs, drawn(1), strict=True):
        own.grad_dtype = torch.float32
        own.grad, their.grad = gradient.clone(), gradient.clone()
    pair.optimizer.step()
    pair.oracle.step()
    for master, their in zip(pair.masters(), pair.theirs, strict=True):
        assert torch.equal(master, their.detach())


def test_the_state_is_restored_as_it_was(tmp_path: Any) -> None:
    going, fresh = Pair(torch.bfloat16), Pair(torch.bfloat16)
    going.step(drawn(1))
    torch.save(going.optimizer.state_dict(), tmp_path / "optimizer.pt")
    for weight, other in zip(fresh.ours, going.ours, strict=True):
        weight.data.copy_(other.data)
    fresh.optimizer.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for pair in (going, fresh):
        pair.step(drawn(2))
    for weight, other in zip(fresh.ours, going.ours, strict=True):
        own, wanted = fresh.optimizer.state[weight], going.optimizer.state[other]
        assert torch.equal(weight.detach(), other.detach())
        assert own.keys() == wanted.keys() == {"step", "exp_avg", "exp_avg_sq", "residual"}
        for name, value in wanted.items():
            assert own[name].dtype == value.dtype
            assert torch.equal(own[name], value), name
    assert fresh.optimizer.param_groups[0]["weight_decay"] == 0.1


# ---- The kernel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["master", "bfloat16", "float32"])
@pytest.mark.parametrize("gradients", [torch.bfloat16, torch.float32], ids=str)
def test_the_kernel_makes_the_steps_of_the_plain_operations(how: str, gradients: torch.dtype, measured: Any) -> None:
    dtype = torch.float32 if how == "float32" else torch.bfloat16
    starts = [start.to(dtype) for start in drawn(0)]
    group = {**GROUP, "weight_decay": 0.1}
    for start in starts:
        states = []
        for apply in (adamw.update, adamw_triton.update):
            weight, residual = start.clone(), torch.zeros_like(start, dtype=torch.int16) if how == "master" else None
            mean, square = torch.zeros(start.shape), torch.zeros(start.shape)
            for step in range(1, 4):
                gradient = torch.sin(torch.arange(start.numel()) * step).view(start.shape).to(gradients)
                apply(weight, residual, gradient, mean, square, torch.tensor(0.7), adamw._factors(group, step))
            states.append((weight if residual is None else adamw.joined(weight, residual), mean, square))
        for name, plain, kernel in zip(("weight", "mean", "square"), *states, strict=True):
            far = float((plain.float() - kernel.float()).abs().max() / plain.float().abs().max())
            assert measured(f"AdamW kernel, {name}", far) < (2**-8 if plain.dtype == torch.bfloat16 else 1e-6)
