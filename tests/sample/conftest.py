"""The stand-in for a vLLM server, and samplers that ask it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import fake_vllm
import pytest

from postgrad.sample.engine import Sampling
from postgrad.sample.vllm import VllmSampler, weights
from postgrad.sample.vllm.client import Client, Patience
from postgrad.sample.vllm.server import Server
from postgrad.sample.vllm.weights import Publisher


@pytest.fixture
def fake(tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_vllm.Fake]:
    with fake_vllm.running(tokenizer.eos_token_id) as server:
        monkeypatch.setitem(weights.TRANSFERS, "ipc", lambda: fake_vllm.Wire(server))
        yield server


@pytest.fixture
def client(fake: fake_vllm.Fake) -> Client:
    return Client(Server(fake.url), fake_vllm.QUICK)


@pytest.fixture
def sampler(fake: fake_vllm.Fake, tokenizer: Any, model: Any) -> Callable[..., VllmSampler]:
    """A sampler of these settings; it follows the model unless told not to, and the server forgets what that asked."""

    def make(
        patience: Patience = fake_vllm.QUICK, follows: bool = True, server: Server | None = None, **settings: Any
    ) -> VllmSampler:
        sampling = Sampling(**({"max_tokens": 6, "slots": 4} | settings))
        made = VllmSampler(Publisher(Client(server or Server(fake.url), patience)), tokenizer, sampling, seed=3)
        if follows:
            made.follow(model, 0)
            fake.asked.clear()
        return made

    return make
