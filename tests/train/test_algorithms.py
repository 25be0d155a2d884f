"""The named algorithms: files of values to lay over a preset, each value with its source."""

from __future__ import annotations

import re

import pytest

from postgrad import config
from postgrad.config import ConfigError, Override
from postgrad.recipes import math_two_stage

NAMES = ("dapo", "dr_grpo", "gazal", "grpo")


def load(name: str, *overrides: str) -> math_two_stage.Config:
    layers = [config.preset("math_two_stage", "laptop"), config.algorithm(name), *map(Override, overrides)]
    return config.load(math_two_stage.Config, layers).settings


def values(name: str) -> dict[str, object]:
    return dict(config.read_yaml((config.ALGORITHMS / f"{name}.yaml").read_text(encoding="utf-8"), name)["rl"])


def test_there_are_four_and_each_sets_the_same_keys() -> None:
    """So that nothing of one is left where another is laid over it."""
    assert tuple(sorted(path.stem for path in config.ALGORITHMS.glob("*"))) == NAMES
    assert len({frozenset(values(name)) for name in NAMES}) == 1


@pytest.mark.parametrize("name", NAMES)
def test_every_value_says_where_it_comes_from(name: str) -> None:
    text = (config.ALGORITHMS / f"{name}.yaml").read_text(encoding="utf-8")
    given = [line for line in text.splitlines() if re.match(r"  \w", line)]
    assert len(given) == len(values(name))
    assert [line for line in given if not re.search(r"# \[(P|C|A|ours)\]", line)] == []


def test_the_reconstruction_says_that_it_is_one() -> None:
    assert "RECONSTRUCTION" in (config.ALGORITHMS / "gazal.yaml").read_text(encoding="utf-8")


def test_they_are_what_their_papers_say() -> None:
    grpo, dapo, dr_grpo, gazal = (load(name).rl for name in ("grpo", "dapo", "dr_grpo", "gazal"))
    assert (grpo.loss_type, grpo.beta, grpo.epsilon_high, grpo.scale_rewards) == ("grpo", 0.04, None, "group")
    assert (dapo.loss_type, dapo.beta, dapo.epsilon, dapo.epsilon_high) == ("dapo", 0.0, 0.2, 0.28)
    assert (dr_grpo.loss_type, dr_grpo.beta, dr_grpo.scale_rewards) == ("dr_grpo", 0.0, "none")
    # Stated of Gazal-R1: Clip-Higher, no KL, a normalisation that is not GRPO's.
    assert gazal.epsilon_high is not None
    assert gazal.epsilon_high > gazal.epsilon
    assert (gazal.beta, gazal.loss_type) == (0.0, "dapo")


def test_an_algorithm_stands_over_the_preset_and_under_the_overrides() -> None:
    plain = config.load(math_two_stage.Config, [config.preset("math_two_stage", "laptop")]).settings
    laid = load("dr_grpo", "rl.beta=0.5")
    assert (plain.rl.loss_type, laid.rl.loss_type, laid.rl.beta) == ("dapo", "dr_grpo", 0.5)
    assert laid.rl.learning_rate == plain.rl.learning_rate, "the recipe's own"


def test_an_unknown_algorithm_is_told_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no algorithm 'drgrpo': wanted .*dr_grpo"):
        config.algorithm("drgrpo")
