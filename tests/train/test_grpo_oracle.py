"""The policy loss against TRL 1.16's GRPOTrainer, from rollout to gradient, in float32.

Both sides are given the same completions and rewards and do all the rest themselves: advantages, masks, reference and
old log-probabilities, temperature, clipping, normalisation. Between rollout and loss both models are moved alike, so that
ratios leave the clipping interval.

TRL runs with use_bias_correction_kl off: on, which is its default, it multiplies k3 by the ratio.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import oracle
import pytest
import torch

from postgrad import chat, config
from postgrad.domains import arithmetic
from postgrad.records import Graded, Problem, Status, Trace, Verdict
from postgrad.sample.scripted import Said, Scripted
from postgrad.train import advantage, fit, loss, mismatch, reward, source
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
UNSAID = [-1.0] * len(SCRIPT)
"""The sampler's log-probability of every token of each line, where nobody looks at it."""


CREDITS = {"group": advantage.group_std, "none": advantage.group_mean}
CORRECTION = ("vllm_importance_sampling_mode", "vllm_importance_sampling_clip_max")


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


def our_rollouts(
    tokenizer: Any, reference: Any, settings: GrpoSettings, logprobs: Sequence[float] = UNSAID
) -> source.Rollouts:
    script = [replace(said, logprob=logprob) for (said, _), logprob in zip(SCRIPT, logprobs, strict=True)]
    return source.Rollouts(
        arithmetic.problems("train", PROMPTS, min_steps=2, max_steps=5, seed=3),
        Scripted(script, encoder(tokenizer)),
        always_correct,
        reward.weighted((1.0, "scripted_rewards", scripted_reward)),
        CREDITS[settings.scale_rewards],
        settings,
        tokenizer,
        seed=0,
        reference=reference if settings.beta else None,
    )


def trl_trainer(
    stock: Any,
    tokenizer: Any,
    prompts: list[str],
    settings: GrpoSettings,
    out: Path,
    logprobs: Sequence[float] = UNSAID,
) -> Any:
    """A GRPOTrainer that takes its completions from the script."""
    trl = oracle.trl()
    from datasets import Dataset, disable_progress_bars

    disable_progress_bars()
    encode = encoder(tokenizer)

    def rollout(prompts: list[str], trainer: Any) -> dict[str, Any]:
        assert len(prompts) == len(SCRIPT)
        prompt_ids = [tokenizer(prompt, add_special_tokens=False)["input_ids"] for prompt in prompts]
        ids = [encode(said.text) for said, _ in SCRIPT]
        said = [[logprob] * len(one) for one, logprob in zip(ids, logprobs, strict=True)]
        return {"prompt_ids": prompt_ids, "completion_ids": ids, "logprobs": said}

    def scripted_rewards(completions: list[str], **_: Any) -> list[float]:
        return [REWARDS[text] for text in completions]

    micro_batches = len(SCRIPT) // settings.per_device_train_batch_size
    shared = ("max_steps", "num_generations", "per_device_train_batch_size", "num_iterations", "max_completion_length")
    config = trl.GRPOConfig(
        **{
            name: getattr(settings, name)
            for name in (
                *shared,
                *CORRECTION,
                "temperature",
                "beta",
                "epsilon",
                "epsilon_high",
                "loss_type",
                "scale_rewards",
            )
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
    if settings.vllm_importance_sampling_correction:
        # The completions come from the script, so of vLLM only the correction is left.
        trainer.use_vllm = True
        trainer._last_loaded_step = trainer.state.global_step
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


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing. is deprecated:FutureWarning", "ignore:You are using 'rollout_func':UserWarning"
)
@pytest.mark.parametrize("micro_batches", [1, 6])
@pytest.mark.parametrize("masked", [False, True], ids=["all", "truncated masked"])
@pytest.mark.parametrize("mode", mismatch.MODES)
def test_the_correction_of_the_samplers_mismatch_is_trls(
    model: Any, stock: Any, tokenizer: Any, tmp_path: Path, mode: Any, masked: bool, micro_batches: int, measured: Any
) -> None:
    """The sampler's log-probability of each line is near the trainer's mean, so that ratios fall on both sides of the bound."""
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
        loss_type="dapo",
        mask_truncated_completions=masked,
        vllm_importance_sampling_correction=True,
        vllm_importance_sampling_mode=mode,
        rewards={"accuracy": 1.0, "max_length": MAX_COMPLETION},
    )
    whole = settings.model_copy(update={"mask_truncated_completions": False, "per_device_train_batch_size": 12})
    (known,) = our_rollouts(tokenizer, None, whole).step(model, 0).batches
    # Batches stand by length inside a group; a line is known by its tokens.
    means = {
        tuple(known.targets_K[mine].tolist()): float(known.streams_K["old_logprobs"][mine].mean())
        for document in range(len(SCRIPT))
        for mine in [known.document_K == document]
    }
    encode = encoder(tokenizer)
    near = [means[tuple(encode(said.text))] + 0.15 * (-1) ** place for place, (said, _) in enumerate(SCRIPT)]
    rollouts = our_rollouts(tokenizer, None, settings, near)
    first = rollouts.step(model, 0)
    by_text = {problem.prompt[-1].content: problem for problem in rollouts.problems}
    rendered = [chat.prompt_text(tokenizer, by_text[row["prompt"]].prompt) for row in first.rows]
    trainer = trl_trainer(stock, tokenizer, rendered[::GROUP], settings, tmp_path, near)
    inputs = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in rendered])

    for policy in (model, stock):
        nudge(policy, by=0.01, seed=7)
    correct = mismatch.MODES[mode](settings.vllm_importance_sampling_clip_max)
    objective = loss.policy(
        epsilon_low=EPSILON, epsilon_high=EPSILON_HIGH, beta=0.0, temperature=TEMPERATURE, correct=correct
    )
    numbers, gradients = oracle.updated(model, rollouts.step(model, 1).batches, objective)
    total = 0.0
    for rows in source.chunks(range(len(SCRIPT)), settings.per_device_train_batch_size):
        part = {name: value[rows] if value.ndim else value for name, value in inputs.items()}
        value = trainer._compute_loss(stock, part)
        value.backward()
        total += float(value.detach())

    assert measured("corrected loss against TRL", abs(numbers["loss"] - total) / max(abs(total), 0.1)) < TOLERANCE
    assert measured("corrected gradient against TRL", oracle.distance(gradients, oracle.gradients(stock))) < TOLERANCE
    theirs = trainer._metrics["train"]
    for name in ("mean", "max"):
        key = f"sampling/sampling_logp_difference/{name}"
        assert numbers[key] == pytest.approx(theirs[key][0], rel=1e-5), key
    ratio = "sampling/importance_sampling_ratio"
    bound = settings.vllm_importance_sampling_clip_max
    if mode == "token_truncate":
        assert numbers[f"{ratio}/max"] == pytest.approx(bound), "the bound is met"
        # TRL's mean is over tokens here; for sequences it is over sequences, where ours stays over tokens.
        assert numbers[f"{ratio}/mean"] == pytest.approx(theirs[f"{ratio}/mean"][0], rel=1e-5)
    else:
        assert numbers[f"{ratio}/min"] == 0, "a sequence is left out"
    # A masked completion has no token in ours; in TRL its sequence's ratio is 1.
    for name in ("min", "max"):
        assert numbers[f"{ratio}/{name}"] == pytest.approx(theirs[f"{ratio}/{name}"][0], rel=1e-5), name


