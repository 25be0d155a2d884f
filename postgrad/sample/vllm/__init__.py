"""Sampling by a vLLM server over HTTP: token ids in, token ids and log-probabilities out, weights sent before each rollout.

Written against the documentation of vLLM 0.32 and 0.33: `/v1/completions` with `return_token_ids` ("OpenAI-Compatible
Server"), "Weight Transfer" and "Async Reinforcement Learning". The server lives in an environment of its own; nothing of it is
imported here. `server` starts, watches and ends one, `client` asks it, `weights` gives it the model.

Which `--logprobs-mode` gives a Trace's log-probabilities, those of the temperature-scaled distribution before top-k, top-p
and min-p? "raw" is before temperature and filters, "processed" after both:

    temperature 1 or 0, no filter   either mode
    another temperature, no filter  processed_logprobs
    temperature 1, a filter         raw_logprobs
    another temperature, a filter   neither: refused

Everything that would otherwise come from the model's generation_config (top-p, repetition penalty, ...) is sent with each
request, because a server applies those silently.

Randomness: each trace has its own seed, a function of (seed, step, problem, sample). The server repeats a trace for a seed up
to rounding, which depends on what shares its batch.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from postgrad import chat
from postgrad.records import Problem, Trace
from postgrad.run import Failed
from postgrad.sample.exchange import run
from postgrad.sample.vllm.client import Passing, completion

if TYPE_CHECKING:
    from postgrad.sample.engine import Sampling
    from postgrad.sample.vllm.weights import Publisher


class VllmSampler:
    """A PolicySampler, like `Engine`. Call `follow` with the model before the first `sample`.

    At most `sampling.slots` requests are in flight. Failures of the server raise Failed, after the attempts of `Patience`; so
    does a trace that the server gave up (finish_reason "abort", "error"), which says nothing about the model.
    """

    def __init__(self, publisher: Publisher, tokenizer: Any, sampling: Sampling, *, seed: int) -> None:
        """Raises ValueError where no mode of the server gives the log-probabilities of these settings."""
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token: sampling could never stop")
        self.wanted = logprobs_mode(sampling)
        self.publisher = publisher
        self.client = publisher.client
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.seed = seed
        self.step = 0
        self.vocabulary = 0
        """How many tokens the followed model has; 0: it follows none yet."""
        self.stops: set[int] = set()
        """Tokens that end a trace: the tokenizer's end of sequence and what the model's generation config adds."""

    def follow(self, model: Any, step: int) -> None:
        """Give the server these weights. Raises Failed; the server is then left paused."""
        facts = self.publisher.facts
        if self.wanted not in (None, facts.logprobs_mode):
            raise Failed(
                f"{self.client.url} returns {facts.logprobs_mode}, and {_said(self.sampling)} need {self.wanted}: start it with "
                f"--logprobs-mode {self.wanted}"
            )
        self.vocabulary = 0
        self.publisher.publish(model, str(step))
        named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        others = named if isinstance(named, list) else [named]
        self.stops = {self.tokenizer.eos_token_id} | {token for token in others if token is not None}
        self.step = step
        self.vocabulary = model.get_input_embeddings().weight.shape[0]

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        """Raises Failed where a trace cannot be had, ValueError for a prompt that is too long."""
        if not self.vocabulary:
            raise ValueError(f"{self.client.url} follows no model: call follow(model, step) first")
        prompts = [self._prompt(problem) for problem in problems]
        traces = run(self._all([(*both, i) for both in zip(problems, prompts, strict=True) for i in range(n)]))
        return [traces[start : start + n] for start in range(0, len(traces), n)] if n else [[] for _ in problems]

    async def _all(self, wanted: Sequence[tuple[Problem, list[int], int]]) -> list[Trace]:
        slots = asyncio.Semaphore(self.sampling.slots)

        async def one(problem: Problem, prompt: list[int], sample: int) -> Trace:
            async with slots:
                return await self.client.asking(
                    "POST",
                    "/v1/completions",
                    self._request(prompt, seed_of(self.seed, self.step, problem.id, sample)),
                    what=f"sample {sample} of problem {problem.id!r}",
                    seconds=self.client.patience.answer,
                    read=lambda answer: self._trace(answer, problem, prompt),
                )

        tasks = [asyncio.create_task(one(*each)) for each in wanted]
        try:
            return await asyncio.gather(*tasks)
        finally:
            # After a failure nobody wants the other answers; what they end with is no news.
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _prompt(self, problem: Problem) -> list[int]:
        prompt = chat.prompt_ids(self.tokenizer, problem.prompt)
        if len(prompt) > self.sampling.max_prompt_tokens:
            raise ValueError(
                f"the prompt of problem {problem.id!r} has {len(prompt)} tokens, more than max_prompt_length="
                f"{self.sampling.max_prompt_tokens}: raise the limit or leave the problem out"
            )
        return prompt

    def _request(self, prompt: list[int], seed: int) -> dict[str, Any]:
        return {
            "model": self.publisher.facts.model,
            "prompt": prompt,
            "n": 1,
            "seed": seed,
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k,
            "min_p": self.sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(self.stops),
            "logprobs": 0,
            "return_token_ids": True,
        }

    def _trace(self, answer: Any, problem: Problem, prompt: list[int]) -> Trace:
        """The server's answer as a Trace, or Passing: nothing that is not exactly a sample comes through."""
        choice, ids, logprobs = completion(answer)
        if choice.get("prompt_token_ids") != prompt:
            raise Passing("the server sampled from another prompt than it was given", "is a proxy changing requests?")
        if ids and max(ids) >= self.vocabulary:
            raise Passing(
                f"token {max(ids)} is outside the model's vocabulary of {self.vocabulary}",
                "does it serve another model?",
            )
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise Passing(f"the trace ended with finish_reason={reason!r}", "the server gave it up: its log says why")
        if any(token in self.stops for token in ids[:-1]):
            raise Passing("the trace goes on after a stop token", "does something set ignore_eos?")
        finish: Literal["stop", "length"] = "stop" if ids and ids[-1] in self.stops else "length"
        if finish == "length" and len(ids) != self.sampling.max_tokens:
            raise Passing(
                f"the trace has {len(ids)} of {self.sampling.max_tokens} tokens, its last one is "
                f"{ids[-1] if ids else None}, and it ended with finish_reason={reason!r}",
                "give the server's --max-model-len room for prompt and max_tokens"
                if reason == "length"
                else "name the model's other stop tokens as eos_token_id in its generation_config.json",
            )
        text = self.tokenizer.decode([token for token in ids if token not in self.stops], skip_special_tokens=False)
        return Trace(problem.id, text, tuple(ids), tuple(logprobs), finish)


