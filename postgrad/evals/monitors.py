"""Alarms over a run's numbers: is the reward hacked, is training unstable, does the run learn nothing or cannot tell?

    monitors = Monitors(weights={"accuracy": 1.0, "longer": 2.0}, held_out=300)
    monitors.see("rl", step, numbers)  -> the alarms that are told at this row, each once
    diagnose(rows)                     -> all that a finished run's metrics.jsonl would have told

Live and afterwards the same code sees the same rows in the same order, so both tell the same. A sign is a function of one stage's rows
so far; what it wants and a run does not log is simply not looked at.

Drift is measured from the stage's own start: the mean over its first `WINDOW` steps beside the mean over its last. A drift that pays is none: longer
answers alarm only where more of them are not right as well, a rising reward only where the truth falls. That keeps the two-stage mathematics recipe
silent, whose reward rises at an accuracy that is as high as it gets (tests/evals/test_monitors.py holds its real runs).
Thresholds are ours, chosen on that recipe's runs and on hand-made series; the three lessons they stand for (reward hacking, instability, nothing learnt)
are those of arXiv 2506.21594.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import fmean, median
from typing import Any, Literal, NamedTuple

from postgrad.records import Alarm

WINDOW = 10
"""Steps whose mean is one point of a drift: long enough for rollouts of a few dozen traces, short beside a run of 50 steps."""
PATIENCE = 5
"""Rows in a row that a sign must hold before it is told."""
UNKNOWN_HELD_OUT = 100
"""Held-out problems, where their number is not known: a fall must be large then."""


class Seen(NamedTuple):
    text: str
    since: int | None = None
    """The step that trouble began after, where the sign knows; else the begin of the window that first showed it."""


class History:
    """One stage's rows so far, by metric."""

    def __init__(self, weights: Mapping[str, float], held_out: int) -> None:
        self.weights = weights
        self.held_out = held_out
        self.step = 0
        self.points: dict[str, list[tuple[int, float]]] = {}
        self.peak: tuple[float, int, float, dict[str, float]] | None = None
        """Of the share correct over a window: (the highest share, the last step as high, the reward then, each part then)."""

    def add(self, step: int, numbers: Mapping[str, Any]) -> None:
        self.step = step
        for name, value in numbers.items():
            if isinstance(value, int | float):
                self.points.setdefault(name, []).append((step, float(value)))
        correct, reward = self.late("status/correct"), self.late("reward")
        if correct is not None and reward is not None:
            best = correct if self.peak is None else max(correct, self.peak[0])
            # As long as it is as high as ever but for its noise.
            if correct >= best - 2 * self.noise("status/correct"):
                self.peak = (best, step, reward, self.parts())

    def last(self, name: str, count: int) -> list[float]:
        return [value for _, value in self.points.get(name, [])[-count:]]

    def early(self, name: str) -> float | None:
        """The mean over the stage's first window; None until the last window is another."""
        found = self.points.get(name, [])
        return fmean(value for _, value in found[:WINDOW]) if len(found) >= 2 * WINDOW else None

    def late(self, name: str) -> float | None:
        found = self.last(name, WINDOW)
        return fmean(found) if len(found) == WINDOW else None

    def drift(self, name: str) -> tuple[float, float] | None:
        was, now = self.early(name), self.late(name)
        return None if was is None or now is None else (was, now)

    def noise(self, name: str) -> float:
        """The standard error of a difference of two windows' means, from how much neighbours differ: a trend is no noise."""
        found = self.last(name, 3 * WINDOW)
        differences = [(b - a) ** 2 for a, b in pairwise(found)]
        return math.sqrt(fmean(differences) / 2 * 2 / WINDOW) if differences else 0.0

    def parts(self) -> dict[str, float]:
        """Each part of the reward over the last window, times its weight."""
        names = [name.split("/")[1] for name in self.points if name.startswith("rewards/") and name.endswith("/mean")]
        means = {name: self.late(f"rewards/{name}/mean") for name in names}
        return {name: self.weights.get(name, 1.0) * mean for name, mean in means.items() if mean is not None}


Look = Callable[[History], Seen | None]


@dataclass(frozen=True, slots=True)
class Sign:
    name: str
    level: Literal["warning", "alarm"]
    look: Look
    help: str
    patience: int = PATIENCE