def rendered_prompts(tokenizer: Any, rollouts: source.Rollouts, step: source.Step) -> list[str]:
    by_text = {problem.prompt[-1].content: problem for problem in rollouts.problems}
    return [chat.prompt_text(tokenizer, by_text[row["prompt"]].prompt) for row in step.rows]


@pytest.mark.filterwarnings(
    "ignore:.*gradient_checkpointing. is deprecated:FutureWarning", "ignore:You are using 'rollout_func':UserWarning"
)
@pytest.mark.parametrize("algorithm", sorted(path.stem for path in config.ALGORITHMS.glob("*.yaml")))
def test_four_steps_on_one_rollout_end_where_trls_do(
    model: Any, stock: Any, model_folder: Path, tokenizer: Any, tmp_path: Path, algorithm: str, measured: Any
) -> None:
    """Each algorithm with the values of its file but for the number of iterations; plain steps, so that no optimizer hides or adds rounding."""
    rate, iterations = 0.02, 4
    named = config.read_yaml((config.ALGORITHMS / f"{algorithm}.yaml").read_text(), algorithm)["rl"]
    settings = GrpoSettings(
        **{
            **named,
            "num_iterations": iterations,
            "max_steps": iterations,
            "learning_rate": rate,
            "prompts_per_step": PROMPTS,
            "num_generations": GROUP,
            "per_device_train_batch_size": len(SCRIPT),
            "max_completion_length": MAX_COMPLETION,
            "rewards": {"accuracy": 1.0, "max_length": MAX_COMPLETION},
        }
    )
    high = settings.epsilon if settings.epsilon_high is None else settings.epsilon_high
    for policy in (model, stock):
        nudge(policy, seed=5)
    reference = models.load(str(model_folder), dtype=torch.float32, device=torch.device("cpu"))
    rollouts = our_rollouts(tokenizer, reference, settings)
    objective = loss.policy(
        epsilon_low=settings.epsilon, epsilon_high=high, beta=settings.beta, temperature=settings.temperature
    )
    step = rollouts.step(model, 0)
    rendered = rendered_prompts(tokenizer, rollouts, step)
    # TRL's epsilon_high None means the same as ours.
    trainer = trl_trainer(stock, tokenizer, rendered[::GROUP], settings, tmp_path)
    inputs = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in rendered])

    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    mine = torch.optim.SGD(model.parameters(), lr=rate)
    theirs = torch.optim.SGD(stock.parameters(), lr=rate)
    regions = []
    for taken in range(iterations):
        batches = step.batches if taken == 0 else rollouts.step(model, taken).batches
        numbers = fit.update(model, batches, objective, mine, rate, settings.max_grad_norm, taken + 1)
        model.eval()
        value = trainer._compute_loss(stock, inputs)
        value.backward()
        norm = torch.nn.utils.clip_grad_norm_(stock.parameters(), settings.max_grad_norm)
        theirs.step()
        theirs.zero_grad()
        regions.append(numbers["clip_ratio/region_mean"])
        assert abs(numbers["loss"] - float(value.detach())) / max(abs(float(value.detach())), 0.1) < 1e-4, taken
        assert numbers["grad_norm"] == pytest.approx(float(norm), rel=1e-3), taken
        for name in ("low_mean", "high_mean", "region_mean"):
            told = trainer._metrics["train"][f"clip_ratio/{name}"][taken]
            assert numbers[f"clip_ratio/{name}"] == pytest.approx(told, rel=1e-3, abs=1e-4), (name, taken)
    assert regions[0] == 0, "the first step is on the rollout's own policy"
    assert regions[-1] > 0.01, "clipping never acted, so nothing was compared"
    moved = {name: weight.detach() - before[name] for name, weight in model.named_parameters()}
    wanted = {name: weight.detach() - before[name] for name, weight in stock.named_parameters()}
    assert measured("weights after four steps on a rollout, against TRL", oracle.distance(moved, wanted)) < 1e-3