def logprobs_mode(*samplings: Sampling) -> Literal["raw_logprobs", "processed_logprobs"] | None:
    """The mode that all of these settings need; None: either. Raises ValueError where there is none."""
    wanted: dict[Literal["raw_logprobs", "processed_logprobs"], Sampling] = {}
    for one in samplings:
        filtered = one.top_p < 1 or one.top_k > 0 or one.min_p > 0
        if filtered and one.temperature not in (0, 1):
            raise ValueError(
                f"{_said(one)}: vLLM returns log-probabilities before both temperature and filters, or after both, and training "
                "needs those between; set temperature=1, or top_p=1, top_k=0 and min_p=0, or rl.sampler=engine"
            )
        if one.temperature not in (0, 1):
            wanted["processed_logprobs"] = one
        elif filtered and one.temperature:
            wanted["raw_logprobs"] = one
    if len(wanted) == 2:
        both = ", and ".join(f"{mode} for {_said(one)}" for mode, one in wanted.items())
        raise ValueError(
            f"one vLLM server would have to return {both}: give rl and eval the same temperature and filters"
        )
    return next(iter(wanted), None)


def seed_of(seed: int, step: int, problem_id: str, sample: int) -> int:
    """63 bits that depend on all four and on nothing else."""
    name = json.dumps([seed, step, problem_id, sample]).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1


def _said(sampling: Sampling) -> str:
    return f"temperature={sampling.temperature}, top_p={sampling.top_p}, top_k={sampling.top_k}, min_p={sampling.min_p}"