# ---- Is the reward hacked? ------------------------------------------------------------------------------------------


def truth_against_reward(h: History) -> Seen | None:
    """The reward is above what it was when most answers were right, and fewer are right now. Both by more than their noise."""
    correct, reward = h.late("status/correct"), h.late("reward")
    if h.peak is None or correct is None or reward is None:
        return None
    best, step, then, parts = h.peak
    fell = best - correct > max(0.05, 4 * h.noise("status/correct"))
    if not fell or reward - then <= 2 * h.noise("reward"):
        return None
    rises = {name: value - parts[name] for name, value in h.parts().items() if name in parts and name != "accuracy"}
    paid = max(rises, key=rises.__getitem__) if rises else None
    by = f"; {paid} pays for it, with {rises[paid]:+.2f}" if paid is not None and rises[paid] > 0 else ""
    return Seen(
        f"the reward rose from {then:.3g} to {reward:.3g} while the share of right answers fell from {best:.1%} to {correct:.1%}{by}",
        step,
    )


def dominance(h: History) -> Seen | None:
    """One part that is not accuracy makes four fifths of the reward's rise, right answers do not become more, and there is room for more."""
    reward, correct = h.drift("reward"), h.drift("status/correct")
    if reward is None or correct is None or correct[1] > 0.95:
        return None
    rise, gain = reward[1] - reward[0], correct[1] - correct[0]
    if rise <= max(0.1 * abs(reward[0]), 4 * h.noise("reward")) or gain > max(0.02, 2 * h.noise("status/correct")):
        return None
    for part, weighted in h.parts().items():
        was = h.early(f"rewards/{part}/mean")
        if part == "accuracy" or was is None:
            continue
        own = weighted - h.weights.get(part, 1.0) * was
        if own >= 0.8 * rise:
            return Seen(
                f"{part} makes {own:+.2f} of the reward's rise of {rise:+.2f}; the share of right answers went from {correct[0]:.1%} to {correct[1]:.1%}"
            )
    return None


def held_out(h: History) -> Seen | None:
    """Held-out accuracy below its best by more than chance: three standard errors of the difference, and two points."""
    found = h.points.get("eval_accuracy", [])
    if len(found) < 3 or found[-1][0] != h.step:
        return None
    best, now = max(value for _, value in found), found[-1][1]
    mean = (best + now) / 2
    chance = max(0.02, 3 * math.sqrt(2 * mean * (1 - mean) / h.held_out))
    if best - now <= chance:
        return None
    step = max(at for at, value in found if best - value <= chance / 2)
    reward = h.points.get("reward", [])
    then = [value for at, value in reward if step - WINDOW < at <= step]
    late = h.late("reward")
    beside = f", the reward from {fmean(then):.3g} to {late:.3g}" if then and late is not None else ""
    return Seen(f"held-out accuracy went from {best:.1%} to {now:.1%}{beside}", step)


def length(h: History) -> Seen | None:
    """Answers half as long again, and more, without 5 points of right ones for each doubling."""
    tokens, correct = h.drift("completions/mean_length"), h.drift("status/correct")
    if tokens is None or correct is None or tokens[1] < 1.5 * tokens[0]:
        return None
    if correct[1] - correct[0] >= 0.05 * math.log2(tokens[1] / tokens[0]):
        return None
    return Seen(
        f"answers grew from {tokens[0]:.0f} to {tokens[1]:.0f} tokens while the share of right ones went from {correct[0]:.1%} to {correct[1]:.1%}"
    )


def repetition(h: History) -> Seen | None:
    share = h.drift("completions/repetition")
    if share is None or share[1] - share[0] < 0.15:
        return None
    return Seen(f"repeated 3-grams of tokens went from {share[0]:.0%} to {share[1]:.0%} of an answer")


def several_answers(h: History) -> Seen | None:
    share = h.drift("completions/several_answers")
    if share is None or share[1] - share[0] < 0.1:
        return None
    return Seen(f"answers that give several different ones went from {share[0]:.1%} to {share[1]:.1%}")


def without_reasoning(h: History) -> Seen | None:
    share = h.drift("completions/without_reasoning")
    if share is None or share[1] - share[0] < 0.1:
        return None
    return Seen(f"answers without reasoning went from {share[0]:.1%} to {share[1]:.1%}")


