"""Products by oneDNN: the values and gradients of torch's own, the same bits every time, and a model that is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from postgrad.train.products import by_onednn

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def outcome(layer: nn.Module, x: Tensor, into: Tensor) -> list[Tensor]:
    """The product and its gradients by input and parameters."""
    x = x.detach().requires_grad_()
    layer.zero_grad()
    with by_onednn(layer):
        y = layer(x)
    y.backward(into)
    return [y.detach(), x.grad, *(p.grad.clone() for p in layer.parameters())]


@pytest.mark.parametrize(("inputs", "outputs"), [(24, 40), (40, 24), (32, 1)])
@pytest.mark.parametrize("shape", [(1, 33), (1, 1), (7,), (2, 3, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_those_of_float64(
    shape: tuple[int, ...], inputs: int, outputs: int, bias: bool
) -> None:
    layer, x = nn.Linear(inputs, outputs, bias=bias), torch.randn(*shape, inputs)
    into = torch.randn(*shape, outputs)
    found = outcome(layer, x, into)
    assert all(part.is_contiguous() for part in found)
    for part, exact in zip(found, outcome(layer.double(), x.double(), into.double()), strict=True):
        torch.testing.assert_close(part, exact.float(), rtol=1e-5, atol=1e-5)


def test_onednn_computes_them() -> None:
    layer, x = nn.Linear(24, 40), torch.randn(1, 5, 24, requires_grad=True)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as watched:
        outcome(layer, x, torch.ones(1, 5, 40))
    names = [event.name for event in watched.events()]
    assert names.count("mkldnn::_linear_pointwise") == 3
    assert not {"aten::mm", "aten::addmm"} & set(names)


def test_what_does_not_stand_close_is_computed_too() -> None:
    layer, wide = nn.Linear(24, 40, bias=False), torch.randn(6, 48)
    into = torch.ones(()).expand(6, 40)
    close = outcome(layer, wide[:, ::2].contiguous(), into.contiguous())
    for part, other in zip(outcome(layer, wide[:, ::2], into), close, strict=True):
        torch.testing.assert_close(part, other, rtol=1e-5, atol=1e-6)


def test_the_same_inputs_give_the_same_bits() -> None:
    layer, x, into = nn.Linear(64, 300), torch.randn(1, 500, 64), torch.randn(1, 500, 300)
    for part, again in zip(outcome(layer, x, into), outcome(layer, x, into), strict=True):
        assert torch.equal(part, again)


def test_frozen_weights_get_no_gradient() -> None:
    layer, x = nn.Linear(8, 8).requires_grad_(False), torch.randn(3, 8, requires_grad=True)
    with by_onednn(layer):
        layer(x).sum().backward()
    assert layer.weight.grad is None
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(3, 8))


def test_under_autocast_products_are_rounded_as_ever() -> None:
    layer, x = nn.Linear(24, 40), torch.randn(1, 5, 24)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x)
        with by_onednn(layer):
            torch.testing.assert_close(layer(x), expected, rtol=0, atol=0)


def test_an_exception_leaves_the_model_as_it_was(model: Any) -> None:
    names, kinds = list(model.state_dict()), [type(module) for module in model.modules()]
    with by_onednn(model):
        assert list(model.state_dict()) == names
        assert type(model.lm_head) is not nn.Linear
    with pytest.raises(KeyError), by_onednn(model):
        raise KeyError
    assert [type(module) for module in model.modules()] == kinds


def test_other_kinds_of_layers_keep_their_products() -> None:
    class Doubled(nn.Linear):
        pass

    hooked = nn.Linear(8, 8)
    hooked.forward = lambda input: input  # type: ignore[method-assign]
    model = nn.ModuleDict({"doubled": Doubled(8, 8), "hooked": hooked, "plain": nn.Linear(8, 8)})
    with by_onednn(model):
        assert type(model["doubled"]) is Doubled
        assert type(hooked) is nn.Linear
        assert type(model["plain"]) is not nn.Linear


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_an_adapter_has_the_gradients_it_had(stock: Any) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    adapted = peft.get_peft_model(stock, config)
    ids = torch.arange(12)[None]

    def gradients() -> list[Tensor]:
        adapted.zero_grad()
        adapted(input_ids=ids, labels=ids, use_cache=False).loss.backward()
        return [p.grad.clone() for p in adapted.parameters() if p.requires_grad]

    expected = gradients()
    with by_onednn(adapted):
        found = gradients()
    assert len(found) == 2 * 2 * 2
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
