"""The policy loss against TRL 1.16's GRPOTrainer, from rollout to gradient, in float32.

Both sides are given the same completions and rewards and do all the rest themselves: advantages, masks, reference and
old log-probabilities, temperature, clipping, normalisation. Between rollout and loss both models are moved alike, so that
ratios leave the clipping interval.

TRL runs with use_bias_correction_kl off: on, which is its default, it multiplies k3 by the ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch

from postgrad import chat
from postgrad.domains import arithmetic
from postgrad.records import Graded, Problem, Status, Trace, Verdict
from postgrad.sample.scripted import Said, Scripted
from postgrad.train import advantage, loss, reward, source
from postgrad.train import model as models
from postgrad.train.settings import GrpoSettings
from tests.conftest import nudge

TOLERANCE = 1e-5
GROUP, PROMPTS, MAX_COMPLETION = 4, 3, 24
EPSILON, EPSILON_HIGH, TEMPERATURE = 0.1, 0.15, 0.7

CUT = "1+2 3-4 5*6 7+8 9-0 1*2 3"
# The reward of every line. The two longest are cut, so that with micro-batches of two the last holds nothing to train.
SCRIPT = [
    *((Said(" (1)7+5=2\\boxed{2}"), 1.0), (Said("7+"), 0.0), (Said("wait (1)7+5=2 wait", "length"), 0.25)),
    *((Said("\\boxed{3}"), 0.5), (Said("1"), 2.0), (Said("9" + CUT[:23], "length"), 0.0), (Said("123456789"), -1.0)),
    *((Said("mod 10 mod 10 mod 10"), 0.5), (Said("<think>4*4=6</think>"), 1.0), (Said("take 3"), 1.5)),
    *((Said(" (3)1-8=3 wait (3)1-8=3"), 1.25), (Said(CUT[:24], "length"), 0.0)),
]
REWARDS = {said.text: value for said, value in SCRIPT}


def encoder(tokenizer: Any) -> Callable[[str], list[int]]:
    cut = {said.text for said, _ in SCRIPT if said.finish == "length"}

    def encode(text: str) -> list[int]:
        ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids if text in cut else [*ids, tokenizer.eos_token_id]

    return encode


def scripted_reward(group: Sequence[Graded]) -> list[float | None]:
    return [REWARDS[one.trace.text] for one in group]


def always_correct(problem: Problem, trace: Trace) -> Verdict:
    return Verdict(Status.CORRECT, 1.0)


def our_rollouts(tokenizer: Any, reference: Any, settings: GrpoSettings) -> source.Rollouts:
    return source.Rollouts(
        arithmetic.problems("train", PROMPTS, min_steps=2, max_steps=5, seed=3),
        Scripted([said for said, _ in SCRIPT], encoder(tokenizer)),
        always_correct,
        reward.weighted((1.0, "scripted_rewards", scripted_reward)),
        advantage.group_std,
        settings,
        tokenizer,
        seed=0,
        reference=reference if settings.beta else None,
    )


def trl_trainer(stock: Any, tokenizer: Any, prompts: list[str], settings: GrpoSettings, out: Path) -> Any:
    """A GRPOTrainer that takes its completions from the script."""
    trl = oracle.trl()
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    encode = encoder(tokenizer)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        assert len(prompts) == len(SCRIPT)
        prompt_ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        return {"prompt_ids": prompt_ids, "completion_ids": [encode(said.text) for said, _ in SCRIPT], "logprobs": None}

    def scripted_rewards(completions: list[str], **_: Any) -> list[float]:
        return [REWARDS[text] for text in completions]

    micro_batches = len(SCRIPT) // settings.per_device_train_batch_size
    shared = ("max_steps", "num_generations", "per_device_train_batch_size", "num_iterations", "max_completion_length")
    config = trl.GRPOConfig(
        **{
            name: getattr(settings, name)
            for name in (*shared, "temperature", "beta", "epsilon", "epsilon_high", "loss_type")
        },
        mask_truncated_completions=settings.mask_truncated_completions,
        gradient_accumulation_steps=micro_batches,
        use_bias_correction_kl=False,
        output_dir=str(out),
        report_to=[],
        use_cpu=True,
        bf16=False,
    )
    trainer = trl.GRPOTrainer(
        stock,
        reward_funcs=scripted_rewards,
        args=config,
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=tokenizer,
        rollout_func=rollout,
    )
    # Its own loop would set this.
    trainer.current_gradient_accumulation_steps = micro_batches
    stock.train()
    return trainer


# Both are TRL's own words: about a deprecated name that it reads, and about the place where the script goes in.
@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing. is deprecated:FutureWarning", "ignore:You are using 'rollout_func':UserWarning"
)
@pytest.mark.parametrize("micro_batches", [1, 6])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "truncated masked"])
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("loss_type", ["grpo", "bnpo", "dr_grpo", "dapo"])
def test_loss_gradients_and_metrics_are_trls(
    model: Any,
    stock: Any,
    model_folder: Path,
    tokenizer: Any,
    tmp_path: Path,
    loss_type: Any,
    beta: float,
    masked: bool,
    micro_batches: int,
    measured: Any,
) -> None:
    settings = GrpoSettings(
        max_steps=2,
        learning_rate=1e-3,
        prompts_per_step=PROMPTS,
        num_generations=GROUP,
        per_device_train_batch_size=len(SCRIPT) // micro_batches,
        num_iterations=2,
        max_completion_length=MAX_COMPLETION,
        temperature=TEMPERATURE,
        epsilon=EPSILON,
        epsilon_high=EPSILON_HIGH,
        beta=beta,
        loss_type=loss_type,
        mask_truncated_completions=masked,
        rewards={"accuracy": 1.0, "max_length": MAX_COMPLETION},
    )
    for policy in (model, stock):
        nudge(policy, seed=5)
    reference = models.load(str(model_folder), dtype=torch.float32, device=torch.device("cpu"))
    rollouts = our_rollouts(tokenizer, reference, settings)
    first = rollouts.step(model, 0)
    prompts = [row["prompt"] for row in first.rows]
    by_text = {problem.prompt[-1].content: problem for problem in rollouts.problems}
    rendered = [chat.prompt_text(tokenizer, by_text[prompt].prompt) for prompt in prompts]
    trainer = trl_trainer(stock, tokenizer, rendered[::GROUP], settings, tmp_path)
    inputs = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in rendered])

    for policy in (model, stock):
        nudge(policy, by=0.01, seed=7)
    objective = loss.policy(epsilon_low=EPSILON, epsilon_high=EPSILON_HIGH, beta=beta, temperature=TEMPERATURE)
    batches = rollouts.step(model, 1).batches
    numbers, gradients = oracle.updated(model, batches, objective)

    # The same micro-batches: groups one after the other, each by length; bnpo's all by length.
    encode = encoder(tokenizer)
    lengths = [
        len(tokenizer(prompt, add_special_tokens=False)["input_ids"]) + len(encode(said.text))
        for prompt, (said, _) in zip(rendered, SCRIPT, strict=True)
    ]
    group = 0 if loss_type == "bnpo" else 1
    order = sorted(range(len(SCRIPT)), key=lambda index: (group * (index // GROUP), lengths[index]))
    total = 0.0
    for rows in source.chunks(order, settings.per_device_train_batch_size):
        part = {name: value[rows] if value.ndim else value for name, value in inputs.items()}
        value = trainer._compute_loss(stock, part)
        value.backward()
        total += float(value.detach())

    if masked and micro_batches == 6 and loss_type == "bnpo":
        assert len(batches) == 5, "a micro-batch with nothing to train is not computed, and yet counts"
    # Token losses of size 1 and both signs cancel, so a sum near 0 keeps their rounding.
    assert measured("GRPO loss against TRL", abs(numbers["loss"] - total) / max(abs(total), 0.1)) < TOLERANCE
    assert measured("GRPO gradient against TRL", oracle.distance(gradients, oracle.gradients(stock))) < TOLERANCE

    theirs = trainer._metrics["train"]
    for name in ("reward", "rewards/scripted_rewards/mean", "rewards/scripted_rewards/std", "frac_reward_zero_std"):
        assert first.numbers[name] == pytest.approx(theirs[name][0], rel=1e-6), name
    for name in ("mean_length", "min_length", "max_length", "clipped_ratio"):
        assert first.numbers[f"completions/{name}"] == pytest.approx(theirs[f"completions/{name}"][0], rel=1e-6), name
    if micro_batches == 1:
        steps = ["clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean", "entropy"]
        for name in [*steps, "kl"] if beta else steps:
            assert numbers[name] > 0.01, f"{name} of 0 compares nothing"
            assert numbers[name] == pytest.approx(theirs[name][0], rel=1e-5), name
