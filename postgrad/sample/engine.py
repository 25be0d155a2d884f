"""The rollout engine: samples from the live weights, in the trainer's own process.

It calls the very model that is being trained, through the same attention entry (postgrad/attention/), so there is no copy of the weights
(but for one laid out for reading, on CPU: prepacked.py), adapters and half-trained models are sampled as they are, and its
log-probabilities agree with the trainer's. Who runs when is decided in scheduler.py; keys and values are kept by slots.py on a CPU and by
pages.py on a GPU.

Randomness: the uniform behind each token is a function of (seed, step, problem, sample, position), so a trace does not depend
on which other sequences share its batch (up to rounding in the matrix products).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from postgrad import chat
from postgrad.records import Problem, Trace
from postgrad.sample.pages import Pages
from postgrad.sample.prepacked import prepacked
from postgrad.sample.request import Finished, Request
from postgrad.sample.scheduler import Cache, Scheduler
from postgrad.sample.slots import Slots


@dataclass(frozen=True, slots=True)
class Sampling:
    max_tokens: int
    """Sampled at most; a trace cut here has finish "length"."""
    temperature: float = 1.0
    """0: greedy, and log-probabilities of temperature 1."""
    top_p: float = 1.0
    top_k: int = 0
    """0: off."""
    min_p: float = 0.0
    max_prompt_tokens: int = 1_000_000
    """A longer prompt is an error that names its problem."""
    slots: int = 256
    """Sequences decoded at once; cache memory grows with it."""


MakeCache = Callable[[Any, int, Sequence[Request]], Cache]
"""(model, most sequences at once, requests that are known) -> where their keys will be."""


class Engine:
    """A PolicySampler. Call `follow` with the model before the first `sample`."""

    def __init__(self, tokenizer: Any, sampling: Sampling, *, seed: int, make_cache: MakeCache | None = None) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token: sampling could never stop")
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.seed = seed
        self.make_cache = make_cache
        self.model: Any = None
        self._kept: Pages | None = None
        """On a GPU: the pages of the last rollout, their memory given back, with the graphs that read them."""
        self.step = 0
        self.stops: set[int] = set()
        """Tokens that end a trace: the tokenizer's end of sequence and what the model's generation config adds."""
        self.report: Callable[[int, int], object] = _ignore
        """Told how many of how many traces are finished; the caller may replace it to show progress."""

    def follow(self, model: Any, step: int) -> None:
        self.model, self.step = model, step
        named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        others = named if isinstance(named, list) else [named]
        self.stops = {self.tokenizer.eos_token_id} | {token for token in others if token is not None}

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        requests = self._requests(problems, n)
        finished = self.run(requests)
        traces = [self._trace(problems[one.number // n], one) for one in finished]
        return [traces[start : start + n] for start in range(0, len(traces), n)] if n else [[] for _ in problems]

    def run(self, requests: Sequence[Request]) -> list[Finished]:
        """All of them, in order. Raises ValueError where one could never run."""
        with self.serve(requests) as scheduler:
            for request in requests:
                scheduler.add(request)
            finished: list[Finished] = []
            while not scheduler.idle:
                finished += scheduler.step()
                self.report(len(finished), len(requests))
        return sorted(finished, key=lambda one: one.number)

    @contextlib.contextmanager
    def serve(self, expected: Sequence[Request]) -> Iterator[Scheduler]:
        """A scheduler to add, cancel and step by oneself. `expected` says for how long and how many requests room is made."""
        if self.model is None:
            raise ValueError("the engine follows no model yet: call follow(model, step) first")
        rows = min(self.sampling.slots, max(1, len(expected)))
        with contextlib.ExitStack() as held:
            held.enter_context(torch.no_grad())
            held.enter_context(prepacked(self.model))
            held.enter_context(_float_logits(self.model))
            yield Scheduler(held.enter_context(self._cache(rows, expected)), self._decode_text)

    @contextlib.contextmanager
    def _cache(self, rows: int, expected: Sequence[Request]) -> Iterator[Cache]:
        on_gpu = next(self.model.parameters()).device.type == "cuda"
        if self.make_cache is not None or not on_gpu:
            yield (self.make_cache or _slots)(self.model, rows, expected)
            return
        kept, self._kept = self._kept, None
        if kept is not None and not kept.serves(self.model, rows, expected):
            kept.close()
            kept = None
        if kept is None:
            kept = Pages(self.model, rows, expected)
        else:
            kept.wake()
        try:
            yield kept
        finally:
            if kept.empty:
                kept.sleep()
                self._kept = kept
            else:  # left in the middle
                kept.close()

    def truncate(self, trace: Trace, tokens: int) -> Trace:
        """The trace as it would have been under a budget of `tokens`: same tokens, cut."""
        if len(trace.token_ids) <= tokens:
            return trace
        ids = trace.token_ids[:tokens]
        return replace(
            trace, token_ids=ids, logprobs=trace.logprobs[:tokens], text=self._decode_text(ids), finish="length"
        )

    def _requests(self, problems: Sequence[Problem], n: int) -> list[Request]:
        how, requests = self.sampling, []
        for problem in problems:
            prompt = tuple(chat.prompt_ids(self.tokenizer, problem.prompt))
            if len(prompt) > how.max_prompt_tokens:
                raise ValueError(
                    f"the prompt of problem {problem.id!r} has {len(prompt)} tokens, more than max_prompt_length="
                    f"{how.max_prompt_tokens}: raise the limit or leave the problem out"
                )
            name = int.from_bytes(hashlib.sha256(problem.id.encode()).digest()[:8], "little")
            requests += [
                Request(
                    prompt,
                    how.max_tokens,
                    seed=(self.seed, self.step, name, sample),
                    temperature=how.temperature,
                    top_k=how.top_k,
                    top_p=how.top_p,
                    min_p=how.min_p,
                    stop_token_ids=frozenset(self.stops),
                )
                for sample in range(n)
            ]
        return requests

    def _trace(self, problem: Problem, one: Finished) -> Trace:
        assert one.finish != "cancelled", "nobody cancels what `sample` asks for"
        return Trace(problem.id, self._decode_text(one.token_ids), one.token_ids, one.logprobs, one.finish)

    def _decode_text(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token not in self.stops]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return text


def _slots(model: Any, rows: int, requests: Sequence[Request]) -> Cache:
    return Slots(model, rows, max((len(one.prompt_ids) + one.max_tokens for one in requests), default=1))


@contextlib.contextmanager
def _float_logits(model: Any) -> Iterator[None]:
    """On CUDA, logits stay float32 as they are summed, where the output head is a plain matrix.

    A logit of 8 in bfloat16 is kept in steps of 1/16, and the trainer would see other log-probabilities.
    """
    head = model.get_output_embeddings()
    plain = isinstance(head, torch.nn.Linear) and head.bias is None
    if not plain or head.weight.device.type != "cuda" or head.weight.dtype == torch.float32:
        yield
        return
    head.forward = lambda hidden: torch.mm(hidden[0], head.weight.T, out_dtype=torch.float32)[None]
    try:
        yield
    finally:
        del head.forward


def _ignore(done: int, total: int) -> None:
    pass
