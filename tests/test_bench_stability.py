"""bench.stability's own judgement: what a collapse is, what is counted, and that every claim can be missed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench import stability
from postgrad.domains import arithmetic
from postgrad.records import Graded, Message, Problem, Status, Trace, Verdict

BEFORE = {"accuracy": 0.9, "entropy": 0.1, "cut": 0.0}


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        ({}, False),
        ({"accuracy": 0.46}, False),
        ({"accuracy": 0.44}, True),
        ({"entropy": 0.011}, False),
        ({"entropy": 0.009}, True),
        ({"entropy": 0.29}, False),
        ({"entropy": 0.31}, True),
        ({"cut": 0.49}, False),
        ({"cut": 0.5}, True),
    ],
)
def test_a_collapse_is_half_the_accuracy_or_another_entropy_or_half_cut(
    after: dict[str, float], expected: bool
) -> None:
    assert stability.collapsed(BEFORE, BEFORE | after) == expected


def test_clipped_tokens_are_told_by_their_step_on_a_rollout() -> None:
    shares = [0.0, 0.1, 0.2, 0.3, 0.0, 0.3, 0.4, 0.7]
    rows = [{"step": step, "clip_ratio/region_mean": share} for step, share in enumerate(shares, 1)]
    assert stability.clipped(rows) == pytest.approx([0.0, 0.2, 0.3, 0.5])


def test_a_spike_is_counted_once_however_long_it_is_looked_at() -> None:
    norms = [0.1] * 96
    norms[59], norms[79] = 1.5, 3.5  # above ten times the median, and twice the spike before
    assert stability.spikes([{"step": step, "grad_norm": norm} for step, norm in enumerate(norms, 1)]) == 2
    norms[59], norms[79] = 0.9, 0.9
    assert stability.spikes([{"step": step, "grad_norm": norm} for step, norm in enumerate(norms, 1)]) == 0


def leaves(settings: dict[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= leaves(value, f"{at}{name}.") if isinstance(value, dict) else {at + name: value}
    return found


def test_an_arm_differs_from_the_base_in_what_it_is_named_for() -> None:
    def made(changed: tuple[str, ...]) -> dict[str, Any]:
        return leaves(stability.asked(1, Path("model"), 2e-4, changed).model_dump())

    base = made(())
    assert base["rl.num_iterations"] == stability.ITERATIONS
    assert base["rl.prompts_per_step"] * base["rl.num_generations"] > base["rl.per_device_train_batch_size"]
    for name, changed in stability.ARMS.items():
        differs = {key for key, value in made(changed).items() if value != base[key]}
        assert differs == {override.partition("=")[0] for override in changed}, name


def run(**changed: Any) -> dict[str, Any]:
    after = BEFORE | {"distance": 0.1} | {name: changed.pop(name) for name in BEFORE if name in changed}
    whole = {"before": BEFORE, "after": after, "collapsed": False, "clipped": [0.0, 0.01, 0.02, 0.03], "spikes": 0}
    return {**whole, "alarms": [], **changed}


ALARM = {"name": "entropy rise", "level": "alarm", "step": 48, "since": 40}
WARNING = {**ALARM, "level": "warning"}


def seed() -> dict[str, Any]:
    return {
        "preset": {name: run() for name in stability.ARMS},
        "fast": {name: run() for name in stability.ARMS},
        "control": run(collapsed=True, alarms=[ALARM]),
    }


def missed(*seeds: dict[str, Any]) -> set[str]:
    return {claim["id"] for claim in stability.claims(seeds) if not claim["met"]}


def test_claims_are_met_where_nothing_breaks_but_the_control() -> None:
    assert missed(seed(), seed(), seed()) == set()
    (alarm,) = [claim for claim in stability.claims([seed()]) if claim["id"] == "B5 control alarm"]
    assert alarm["measured"] == 0.5


@pytest.mark.parametrize(
    ("where", "what", "claim"),
    [
        (("preset", "bnpo"), run(collapsed=True), "B5 collapse"),
        (("preset", "wide"), run(accuracy=0.84), "B5 accuracy"),
        (("preset", "grpo"), run(spikes=1), "B5 spikes"),
        (("preset", "kl"), run(alarms=[ALARM]), "B5 false alarms"),
        (("fast", "wide"), run(clipped=[0.001, 0.0, 0.0, 0.0]), "B5 inert"),
        (("fast", "base"), run(clipped=[0.0, 0.0, 0.0, 0.0]), "B5 acting"),
        (("fast", "symmetric"), run(entropy=0.11), "B5 clip-higher"),
        (("fast", "grpo"), run(accuracy=0.6, alarms=[WARNING]), "B5 unseen"),
        (("control",), run(alarms=[ALARM]), "B5 control collapse"),
        (("control",), run(collapsed=True, alarms=[WARNING]), "B5 control alarm"),
    ],
)
def test_one_bad_run_of_one_seed_misses_its_claim(where: tuple[str, ...], what: dict[str, Any], claim: str) -> None:
    bad = seed()
    inner = bad
    for name in where[:-1]:
        inner = inner[name]
    inner[where[-1]] = what
    assert missed(seed(), bad, seed()) == {claim}


def test_a_penalty_that_does_not_hold_misses_its_claim_and_fast_runs_may_break() -> None:
    bad = seed()
    bad["fast"]["kl"]["after"] = bad["fast"]["kl"]["after"] | {"distance": 0.11}
    assert missed(bad) == {"B5 KL"}
    seen = seed()
    seen["fast"]["bnpo"] = run(collapsed=True, accuracy=0.1, spikes=2, alarms=[ALARM])
    assert missed(seen) == set()


def test_only_what_was_sampled_is_measured() -> None:
    words = arithmetic.tokenizer()
    problem = Problem("p", (Message("user", "take 1 (1)+1 mod 10"),), gold="2")
    answer = tuple(words("\\boxed{2}")["input_ids"])
    made = stability.document(
        Graded(problem, Trace("p", "\\boxed{2}", answer, (0.0,) * len(answer), "stop"), Verdict(Status.CORRECT, 1.0)),
        words,
    )
    assert made.ids[-len(answer) :] == answer
    assert made.weights.tolist() == [0.0] * (len(made.ids) - len(answer)) + [1.0] * len(answer)
    assert made.weights[0] == 0
