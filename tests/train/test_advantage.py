"""Advantages: the worked vector, what a constant changes, and what None may never become."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.train.advantage import group_mean, group_std, has_signal

Rewards = st.lists(st.none() | st.floats(-10, 10), min_size=2, max_size=9)


def test_group_std_is_unbiased_and_matches_the_worked_vector() -> None:
    expected = [1.158139, 0.496345, -0.680177, -0.974307]
    assert group_std([2.5, 1.6, 0.0, -0.4]) == pytest.approx(expected, abs=5e-7)


def test_group_mean_keeps_the_units_of_the_reward() -> None:
    assert group_mean([2.5, 1.6, 0.0, -0.4]) == pytest.approx([1.575, 0.675, -0.925, -1.325])


def test_an_unrewarded_trace_stays_none_and_out_of_its_siblings_statistics() -> None:
    with_none = group_std([2.5, None, 1.6, 0.0, -0.4])
    assert with_none[1] is None
    assert [value for value in with_none if value is not None] == group_std([2.5, 1.6, 0.0, -0.4])
    assert group_mean([1.0, None, 0.0]) == [0.5, None, -0.5]


@pytest.mark.parametrize("rewards", [[], [1.0], [None, 1.0], [None, None]])
def test_fewer_than_two_rewards_have_no_baseline(rewards: list[float | None]) -> None:
    assert group_std(rewards) == group_mean(rewards) == [None] * len(rewards)
    assert not has_signal(rewards)


def test_rounding_noise_is_no_signal() -> None:
    noisy = [0.1 + 0.2, 0.3, 0.3, 0.3]
    assert noisy[0] != noisy[1]
    assert not has_signal(noisy)
    assert group_std(noisy) == group_std(noisy, eps=0.0) == group_mean(noisy) == [0.0] * 4
    assert not has_signal([1e6 + 0.1 + 0.2, 1e6 + 0.3])
    assert has_signal([0.3, 0.3, 0.31])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_reward_that_is_not_finite_is_refused(bad: float) -> None:
    for function in (group_std, group_mean, has_signal):
        with pytest.raises(ValueError, match="finite"):
            function([1.0, bad, 0.0])


@given(Rewards, st.permutations(range(9)))
def test_order_in_the_group_does_not_matter(rewards: list[float | None], order: list[int]) -> None:
    order = [index for index in order if index < len(rewards)]
    straight = group_std(rewards)
    assert group_std([rewards[index] for index in order]) == [straight[index] for index in order]


@given(Rewards, st.floats(0.5, 20), st.floats(-5, 5))
def test_scaling_and_shifting_a_group_leave_the_advantage_alone(
    rewards: list[float | None], scale: float, shift: float
) -> None:
    present = [reward for reward in rewards if reward is not None]
    if not present or max(present) - min(present) < 0.01:
        return
    moved = [None if reward is None else scale * reward + shift for reward in rewards]
    for one, other in zip(group_std(rewards), group_std(moved), strict=True):
        if one is None:
            assert other is None
        else:
            assert other == pytest.approx(one, rel=0.06)  # eps = 1e-4 against a spread of at least 0.0025
    for one, other in zip(group_std(rewards, eps=0.0), group_std(moved, eps=0.0), strict=True):
        assert other == (None if one is None else pytest.approx(one, rel=1e-6, abs=1e-9))


@given(Rewards)
def test_advantages_sum_to_zero_and_none_never_becomes_a_number(rewards: list[float | None]) -> None:
    for function in (group_std, group_mean):
        advantages = function(rewards)
        assert len(advantages) == len(rewards)
        assert all(advantage is None for advantage, reward in zip(advantages, rewards, strict=True) if reward is None)
        assert sum(advantage or 0.0 for advantage in advantages) == pytest.approx(0.0, abs=1e-8)
