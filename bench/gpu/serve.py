"""Many requests of different lengths at once: new tokens a second, beside vLLM.

vLLM runs first, in a process of its own (vllm_peer.py) that reads the same weights and leaves the card when it ends; it starts once
for all workloads of a shape. Both are given token ids and the same number of tokens to make for each request, and neither stops earlier.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from bench.gpu import floor
from bench.gpu.floor import Asked
from bench.gpu.place import Place, tokenizer, tokens
from bench.gpu.row import Row, agree
from postgrad.sample.engine import Engine, Sampling
from postgrad.sample.request import Finished, Request
from postgrad.train.batch import Document, pack, score

PATIENCE_S = 420
"""For vLLM: reading, compiling, capturing, all rounds."""


def mixed(place: Place) -> list[Asked]:
    """nano-vllm's workload: 256 requests, prompts and completions of 100 to 1,024 tokens."""
    rng = np.random.default_rng(0)
    low, high = place.pick(100, 4), place.pick(1024, 16)
    sizes = rng.integers(low, high, (place.pick(256, 6), 2), endpoint=True).tolist()
    return [Asked(tuple(tokens(rng, length, place.vocabulary)), new) for length, new in sizes]


def groups(place: Place) -> list[Asked]:
    """A reinforcement-learning rollout: 64 prompts of 512 tokens, 16 completions each of 64 to 1,024 tokens."""
    rng = np.random.default_rng(0)
    low, high = place.pick(64, 2), place.pick(1024, 12)
    prompts = [tuple(tokens(rng, place.pick(512, 8), place.vocabulary)) for _ in range(place.pick(64, 2))]
    sizes = rng.integers(low, high, (len(prompts), place.pick(16, 3)), endpoint=True).tolist()
    return [Asked(prompt, new) for prompt, row in zip(prompts, sizes, strict=True) for new in row]


WORKLOADS: dict[str, Callable[[Place], list[Asked]]] = {"mixed lengths": mixed, "16 to a prompt": groups}


def row(place: Place, shape: str, name: str) -> Row:
    asked = WORKLOADS[name](place)
    made = sum(one.new for one in asked)
    peers: dict[str, Sequence[float] | str] = {}
    theirs: dict[str, Any] | None = None
    # Boundary: a peer that fails is told of as such, with its last words.
    try:
        version, theirs = vllm(place, shape, name)
        peers[f"vLLM {version}"] = [made / seconds for seconds in theirs["seconds"]]
    except RuntimeError as error:
        peers["vLLM"] = f"failed: {error}"
    model = place.ours(shape)
    engine = Engine(tokenizer(place.vocabulary), Sampling(max_tokens=1, slots=len(asked)), seed=0)
    engine.follow(model, 0)

    def sample(round_: int) -> list[Finished]:
        return engine.run([Request(one.prompt, one.new, seed=(round_, at)) for at, one in enumerate(asked)])

    first = sample(0)
    assert [len(one.token_ids) for one in first] == [one.new for one in asked], "a request stopped early"
    twin = {
        "log-probability, our trainer": trainer_apart(
            place, model, asked[0].prompt, first[0].token_ids, first[0].logprobs
        )
    }
    if theirs is not None:
        twin["log-probability, vLLM"] = trainer_apart(
            place, model, asked[0].prompt, theirs["token_ids"], theirs["logprobs"]
        )
    rates = [made / place.seconds(lambda round_=round_: sample(round_ + 1)) for round_ in range(place.rounds)]  # type: ignore[misc]
    least = floor.seconds(place, model.config, model.num_parameters(), asked)
    return Row(
        f"{len(asked)} requests, {name}, Qwen3-{shape}, {made} new tokens",
        "new tokens / s",
        higher=True,
        ours=rates,
        peers=peers,
        twin=twin,
        limit=made / least["shared"],
        more={"limit_is": "bandwidth, a group's prompt read once", "limit_read_apart": made / least["read apart"]},
    )


@torch.no_grad()
def trainer_apart(
    place: Place, model: Any, prompt: Sequence[int], new: Sequence[int], logprobs: Sequence[float]
) -> float:
    """The mean difference between log-probabilities that an engine gave its tokens and the trainer's of the same."""
    weights = np.array([0.0] * len(prompt) + [1.0] * len(new), np.float32)
    batch = pack([Document("twin", (*prompt, *new), weights)], count=1.0).to(place.device)
    mean = (score(model, batch).logprobs_K.cpu() - torch.tensor(logprobs)).abs().mean()
    return agree(place, "log-probability", float(mean), bfloat16=0.03, float32=1e-4)


def vllm(place: Place, shape: str, name: str) -> tuple[str, dict[str, Any]]:
    """Its version, and what vllm_peer.py measured of this workload. RuntimeError where it failed or is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise RuntimeError("it is not installed")
    told, out = place.scratch / "asked.json", place.scratch / f"vllm-{shape}.json"
    if not out.is_file():
        workloads = {name: make(place) for name, make in WORKLOADS.items()}
        told.write_text(
            json.dumps(
                {
                    "folder": str(place.folder(shape)),
                    "rounds": place.rounds,
                    "workloads": {
                        name: {"prompts": [one.prompt for one in asked], "new": [one.new for one in asked]}
                        for name, asked in workloads.items()
                    },
                }
            )
        )
        place.clear()
        _run([sys.executable, "-m", "bench.gpu.vllm_peer", str(told), str(out)])
    found = json.loads(out.read_text())
    return found["version"], found["workloads"][name]


def _run(command: Sequence[str]) -> None:
    try:
        ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as error:
        said = (error.stdout or b"").decode(errors="replace")
        raise RuntimeError(f"vLLM did not end within {PATIENCE_S} s:\n{said[-6000:]}") from None
    if ran.returncode:
        raise RuntimeError(f"vLLM ended with {ran.returncode}:\n{ran.stdout.decode(errors='replace')[-6000:]}")
