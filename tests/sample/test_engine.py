"""The engine: the trainer's own log-probabilities, transformers' own greedy text, and traces that do not know their neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig

from postgrad import chat
from postgrad.attention import NAME
from postgrad.domains import arithmetic
from postgrad.records import Message, Problem, Trace
from postgrad.sample.engine import Engine, Sampling
from postgrad.sample.request import Request
from postgrad.train import model as models
from postgrad.train.batch import Document, pack, score
from tests.conftest import enliven, nudge


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return arithmetic.problems("train", 6, min_steps=2, max_steps=6, seed=1)


def engine(tokenizer: Any, model: Any, *, seed: int = 0, step: int = 0, **settings: Any) -> Engine:
    made = Engine(tokenizer, Sampling(**{"max_tokens": 24, "slots": 64} | settings), seed=seed)
    made.follow(model, step)
    return made


def stop_often(model: Any) -> Any:
    """Let a quarter of the vocabulary end a trace, so that traces end at every length."""
    model.generation_config.eos_token_id = list(range(0, 275, 30))
    return model


def trained_logprobs(tokenizer: Any, model: Any, problem: Problem, trace: Trace, temperature: float) -> torch.Tensor:
    prompt = chat.prompt_ids(tokenizer, problem.prompt)
    weights = np.array([0.0] * len(prompt) + [1.0] * len(trace.token_ids), np.float32)
    document = Document(problem.id, (*prompt, *trace.token_ids), weights)
    with torch.no_grad():
        return score(model, pack([document], count=1.0), temperature=temperature).logprobs_K


@pytest.mark.parametrize("temperature", [0.7, 1.0])
@pytest.mark.parametrize(
    "filters",
    [{}, {"top_k": 20}, {"top_p": 0.9}, {"min_p": 0.05}, {"top_k": 50, "top_p": 0.95, "min_p": 0.01}],
    ids=["all", "top-k", "top-p", "min-p", "all three"],
)
def test_log_probabilities_are_the_trainers(
    model: Any, tokenizer: Any, problems: list[Problem], temperature: float, filters: dict[str, Any], measured: Any
) -> None:
    stop_often(model)
    groups = engine(tokenizer, model, temperature=temperature, max_tokens=40, slots=7, **filters).sample(problems, 3)
    for problem, group in zip(problems, groups, strict=True):
        for trace in group:
            trainers = trained_logprobs(tokenizer, model, problem, trace, temperature)
            distance = float((trainers - torch.tensor(trace.logprobs)).abs().max())
            assert measured("engine's log-probabilities against the trainer's", distance) < 1e-4
    assert len({trace.token_ids for group in groups for trace in group}) == 18, "samples differ"


def test_in_bfloat16_they_agree_to_its_rounding(
    model_folder: Path, tokenizer: Any, problems: list[Problem], measured: Any
) -> None:
    model = models.load(str(model_folder), dtype=torch.bfloat16, device=torch.device("cpu"))
    groups = engine(tokenizer, model, max_tokens=40).sample(problems, 1)
    largest = max(
        float((trained_logprobs(tokenizer, model, problem, trace, 1.0) - torch.tensor(trace.logprobs)).abs().max())
        for problem, (trace,) in zip(problems, groups, strict=True)
    )
    # A logit of 8 is kept in steps of 1/16.
    assert 1e-4 < measured("the same in bfloat16", largest) < 0.2


def test_log_probabilities_are_the_trainers_after_an_update_too(
    model: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    sampler = engine(tokenizer, model)
    before = sampler.sample(problems[:1], 1)[0][0]
    nudge(model, by=0.05)
    sampler.follow(model, 0)
    after = sampler.sample(problems[:1], 1)[0][0]
    assert before.token_ids != after.token_ids
    assert after.logprobs == pytest.approx(
        trained_logprobs(tokenizer, model, problems[0], after, 1.0).tolist(), abs=1e-4
    )


def test_greedy_is_transformers_greedy_token_for_token(
    model: Any, stock: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    traces = [group[0] for group in engine(tokenizer, model, temperature=0, max_tokens=60, slots=4).sample(problems, 1)]
    for problem, trace in zip(problems, traces, strict=True):
        ids = torch.tensor([chat.prompt_ids(tokenizer, problem.prompt)])
        out = stock.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=60)
        assert list(trace.token_ids) == out[0, ids.shape[1] :].tolist()
    assert len({trace.token_ids for trace in traces}) == len(traces)


@pytest.mark.parametrize(
    "config",
    [
        LlamaConfig(
            vocab_size=275,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=1,
        ),
        LlamaConfig(
            vocab_size=275,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=4,
        ),
    ],
    ids=["one key for four queries", "a key for every query"],
)
def test_another_model_decodes_as_transformers_decodes_it(config: Any, tokenizer: Any, problems: list[Problem]) -> None:
    config.eos_token_id, config.bos_token_id, config.pad_token_id = tokenizer.eos_token_id, None, tokenizer.pad_token_id
    stock = enliven(AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation="sdpa")).eval()
    ours = AutoModelForCausalLM.from_config(deepcopy(config), attn_implementation=NAME).eval()
    ours.load_state_dict(stock.state_dict())
    traces = [group[0] for group in engine(tokenizer, ours, temperature=0, max_tokens=30).sample(problems, 1)]
    for problem, trace in zip(problems, traces, strict=True):
        ids = torch.tensor([chat.prompt_ids(tokenizer, problem.prompt)])
        out = stock.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=30)
        assert list(trace.token_ids) == out[0, ids.shape[1] :].tolist()


def test_decoding_past_a_sliding_window_is_an_error_and_not_another_model(
    tokenizer: Any, problems: list[Problem]
) -> None:
    prompt = len(chat.prompt_ids(tokenizer, problems[0].prompt))
    config = MistralConfig(
        vocab_size=275,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=prompt + 9,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=NAME).eval()
    model.generation_config.eos_token_id = None
    assert len(engine(tokenizer, model, max_tokens=10, seed=1).sample(problems[:1], 2)[0]) == 2
    with pytest.raises(ValueError, match=f"window of {prompt + 9} tokens and a sequence has {prompt + 10}"):
        engine(tokenizer, model, max_tokens=11, seed=1).sample(problems[:1], 2)
    longer = [Problem("long", (Message("user", problems[0].prompt[-1].content + "1" * 10),), "1")]
    with pytest.raises(ValueError, match=f"window of {prompt + 9} tokens and a sequence has {prompt + 10}"):
        engine(tokenizer, model, max_tokens=1).sample(longer, 1)


def test_frequencies_of_the_first_token_are_the_models(
    model: Any, stock: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    n = 3000
    (group,) = engine(tokenizer, model, max_tokens=1, temperature=0.7, slots=n).sample(problems[:1], n)
    ids = torch.tensor([chat.prompt_ids(tokenizer, problems[0].prompt)])
    with torch.no_grad():
        p = (stock(input_ids=ids).logits[0, -1].double() / 0.7).softmax(-1).numpy()
    counts = np.bincount([trace.token_ids[0] for trace in group], minlength=len(p)).astype(float)
    common = p * n >= 5
    assert common.sum() > 20
    observed, wanted = (np.append(x[common], x[~common].sum()) for x in (counts, p * n))
    assert chisquare(observed, wanted).pvalue > 0.001
    assert chisquare(observed, wanted[::-1]).pvalue < 1e-6


def tokens(groups: Sequence[Sequence[Trace]]) -> dict[str, list[tuple[int, ...]]]:
    return {group[0].problem_id: [trace.token_ids for trace in group] for group in groups}


@pytest.mark.parametrize("slots", [1, 2, 5, 64])
def test_a_trace_does_not_depend_on_what_shares_its_batch(
    model: Any, tokenizer: Any, problems: list[Problem], slots: int
) -> None:
    stop_often(model)
    alone = {problem.id: tokens(engine(tokenizer, model).sample([problem], 3))[problem.id] for problem in problems}
    assert len({len(ids) for group in alone.values() for ids in group}) > 5, "traces of many lengths come and go"
    together = engine(tokenizer, model, slots=slots)
    assert tokens(together.sample(problems, 3)) == alone
    assert tokens(together.sample(problems[::-1], 3)) == alone
    fewer = tokens(together.sample(problems, 2))
    assert fewer == {name: group[:2] for name, group in alone.items()}


def test_seed_step_problem_and_sample_each_have_their_own_chance(
    model: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    same_words = [Problem("other", problems[0].prompt, "1")]
    seen = [
        tokens(engine(tokenizer, model).sample(problems[:1], 2))[problems[0].id],
        tokens(engine(tokenizer, model, seed=1).sample(problems[:1], 2))[problems[0].id],
        tokens(engine(tokenizer, model, step=1).sample(problems[:1], 2))[problems[0].id],
        tokens(engine(tokenizer, model).sample(same_words, 2))["other"],
    ]
    assert len({ids for group in seen for ids in group}) == 8
    assert tokens(engine(tokenizer, model).sample(problems[:1], 2))[problems[0].id] == seen[0]


def test_a_trace_stops_at_its_first_stop_token_or_at_the_limit(
    model: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    stop_often(model)
    sampler = engine(tokenizer, model, max_tokens=12)
    assert sampler.stops == {*range(0, 275, 30), tokenizer.eos_token_id}
    traces = [trace for group in sampler.sample(problems, 16) for trace in group]
    for trace in traces:
        stops = [place for place, token in enumerate(trace.token_ids) if token in sampler.stops]
        if trace.finish == "stop":
            assert stops == [len(trace.token_ids) - 1]
            assert trace.text == tokenizer.decode(trace.token_ids[:-1])
        else:
            assert trace.finish == "length"
            assert not stops
            assert len(trace.token_ids) == 12
            assert trace.text == tokenizer.decode(trace.token_ids)
    finishes = [trace.finish for trace in traces]
    assert min(finishes.count("stop"), finishes.count("length")) > 5
    assert any(len(trace.token_ids) == 12 and trace.finish == "stop" for trace in traces), (
        "the limit itself may be a stop"
    )


@pytest.mark.parametrize("named", [None, 7, [7, 8]])
def test_the_tokenizers_end_and_the_models_own_both_stop(model: Any, tokenizer: Any, named: Any) -> None:
    model.generation_config.eos_token_id = named
    wanted = {tokenizer.eos_token_id} | ({7, 8} if isinstance(named, list) else {7} if named else set())
    assert engine(tokenizer, model).stops == wanted


def test_a_smaller_budget_cuts_the_same_trace(model: Any, tokenizer: Any, problems: list[Problem]) -> None:
    stop_often(model)
    long, short = (engine(tokenizer, model, max_tokens=limit) for limit in (24, 6))
    for whole, wanted in zip(long.sample(problems, 4), short.sample(problems, 4), strict=True):
        for a, b in zip(whole, wanted, strict=True):
            cut = long.truncate(a, 6)
            assert (cut.token_ids, cut.text, cut.finish) == (b.token_ids, b.text, b.finish)
            assert cut.logprobs == pytest.approx(b.logprobs, abs=1e-5)
            assert long.truncate(a, len(a.token_ids)) is a
    assert long.truncate(a, 0) == Trace(a.problem_id, "", (), (), "length")


def test_more_samples_than_slots_and_fewer_requests_than_slots(
    model: Any, tokenizer: Any, problems: list[Problem]
) -> None:
    (group,) = engine(tokenizer, model, slots=3, max_tokens=4).sample(problems[:1], 10)
    assert len(set(group)) == 10
    done: list[tuple[int, int]] = []
    sampler = engine(tokenizer, model, slots=3, max_tokens=4)
    sampler.report = lambda finished, total: done.append((finished, total))
    assert [len(group) for group in sampler.sample(problems, 2)] == [2] * 6
    assert done[-1] == (12, 12)
    assert [finished for finished, _ in done] == sorted(finished for finished, _ in done)
    assert engine(tokenizer, model).sample([], 4) == []


def test_no_memory_is_kept_for_gradients(model: Any, tokenizer: Any, problems: list[Problem]) -> None:
    seen = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    engine(tokenizer, model, max_tokens=2).sample(problems, 1)
    assert seen == [False] * 3, "the prompts, and two tokens"


def test_a_prompt_of_one_token_shares_its_slots_with_longer_ones(model: Any, tokenizer: Any) -> None:
    short, long = Request((5,), 6, temperature=0), Request((5, 9, 12, 7), 3, temperature=0)
    alone = [engine(tokenizer, model).run([one])[0].token_ids for one in (short, long)]
    asked = [short, long, short, long]
    for slots in (1, 2, 4):
        found = engine(tokenizer, model, slots=slots).run(asked)
        assert [one.token_ids for one in found] == alone * 2


def test_a_sampled_model_can_be_trained(model: Any, tokenizer: Any, problems: list[Problem]) -> None:
    engine(tokenizer, model, max_tokens=2).sample(problems, 1)
    assert not any(tensor.is_inference() for tensor in (*model.parameters(), *model.buffers()))
    document = Document("one", (1, 2, 3), np.array([0, 1, 1], np.float32))
    score(model, pack([document], count=2.0)).logprobs_K.sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_prompt_that_is_too_long_is_named(model: Any, tokenizer: Any, problems: list[Problem]) -> None:
    long = Problem("the long one", (Message("user", "9" * 50),), "1")
    limit = max(len(chat.prompt_ids(tokenizer, problem.prompt)) for problem in problems)
    sampler = engine(tokenizer, model, max_prompt_tokens=limit, max_tokens=1)
    assert len(sampler.sample(problems, 1)) == 6
    with pytest.raises(
        ValueError, match=r"prompt of problem 'the long one' has \d+ tokens, more than max_prompt_length=\d+"
    ):
        sampler.sample([*problems, long], 1)


def test_before_it_follows_a_model_it_samples_nothing(tokenizer: Any, problems: list[Problem]) -> None:
    with pytest.raises(ValueError, match=r"follows no model yet: call follow\(model, step\) first"):
        Engine(tokenizer, Sampling(max_tokens=4), seed=0).sample(problems, 1)


def test_a_tokenizer_without_an_end_is_refused() -> None:
    endless = arithmetic.tokenizer()
    endless.eos_token = None
    with pytest.raises(ValueError, match="has no eos_token: sampling could never stop"):
        Engine(endless, Sampling(max_tokens=4), seed=0)
