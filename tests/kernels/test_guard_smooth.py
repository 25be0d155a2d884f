"""Reward smoothing in numbers computed by hand."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from postgrad.kernels.guard.smooth import Running, overall, per_task


def test_three_rewards_by_hand() -> None:
    """1, 2, 3: mean 2, population variance 2/3, sigma 0.8165: -1.2247, 0, 1.2247."""
    assert per_task()("t", [1.0, 2.0, 3.0]) == pytest.approx([-1.224745, 0.0, 1.224745], abs=1e-6)


def test_an_outlier_is_clipped_and_none_stays_none() -> None:
    """1 (nine times) and 100: mean 10.9, sigma sqrt(9 * 9.9^2 + 89.1^2) / sqrt(10) = 29.7: 100 is at 3, clipped to 1.5."""
    smoothed = per_task()("t", [*[1.0] * 9, None, 100.0])
    assert smoothed[9] is None
    assert smoothed[10] == 1.5
    assert smoothed[0] == pytest.approx(-9.9 / 29.7)


def test_equal_rewards_are_zero_and_the_floor_holds() -> None:
    assert per_task()("t", [2.0, 2.0]) == [0.0, 0.0]
    smooth = per_task(refresh_every=100)
    smooth("t", [2.0, 2.0])
    # Sigma is 0, so the floor of 1e-3 divides: 0.0005 / 0.001.
    assert smooth("t", [2.0005]) == pytest.approx([0.5])


def test_one_reward_says_nothing() -> None:
    assert per_task()("t", [5.0]) == [0.0]
    assert per_task()("t", [None]) == [None]


def test_the_scale_is_refreshed_every_n_rewards() -> None:
    smooth = per_task(refresh_every=4)
    smooth("t", [0.0, 2.0])  # mean 1, sigma 1
    assert smooth("t", [2.0]) == [1.0]
    assert smooth("t", [2.0, 2.0]) == [1.0, 1.0]
    # The fourth since: 0 once, 2 five times: mean 10/6, variance 4 * (1/6) * (5/6) = 5/9.
    assert smooth("t", [2.0]) == pytest.approx([(2 - 10 / 6) / math.sqrt(5 / 9)])


def test_tasks_have_scales_of_their_own_or_share_one() -> None:
    apart, together = per_task(), overall()
    for smooth in (apart, together):
        smooth("small", [1.0, 1.1])
    assert apart("large", [50.0, 60.0]) == pytest.approx([-1.0, 1.0])
    assert together("large", [50.0, 60.0]) == [1.5, 1.5]


def test_running_figures_are_exact_then_exponential() -> None:
    values = [1.0, 4.0, 2.0, 8.0, 5.0]
    running = Running(window=5)
    for value in values:
        running.add(value)
    assert running.mean == pytest.approx(statistics.fmean(values))
    assert running.variance == pytest.approx(statistics.pvariance(values))
    running.add(10.0)  # weight 1/5: mean 4 + 6/5, variance 4/5 (6 + 36/5)
    assert (running.mean, running.variance) == pytest.approx((5.2, 10.56))


def test_its_state_goes_through_json_and_on() -> None:
    one, other = per_task(refresh_every=3), per_task(refresh_every=3)
    one("a", [1.0, 3.0, 2.0])
    one("b", [9.0])
    other.load(json.loads(json.dumps(one.state())))
    for row in ([4.0, 1.0], [2.5], [7.0, None]):
        assert one("a", row) == other("a", row)
        assert one("b", row) == other("b", row)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="None to leave it out"):
        per_task()("t", [1.0, value])


def test_settings_are_checked() -> None:
    with pytest.raises(ValueError, match="floor=0"):
        per_task(floor=0)
