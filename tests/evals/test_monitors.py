"""Monitors on hand-made series (each sign by itself, its neighbour that is healthy) and on the metrics of real healthy runs."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from postgrad.evals import monitors
from postgrad.evals.monitors import Monitors, diagnose
from postgrad.records import Alarm

REAL = sorted((Path(__file__).parents[1] / "data" / "monitors").glob("*.json"))
Series = dict[str, Callable[[float], float]]
"""Metric -> its value at a time from 0 to 1."""


def rows(steps: int, series: Series, *, sparse: int = 10, noise: float = 0.0, seed: int = 0) -> list[dict[str, Any]]:
    """`eval_*` are logged every `sparse` steps."""
    rng = random.Random(seed)
    return [
        {"stage": "rl", "step": step}
        | {
            name: value((step - 1) / (steps - 1)) + rng.gauss(0, noise)
            for name, value in series.items()
            if not name.startswith("eval_") or step % sparse == 0
        }
        for step in range(1, steps + 1)
    ]


def line(start: float, end: float) -> Callable[[float], float]:
    return lambda t: start + (end - start) * t


def ramp(start: float, end: float, begin: float = 0.5) -> Callable[[float], float]:
    """Flat, then a line from `begin` to the end."""
    return lambda t: start + (end - start) * max(0.0, t - begin) / (1 - begin)


def names(found: Iterable[Alarm]) -> list[str]:
    return [alarm.name for alarm in found]


HEALTHY: Series = {
    "reward": line(1.0, 1.9),
    "status/correct": line(0.5, 0.8),
    "status/no_answer": line(0.1, 0.02),
    "status/unchecked": line(0.0, 0.01),
    "eval_accuracy": line(0.5, 0.78),
    "completions/mean_length": line(100, 60),
    "completions/repetition": line(0.3, 0.1),
    "completions/several_answers": line(0.02, 0.0),
    "completions/without_reasoning": line(0.0, 0.02),
    "completions/clipped_ratio": line(0.1, 0.02),
    "frac_reward_zero_std": line(0.1, 0.6),
    "rewards/accuracy/mean": line(0.5, 0.8),
    "rewards/length_penalty/mean": line(0.2, 0.5),
    "entropy": line(0.3, 0.1),
    "kl": line(0.0, 0.05),
    "grad_norm": lambda _: 0.3,
    "clip_ratio/region_mean": lambda _: 0.02,
}


def test_a_healthy_series_is_silent_with_its_noise() -> None:
    for seed in range(20):
        assert diagnose(rows(100, HEALTHY, noise=0.005, seed=seed)) == []


BROKEN: dict[str, tuple[Series, tuple[int, int]]] = {
    "truth against reward": (
        {"reward": line(1.0, 2.0), "status/correct": ramp(0.7, 0.4), "eval_accuracy": lambda _: 0.6},
        (40, 52),
    ),
    "held-out accuracy": ({"eval_accuracy": ramp(0.7, 0.4)}, (40, 60)),
    "length drift": ({"completions/mean_length": ramp(50, 200), "status/correct": lambda _: 0.6}, (50, 75)),
    "repetition drift": ({"completions/repetition": ramp(0.2, 0.8)}, (50, 75)),
    "several answers": ({"completions/several_answers": ramp(0.0, 0.5)}, (50, 75)),
    "answers without reasoning": ({"completions/without_reasoning": ramp(0.0, 0.5)}, (50, 75)),
    "component dominance": (
        {
            "reward": line(1.0, 2.0),
            "status/correct": lambda _: 0.6,
            "rewards/accuracy/mean": lambda _: 0.6,
            "rewards/length_penalty/mean": line(0.4, 1.4),
        },
        (5, 40),
    ),
    "entropy rise": ({"entropy": ramp(0.3, 3.0)}, (50, 80)),
    "entropy collapse": ({"entropy": lambda t: max(0.005, 0.3 - 0.6 * t), "status/correct": line(0.5, 0.6)}, (40, 55)),
    "divergence": ({"kl": ramp(0.0, 2.0)}, (50, 85)),
    "clip share": ({"clip_ratio/region_mean": ramp(0.02, 0.8)}, (50, 80)),
    "dead groups": ({"frac_reward_zero_std": lambda t: min(0.98, 0.2 + 1.5 * t)}, (40, 55)),
    "truncation": ({"completions/clipped_ratio": ramp(0.1, 0.9)}, (50, 75)),
    "no answer": ({"status/no_answer": ramp(0.05, 0.6)}, (50, 80)),
    "unchecked": ({"status/unchecked": ramp(0.0, 0.6)}, (45, 70)),
}


@pytest.mark.parametrize("name", BROKEN)
def test_each_sign_is_told_once_and_says_since_when(name: str) -> None:
    series, (low, high) = BROKEN[name]
    told = diagnose(rows(100, HEALTHY | series, noise=0.002), held_out=400)
    found = [alarm for alarm in told if alarm.name == name]
    assert len(found) == 1
    (alarm,) = found
    assert low <= alarm.since <= high
    assert alarm.since <= alarm.step <= 100
    assert alarm.seen
    assert alarm.help
    assert str(alarm) == f"{name}: {alarm.seen}, since about step {alarm.since}. {alarm.help}."


def test_every_sign_is_tried_here() -> None:
    assert {sign.name for sign in monitors.SIGNS} == {*BROKEN, "gradient spikes"}


def test_what_truth_against_reward_says() -> None:
    series = BROKEN["truth against reward"][0] | {"rewards/length_penalty/mean": line(0.2, 1.2)}
    found = diagnose(rows(100, HEALTHY | series), weights={"length_penalty": 2.0})
    (alarm,) = [alarm for alarm in found if alarm.name == "truth against reward"]
    assert "the share of right answers fell from 70.0% to" in alarm.seen
    assert "length_penalty pays for it, with +" in alarm.seen
    assert alarm.level == "alarm"


def test_a_reward_that_rises_where_all_is_right_is_no_hack() -> None:
    """The second stage of the mathematics recipe: shorter answers earn more, and 99 % are right before and after."""
    top = {"reward": line(2.4, 2.7), "status/correct": lambda _: 0.99, "eval_accuracy": lambda _: 0.99}
    assert diagnose(rows(150, HEALTHY | top, noise=0.003)) == []


def test_longer_answers_that_are_right_more_often_are_no_drift() -> None:
    longer: Series = {"completions/mean_length": line(100, 300)}
    assert diagnose(rows(100, HEALTHY | longer)) == []
    assert names(diagnose(rows(100, HEALTHY | longer | {"status/correct": lambda _: 0.5}))) == ["length drift"]


def test_a_small_held_out_set_must_fall_further() -> None:
    fall: Series = {"eval_accuracy": ramp(0.7, 0.55)}
    assert names(diagnose(rows(100, HEALTHY | fall), held_out=2000)) == ["held-out accuracy"]
    assert diagnose(rows(100, HEALTHY | fall), held_out=30) == []


def test_one_bad_validation_is_not_told() -> None:
    once: Series = {"eval_accuracy": lambda t: 0.3 if 0.48 < t < 0.52 else 0.7}
    assert diagnose(rows(100, HEALTHY | once)) == []


def spiked(steps: int, at: Iterable[int], norm: float) -> list[dict[str, Any]]:
    return [
        {"stage": "sft", "step": s, "grad_norm": norm if s in at else 0.3 + 0.01 * (s % 5)} for s in range(1, steps + 1)
    ]


def test_gradient_spikes_are_several_and_large() -> None:
    assert diagnose(spiked(200, [150], 30.0)) == [], "one happens in healthy runs"
    assert diagnose(spiked(200, [120, 150, 180], 30.0)) == [], "far apart"
    assert diagnose(spiked(200, [150, 153, 156], 2.0)) == [], "not ten times"
    (alarm,) = diagnose(spiked(200, [150, 153, 156], 30.0))
    assert (alarm.name, alarm.stage, alarm.since) == ("gradient spikes", "sft", 149)
    assert "3 of the last 20 gradient norms are above ten times the 0.32 before; the largest is 30" in alarm.seen


def test_a_gradient_now_and_then_among_solved_problems_is_no_spike() -> None:
    seldom = [{"stage": "rl", "step": s, "grad_norm": 0.3 + s % 3 if s % 6 == 0 else 0.0} for s in range(1, 200)]
    assert diagnose(seldom) == []


def test_what_ends_and_comes_back_is_told_again_and_a_flicker_is_not() -> None:
    def unchecked(bad: Callable[[int], bool]) -> list[Alarm]:
        return diagnose([{"stage": "rl", "step": s, "status/unchecked": 0.5 * bad(s)} for s in range(1, 121)])

    assert len(unchecked(lambda s: 20 <= s <= 50 or s >= 80)) == 2
    assert len(unchecked(lambda s: s >= 20 and s % 12 > 2)) == 1


def test_stages_are_looked_at_apart() -> None:
    two = [{**row, "stage": "sft"} for row in rows(100, {"status/unchecked": lambda _: 0.5})]
    found = diagnose([*two, *rows(100, {"status/unchecked": lambda _: 0.5})])
    assert [(alarm.stage, alarm.step) for alarm in found] == [("sft", 14), ("rl", 14)]


def test_a_row_without_the_numbers_tells_nothing() -> None:
    assert diagnose([{"stage": "rl", "step": step} for step in range(1, 100)]) == []
    assert diagnose([]) == []


def test_a_resumed_run_tells_the_rest_and_nothing_twice() -> None:
    made = rows(100, HEALTHY | BROKEN["repetition drift"][0] | BROKEN["unchecked"][0])
    whole = diagnose(made)
    assert len(whole) == 2
    for cut in range(1, 100, 7):
        before, after = Monitors(), Monitors()
        told = [alarm for row in made[:cut] for alarm in before.see("rl", row["step"], row)]
        after.see("rl", 1, {"status/unchecked": 1.0})
        after.recall("rl", made[:cut])
        told += [alarm for row in made[cut:] for alarm in after.see("rl", row["step"], row)]
        assert told == whole
    assert after.standing("rl") == 2
    assert after.standing("sft") == 0


# ---- Real runs ------------------------------------------------------------------------------------------------------


def real(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Columns of a run's metrics, as rows."""
    stored = json.loads(path.read_text(encoding="utf-8"))
    made = [
        {"stage": stage, "step": place + 1}
        | {name: column[place] for name, column in columns.items() if column[place] is not None}
        for stage, columns in stored["stages"].items()
        for place in range(len(columns["grad_norm"]))
    ]
    return made, stored


