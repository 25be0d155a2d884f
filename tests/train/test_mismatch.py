"""Factors of the sampler's mismatch by hand, and what they are for: an expectation under another policy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from postgrad.train.batch import Document, Scores, pack
from postgrad.train.loss import policy_loss, read
from postgrad.train.mismatch import MODES, sequence_mask, token_truncate

CLIPPED = {"epsilon_low": 0.2, "epsilon_high": 0.2}


def logs(*probabilities: float) -> torch.Tensor:
    return torch.tensor([math.log(p) for p in probabilities])


def documents(*lengths: int) -> Any:
    """As much of a batch as a correction looks at."""
    return SimpleNamespace(
        names=tuple(map(str, range(len(lengths)))),
        document_K=torch.tensor([place for place, length in enumerate(lengths) for _ in range(length)]),
    )


def test_a_tokens_ratio_is_kept_below_the_cap_and_cut_above_it() -> None:
    difference = logs(0.2, 0.3, 0.6, 0.8) - logs(0.4, 0.3, 0.4, 0.2)
    assert token_truncate(2.0)(difference, documents(4)).tolist() == pytest.approx([0.5, 1.0, 1.5, 2.0])
    assert token_truncate(math.inf)(difference, documents(4)).tolist() == pytest.approx([0.5, 1.0, 1.5, 4.0])


def test_a_sequences_ratio_is_its_tokens_product_and_0_above_the_cap() -> None:
    # Three sequences: 0.5 * 1.5, then 4 * 0.5, then 4 alone.
    difference = logs(0.2, 0.6, 0.8, 0.2, 0.8) - logs(0.4, 0.4, 0.2, 0.4, 0.2)
    assert sequence_mask(3.0)(difference, documents(2, 2, 1)).tolist() == pytest.approx([0.75, 0.75, 2.0, 2.0, 0.0])


@pytest.mark.parametrize("mode", MODES)
def test_equal_policies_change_nothing(mode: str) -> None:
    assert MODES[mode](3.0)(torch.zeros(5), documents(2, 3)).tolist() == [1.0] * 5


def test_it_gives_the_trainers_expectation_where_the_cap_does_not_bind() -> None:
    trainer, sampler, value = logs(0.5, 0.3, 0.2), logs(0.4, 0.35, 0.25), torch.tensor([1.0, -2.0, 5.0])
    for mode in (token_truncate(2.0), sequence_mask(2.0)):
        weighted = sampler.exp() * mode(trainer - sampler, documents(1, 1, 1)) * value
        assert float(weighted.sum()) == pytest.approx(float((trainer.exp() * value).sum()))


@pytest.mark.parametrize("mode", MODES)
def test_what_is_not_a_number_stays_so_in_its_own_sequence(mode: str) -> None:
    factors = MODES[mode](3.0)(torch.tensor([0.0, math.nan, 0.0]), documents(1, 1, 1))
    assert factors.isnan().tolist() == [False, True, False]


def test_an_overflowing_ratio_is_cut_or_left_out() -> None:
    far = torch.tensor([500.0])
    assert token_truncate(3.0)(far, documents(1)).tolist() == [3.0]
    assert sequence_mask(3.0)(far, documents(1)).tolist() == [0.0]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("bound", [0.5, math.nan])
def test_a_bound_that_shrinks_agreement_is_refused(mode: str, bound: float) -> None:
    with pytest.raises(ValueError, match=f"clip_max={bound}: below 1"):
        MODES[mode](bound)


# ---- In the policy loss ---------------------------------------------------------------------------------------------


def batch(**streams: list[float]) -> Any:
    """One document of three trained tokens."""
    weights = torch.tensor([0.0, 1, 1, 1]).numpy()
    values = {name: torch.tensor([0.0, *given]).numpy() for name, given in streams.items()}
    return pack([Document("d", (1, 2, 3, 4), weights, values)], count=1.0)


def scores(*probabilities: float) -> Scores:
    return Scores(logs(*probabilities).requires_grad_(), torch.zeros(len(probabilities)))


def test_the_factor_is_on_the_policys_loss_and_not_on_its_kl() -> None:
    ours = scores(0.2, 0.3, 0.6)
    sampled = logs(0.4, 0.3, 0.1).tolist()
    given = batch(advantages=[1.0, -2.0, 3.0], sampled_logprobs=sampled, ref_logprobs=logs(0.2, 0.3, 0.3).tolist())
    summed = policy_loss(ours, given, **CLIPPED, beta=0.5, correct=token_truncate(2.0))
    # Ratios to the old policy are 1; factors 0.5, 1, min(6, 2); k3 of the last token: 1/2 + ln 2 - 1.
    kl = 0.5 * (0.5 + math.log(2) - 1)
    assert float(summed.total.detach()) == pytest.approx(-1 * 0.5 + 2 * 1 - 3 * 2 + kl)
    summed.total.backward()
    assert ours.logprobs_K.grad is not None
    # -A * factor, and beta * (1 - ref / p) of the KL: no gradient flows through the factor.
    assert ours.logprobs_K.grad.tolist() == pytest.approx([-0.5, 2.0, -6 + 0.5 * (1 - 0.5)])
    (told,), _ = read([summed])
    ratio = "sampling/importance_sampling_ratio"
    assert told.sums[f"{ratio}/mean"] == pytest.approx(3.5)
    assert told.peaks[f"{ratio}/max"] == pytest.approx(2.0)
    assert told.lows == {f"{ratio}/min": pytest.approx(0.5)}


def test_the_factor_is_of_the_weights_that_were_sampled_from() -> None:
    """Later steps on a rollout have moved: the factor compares the old policy, and so does the agreement that is logged."""
    old, sampled = logs(0.4, 0.3, 0.6).tolist(), logs(0.2, 0.3, 0.6).tolist()
    given = batch(advantages=[1.0, 1.0, 1.0], old_logprobs=old, sampled_logprobs=sampled)
    summed = policy_loss(scores(0.44, 0.3, 0.6), given, **CLIPPED, beta=0.0, correct=token_truncate(3.0))
    assert float(summed.total.detach()) == pytest.approx(-(1.1 * 2 + 1 + 1))
    assert float(summed.peaks["sampling/sampling_logp_difference/max"]) == pytest.approx(math.log(2))


def test_without_a_correction_only_the_difference_is_told() -> None:
    given = batch(advantages=[1.0, 1.0, 1.0], sampled_logprobs=logs(0.1, 0.1, 0.1).tolist())
    summed = policy_loss(scores(0.2, 0.3, 0.6), given, **CLIPPED, beta=0.0)
    assert float(summed.total.detach()) == pytest.approx(-3)
    assert not summed.lows
    assert "sampling/importance_sampling_ratio/mean" not in summed.sums
