"""The rollout engine: samples from the live weights, in the trainer's own process.

Continuous batching over slots: every running sequence owns one slot of the key-value cache; finished ones leave at
once and waiting ones enter. A group's prompt is computed once and its keys copied to the group's slots. The engine calls the very
model that is being trained, through the same attention entry (postgrad/attention/), so there is no copy of the weights
(but for the head's, transposed, on CPU) and its log-probabilities agree with the trainer's.

Randomness: the uniform behind each token is a function of (seed, step, problem, sample, position), so a trace does not depend
on which other sequences share its batch (up to rounding in the matrix products).
"""

from __future__ import annotations

import contextlib
import hashlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from postgrad import chat
from postgrad.attention import Packed
from postgrad.records import Problem, Trace


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


@dataclass(slots=True)
class _Sequence:
    problem: int
    sample: int
    prompt: list[int]
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    finish: Literal["stop", "length"] | None = None


class _Cache:
    """Keys and values of every slot, [slots, K, length, d] for each layer, grown as layers first write."""

    def __init__(self, slots: int, length: int) -> None:
        self.slots, self.length = slots, length
        self.layers: dict[int, tuple[Tensor, Tensor]] = {}

    def layer(self, index: int, key_1KTd: Tensor, value_1KTd: Tensor) -> tuple[Tensor, Tensor]:
        if index not in self.layers:
            self.layers[index] = (self._empty(key_1KTd), self._empty(value_1KTd))
        return self.layers[index]

    def _empty(self, like_1KTd: Tensor) -> Tensor:
        _, heads, _, width = like_1KTd.shape
        # Zeros, not empty: a masked place still enters the product with the values as 0 * value, and 0 * NaN is NaN.
        return like_1KTd.new_zeros((self.slots, heads, self.length, width))

    def move(self, source: int, target: int) -> None:
        for keys, values in self.layers.values():
            keys[target], values[target] = keys[source], values[source]


class _Prefill:
    """Prompts packed back to back; each one's keys go to all the slots of its group."""

    def __init__(self, cache: _Cache, prompts: Sequence[tuple[int, Sequence[int]]], device: torch.device) -> None:
        self.cache = cache
        self.prompts = prompts
        """(length, slots) of each prompt."""
        self.packed = Packed([length for length, _ in prompts], device)
        self.longest = self.packed.longest

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        keys_SKLd, values_SKLd = self.cache.layer(layer, key_1KTd, value_1KTd)
        start = 0
        for length, slots in self.prompts:
            keys_SKLd[slots, :, :length] = key_1KTd[0, :, start : start + length]
            values_SKLd[slots, :, :length] = value_1KTd[0, :, start : start + length]
            start += length
        return self.packed(layer, query_1HTd, key_1KTd, value_1KTd, scale)


class _Decode:
    """One new token for each of the first `len(positions)` slots."""

    def __init__(self, cache: _Cache, positions_B: Tensor) -> None:
        self.cache = cache
        self.positions_B = positions_B
        self.rows_B = torch.arange(len(positions_B), device=positions_B.device)
        self.longest = int(positions_B.max()) + 1
        self.mask_B11L = (torch.arange(self.longest, device=positions_B.device) <= positions_B[:, None])[:, None, None]

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        keys_SKLd, values_SKLd = self.cache.layer(layer, key_1KTd, value_1KTd)
        keys_SKLd[self.rows_B, :, self.positions_B] = key_1KTd[0].transpose(0, 1)
        values_SKLd[self.rows_B, :, self.positions_B] = value_1KTd[0].transpose(0, 1)
        out_BH1d = F.scaled_dot_product_attention(
            query_1HTd[0].transpose(0, 1)[:, :, None],
            keys_SKLd[: len(self.rows_B), :, : self.longest],
            values_SKLd[: len(self.rows_B), :, : self.longest],
            attn_mask=self.mask_B11L,
            scale=scale,
            enable_gqa=query_1HTd.shape[1] != key_1KTd.shape[1],
        )
        return out_BH1d[:, :, 0].transpose(0, 1)[None]


