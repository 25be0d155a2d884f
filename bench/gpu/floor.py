"""The least time in which a device can sample given sequences, from what it must read and compute.

    decoding >= (steps * weights + keys and values of every live token at every step) / bandwidth
    prompts  >= 2 N FLOP a token / rate of a matrix product

steps: tokens of the longest sequence, all running at once; so it is a bound for any batching. Two bounds: `read apart`, where each
sequence reads its prompt's keys and values itself, as the peers' kernels do, and `shared`, where sequences with equal prompts
read them once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import Qwen3Config

from bench.gpu import limits
from bench.gpu.place import Place


@dataclass(frozen=True, slots=True)
class Asked:
    """One sequence to sample."""

    prompt: tuple[int, ...]
    new: int


def seconds(place: Place, config: Qwen3Config, parameters: int, asked: Sequence[Asked]) -> dict[str, float]:
    size = place.dtype.itemsize
    token = config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * size
    longest: dict[tuple[int, ...], int] = {}
    for one in asked:
        longest[one.prompt] = max(longest.get(one.prompt, 0), one.new)
    prompts = sum(len(prompt) for prompt in longest)
    compute = 2 * (parameters - config.vocab_size * config.hidden_size) * prompts / limits.matmul(place)
    weights = max(one.new for one in asked) * parameters * size
    # The i-th new token sees the prompt and the i - 1 new ones before it.
    own = token * sum(one.new * (one.new - 1) // 2 for one in asked)
    apart = token * sum(len(one.prompt) * one.new for one in asked)
    shared = token * sum(len(prompt) * steps for prompt, steps in longest.items())
    return {
        "read apart": (weights + own + apart) / limits.bandwidth(place) + compute,
        "shared": (weights + own + shared) / limits.bandwidth(place) + compute,
    }
