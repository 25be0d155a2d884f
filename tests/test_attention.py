"""Packed attention: no document sees another, and each is computed as transformers computes it alone."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from postgrad.attention import NAME, Packed, attend
from tests.conftest import enliven

SMALL: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "head_dim": 8,
    "pad_token_id": 0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "Qwen3": Qwen3Config(**SMALL, num_key_value_heads=2),
    "Llama, a key for every query": LlamaConfig(**SMALL, num_key_value_heads=4),
    "Llama, one key for four queries": LlamaConfig(**SMALL, num_key_value_heads=1),
    "Qwen2, with biases": Qwen2Config(**SMALL, num_key_value_heads=2),
    "Mistral, within its window": MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=64),
    "Gemma 3, within its window": Gemma3TextConfig(
        **SMALL, num_key_value_heads=1, sliding_window=64, query_pre_attn_scalar=5, tie_word_embeddings=True
    ),
}


def pair(config: PretrainedConfig) -> tuple[Any, Any]:
    """One model twice: with transformers' own attention, and with ours."""
    stock = enliven(AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="sdpa")).eval()
    ours = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=NAME).eval()
    ours.load_state_dict(stock.state_dict())
    return stock, ours


def documents(lengths: Sequence[int], seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(1, SMALL["vocab_size"], (length,), generator=generator) for length in lengths]


def packed_logits(model: Any, ids: Sequence[Tensor]) -> list[Tensor]:
    lengths = [len(one) for one in ids]
    logits = model(
        input_ids=torch.cat(list(ids))[None],
        position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
        use_cache=False,
        layout=Packed(lengths, torch.device("cpu")),
    ).logits[0]
    return list(logits.split(lengths))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_a_packed_document_has_the_logits_and_gradients_that_it_has_alone(
    config: PretrainedConfig, measured: Any
) -> None:
    stock, ours = pair(config)
    ids = documents([1, 7, 64, 8, 2, 33, 8])
    packed = packed_logits(ours, ids)
    alone = [stock(input_ids=one[None], use_cache=False).logits[0] for one in ids]
    spread = torch.cat(alone).detach().std()
    assert spread > 0.5, "logits that hardly vary compare nothing"
    for ours_TV, theirs_TV in zip(packed, alone, strict=True):
        assert (
            measured("packed logits against alone", float((ours_TV - theirs_TV).detach().abs().max() / spread)) < 1e-5
        )

    for model, logits in ((ours, packed), (stock, alone)):
        torch.cat(logits).logsumexp(-1).sum().backward()
        assert model.get_input_embeddings().weight.grad is not None
    for (name, a), (_, b) in zip(ours.named_parameters(), stock.named_parameters(), strict=True):
        assert a.grad is not None, name
        assert (a.grad - b.grad).norm() < 1e-5 * b.grad.norm() + 1e-6, name


@pytest.fixture(scope="module")
def qwen() -> tuple[Any, Any]:
    return pair(CONFIGS["Qwen3"])


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=9), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_whatever_the_lengths(qwen: tuple[Any, Any], lengths: list[int], seed: int) -> None:
    stock, ours = qwen
    ids = documents(lengths, seed)
    with torch.no_grad():
        for packed_TV, one in zip(packed_logits(ours, ids), ids, strict=True):
            assert (packed_TV - stock(input_ids=one[None], use_cache=False).logits[0]).abs().max() < 2e-5


@pytest.mark.parametrize("changed", [0, 2, 4])
def test_changing_one_document_changes_no_bit_of_the_others(qwen: tuple[Any, Any], changed: int) -> None:
    _, ours = qwen
    ids = documents([9, 5, 9, 30, 8])
    others = [place for place in range(5) if place != changed]
    with torch.no_grad():
        before = packed_logits(ours, ids)
        ids[changed] = ids[changed] % (SMALL["vocab_size"] - 1) + 1
        after = packed_logits(ours, ids)
    assert (after[changed] - before[changed]).abs().max() > 0.1
    for place in others:
        assert torch.equal(before[place], after[place])


def test_a_token_does_not_see_its_future(qwen: tuple[Any, Any]) -> None:
    _, ours = qwen
    ids = documents([6, 9])
    with torch.no_grad():
        before = packed_logits(ours, ids)[1]
        ids[1][5] = ids[1][5] % (SMALL["vocab_size"] - 1) + 1
        after = packed_logits(ours, ids)[1]
    assert torch.equal(before[:5], after[:5])
    assert ((before[5:] - after[5:]).abs().amax(-1) > 1e-3).all()


