"""The engine follows adapters as they are: what it samples is what the model with the adapter merged into its weights would say."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from postgrad import chat
from postgrad.domains import arithmetic
from postgrad.sample.engine import Engine, Sampling
from postgrad.sample.pages import Pages
from postgrad.train.batch import Document, pack, score


# PEFT asks transformers by a name that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("dora", [False, True], ids=["LoRA", "DoRA"])
@pytest.mark.parametrize("make_cache", [None, Pages], ids=["slots", "pages"])
def test_an_adapter_is_sampled_and_trained_alike(model: Any, tokenizer: Any, dora: bool, make_cache: Any) -> None:
    problems = arithmetic.problems("train", 3, min_steps=2, max_steps=6, seed=1)
    torch.manual_seed(0)  # where a uniform falls between two tokens, rounding decides
    config = LoraConfig(r=4, lora_alpha=16, target_modules="all-linear", use_dora=dora, task_type="CAUSAL_LM")
    adapted = get_peft_model(deepcopy(model), config).eval()
    with torch.no_grad():
        for name, weight in adapted.named_parameters():
            if "lora_B" in name:
                weight += 0.3 * torch.randn_like(weight)
    merged = deepcopy(adapted).merge_and_unload().eval()

    def sampled(of: Any) -> list[Any]:
        engine = Engine(tokenizer, Sampling(max_tokens=24), seed=0, make_cache=make_cache)
        engine.follow(of, 0)
        return [trace for group in engine.sample(problems, 2) for trace in group]

    ours, plain, base = sampled(adapted), sampled(merged), sampled(model)
    assert [trace.token_ids for trace in ours] == [trace.token_ids for trace in plain]
    assert [trace.token_ids for trace in ours] != [trace.token_ids for trace in base]
    for problem, trace in zip(problems, ours[::2], strict=True):
        prompt = chat.prompt_ids(tokenizer, problem.prompt)
        weights = np.array([0.0] * len(prompt) + [1.0] * len(trace.token_ids), np.float32)
        document = Document(problem.id, (*prompt, *trace.token_ids), weights)
        with torch.no_grad():
            trainers = score(adapted, pack([document], count=1.0)).logprobs_K
        assert float((trainers - torch.tensor(trace.logprobs)).abs().max()) < 1e-4
