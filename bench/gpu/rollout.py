"""Sampling a step's groups: new tokens a second, beside transformers' `generate` as TRL calls it (one left-padded batch)."""

from __future__ import annotations

import numpy as np
import torch

from bench.gpu import floor
from bench.gpu.place import Place, text, tokenizer, tokens
from bench.gpu.row import Row, agree
from postgrad.records import Message, Problem, Trace
from postgrad.sample.engine import Engine, Sampling

GROUP = 8


def problems(place: Place, count: int, length: int) -> tuple[list[Problem], list[list[int]]]:
    """Prompts of `length` tokens, as problems and as token ids."""
    rng = np.random.default_rng(1)
    ids = [tokens(rng, length, place.vocabulary) for _ in range(count)]
    return [Problem(str(index), (Message("user", text(one)),), "1") for index, one in enumerate(ids)], ids


def row(place: Place, shape: str) -> Row:
    count, length, new = place.pick(16, 2), place.pick(256, 12), place.pick(512, 8)
    asked, prompts = problems(place, count, length)
    ours, theirs = place.ours(shape), place.peer(shape, place.dtype)
    theirs.generation_config.eos_token_id = None
    ids = torch.tensor(prompts, device=place.device).repeat_interleave(GROUP, 0)
    engine = Engine(tokenizer(place.vocabulary), Sampling(max_tokens=new, slots=count * GROUP), seed=0)

    def sample(step: int) -> list[list[Trace]]:
        engine.follow(ours, step)
        return engine.sample(asked, GROUP)

    @torch.no_grad()
    def generate(tokens: int) -> None:
        out = theirs.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            pad_token_id=0,
            max_new_tokens=tokens,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
        )
        assert out.shape[1] == length + tokens, "the peer stopped early"

    traces = sample(0)
    # A whole rollout first: on Hopper cuDNN plans a kernel for each length of the keys, the first time that it meets it.
    generate(new)
    twin = {"log-probability, transformers": apart(place, theirs, prompts, traces)}
    made = count * GROUP * new
    rates, peer_rates = [], []
    for round_ in range(place.rounds):
        peer_rates.append(made / place.seconds(lambda: generate(new)))
        seconds = place.seconds(lambda round_=round_: sample(round_ + 1))  # type: ignore[misc]
        rates.append(made / seconds)
    least = floor.seconds(
        place,
        theirs.config,
        theirs.num_parameters(),
        [floor.Asked(tuple(p), new) for p in prompts for _ in range(GROUP)],
    )
    return Row(
        f"{count * GROUP} sequences ({count} prompts x {GROUP}), Qwen3-{shape}, {length} + {new} tokens",
        "new tokens / s",
        higher=True,
        ours=rates,
        peers={"transformers.generate": peer_rates},
        twin=twin,
        limit=made / least["shared"],
        more={"limit_is": "bandwidth, a group's prompt read once", "limit_read_apart": made / least["read apart"]},
    )


@torch.no_grad()
def apart(place: Place, peer: torch.nn.Module, prompts: list[list[int]], groups: list[list[Trace]]) -> float:
    """The mean difference between the engine's and the peer's log-probabilities of each group's first trace."""
    differences = []
    for prompt, traces in zip(prompts, groups, strict=True):
        trace = traces[0]
        ids = torch.tensor([[*prompt, *trace.token_ids]], device=place.device)
        logits_TV = peer(ids, logits_to_keep=len(trace.token_ids) + 1).logits[0, :-1].float()
        theirs = logits_TV.log_softmax(-1).gather(-1, ids[0, len(prompt) :, None])[:, 0].cpu()
        differences.append((theirs - torch.tensor(trace.logprobs)).abs().mean())
    return agree(place, "log-probability", float(torch.stack(differences).mean()), bfloat16=0.03, float32=1e-4)
