"""Weights laid out for sampling: the same products, of the weights as they are now, and nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from postgrad.attention import Packed
from postgrad.sample.prepacked import prepacked
from tests.conftest import nudge

LENGTHS = [1, 7, 30]


def logits(model: Any) -> torch.Tensor:
    ids_1T = torch.arange(sum(LENGTHS))[None] % 275
    positions_1T = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    layout = Packed(LENGTHS, torch.device("cpu"))
    out: torch.Tensor = model(input_ids=ids_1T, position_ids=positions_1T, use_cache=False, layout=layout).logits
    return out


def own(model: nn.Module) -> list[str]:
    """Modules whose `forward` is not their class's."""
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@torch.no_grad()
def test_log_probabilities_are_the_same(model: Any, measured: Any) -> None:
    expected = logits(model).log_softmax(-1)
    with prepacked(model):
        found = logits(model).log_softmax(-1)
        assert len(own(model)) == 2 * 7 + 1, "every product, the tied head's too"
    distance = float((found - expected).abs().max())
    assert measured("laid out weights against the model's own", distance) < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("rows", [1, 2, 16, 33, 300])
def test_one_layout_serves_any_number_of_rows(rows: int) -> None:
    layer = nn.Linear(24, 40)
    x = torch.randn(1, rows, 24)
    expected = layer(x)
    with prepacked(layer):
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_under_autocast_products_are_rounded_as_ever() -> None:
    layer, x = nn.Linear(24, 40), torch.randn(1, 5, 24)
    with prepacked(layer), torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(found, layer(x), rtol=0, atol=0)


@torch.no_grad()
def test_weights_that_changed_in_between_are_seen(model: Any) -> None:
    assert model.lm_head.weight is model.model.embed_tokens.weight
    with prepacked(model):
        before = logits(model)
    nudge(model)
    with prepacked(model):
        after = logits(model)
    assert (after - before).abs().max() > 0.1
    torch.testing.assert_close(after, logits(model), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_an_exception_leaves_the_model_as_it_was(model: Any) -> None:
    expected = logits(model)
    with pytest.raises(KeyError), prepacked(model):
        raise KeyError
    assert own(model) == []
    assert torch.equal(logits(model), expected)


@torch.no_grad()
def test_other_kinds_of_layers_keep_their_forward() -> None:
    class Doubled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(input)

    hooked, rounded = nn.Linear(8, 8), nn.Linear(8, 8).bfloat16()
    hooked.forward = lambda input: input  # type: ignore[method-assign]
    model = nn.ModuleDict({"doubled": Doubled(8, 8), "hooked": hooked, "rounded": rounded, "plain": nn.Linear(8, 8)})
    with prepacked(model):
        assert own(model) == ["hooked", "plain"]
    assert own(model) == ["hooked"], "its own is left to it"


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")  # peft asks for it
def test_an_adapter_counts_as_ever(model: Any) -> None:
    peft = pytest.importorskip("peft")
    adapted = peft.get_peft_model(
        model, peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    )
    expected = logits(adapted)
    with prepacked(adapted):
        found = logits(adapted)
        assert not any(name.endswith(("q_proj", "down_proj")) for name in own(adapted)), "the wrapper keeps its forward"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    with adapted.disable_adapter():
        assert (logits(adapted) - expected).abs().max() > 0.1, "the adapter does something"


def test_there_are_no_gradients_to_lose(model: Any) -> None:
    with pytest.raises(AssertionError, match="gradient"), prepacked(model):
        pass