class Engine:
    """A PolicySampler. Call `follow` with the model before the first `sample`."""

    def __init__(self, tokenizer: Any, sampling: Sampling, *, seed: int) -> None:
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token: sampling could never stop")
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.seed = seed
        self.model: Any = None
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
        if self.model is None:
            raise ValueError("the engine follows no model yet: call follow(model, step) first")
        waiting = deque(self._sequences(problems, n))
        if not waiting:
            return [[] for _ in problems]
        everyone = list(waiting)
        running: list[_Sequence] = []
        device = next(self.model.parameters()).device
        length = max(len(one.prompt) for one in everyone) + self.sampling.max_tokens
        cache = _Cache(min(self.sampling.slots, len(everyone)), length)
        finished = 0
        with torch.no_grad(), _few_rows(self.model):
            while waiting or running:
                # Prefill in strides: a prefill of one prompt costs a whole pass over the weights.
                free = cache.slots - len(running)
                if waiting and free >= min(max(1, cache.slots // 4), len(waiting)):
                    entering = [waiting.popleft() for _ in range(min(free, len(waiting)))]
                    self._prefill(cache, entering, len(running), device)
                    running += entering
                else:
                    self._decode(cache, running, device)
                finished += _leave(cache, running)
                self.report(finished, len(everyone))
        return [
            [self._trace(problems[one.problem], one) for one in everyone[start : start + n]]
            for start in range(0, len(everyone), n)
        ]

    def truncate(self, trace: Trace, tokens: int) -> Trace:
        """The trace as it would have been under a budget of `tokens`: same tokens, cut."""
        if len(trace.token_ids) <= tokens:
            return trace
        ids = trace.token_ids[:tokens]
        return replace(
            trace, token_ids=ids, logprobs=trace.logprobs[:tokens], text=self._decode_text(ids), finish="length"
        )

    def _sequences(self, problems: Sequence[Problem], n: int) -> list[_Sequence]:
        sequences = []
        for index, problem in enumerate(problems):
            prompt = chat.prompt_ids(self.tokenizer, problem.prompt)
            if len(prompt) > self.sampling.max_prompt_tokens:
                raise ValueError(
                    f"the prompt of problem {problem.id!r} has {len(prompt)} tokens, more than max_prompt_length="
                    f"{self.sampling.max_prompt_tokens}: raise the limit or leave the problem out"
                )
            name = int.from_bytes(hashlib.sha256(problem.id.encode()).digest()[:8], "little")
            for sample in range(n):
                rng = np.random.default_rng([self.seed, self.step, name, sample])
                sequences.append(_Sequence(index, sample, prompt, rng.random(self.sampling.max_tokens)))
        return sequences

    def _prefill(self, cache: _Cache, entering: list[_Sequence], first: int, device: torch.device) -> None:
        groups: dict[int, list[int]] = {}
        for offset, one in enumerate(entering):
            groups.setdefault(one.problem, []).append(first + offset)
        prompts = [entering[slots[0] - first].prompt for slots in groups.values()]
        lengths = [len(prompt) for prompt in prompts]
        ids_T = torch.tensor([token for prompt in prompts for token in prompt], device=device)
        positions_T = torch.cat([torch.arange(length) for length in lengths]).to(device)
        layout = _Prefill(cache, list(zip(lengths, groups.values(), strict=True)), device)
        last_P = torch.tensor(lengths, device=device).cumsum(0) - 1
        logits_PV = self._logits(ids_T, positions_T, last_P, layout)
        of_B = torch.tensor([place for place, slots in enumerate(groups.values()) for _ in slots], device=device)
        # Groups are contiguous in `entering`, so the order of slots is the order of sequences.
        self._pick(entering, logits_PV[of_B])

    def _decode(self, cache: _Cache, running: list[_Sequence], device: torch.device) -> None:
        ids_B = torch.tensor([one.ids[-1] for one in running], device=device)
        positions_B = torch.tensor([len(one.prompt) + len(one.ids) - 1 for one in running], device=device)
        everyone_B = torch.arange(len(running), device=device)
        self._pick(running, self._logits(ids_B, positions_B, everyone_B, _Decode(cache, positions_B)))

    def _logits(self, ids_T: Tensor, positions_T: Tensor, keep: Tensor, layout: Any) -> Tensor:
        out = self.model(
            input_ids=ids_T[None], position_ids=positions_T[None], logits_to_keep=keep, use_cache=False, layout=layout
        )
        logits: Tensor = out.logits[0]
        return logits

    def _pick(self, sequences: list[_Sequence], logits_BV: Tensor) -> None:
        """Draw one token for each sequence, and end those that stop or are full."""
        uniforms_B = torch.tensor([one.uniforms[len(one.ids)] for one in sequences], device=logits_BV.device)
        ids_B, logprobs_B = draw(logits_BV, uniforms_B, self.sampling)
        for one, token, logprob in zip(sequences, ids_B.tolist(), logprobs_B.tolist(), strict=True):
            one.ids.append(token)
            one.logprobs.append(logprob)
            if token in self.stops:
                one.finish = "stop"
            elif len(one.ids) == self.sampling.max_tokens:
                one.finish = "length"

    def _trace(self, problem: Problem, one: _Sequence) -> Trace:
        assert one.finish is not None
        return Trace(problem.id, self._decode_text(one.ids), tuple(one.ids), tuple(one.logprobs), one.finish)

    def _decode_text(self, ids: Sequence[int]) -> str:
        kept = [token for token in ids if token not in self.stops]
        text: str = self.tokenizer.decode(kept, skip_special_tokens=False)
        return text


@contextlib.contextmanager
def _few_rows(model: Any) -> Iterator[None]:
    """On CPU, the head's weights transposed for as long as they are read and not trained.

    Worth 3 to 4 % of a decoding step at 32 sequences and a vocabulary of 16,384: LOG.md, 2026-11-23.
    """
    head = model.get_output_embeddings()
    if not isinstance(head, torch.nn.Linear) or head.bias is not None or head.weight.device.type != "cpu":
        yield
        return
    weight_DV = head.weight.T.contiguous()
    head.forward = lambda hidden: hidden @ weight_DV
    try:
        yield
    finally:
        del head.forward


def _ignore(done: int, total: int) -> None:
    pass


def _leave(cache: _Cache, running: list[_Sequence]) -> int:
    """Take finished sequences out; the last running one moves into each freed slot. Returns how many left."""
    left = 0
    slot = 0
    while slot < len(running):
        if running[slot].finish is None:
            slot += 1
            continue
        left += 1
        last = running.pop()
        if slot < len(running):
            cache.move(len(running), slot)
            running[slot] = last
    return left


def draw(logits_BV: Tensor, uniforms_B: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """Token ids and their log-probabilities [B].

    The log-probability is of the temperature-scaled distribution before top-k, top-p and min-p: what the trainer computes.
    """
    logits_BV = logits_BV.float()
    if sampling.temperature not in (0, 1):
        logits_BV = logits_BV / sampling.temperature
    peaks_B1 = logits_BV.amax(-1, keepdim=True)
    weights_BV = (logits_BV - peaks_B1).exp_()
    totals_B1 = weights_BV.sum(-1, keepdim=True)
    ids_B = logits_BV.argmax(-1) if sampling.temperature == 0 else invert(_filtered(weights_BV, sampling), uniforms_B)
    chosen_B1 = logits_BV.gather(-1, ids_B[:, None])
    return ids_B, (chosen_B1 - peaks_B1 - totals_B1.log())[:, 0]


BLOCK = 128
BELOW = 1 - 1e-12
"""Keeps a target under the last edge, so that rounding can never choose a token of weight 0."""


def invert(weights_BV: Tensor, uniforms_B: Tensor) -> Tensor:
    """The token in which each uniform falls, of distributions given by weights that need not sum to 1.

    First the block, then the token in it, so that only the sums of blocks are accumulated in float64, not every weight.
    """
    wanting = -weights_BV.shape[-1] % BLOCK
    blocks_BNb = F.pad(weights_BV, (0, wanting)).unflatten(-1, (-1, BLOCK))
    sums_BN = blocks_BNb.sum(-1).double()
    edges_BN = sums_BN.cumsum(-1)
    targets_B1 = (uniforms_B[:, None] * edges_BN[:, -1:]).minimum(edges_BN[:, -1:] * BELOW)
    # "right": the first edge beyond the target, which is of a block, and then of a token, with weight.
    block_B1 = torch.searchsorted(edges_BN, targets_B1, right=True)
    rest_B1 = targets_B1 - (edges_BN - sums_BN).gather(-1, block_B1)
    inside_Bb = blocks_BNb.take_along_dim(block_B1[:, :, None], 1)[:, 0].double().cumsum(-1)
    rest_B1 = rest_B1.clamp_min(0).minimum(inside_Bb[:, -1:] * BELOW)
    return (block_B1 * BLOCK + torch.searchsorted(inside_Bb, rest_B1, right=True))[:, 0]


def _filtered(weights_BV: Tensor, sampling: Sampling) -> Tensor:
    """Top-k, then top-p, then min-p, each of what the one before left; the most probable token always stays."""
    if not sampling.top_k and sampling.top_p == 1 and not sampling.min_p:
        return weights_BV
    sorted_BV, order_BV = weights_BV.sort(dim=-1, descending=True, stable=True)
    if sampling.top_k:
        sorted_BV = sorted_BV.clone()
        sorted_BV[:, sampling.top_k :] = 0
    before_BV = sorted_BV.cumsum(-1) - sorted_BV
    keep_BV = before_BV < sampling.top_p * sorted_BV.sum(-1, keepdim=True)
    keep_BV &= sorted_BV >= sampling.min_p * sorted_BV[:, :1]
    return torch.zeros_like(weights_BV).scatter(-1, order_BV, sorted_BV * keep_BV)
