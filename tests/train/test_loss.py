"""Losses by hand, weights exactly, and a gradient that does not know how its step was cut into micro-batches."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postgrad.train import loss
from postgrad.train.batch import Batch, Document, Scores, pack, score
from postgrad.train.settings import GrpoSettings
from postgrad.train.source import _normalised, chunks

# ---- By hand --------------------------------------------------------------------------------------------------------


def three_tokens(weights: Sequence[float], **streams: Sequence[float]) -> Batch:
    return pack(
        [
            Document(
                "three",
                (1, 2, 3, 4),
                np.array([0, *weights], np.float32),
                {name: np.array([0, *values], np.float32) for name, values in streams.items()},
            )
        ],
        count=1.0,
    )


def scores_of(probabilities: Sequence[float]) -> Scores:
    logprobs_K = torch.tensor([math.log(p) for p in probabilities], requires_grad=True)
    return Scores(logprobs_K, torch.tensor([0.5] * len(probabilities)))


def policy_by_hand(beta: float = 0.0, **streams: Sequence[float]) -> tuple[loss.LossSum, torch.Tensor]:
    """Three tokens whose ratios to the old policy are 1.5, 0.5 and 1.0, clipped to [0.8, 1.28]."""
    scores = scores_of([0.6, 0.2, 0.5])
    old = [math.log(p) for p in (0.4, 0.4, 0.5)]
    batch = three_tokens([1, 1, 1], old_logprobs=old, **streams)
    summed = loss.policy_loss(scores, batch, epsilon_low=0.2, epsilon_high=0.28, beta=beta)
    summed.total.backward()
    assert scores.logprobs_K.grad is not None
    return summed, scores.logprobs_K.grad


def test_what_gains_beyond_the_upper_bound_or_loses_beyond_the_lower_is_clipped() -> None:
    summed, gradient = policy_by_hand(advantages=[2.0, -1.0, 3.0])
    assert summed.token_losses_K.tolist() == pytest.approx([-1.28 * 2, 0.8, -3.0])
    assert gradient.tolist() == pytest.approx([0.0, 0.0, -3.0])
    assert {name: float(value) for name, value in summed.sums.items()} == {
        "entropy": 1.5,
        "clip_ratio/low_mean": 1,
        "clip_ratio/high_mean": 1,
        "clip_ratio/region_mean": 2,
    }


def test_what_loses_beyond_the_upper_bound_or_gains_beyond_the_lower_is_not_clipped() -> None:
    summed, gradient = policy_by_hand(advantages=[-2.0, 1.0, 0.0])
    assert summed.token_losses_K.tolist() == pytest.approx([3.0, -0.5, 0.0])
    assert gradient.tolist() == pytest.approx([3.0, -0.5, 0.0])
    assert float(summed.sums["clip_ratio/region_mean"]) == 0


def test_k3_by_hand() -> None:
    reference = [math.log(p) for p in (0.3, 0.2, 1.0)]
    summed, gradient = policy_by_hand(beta=0.5, advantages=[0.0, 0.0, 0.0], ref_logprobs=reference)
    # q/p - log(q/p) - 1 for q/p of 1/2, 1 and 2, and its derivative 1 - q/p.
    expected = [0.5 + math.log(2) - 1, 0.0, 2 - math.log(2) - 1]
    assert summed.token_losses_K.tolist() == pytest.approx([0.5 * value for value in expected])
    assert float(summed.sums["kl"]) == pytest.approx(sum(expected))
    assert gradient.tolist() == pytest.approx([0.25, 0.0, -0.5])


def test_without_old_logprobs_the_ratio_is_1_and_its_gradient_the_advantage() -> None:
    scores = scores_of([0.6, 0.2, 0.5])
    batch = three_tokens([1, 2, 1], advantages=[2.0, -1.0, 0.5])
    summed = loss.policy_loss(scores, batch, epsilon_low=0.2, epsilon_high=0.2, beta=0.0)
    summed.total.backward()
    assert summed.token_losses_K.tolist() == [-2.0, 1.0, -0.5]
    assert float(summed.total.detach()) == pytest.approx(-2 + 2 - 0.5)
    assert scores.logprobs_K.grad is not None
    assert scores.logprobs_K.grad.tolist() == pytest.approx([-2.0, 2.0, -0.5])


def test_the_engines_agreement_is_measured_where_its_logprobs_are_known() -> None:
    batch = three_tokens([1, 1, 1], advantages=[0, 0, 0], sampled_logprobs=[math.log(p) for p in (0.6, 0.1, 0.5)])
    summed = loss.policy_loss(scores_of([0.6, 0.2, 0.5]), batch, epsilon_low=0.2, epsilon_high=0.2, beta=0.0)
    assert float(summed.sums["sampling/sampling_logp_difference/mean"]) == pytest.approx(math.log(2), rel=1e-6)
    assert float(summed.peaks["sampling/sampling_logp_difference/max"]) == pytest.approx(math.log(2), rel=1e-6)


def test_likelihood_by_hand(model: Any, stock: Any) -> None:
    batch = three_tokens([1, 0, 2])
    with torch.no_grad():
        logp_TV = stock(input_ids=torch.tensor([[1, 2, 3, 4]])).logits[0].log_softmax(-1)
        summed = loss.likelihood(model, batch)
    assert float(summed.total) == pytest.approx(-float(logp_TV[0, 2] + 2 * logp_TV[2, 4]), rel=1e-6)
    assert summed.token_losses_K.tolist() == pytest.approx([-float(logp_TV[0, 2]), -float(logp_TV[2, 4])], rel=1e-6)


# ---- Weights --------------------------------------------------------------------------------------------------------


def document(seed: int, length: int, weight: float) -> Document:
    rng = np.random.default_rng(seed)
    weights = np.full(length, weight, np.float32)
    weights[: rng.integers(1, length)] = 0
    advantages = np.full(length, rng.normal(), np.float32)
    old = rng.normal(-3, 1, length).astype(np.float32)
    return Document(
        f"d{seed}",
        tuple(rng.integers(0, 275, length).tolist()),
        weights,
        {"advantages": advantages, "old_logprobs": old},
    )


def weighted_mean(documents: Sequence[Document]) -> Batch:
    return pack(documents, count=float(sum(one.weights.sum() for one in documents)))


def test_weights_of_1_are_no_weights_to_the_last_bit(model: Any) -> None:
    documents = [document(seed, 12 + seed, 1.0) for seed in range(4)]
    numbers, gradients = oracle.updated(model, [weighted_mean(documents)], loss.likelihood)
    model.zero_grad()
    total = -score(model, weighted_mean(documents)).logprobs_K.sum()
    count = sum(int(np.count_nonzero(one.weights)) for one in documents)
    (total / count).backward()
    assert numbers["loss"] == float(total.detach()) / count
    for name, value in oracle.gradients(model).items():
        assert torch.equal(gradients[name], value), name


def test_weight_2_is_two_copies_and_weight_0_is_absence(model: Any, measured: Any) -> None:
    a, b = document(0, 12, 1.0), document(1, 17, 1.0)
    doubled, absent = document(0, 12, 2.0), document(2, 9, 0.0)
    assert doubled.weights.tolist() == (2 * a.weights).tolist()

    once, one_gradient = oracle.updated(model, [weighted_mean([doubled, b, absent])], loss.likelihood)
    model.zero_grad()
    twice, two_gradient = oracle.updated(model, [weighted_mean([a, a, b])], loss.likelihood)

    assert once["loss"] == pytest.approx(twice["loss"], rel=1e-6)
    assert measured("weight 2 against two copies", oracle.distance(one_gradient, two_gradient)) < 2e-6
    model.zero_grad()
    other, other_gradient = oracle.updated(model, [weighted_mean([a, b])], loss.likelihood)
    assert abs(other["loss"] - once["loss"]) > 1e-3
    assert oracle.distance(other_gradient, one_gradient) > 0.01, "and once is not twice"


# ---- Splitting ------------------------------------------------------------------------------------------------------
# With float64 weights, so that what is left of a difference would be the arithmetic's and not rounding's.

SLOW_START = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
LENGTHS = st.lists(st.integers(2, 40), min_size=2, max_size=8)


def cut(items: list[Document], places: set[int]) -> list[list[Document]]:
    edges = sorted({0, len(items), *(place % len(items) for place in places)})
    return [items[start:end] for start, end in pairwise(edges)]


def gradient(model: Any, batches: list[Batch], objective: loss.Objective) -> tuple[float, torch.Tensor]:
    model.double().zero_grad()
    numbers, gradients = oracle.updated(model, batches, objective)
    return numbers["loss"], torch.cat([value.flatten() for value in gradients.values()])


@given(
    lengths=LENGTHS,
    weights=st.lists(st.sampled_from([0.25, 0.5, 1.0, 2.0, 3.0]), min_size=8, max_size=8),
    places=st.sets(st.integers(1, 7)),
    order=st.randoms(use_true_random=False),
)
@SLOW_START
def test_any_split_of_a_supervised_step_gives_the_same_gradient(
    model: Any, measured: Any, lengths: list[int], weights: list[float], places: set[int], order: Any
) -> None:
    documents = [document(seed, length, weights[seed]) for seed, length in enumerate(lengths)]
    whole_loss, whole = gradient(model, [weighted_mean(documents)], loss.likelihood)
    order.shuffle(documents)
    split_loss, split = gradient(model, [weighted_mean(part) for part in cut(documents, places)], loss.likelihood)
    assert split_loss == pytest.approx(whole_loss, rel=1e-6)
    assert measured("SFT gradient, split against whole", float((split - whole).norm() / whole.norm())) < 1e-6


def rl_batches(documents: list[Document], size: int, loss_type: Any) -> list[Batch]:
    asked = GrpoSettings(
        max_steps=1,
        learning_rate=1e-3,
        prompts_per_step=4,
        num_generations=2,
        per_device_train_batch_size=size,
        max_completion_length=40,
        loss_type=loss_type,
        rewards={"accuracy": 1.0, "max_length": 40},
    )
    return [pack(part, count=count) for part, count in (_normalised(part, asked) for part in chunks(documents, size))]


POLICY = loss.policy(epsilon_low=0.2, epsilon_high=0.3, beta=0.0, temperature=0.8)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
@given(lengths=st.lists(st.integers(2, 40), min_size=8, max_size=8), size=st.sampled_from([1, 2, 4]))
@SLOW_START
def test_any_split_of_a_policy_step_gives_the_same_gradient(
    model: Any, measured: Any, loss_type: str, lengths: list[int], size: int
) -> None:
    documents = [document(seed, length, 1.0) for seed, length in enumerate(lengths)]
    whole_loss, whole = gradient(model, rl_batches(documents, 8, loss_type), POLICY)
    split_loss, split = gradient(model, rl_batches(documents, size, loss_type), POLICY)
    assert split_loss == pytest.approx(whole_loss, rel=1e-5, abs=1e-6)
    assert measured("GRPO gradient, split against whole", float((split - whole).norm() / whole.norm())) < 1e-6


def test_bnpo_alone_depends_on_its_micro_batches(model: Any) -> None:
    documents = [document(seed, length, 1.0) for seed, length in enumerate([3, 40, 5, 33, 8, 21, 4, 38])]
    _, whole = gradient(model, rl_batches(documents, 8, "bnpo"), POLICY)
    _, split = gradient(model, rl_batches(documents, 2, "bnpo"), POLICY)
    assert (split - whole).norm() > 0.01 * whole.norm()


def test_the_four_normalisations_by_hand() -> None:
    """Lengths 2 and 8, token losses +1 and -0.5: a mean over sequences and one over tokens differ even in sign."""
    documents = [
        Document(
            str(n),
            tuple(range(n + 1)),
            np.array([0, *[1] * n], np.float32),
            {"losses": np.full(n + 1, one, np.float32)},
        )
        for n, one in ((2, 1.0), (8, -0.5))
    ]

    def loss_of(loss_type: str, size: int) -> float:
        batches = rl_batches(documents, size, loss_type)
        total = sum(float((batch.streams_K["losses"] * batch.weights_K).sum()) for batch in batches)
        return total / sum(batch.count for batch in batches)

    assert loss_of("grpo", 2) == loss_of("grpo", 1) == pytest.approx(0.25)
    assert loss_of("dapo", 2) == loss_of("dapo", 1) == pytest.approx(-0.2)
    assert loss_of("dr_grpo", 2) == loss_of("dr_grpo", 1) == pytest.approx(-2 / (2 * 40))
    assert loss_of("bnpo", 2) == pytest.approx(-0.2)
    assert loss_of("bnpo", 1) == pytest.approx(0.25), "each of its micro-batches is a mean of its own"
