"""What the engine is asked for and what it gives back, in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Finish = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True, slots=True)
class Request:
    """One sequence to sample. Requests with equal prompts share the prompt's computation and memory."""

    prompt_ids: tuple[int, ...]
    max_tokens: int
    """Sampled at most; a sequence cut here has finish "length"."""
    seed: tuple[int, ...] = (0,)
    """The uniform behind the i-th token is the i-th number of this seed's stream, whatever else is in the batch."""
    temperature: float = 1.0
    """0: greedy, and log-probabilities of temperature 1."""
    top_k: int = 0
    """0: off."""
    top_p: float = 1.0
    min_p: float = 0.0
    stop_token_ids: frozenset[int] = frozenset()
    stop_strings: tuple[str, ...] = ()
    """A sequence ends with the token that completes one of them."""

    def __post_init__(self) -> None:
        if not self.prompt_ids:
            raise ValueError("a request has an empty prompt: there is no token to predict the first one from")
        if self.max_tokens < 1:
            raise ValueError(f"a request asks for max_tokens={self.max_tokens}: it must be at least 1")
        if "" in self.stop_strings:
            raise ValueError("a stop string is empty, and would end every sequence at once")
        ranges = {
            "temperature": (self.temperature, 0.0, float("inf")),
            "top_k": (self.top_k, 0, float("inf")),
            "top_p": (self.top_p, 1e-9, 1.0),
            "min_p": (self.min_p, 0.0, 1.0),
        }
        for name, (value, least, most) in ranges.items():
            if not least <= value <= most:
                raise ValueError(f"a request has {name}={value}, which is outside {least:g} to {most:g}")


@dataclass(frozen=True, slots=True)
class Finished:
    """A request's outcome. The four lists of numbers have one entry for each sampled token."""

    number: int
    """Which request: what `add` returned."""
    token_ids: tuple[int, ...]
    """Every sampled token, with the one that ended the sequence."""
    logprobs: tuple[float, ...]
    """Nats, of the temperature-scaled distribution before top-k, top-p and min-p: what a trainer computes."""
    sampled_logprobs: tuple[float, ...]
    """Nats, of the distribution that was drawn from, after those filters."""
    raw_logprobs: tuple[float, ...]
    """Nats, of the model's own distribution, at temperature 1."""
    finish: Finish
