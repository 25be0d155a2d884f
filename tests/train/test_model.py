"""Models: from nothing, from a folder, and what is said where there is none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from postgrad.attention import NAME, Packed
from postgrad.train import model as models
from tests.conftest import SHAPE

CPU = torch.device("cpu")


def scratch(tokenizer: Any, seed: int = 0) -> Any:
    return models.from_scratch(SHAPE, tokenizer, seed=seed, dtype=torch.float32, device=CPU)


def test_the_same_seed_gives_the_same_weights_and_disturbs_no_other_generator(tokenizer: Any) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = scratch(tokenizer)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    same, other = scratch(tokenizer), scratch(tokenizer, seed=1)
    for a, b, c in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)


def test_a_model_from_nothing_has_the_tokenizers_vocabulary_and_ends(tokenizer: Any) -> None:
    made = scratch(tokenizer)
    assert made.get_input_embeddings().weight.shape == (len(tokenizer), 32)
    assert made.get_output_embeddings().weight is made.get_input_embeddings().weight
    assert made.config.eos_token_id == tokenizer.eos_token_id
    assert made.config.pad_token_id == tokenizer.pad_token_id
    assert made.config._attn_implementation == NAME
    assert not made.training


def test_in_bfloat16_weights_and_gradients_are_rounded_and_rotary_frequencies_are_not(
    model_folder: Path, tokenizer: Any
) -> None:
    exact, rounded = (
        models.load(str(model_folder), dtype=dtype, device=CPU) for dtype in (torch.float32, torch.bfloat16)
    )
    made = models.from_scratch(SHAPE, tokenizer, seed=0, dtype=torch.bfloat16, device=CPU)
    for model in (rounded, made):
        assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
        frequencies = dict(model.named_buffers())["model.rotary_emb.inv_freq"]
        assert torch.equal(frequencies, dict(exact.named_buffers())["model.rotary_emb.inv_freq"])
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, exact.get_parameter(name).bfloat16())
    logits = [m(input_ids=torch.tensor([[1, 2, 3]]), layout=Packed([3], CPU)).logits for m in (exact, rounded)]
    assert logits[1].dtype == torch.bfloat16
    assert 1e-4 < (logits[0] - logits[1]).abs().max() / logits[0].std() < 0.2
    logits[1].float().logsumexp(-1).sum().backward()
    assert {parameter.grad.dtype for parameter in rounded.parameters()} == {torch.bfloat16}


def test_a_folder_that_holds_no_model_or_no_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no config\.json, so it is not a Hugging Face model folder"):
        models.load(str(tmp_path), dtype=torch.float32, device=CPU)
    with pytest.raises(ValueError, match=r"holds no tokenizer \(no tokenizer\.json or tokenizer\.model\)"):
        models.load_tokenizer(str(tmp_path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what to do where there is no GPU")
def test_a_device_that_is_not_there() -> None:
    assert models.resolve_device("auto") == models.resolve_device("cpu") == CPU
    with pytest.raises(ValueError, match=r"model.device is 'cuda' and torch .* sees no CUDA device: use cpu or auto"):
        models.resolve_device("cuda")
