"""The vLLM sampler against a server that may be told to misbehave: nothing of what it breaks may pass for a sample."""

from __future__ import annotations

import json
import math
import time
from typing import Any

import pytest
from fake_vllm import Answer, Fake, said

from postgrad import chat
from postgrad.records import Message, Problem
from postgrad.run import Failed
from postgrad.sample import vllm
from postgrad.sample.engine import Sampling
from postgrad.sample.exchange import run
from postgrad.sample.vllm.client import Patience

PROBLEMS = [Problem(f"p{i}", (Message("user", f"{i} + {i} ="),), str(2 * i)) for i in range(5)]
ASK = "/v1/completions"

# ---- Token in, token out --------------------------------------------------------------------------------------------


def test_traces_come_in_order_with_the_servers_own_tokens(fake: Fake, sampler: Any, tokenizer: Any) -> None:
    fake.delay = 0.02
    traces = sampler().sample(PROBLEMS, 3)
    assert [[trace.problem_id for trace in group] for group in traces] == [[p.id] * 3 for p in PROBLEMS]
    for problem, group in zip(PROBLEMS, traces, strict=True):
        for sample, trace in enumerate(group):
            prompt = chat.prompt_ids(tokenizer, problem.prompt)
            seed = vllm.seed_of(3, 0, problem.id, sample)
            (choice,) = fake.complete({"prompt": prompt, "seed": seed, "max_tokens": 6})["choices"]
            assert list(trace.token_ids) == choice["token_ids"]
            assert list(trace.logprobs) == choice["logprobs"]["token_logprobs"]
            assert trace.finish == choice["finish_reason"]
            assert trace.text == tokenizer.decode([token for token in trace.token_ids if token != fake.eos])
    assert {trace.finish for group in traces for trace in group} == {"stop", "length"}
    assert {tuple(body["prompt"]) for body in fake.completions} == {
        tuple(chat.prompt_ids(tokenizer, problem.prompt)) for problem in PROBLEMS
    }


def test_nothing_is_left_to_the_models_generation_config(fake: Fake, sampler: Any) -> None:
    fake.mode = "raw_logprobs"
    sampler(top_k=7, top_p=0.9, min_p=0.1, max_tokens=4).sample(PROBLEMS[:1], 1)
    (body,) = fake.completions
    assert {name: value for name, value in body.items() if name not in ("prompt", "seed")} == {
        "model": "tiny",
        "n": 1,
        "max_tokens": 4,
        "temperature": 1.0,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [fake.eos],
        "logprobs": 0,
        "return_token_ids": True,
    }


