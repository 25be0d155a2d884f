"""Sampling on a GPU: graphs, kernels and memory that is given back. Skipped where there is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from postgrad.attention import NAME
from postgrad.sample.engine import Engine, Sampling
from postgrad.sample.request import Finished, Request
from postgrad.train.batch import Document, pack, score
from tests.conftest import enliven

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def model(dtype: torch.dtype) -> Any:
    config = Qwen3Config(
        vocab_size=4000,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=4,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=64,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    config._attn_implementation = NAME
    return enliven(Qwen3ForCausalLM(config)).eval().to("cuda", dtype)


def engine(tokenizer: Any, made: Any) -> Engine:
    sampler = Engine(tokenizer, Sampling(max_tokens=1, slots=64), seed=0)
    sampler.follow(made, 0)
    return sampler


def requests(**settings: Any) -> list[Request]:
    return [
        Request(tuple(range(5, 5 + 40 * (group + 1))), 100 + index, seed=(group, index), **settings)
        for group in range(4)
        for index in range(9)
    ]


def trainers(made: Any, finished: list[Finished]) -> torch.Tensor:
    found = []
    for request, one in zip(requests(), finished, strict=True):
        weights = np.array([0.0] * len(request.prompt_ids) + [1.0] * len(one.token_ids), np.float32)
        batch = pack([Document("x", (*request.prompt_ids, *one.token_ids), weights)], count=1.0)
        with torch.no_grad():
            found.append(score(made, batch.to(torch.device("cuda"))).logprobs_K.cpu())
    return torch.cat(found)


def test_log_probabilities_are_the_trainers(tokenizer: Any, measured: Any) -> None:
    made = model(torch.float32)
    finished = engine(tokenizer, made).run(requests())
    ours = torch.tensor([value for one in finished for value in one.logprobs])
    far = float((trainers(made, finished) - ours).abs().max())
    assert measured("engine against trainer on a GPU, float32, largest", far) < 1e-4


def test_in_bfloat16_they_are_no_further_apart_than_rounding_moves_the_trainer(tokenizer: Any, measured: Any) -> None:
    made = model(torch.bfloat16)
    finished = engine(tokenizer, made).run(requests())
    ours = torch.tensor([value for one in finished for value in one.logprobs])
    halved, exact = trainers(made, finished), trainers(made.float(), finished)
    apart = measured("engine against trainer on a GPU, bfloat16, mean", float((halved - ours).abs().mean()))
    assert apart <= 2 * float((halved - exact).abs().mean())


def test_greedy_tokens_are_the_cpus(tokenizer: Any) -> None:
    made = model(torch.float32)
    ours = engine(tokenizer, made).run(requests(temperature=0.0))
    theirs = engine(tokenizer, made.cpu()).run(requests(temperature=0.0))
    same = [a.token_ids[:20] == b.token_ids[:20] for a, b in zip(ours, theirs, strict=True)]
    assert sum(same) >= 34, "near ties may fall on either side"


def test_a_second_rollout_finds_its_graphs_and_memory_is_free_in_between(tokenizer: Any) -> None:
    made = model(torch.bfloat16)
    sampler = engine(tokenizer, made)
    first = sampler.run(requests())
    kept = sampler._kept
    assert kept is not None
    torch.cuda.synchronize()
    asleep = torch.cuda.mem_get_info()[0]
    kept.wake()
    assert asleep - torch.cuda.mem_get_info()[0] >= kept.pages * kept._bytes()
    kept.sleep()
    graphs = dict(kept._programs)
    assert [one.token_ids for one in sampler.run(requests())] == [one.token_ids for one in first]
    assert sampler._kept is kept
    assert all(kept._programs[key] is graph for key, graph in graphs.items())
    with torch.no_grad():
        for weight in made.parameters():
            weight += 0.01 * torch.randn_like(weight)
    changed = sampler.run(requests())
    assert sampler._kept is kept, "weights that change in place are read where they are"
    assert [one.token_ids for one in changed] != [one.token_ids for one in first]


def test_filters_and_rules_in_one_batch(tokenizer: Any) -> None:
    made = model(torch.float32)
    rules: list[dict[str, Any]] = [{"temperature": 0.7, "top_p": 0.9}, {"top_k": 5}, {}, {"min_p": 0.05}]
    mixed = [Request(tuple(range(5, 90)), 30, seed=(index,), **rules[index % 4]) for index in range(32)]
    together = engine(tokenizer, made).run(mixed)
    alone = [engine(tokenizer, made).run([request])[0] for request in mixed[:4]]
    for a, b in zip(alone, together, strict=False):
        assert a.token_ids[:10] == b.token_ids[:10]


def test_bfloat16_with_too_little_room_gives_every_request_its_end(tokenizer: Any) -> None:
    from postgrad.sample.pages import Pages

    made = model(torch.bfloat16)
    sampler = engine(tokenizer, made)
    sampler.make_cache = lambda model, rows, expected: Pages(model, rows, expected, pages=24)
    with sampler.serve(requests()) as scheduler:
        for request in requests():
            scheduler.add(request)
        finished = []
        while not scheduler.idle:
            finished += scheduler.step()
    assert scheduler.preempted
    assert sorted(len(one.token_ids) for one in finished) == sorted(request.max_tokens for request in requests())