# ---- Is it unstable? ------------------------------------------------------------------------------------------------


def spikes(h: History) -> list[tuple[int, float]]:
    """Of the last 20 gradient norms those above ten times the median of the 50 before, twice the largest of them and the stage's first ones.

    Where most groups teach nothing the median is near 0, and a step that does learn is no spike.
    """
    early, found = h.early("grad_norm"), h.points.get("grad_norm", [])
    before = [value for _, value in found[-70:-20]]
    if early is None or len(before) < 20:
        return []
    least = max(10 * median(before), 2 * max(before), early)
    return [(step, value) for step, value in found[-20:] if value > least]


def gradient_spikes(h: History) -> Seen | None:
    found = spikes(h)
    if len(found) < 3:
        return None
    usual = median(value for _, value in h.points["grad_norm"][-70:-20])
    return Seen(
        f"{len(found)} of the last 20 gradient norms are above ten times the {usual:.3g} before; the largest is {max(value for _, value in found):.3g}",
        found[0][0] - 1,
    )


def entropy_rise(h: History) -> Seen | None:
    nats = h.drift("entropy")
    if nats is None or nats[1] < max(3 * nats[0], nats[0] + 0.5) or "reward" not in h.points:
        return None
    return Seen(f"entropy rose from {nats[0]:.3g} to {nats[1]:.3g} nats a token")


def entropy_collapse(h: History) -> Seen | None:
    nats, correct = h.drift("entropy"), h.late("status/correct")
    if nats is None or correct is None or nats[1] > 0.1 * nats[0] or correct > 0.9:
        return None
    return Seen(
        f"entropy fell from {nats[0]:.3g} to {nats[1]:.3g} nats a token, and {1 - correct:.0%} are still not right"
    )


def divergence(h: History) -> Seen | None:
    kl = h.last("kl", WINDOW)
    # The median: one token can make a step's mean.
    if len(kl) < WINDOW or median(kl) < 0.5:
        return None
    return Seen(f"the KL to the reference is {median(kl):.3g} nats a token")


def clipping(h: History) -> Seen | None:
    share = h.late("clip_ratio/region_mean")
    return None if share is None or share < 0.3 else Seen(f"{share:.0%} of tokens are clipped and give no gradient")


# ---- Does it learn, and can it tell? --------------------------------------------------------------------------------


def dead_groups(h: History) -> Seen | None:
    share = h.late("frac_reward_zero_std")
    return None if share is None or share < 0.9 else Seen(f"{share:.0%} of groups have equal rewards and teach nothing")


def truncation(h: History) -> Seen | None:
    """Half of all, or a quarter more than at the start."""
    now, was = h.late("completions/clipped_ratio"), h.early("completions/clipped_ratio")
    if now is None or (now < 0.5 and (was is None or now - was < 0.25)):
        return None
    return Seen(f"{now:.0%} of answers are cut at the limit")


def no_answer(h: History) -> Seen | None:
    share = h.drift("status/no_answer")
    if share is None or share[1] - share[0] < 0.2:
        return None
    return Seen(f"answers in which none is found went from {share[0]:.0%} to {share[1]:.0%}")


def unchecked(h: History) -> Seen | None:
    share = h.late("status/unchecked")
    return None if share is None or share < 0.1 else Seen(f"{share:.0%} of answers could not be checked")