@given(lengths=st.lists(st.integers(1, 5000), min_size=1, max_size=60))
def test_grouping_by_length_pads_less_than_a_fifth(lengths: list[int]) -> None:
    layout = Packed(lengths, torch.device("cpu"))
    computed = sum(len(call.queries) for call in layout.grouped.calls)
    assert sum(lengths) <= computed <= 2**0.25 * sum(lengths)
    assert layout.longest == max(lengths)


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_continuations_behind_one_prompt_have_the_logits_that_they_have_behind_their_own(
    config: PretrainedConfig,
) -> None:
    stock, ours = pair(config)
    first, short, long, alone, second, other = documents([9, 3, 20, 7, 5, 4])
    pieces = [first, short, long, alone, second, other]
    starts = [0, 9, 9, 0, 0, 5]
    layout = Packed([len(piece) for piece in pieces], torch.device("cpu"), {1: 0, 2: 0, 5: 4})
    assert layout.longest == 29
    with torch.no_grad():
        packed_TV = ours(
            input_ids=torch.cat(pieces)[None],
            position_ids=torch.cat([torch.arange(a, a + len(p)) for a, p in zip(starts, pieces, strict=True)])[None],
            use_cache=False,
            layout=layout,
        ).logits[0]
        for place, whole in {1: (first, short), 2: (first, long), 3: (alone,), 5: (second, other)}.items():
            begin = sum(map(len, pieces[:place]))
            own_TV = stock(input_ids=torch.cat(whole)[None], use_cache=False).logits[0, -len(pieces[place]) :]
            assert (packed_TV[begin : begin + len(pieces[place])] - own_TV).abs().max() < 2e-5


def test_recomputing_activations_changes_no_gradient() -> None:
    _, ours = pair(CONFIGS["Qwen3"])
    ids = documents([12, 5, 12])
    passes = []
    ours.model.layers[1].mlp.register_forward_pre_hook(lambda *_: passes.append(1))

    def gradient() -> list[Tensor]:
        ours.zero_grad()
        torch.cat(packed_logits(ours, ids)).logsumexp(-1).sum().backward()
        return [parameter.grad.clone() for parameter in ours.parameters()]

    ours.train()
    kept = gradient()
    assert len(passes) == 1
    # Renamed within transformers 5.
    enable = getattr(ours, "activation_checkpointing_enable", None) or ours.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    recomputed = gradient()
    assert len(passes) == 3, "once forward, once again in the backward pass"
    for a, b in zip(kept, recomputed, strict=True):
        assert torch.equal(a, b)


def test_beyond_a_sliding_window_is_an_error_and_not_another_model() -> None:
    _, ours = pair(MistralConfig(**SMALL, num_key_value_heads=2, sliding_window=16))
    # Sixteen tokens each: the pack is longer than the window, no document is.
    assert len(packed_logits(ours, documents([16, 16, 3]))) == 3
    with pytest.raises(ValueError, match=r"window of 16 tokens and a sequence has 17: .* use_sliding_window"):
        packed_logits(ours, documents([3, 17]))


def test_what_it_cannot_compute_is_refused_by_name() -> None:
    config = Gemma2Config(**SMALL, num_key_value_heads=2, attn_logit_softcapping=50.0)
    softcapped = AutoModelForCausalLM.from_config(config, attn_implementation=NAME)
    with pytest.raises(ValueError, match="attention option softcap of Gemma2Attention is not supported: set it to 0"):
        packed_logits(softcapped, documents([3]))
    _, dropping = pair(LlamaConfig(**SMALL, attention_dropout=0.1))
    assert len(packed_logits(dropping, documents([3]))) == 1, "in evaluation nothing is dropped"
    with pytest.raises(ValueError, match="attention option dropout of LlamaAttention"):
        packed_logits(dropping.train(), documents([3]))
    q, module = torch.zeros(1, 4, 2, 8), SimpleNamespace(layer_idx=0)
    layout = Packed([2], torch.device("cpu"))
    with pytest.raises(ValueError, match="attention option s_aux"):
        attend(module, q, q, q, None, layout=layout, s_aux=torch.zeros(4))  # type: ignore[arg-type]


def test_a_call_without_a_layout_says_what_the_model_was_prepared_for(qwen: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="called without `layout`; for ordinary use load the checkpoint folder again"):
        qwen[1](input_ids=torch.tensor([[1, 2]]))


@pytest.mark.parametrize("lengths", [[], [3, 0]])
def test_empty_packs_and_documents_are_our_own_mistakes(lengths: list[int]) -> None:
    with pytest.raises(AssertionError, match="empty"):
        Packed(lengths, torch.device("cpu"))
