"""One whole GRPO step (sample, reward, credit, update): seconds, and the rollout's share, beside TRL with transformers' `generate`.

TRL's weights are bfloat16, its choice for such a checkpoint and its fastest: float32 ones would be cast at every token.
It runs without Liger's layers: they make each generated token several times slower (LOG.md), and its own chunked head is as fast.
The learning rate is 0, so that every step samples from the weights that the twin compared.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import trl
from datasets import Dataset
from transformers import PrinterCallback

from bench.gpu.place import Place, tokenizer
from bench.gpu.rollout import GROUP, problems
from bench.gpu.row import Row, agree
from bench.gpu.sft import PLAIN, Clock
from postgrad.ranks import ALONE, Ranks
from postgrad.records import Problem, Status, Trace, Verdict
from postgrad.sample.engine import Engine, Sampling
from postgrad.train import advantage, optim, reward, source
from postgrad.train.fit import update
from postgrad.train.loss import policy
from postgrad.train.settings import GrpoSettings, RewardSettings

STEPS = 2
MICRO = 16
"""Completions in a micro-batch, of both."""
OBJECTIVE = policy(epsilon_low=0.2, epsilon_high=0.2, beta=0.0, temperature=1.0)


def even(ids: Any) -> float:
    """The reward: what share of a completion's ids is even. It costs nothing and differs within a group."""
    return sum(token % 2 == 0 for token in ids) / len(ids)


def verdict(_: Problem, __: Trace) -> Verdict:
    return Verdict(Status.CORRECT, 1.0)


def row(place: Place, shape: str) -> Row:
    prompts, length, new = place.pick(16, 2), place.pick(256, 12), place.pick(512, 8)
    asked, ids = problems(place, prompts, length)
    words = tokenizer(place.vocabulary)
    with tempfile.TemporaryDirectory() as output:
        trainer = trl.GRPOTrainer(
            model=place.peer(shape, place.dtype),
            reward_funcs=lambda completion_ids, **_: [even(one) for one in completion_ids],
            args=trl.GRPOConfig(
                output_dir=output,
                per_device_train_batch_size=min(MICRO, prompts * GROUP // 2),
                gradient_accumulation_steps=max(2, prompts * GROUP // MICRO),
                num_generations=GROUP,
                max_completion_length=new,
                max_steps=STEPS,
                beta=0.0,
                bf16=place.dtype == torch.bfloat16,
                use_cpu=not place.on_gpu,
                gradient_checkpointing=False,
                **PLAIN,
            ),
            train_dataset=Dataset.from_dict({"prompt": [problem.prompt[0].content for problem in asked] * STEPS}),
            processing_class=words,
        )
        clock, sampled = Clock(place), Timed(place, trainer._generate)
        trainer.add_callback(clock)
        trainer.remove_callback(PrinterCallback)
        trainer._generate = sampled
        ours = place.ours(shape)
        rollouts, settings = our_source(asked, new, words)
        optimizer = optim.adamw(ours, settings)

        def step(index: int) -> tuple[float, float]:
            """Seconds of the rollout, and of the whole step."""
            began = place.now()
            batches = rollouts.step(ours, index).batches
            between = place.now()
            update(ours, batches, OBJECTIVE, optimizer, 0.0, 1.0, index)
            return between - began, place.now() - began

        twin = {"log-probability, TRL": apart(place, trainer, rollouts, ours, ids)}
        step(0)
        times: list[tuple[float, float]] = []
        peer_times: list[tuple[float, float]] = []
        for round_ in range(place.rounds):
            clock.seconds.clear()
            sampled.seconds.clear()
            trainer.train()
            peer_times += zip(sampled.seconds, clock.seconds, strict=True)
            times += [step(1 + STEPS * round_ + index) for index in range(STEPS)]
    return Row(
        f"GRPO step, Qwen3-{shape}, {prompts} prompts x {GROUP} completions, {length} + {new} tokens",
        "s",
        higher=False,
        ours=[whole for _, whole in times],
        peers={"TRL, transformers.generate, weights of the same number type": [whole for _, whole in peer_times]},
        twin=twin,
        more={
            "rollout_share": {
                "ours": sum(part for part, _ in times) / sum(whole for _, whole in times),
                "peer": sum(part for part, _ in peer_times) / sum(whole for _, whole in peer_times),
            }
        },
    )


def our_source(
    asked: list[Problem], new: int, words: Any, ranks: Ranks = ALONE
) -> tuple[source.Rollouts, GrpoSettings]:
    completions = len(asked) * GROUP
    settings = GrpoSettings(
        max_steps=10_000,
        learning_rate=1e-6,
        prompts_per_step=len(asked),
        num_generations=GROUP,
        per_device_train_batch_size=min(MICRO, completions // 2),
        max_completion_length=new,
        rewards=RewardSettings(accuracy=1.0, max_length=new),
    )
    rewards = reward.weighted((1.0, "even", lambda group: reward.each(group, lambda one: even(one.trace.token_ids))))
    sampler = Engine(words, Sampling(max_tokens=new, slots=completions), seed=0)
    return source.Rollouts(
        asked, sampler, verdict, rewards, advantage.group_std, settings, words, seed=0, ranks=ranks
    ), settings


class Timed:
    """A function and how long each call of it took."""

    def __init__(self, place: Place, function: Callable[..., Any]) -> None:
        self.place, self.function = place, function
        self.seconds: list[float] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        began = self.place.now()
        result = self.function(*arguments, **named)
        self.seconds.append(self.place.now() - began)
        return result


def apart(place: Place, trainer: Any, rollouts: source.Rollouts, ours: Any, prompts: list[list[int]]) -> float:
    """The mean difference between TRL's and the engine's log-probability of one group's sampled tokens."""
    rollouts.sampler.follow(ours, 0)
    traces = rollouts.sampler.sample(rollouts.problems[:1], GROUP)[0]
    ids = torch.tensor([[*prompts[0], *trace.token_ids] for trace in traces], device=place.device)
    with torch.no_grad(), torch.autocast(place.device.type, torch.bfloat16, enabled=place.dtype == torch.bfloat16):
        theirs, *_ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, torch.ones_like(ids), len(traces[0].token_ids)
        )
    mean = (theirs.float().cpu() - torch.tensor([trace.logprobs for trace in traces])).abs().mean()
    return agree(place, "log-probability", float(mean), bfloat16=0.03, float32=1e-4)