_HACK = (
    "Take the part that pays without being right out of the reward, or gate it by correctness (rl.rewards.gate_length)"
)
SIGNS = (
    Sign("truth against reward", "alarm", truth_against_reward, f"{_HACK}; go on from a checkpoint of before"),
    Sign(
        "held-out accuracy",
        "alarm",
        held_out,
        "Go on from the best checkpoint; where the reward rose, look in rollouts/ at what it pays for; else lower rl.learning_rate, or set rl.beta",
        patience=2,
    ),
    Sign(
        "length drift",
        "alarm",
        length,
        f"{_HACK}; a length penalty (rl.rewards.length_penalty, soft_overlong) works against it",
    ),
    Sign(
        "repetition drift",
        "alarm",
        repetition,
        "Give rl.rewards.repetition a weight; read the last answers in rollouts/",
    ),
    Sign(
        "several answers",
        "alarm",
        several_answers,
        "Reward one answer only (rl.rewards.format_thought), and see that the verifier takes no guess of several",
    ),
    Sign(
        "answers without reasoning",
        "alarm",
        without_reasoning,
        "Reward the frame with its reasoning (rl.rewards.format_thought with min_think)",
    ),
    Sign("component dominance", "warning", dominance, f"{_HACK}, or lower its weight beside accuracy's"),
    Sign(
        "gradient spikes",
        "alarm",
        gradient_spikes,
        "Lower rl.learning_rate or max_grad_norm, lengthen warmup_steps; go on from before",
    ),
    Sign(
        "entropy rise",
        "alarm",
        entropy_rise,
        "Lower the learning rate or epsilon_high, set rl.beta; check that the sampler is the trainer's model",
    ),
    Sign(
        "entropy collapse",
        "warning",
        entropy_collapse,
        "Raise rl.epsilon_high (clip-higher) or rl.temperature, or give other problems",
    ),
    Sign("divergence", "warning", divergence, "Raise rl.beta, lower rl.learning_rate, or take fewer num_iterations"),
    Sign(
        "clip share",
        "warning",
        clipping,
        "Take fewer num_iterations, lower rl.learning_rate, or widen epsilon and epsilon_high",
    ),
    Sign(
        "dead groups",
        "warning",
        dead_groups,
        "Choose problems by pass rate, raise num_generations, or let max_resample refill",
    ),
    Sign(
        "truncation",
        "warning",
        truncation,
        "Raise rl.max_completion_length, reward shortness, or set mask_truncated_completions",
    ),
    Sign(
        "no answer",
        "warning",
        no_answer,
        "Read the last answers in rollouts/; reward the format, lower rl.learning_rate",
    ),
    Sign(
        "unchecked",
        "warning",
        unchecked,
        "`postgrad doctor`; the reasons stand in rollouts/ and events.jsonl: this is not the model's fault",
    ),
)


# ---- Watching -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _State:
    """Of one sign in one stage."""

    held: int = 0
    absent: int = 0
    since: int = 0
    told: bool = False


@dataclass(slots=True)
class Monitors:
    """Signs over every stage of a run. `weights` are those of the reward's parts, `held_out` the number of validation problems."""

    weights: Mapping[str, float] = field(default_factory=dict)
    held_out: int = UNKNOWN_HELD_OUT
    signs: Sequence[Sign] = SIGNS
    _stages: dict[str, tuple[History, dict[str, _State]]] = field(default_factory=dict)

    def see(self, stage: str, step: int, numbers: Mapping[str, Any]) -> list[Alarm]:
        """One more row of a stage, rows in the order of their steps. What is told is told once for as long as it lasts."""
        if stage not in self._stages:
            self._stages[stage] = History(self.weights, self.held_out), {sign.name: _State() for sign in self.signs}
        history, states = self._stages[stage]
        history.add(step, numbers)
        alarms = []
        for sign in self.signs:
            if sign.look is held_out and "eval_accuracy" not in numbers:
                continue  # nothing new to look at: neither held nor absent
            state, seen = states[sign.name], sign.look(history)
            if seen is None:
                state.held, state.absent = 0, state.absent + 1
                # A flicker is one trouble, not several.
                state.told = state.told and state.absent < WINDOW
                continue
            if not state.held:
                state.since = max(1, step - WINDOW + 1) if seen.since is None else seen.since
            state.held, state.absent = state.held + 1, 0
            if state.held >= sign.patience and not state.told:
                state.told = True
                alarms.append(Alarm(sign.name, sign.level, stage, step, state.since, seen.text, sign.help))
        return alarms

    def recall(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """Forget a stage and see these rows of it instead, silently: what they told was told."""
        self._stages.pop(stage, None)
        for row in rows:
            self.see(stage, row["step"], row)

    def standing(self, stage: str) -> int:
        """How many signs were told and still hold."""
        states = self._stages[stage][1].values() if stage in self._stages else ()
        return sum(state.told for state in states)


def diagnose(
    rows: Iterable[Mapping[str, Any]], *, weights: Mapping[str, float] | None = None, held_out: int = UNKNOWN_HELD_OUT
) -> list[Alarm]:
    """Every alarm that these rows of metrics.jsonl tell, in their order."""
    monitors = Monitors(weights or {}, held_out)
    return [alarm for row in rows for alarm in monitors.see(row["stage"], row["step"], row)]