def test_a_seed_is_a_function_of_seed_step_problem_and_sample() -> None:
    seeds = {vllm.seed_of(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in ("x", "x1") for d in (0, 1, 11)}
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert vllm.seed_of(0, 1, "p", 2) == vllm.seed_of(0, 1, "p", 2)


def test_no_problem_asks_nothing(fake: Fake, sampler: Any) -> None:
    assert sampler().sample([], 4) == []
    assert sampler().sample(PROBLEMS[:2], 0) == [[], []]
    assert not fake.asked


def test_it_samples_where_a_loop_runs_already(fake: Fake, sampler: Any) -> None:
    """As in a notebook."""

    async def cell() -> Any:
        return sampler().sample(PROBLEMS[:1], 2)

    assert len(run(cell())[0]) == 2


def test_many_requests_are_bounded_by_slots(fake: Fake, sampler: Any) -> None:
    fake.delay = 0.02
    traces = sampler(slots=24).sample(PROBLEMS, 40)
    assert sum(len(group) for group in traces) == 200
    assert 4 < fake.most_busy <= 24
    assert len({body["seed"] for body in fake.completions}) == 200


def test_a_long_prompt_names_its_problem(fake: Fake, sampler: Any) -> None:
    with pytest.raises(ValueError, match=r"'p0' has .* tokens, more than max_prompt_length=2"):
        sampler(max_prompt_tokens=2).sample(PROBLEMS, 1)
    assert not fake.asked


def test_without_a_model_nothing_is_sampled(fake: Fake, sampler: Any) -> None:
    with pytest.raises(ValueError, match="follows no model"):
        sampler(follows=False).sample(PROBLEMS, 1)


# ---- Asking again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_passing_status_is_asked_again_with_the_same_seed(fake: Fake, sampler: Any, status: int) -> None:
    fake.rules[ASK] = lambda nth, body: (status, b"busy") if nth < 2 else None
    ((trace,),) = sampler().sample(PROBLEMS[:1], 1)
    assert trace.token_ids
    assert len({body["seed"] for body in fake.completions}) == 1
    assert fake.counts[ASK] == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_lasting_status_is_not_asked_again(fake: Fake, sampler: Any, status: int) -> None:
    fake.rules[ASK] = lambda nth, body: (status, {"message": "no such thing"})
    with pytest.raises(Failed, match=f"/v1/completions answered {status}: .*no such thing.*compare its limits"):
        sampler().sample(PROBLEMS[:1], 1)
    assert fake.counts[ASK] == 1


def test_an_answer_that_does_not_come_has_a_deadline(fake: Fake, sampler: Any) -> None:
    fake.rules[ASK] = lambda nth, body: (fake.stopping.wait(3), None)[1]
    asked = sampler(patience=Patience(answer=0.1, attempts=2, wait=0.01))
    began = time.monotonic()
    with pytest.raises(Failed, match=r"asked 2 times for sample . of problem 'p.'; the last time there was no answer"):
        asked.sample(PROBLEMS, 2)
    assert time.monotonic() - began < 2.9


def test_one_failure_ends_the_waits_of_all(fake: Fake, sampler: Any) -> None:
    fake.rules[ASK] = lambda nth, body: (400, b"no") if nth == 3 else (fake.stopping.wait(10), None)[1]
    server = sampler()
    began = time.monotonic()
    with pytest.raises(Failed, match="answered 400"):
        server.sample(PROBLEMS, 2)
    assert time.monotonic() - began < 5
    assert fake.counts[ASK] < 10
    # And nothing of it is left for the next call.
    del fake.rules[ASK]
    assert server.sample(PROBLEMS, 1)


@pytest.mark.parametrize("kind", ["cut", "short", "html", "list", "empty"])
def test_a_cut_or_foreign_answer_is_asked_again_and_then_fails(fake: Fake, sampler: Any, kind: str) -> None:
    whole = json.dumps(said([1], [20], [-1.0], "length")).encode()
    broken: Answer = {
        "cut": (0, whole),
        "short": (200, whole[:40]),
        "html": (200, b"<html>"),
        "list": (200, b"[]"),
        "empty": (200, b""),
    }[kind]
    fake.rules[ASK] = lambda nth, body: broken
    server = sampler()
    with pytest.raises(Failed, match="asked 3 times"):
        server.sample(PROBLEMS[:1], 1)
    fake.rules[ASK] = lambda nth, body: broken if nth < 5 else None
    assert server.sample(PROBLEMS[:1], 1)


# ---- What is no sample ----------------------------------------------------------------------------------------------

EOS = -100
"""Stands for the end-of-sequence token in the table beneath."""


@pytest.mark.parametrize(
    ("ids", "logprobs", "finish", "message"),
    [
        ([20, EOS], [-1.0], "stop", "2 tokens have the log-probabilities"),
        ([20, EOS], [-1.0] * 3, "stop", "2 tokens have the log-probabilities"),
        ([20, EOS], None, "stop", "2 tokens have the log-probabilities None"),
        (None, [-1.0], "stop", "token_ids are None"),
        (["20"], [-1.0], "stop", "token_ids are"),
        ([True, EOS], [-1.0] * 2, "stop", "token_ids are"),
        ([275, EOS], [-1.0] * 2, "stop", "token 275 is outside the model's vocabulary of 275"),
        ([20, EOS], [-1.0, math.nan], "stop", "log-probability 1 is nan: look for non-finite weights"),
        ([20, EOS], [-math.inf, -1.0], "stop", "log-probability 0 is -inf"),
        ([20, EOS], [None, -1.0], "stop", "log-probability 0 is None"),
        ([20, EOS], [-9999.0, -1.0], "stop", "log-probability 0 is -9999"),
        ([20, EOS], [12.5, -1.0], "stop", "above 0: give it a --logprobs-mode of logprobs"),
        ([20, 21], [-1.0] * 2, "stop", "name the model's other stop tokens"),
        ([20, 21], [-1.0] * 2, "length", "2 of 6 tokens.*--max-model-len"),
        ([20] * 7, [-1.0] * 7, "length", "7 of 6 tokens"),
        ([20, EOS, 21, 22, 23, 24], [-1.0] * 6, "length", "goes on after a stop token"),
        ([], [], "stop", "0 of 6 tokens"),
        ([20, 21], [-1.0] * 2, "abort", "finish_reason='abort'"),
        ([20, EOS], [-1.0] * 2, None, "finish_reason=None"),
    ],
)
def test_a_broken_trace_never_passes(
    fake: Fake, sampler: Any, ids: Any, logprobs: Any, finish: Any, message: str
) -> None:
    ids = ids and [fake.eos if token == EOS else token for token in ids]
    fake.rules[ASK] = lambda nth, body: (200, said(body["prompt"], ids, logprobs, finish))
    with pytest.raises(Failed, match=message):
        sampler().sample(PROBLEMS[:1], 1)
    assert fake.counts[ASK] == 3


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (0, "one sample was asked for and 0 samples came"),
        (2, "one sample was asked for and 2 samples came"),
        (None, "one sample was asked for and {"),
    ],
)
def test_a_wrong_number_of_samples_never_passes(fake: Fake, sampler: Any, choices: int | None, message: str) -> None:
    def several(nth: int, body: dict[str, Any]) -> Answer:
        (one,) = said(body["prompt"], [fake.eos], [-1.0], "stop")["choices"]
        return 200, {"object": "text_completion"} if choices is None else {"choices": [one] * choices}

    fake.rules[ASK] = several
    with pytest.raises(Failed, match=message):
        sampler().sample(PROBLEMS[:1], 1)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("token_ids", "token_ids are None"),
        ("logprobs", "1 tokens have the log-probabilities None"),
        ("prompt_token_ids", "another prompt"),
    ],
)
def test_what_is_missing_is_named(fake: Fake, sampler: Any, missing: str, message: str) -> None:
    def without(nth: int, body: dict[str, Any]) -> Answer:
        answer = said(body["prompt"], [fake.eos], [-1.0], "stop")
        del answer["choices"][0][missing]
        return 200, answer

    fake.rules[ASK] = without
    with pytest.raises(Failed, match=message):
        sampler().sample(PROBLEMS[:1], 1)


