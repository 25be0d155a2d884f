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
    assert [int(pair.optimizer.state[weight]["step"]) for weight in pair.ours[:2]] == [0, 1]
    assert not pair.optimizer.state[pair.ours[0]]["exp_avg_sq"].any()


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


DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CHUNKS = [(7, 5), (adamw_triton.CHUNK,), (0, 4), (3, adamw_triton.CHUNK + 16), (1025,), ()]
"""One program or several, full and not; a rank's empty part."""


def parts_of(how: str, unaligned: bool = False) -> list[adamw.Part]:
    generator = torch.Generator().manual_seed(0)
    dtype = torch.float32 if how == "float32" else torch.bfloat16
    parts = []
    for shape in CHUNKS:
        start = torch.randn(shape, generator=generator).to(DEVICE)
        residual = placed(start, torch.int16, unaligned).zero_() if how == "master" else None
        moments = [placed(start, torch.float32, unaligned).zero_() for _ in range(2)]
        parts.append(adamw.Part(placed(start, dtype, unaligned), residual, *moments))
    return parts


def placed(values: Tensor, dtype: torch.dtype, unaligned: bool) -> Tensor:
    """A copy; an unaligned one begins one number after an address that torch gives."""
    memory = torch.empty(values.numel() + 1, dtype=dtype, device=values.device)
    return memory[int(unaligned) :][: values.numel()].view(values.shape).copy_(values)


def gradients_of(step: int, dtype: torch.dtype) -> list[Tensor]:
    return [
        torch.sin(torch.arange(1, math.prod(shape) + 1, device=DEVICE) * step).view(shape).to(dtype) * 3
        for shape in CHUNKS
    ]


SCALE = torch.tensor(0.7, device=DEVICE)


def numbers(part: adamw.Part, name: str) -> Tensor:
    if name == "weight" and part.residual is not None:
        return adamw.joined(part.weight, part.residual)
    return torch.as_tensor(getattr(part, name)).float()


def apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max()) if one.numel() else 0.0


def factors(step: int) -> adamw.Factors:
    return adamw._factors({**GROUP, "weight_decay": 0.1}, step)


def taken(parts: list[adamw.Part], dtype: torch.dtype, change: Any = lambda gradient: gradient) -> list[Tensor]:
    """The parts' numbers after three steps of the kernel."""
    table = adamw_triton.Table(parts)
    for step in (1, 2, 3):
        table.update([change(gradient) for gradient in gradients_of(step, dtype)], SCALE, factors(step))
    return [tensor for part in parts for tensor in part if tensor is not None]


HOW = pytest.mark.parametrize("how", ["master", "bfloat16", "float32"])
GRADIENTS = pytest.mark.parametrize("gradients", [torch.bfloat16, torch.float32], ids=str)


@HOW
@GRADIENTS
def test_the_kernel_makes_the_steps_of_the_plain_operations(how: str, gradients: torch.dtype, measured: Any) -> None:
    plain, table = parts_of(how), parts_of(how)
    taken(table, gradients)
    for step in (1, 2, 3):
        for part, gradient in zip(plain, gradients_of(step, gradients), strict=True):
            adamw.update(part, gradient, SCALE, factors(step))
    for one, other in zip(plain, table, strict=True):
        for name in ("weight", "mean", "square"):
            far = apart(numbers(one, name), numbers(other, name))
            rounded = name == "weight" and how == "bfloat16"
            assert measured(f"AdamW kernel, {name}", far) < (2**-6 if rounded else 1e-6)


@HOW
@GRADIENTS
def test_addresses_of_any_alignment_change_no_bit(how: str, gradients: torch.dtype) -> None:
    aligned = taken(parts_of(how), gradients)
    assert any(tensor.data_ptr() % 16 for part in parts_of(how, True) for tensor in part if tensor is not None)
    for found in (
        taken(parts_of(how, True), gradients),
        taken(parts_of(how), gradients, lambda gradient: placed(gradient, gradients, True)),
        taken(
            parts_of(how), gradients, lambda gradient: gradient.mT.contiguous().mT if gradient.ndim > 1 else gradient
        ),
    ):
        for one, other in zip(aligned, found, strict=True):
            assert torch.equal(one, other)


def test_a_rank_may_have_no_number_of_any_tensor() -> None:
    nothing = [part for part in parts_of("master") if not part.weight.numel()]
    adamw_triton.Table(nothing).update([part.weight for part in nothing], SCALE, factors(1))


@pytest.mark.skipif(DEVICE.type == "cpu", reason="the optimizer takes its kernel on CUDA only")
def test_on_cuda_the_optimizer_is_the_kernel() -> None:
    assert isinstance(adamw._on(DEVICE, parts_of("master")).__self__, adamw_triton.Table)  # type: ignore[attr-defined]


def test_the_optimizer_gives_the_kernel_what_it_gives_the_plain_operations(
    monkeypatch: pytest.MonkeyPatch, measured: Any
) -> None:
    """Weights that get no gradient in some steps, float32 beside bfloat16, another dtype of gradients, another place in memory."""

    def run(on: Any) -> list[Tensor]:
        monkeypatch.setattr(adamw, "_on", on)
        dtypes = [torch.bfloat16, torch.bfloat16, torch.float32]
        weights = [torch.nn.Parameter(start.to(DEVICE, dtype)) for start, dtype in zip(drawn(0), dtypes, strict=True)]
        optimizer = adamw.AdamW([{"params": weights[:2], "weight_decay": 0.1}, {"params": weights[2:]}], **GROUP)
        for step, without in enumerate((0, None, 1, None, None), start=1):
            for at, (weight, gradient) in enumerate(zip(weights, drawn(step), strict=True)):
                weight.grad = None
                weight.grad_dtype = torch.float32 if step > 3 else weight.dtype
                weight.grad = None if at == without else gradient.to(DEVICE, weight.grad_dtype)
            if step == 5:
                weights[1].data = weights[1].data.clone()
            optimizer.step()
        states = [optimizer.state[weight] for weight in weights]
        assert [int(state["step"]) for state in states] == [4, 4, 5]
        masters = [
            adamw.joined(weight.detach(), state["residual"]) if "residual" in state else weight.detach()
            for weight, state in zip(weights, states, strict=True)
        ]
        return [*masters, *(state[name] for state in states for name in adamw.MOMENTS)]

    def plain(device: torch.device, parts: list[adamw.Part]) -> Any:
        return lambda gradients, scale, by: [
            adamw.update(part, gradient, scale, by) for part, gradient in zip(parts, gradients, strict=True)
        ]

    for one, other in zip(run(plain), run(lambda device, parts: adamw_triton.Table(parts).update), strict=True):
        assert measured("AdamW, its tables", apart(one, other)) < 1e-6