def test_there_are_real_runs() -> None:
    assert len(REAL) >= 2


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_monitors_are_silent_on_healthy_runs_of_the_mathematics_recipe(path: Path) -> None:
    made, stored = real(path)
    assert diagnose(made, weights=stored["weights"], held_out=stored["held_out"]) == []


@pytest.mark.parametrize("path", REAL, ids=lambda path: path.stem)
def test_and_not_because_they_are_deaf(path: Path) -> None:
    """The same run, spoilt from its middle on."""
    made, stored = real(path)
    rl = [row for row in made if row["stage"] == "rl"]

    def spoilt(name: str, by: Callable[[float, float], float]) -> list[str]:
        half = len(rl) // 2
        worse = [
            row if place < half or name not in row else row | {name: by(row[name], (place - half) / half)}
            for place, row in enumerate(rl)
        ]
        return names(diagnose(worse, weights=stored["weights"], held_out=stored["held_out"]))

    assert "held-out accuracy" in spoilt("eval_accuracy", lambda value, t: value - 0.3 * t)
    assert "length drift" in spoilt("completions/mean_length", lambda value, t: value * (1 + 4 * t))
    assert "unchecked" in spoilt("status/unchecked", lambda value, t: value + 0.5 * t)
    assert "entropy rise" in spoilt("entropy", lambda value, t: value + 3 * t)
    assert "gradient spikes" in spoilt("grad_norm", lambda value, t: value * (1 + 100 * (math.sin(40 * t) > 0.5)))