def test_another_prompt_is_no_sample(fake: Fake, sampler: Any) -> None:
    fake.rules[ASK] = lambda nth, body: (200, said([1, 2], [fake.eos], [-1.0], "stop"))
    with pytest.raises(Failed, match="another prompt"):
        sampler().sample(PROBLEMS[:1], 1)


def test_a_stop_token_at_the_last_place_is_a_stop(fake: Fake, sampler: Any) -> None:
    ids = [20] * 5 + [fake.eos]
    fake.rules[ASK] = lambda nth, body: (200, said(body["prompt"], ids, [-1.0] * 6, "length"))
    assert sampler().sample(PROBLEMS[:1], 1)[0][0].finish == "stop"


def test_other_stop_tokens_end_a_trace_and_leave_the_text(fake: Fake, sampler: Any, tokenizer: Any, model: Any) -> None:
    model.generation_config.eos_token_id = [fake.eos, 21]
    fake.rules[ASK] = lambda nth, body: (200, said(body["prompt"], [30, 21], [-1.0] * 2, "stop"))
    ((trace,),) = sampler().sample(PROBLEMS[:1], 1)
    assert (trace.token_ids, trace.finish, trace.text) == ((30, 21), "stop", tokenizer.decode([30]))
    assert fake.completions[0]["stop_token_ids"] == sorted([21, fake.eos])


# ---- Which log-probabilities ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "mode", "accepted"),
    [
        ({}, "raw_logprobs", True),
        ({}, "processed_logprobs", True),
        ({"temperature": 0.0, "top_k": 5}, "raw_logprobs", True),
        ({"temperature": 0.7}, "processed_logprobs", True),
        ({"temperature": 0.7}, "raw_logprobs", False),
        ({"top_p": 0.9}, "raw_logprobs", True),
        ({"top_p": 0.9}, "processed_logprobs", False),
        ({"min_p": 0.1}, "processed_logprobs", False),
    ],
)
def test_log_probabilities_are_of_the_scaled_distribution_before_filters(
    fake: Fake, sampler: Any, settings: dict[str, Any], mode: str, accepted: bool
) -> None:
    fake.mode = mode
    if accepted:
        assert sampler(**settings).sample(PROBLEMS[:1], 1)
    else:
        with pytest.raises(Failed, match=f"returns {mode}.*start it with --logprobs-mode"):
            sampler(**settings)
        assert not fake.completions


def test_what_no_mode_gives_is_refused_at_once(sampler: Any) -> None:
    with pytest.raises(ValueError, match="before both temperature and filters, or after both"):
        sampler(temperature=0.7, top_p=0.9)


def test_one_server_has_one_mode() -> None:
    filtered, warm, plain = Sampling(1, top_p=0.9), Sampling(1, temperature=0.7), Sampling(1)
    assert vllm.logprobs_mode(plain) is None
    assert vllm.logprobs_mode(plain, filtered) == "raw_logprobs"
    assert vllm.logprobs_mode(warm, plain, warm) == "processed_logprobs"
    with pytest.raises(ValueError, match=r"raw_logprobs for .*top_p=0.9.*processed_logprobs for temperature=0.7"):
        vllm.logprobs_mode(filtered, warm)
