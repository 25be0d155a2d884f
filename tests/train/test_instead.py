"""Scores and losses made in the head's place are those made from logits: on CPU, with the head replaced there too."""

from __future__ import annotations

import copy
import os
import sys
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, GraniteConfig, Qwen3Config

from postgrad.attention import NAME
from postgrad.train import head, instead
from postgrad.train.batch import Batch, Document, pack, score
from postgrad.train.loss import likelihood
from tests.test_attention import SMALL


def batch() -> Batch:
    rng = np.random.default_rng(0)
    documents = []
    for length in (7, 12, 3):
        weights = np.r_[0, rng.uniform(-1, 2, length - 1)].astype(np.float32)
        documents.append(Document(str(length), tuple(map(int, rng.integers(0, 61, length))), weights))
    return pack(documents, count=1.0)


def made(config: Any) -> Any:
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(copy.deepcopy(config), attn_implementation=NAME)


QWEN = Qwen3Config(**SMALL, num_key_value_heads=2, tie_word_embeddings=True)


def by_logprobs(model: Any) -> tuple[torch.Tensor, ...]:
    scores = score(model, batch(), temperature=0.8)
    return (scores.logprobs_K * batch().weights_K).sum(), scores.logprobs_K, scores.entropy_K


def by_likelihood(model: Any) -> tuple[torch.Tensor, ...]:
    summed = likelihood(model, batch())
    return summed.total, summed.token_losses_K, summed.sums["entropy"]


interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1", reason="compiled kernels take no tensor of a CPU"
)


@pytest.mark.parametrize("way", ["plain", pytest.param("tiled", marks=interpreted)])
@pytest.mark.parametrize("autocast", [False, True], ids=["float32", "autocast"])
@pytest.mark.parametrize("numbers", [by_logprobs, by_likelihood])
def test_numbers_and_gradients_are_those_of_logits(
    numbers: Any, autocast: bool, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(QWEN)
    if autocast:
        model.forward = torch.autocast("cpu", dtype=torch.bfloat16)(model.forward)
    rows = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(tuple(output.shape)))
    found = []
    for replaced in (False, True):
        monkeypatch.setattr(instead, "possible", lambda model, so=replaced: so)
        if way == "tiled":
            monkeypatch.setattr(head, "_tiled", lambda hidden_KD: True)
            monkeypatch.setattr(head, "WIDTHS", (16, 16))
        model.zero_grad()
        told = numbers(model)
        told[0].backward()
        found.append((told, torch.cat([p.grad.flatten() for p in model.parameters()])))
    (wanted, gradient), (ours, our_gradient) = found
    # Logits through autocast are rounded to bfloat16, ours are not.
    bound = 0.02 if autocast else 1e-5
    for a, b in zip(ours, wanted, strict=True):
        assert (a - b).norm() <= bound * b.norm()
    assert (our_gradient - gradient).norm() < bound * gradient.norm()
    assert [shape[-1] == 61 for shape in rows] == [True, False], "the second time the head made no logits"
    assert "forward" not in vars(model.lm_head)


def test_a_model_that_fails_has_its_own_head_again() -> None:
    model = made(QWEN)

    def fails(x: Any, w: Any) -> Any:
        raise RuntimeError("here")

    with pytest.raises(RuntimeError, match="here"):
        instead.of_logits(model, fails, lambda: model.lm_head(torch.zeros(1, 2, 32)))
    assert "forward" not in vars(model.lm_head)


class _Cuda:
    """A model that says it is on CUDA."""

    def __init__(self, model: Any) -> None:
        self.config, self.get_output_embeddings = model.config, model.get_output_embeddings

    def parameters(self) -> Any:
        return iter([torch.empty(0, device="meta").as_subclass(_There)])


class _There(torch.Tensor):
    @property
    def device(self) -> torch.device:
        return torch.device("cuda")


def test_only_a_bare_product_on_cuda_is_replaced() -> None:
    assert not instead.possible(made(QWEN)), "on CPU logits are faster"
    assert instead.possible(_Cuda(made(QWEN)))
    granite = GraniteConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logits_scaling=3.0)
    assert not instead.possible(_Cuda(made(granite)))
    model = made(QWEN)
    model.config.final_logit_softcapping = 30.0
    assert not instead.possible(_Cuda(model))
    biased = made(QWEN)
    biased.lm_head = torch.nn.Linear(32, 61)
    assert not instead.possible(_Cuda(biased))
    other = made(QWEN)
    other.lm_head = type("Adapted", (torch.nn.Linear,), {})(32, 61, bias=False)
    assert not instead.possible(_Cuda(other))


def test_logits_changed_behind_the_head_are_noticed_whatever_the_config_calls_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    granite = GraniteConfig(**{k: v for k, v in SMALL.items() if k != "head_dim"}, logits_scaling=3.0)
    monkeypatch.setattr(instead, "possible", lambda model: True)
    with pytest.raises(AssertionError, match="GraniteForCausalLM changes its logits"):
        score(made(granite), batch())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the head's own way is CUDA's")
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-4), (torch.bfloat16, 0.05)], ids=str)
@pytest.mark.parametrize("numbers", [by_logprobs, by_likelihood])
def test_on_a_gpu_numbers_and_gradients_are_those_of_a_cpu(
    numbers: Any, dtype: torch.dtype, bound: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = made(QWEN)
    told = numbers(model)
    told[0].backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
    there = batch().to(torch.device("cuda"))
    monkeypatch.setattr(sys.modules[__name__], "batch", lambda: there)
    model = made(QWEN).to("cuda", dtype)
    assert instead.possible(model)
    found = numbers(model)
    found[0].backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    for a, b in zip(found, told, strict=True):
        assert (a.cpu() - b).norm() < bound * b.norm()
    assert (gradient.cpu().float() - wanted).norm() < bound * wanted.norm()
