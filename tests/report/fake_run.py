"""Write a run's folder as a real run would leave it: real names and sizes, invented numbers."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

CONFIG = """\
seed: 0
model:
  scratch:
    hidden_size: 128
    num_hidden_layers: 3
data:
  arithmetic:
    train: 6000
    test: 1000
sft:
  max_steps: 300
  learning_rate: 0.002
rl:
  max_steps: 150
  learning_rate: 0.0003
  num_generations: 8
  rewards:
    accuracy: 1.0
    format: 0.2
    length_penalty: 0.5
eval:
  max_tokens: 256
"""

PARTS = ("accuracy", "format", "length_penalty")


def lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row) + "\n")


def sft_metrics(rng: random.Random, steps: int) -> Iterable[dict[str, Any]]:
    for step in range(1, steps + 1):
        t = step / steps
        row: dict[str, Any] = {
            "stage": "sft",
            "step": step,
            "time": step * 0.8,
            "loss": 0.11 + 3.1 * math.exp(-9 * t) + rng.gauss(0, 0.02 + 0.1 * math.exp(-8 * t)),
            "grad_norm": 0.3 + 2 * math.exp(-7 * t) + abs(rng.gauss(0, 0.08)),
            "learning_rate": 2e-3 * min(1, step / 20) * 0.5 * (1 + math.cos(math.pi * t)),
            "num_tokens": step * 4096,
            "step_time": 0.8 + rng.random() * 0.1,
        }
        if step % 30 == 0:
            row |= {
                "eval_loss": 0.13 + 2.9 * math.exp(-9 * t),
                "eval_accuracy": 0.91 * (1 - math.exp(-4 * t)),
                "eval_tokens": 140.0,
            }
        yield row


def rl_metrics(rng: random.Random, steps: int) -> Iterable[dict[str, Any]]:
    for step in range(1, steps + 1):
        t = step / steps
        correct = min(0.99, 0.88 + 0.06 * t + rng.gauss(0, 0.02))
        no_answer = max(0.0, 0.02 - 0.015 * t + rng.gauss(0, 0.004))
        unchecked = 0.002 if step % 40 == 0 else 0.0
        length = 74 + 68 * math.exp(-3 * t) + rng.gauss(0, 3)
        row: dict[str, Any] = {
            "stage": "rl",
            "step": step,
            "time": 300 + step * 2.1,
            "loss": rng.gauss(0, 0.01),
            "grad_norm": 0.4 + abs(rng.gauss(0, 0.1)),
            "learning_rate": 3e-4 * (1 - t),
            "entropy": 0.33 - 0.12 * t + rng.gauss(0, 0.01),
            "kl": 0.02 * t + abs(rng.gauss(0, 0.001)),
            "reward": 1.0 + 0.45 * t + rng.gauss(0, 0.05),
            "reward_std": 0.32 - 0.1 * t + rng.gauss(0, 0.02),
            "rewards/accuracy/mean": correct,
            "rewards/accuracy/std": 0.3,
            "rewards/format/mean": 0.97 + 0.02 * t,
            "rewards/format/std": 0.1,
            "rewards/length_penalty/mean": -0.3 + 0.25 * (1 - math.exp(-3 * t)) + rng.gauss(0, 0.02),
            "rewards/length_penalty/std": 0.2,
            "frac_reward_zero_std": 0.18 + 0.2 * t + abs(rng.gauss(0, 0.03)),
            "completions/mean_length": length,
            "completions/min_length": length * 0.5,
            "completions/max_length": min(256, length * 1.9),
            "completions/clipped_ratio": max(0.0, 0.012 - 0.01 * t),
            "clip_ratio/low_mean": 0.0,
            "clip_ratio/high_mean": 0.0,
            "clip_ratio/region_mean": 0.0,
            "sampling/sampling_logp_difference/mean": 3e-7 * (1 + rng.random()),
            "sampling/sampling_logp_difference/max": 8e-6 * (1 + 3 * rng.random()),
            "status/correct": correct,
            "status/no_answer": no_answer,
            "status/unchecked": unchecked,
            "status/wrong": max(0.0, 1 - correct - no_answer - unchecked),
            "groups/resampled": rng.randint(0, 3),
            "step_time": 2.1,
        }
        if step % 25 == 0:
            row |= {"eval_accuracy": 0.91 + 0.012 * t, "eval_tokens": 74 + 68 * math.exp(-3 * t)}
        yield row


MODELS = {"base": (0.004, 231, 0.62), "sft": (0.912, 143.2, 0.011), "rl": (0.922, 74.5, 0.004)}
"""accuracy, mean tokens, share without an answer"""


def answer_tokens(rng: random.Random, model: str, right: bool) -> list[str]:
    if model == "base":
        return [rng.choice([" 7", "+", " =", "3", " so", "\n", " 1", " check", " (", ")"]) for _ in range(90)]
    text = [
        "<think>",
        "\n",
        "12",
        " +",
        " 3",
        "0",
        " =",
        " 4",
        "2",
        ".",
        "\n",
        "4",
        "2",
        " *",
        " 2",
        " =",
        " ",
        "8",
        "4",
        ".",
        "\n",
    ]
    if model == "sft":
        text += ["check", ":", " 8", "4", " /", " 2", " =", " 4", "2", ",", " right", ".", "\n"] * 3
    return [
        *text,
        "8",
        "4",
        " -",
        " 1",
        "1",
        " =",
        " 7",
        "3",
        ".",
        "\n",
        "</think>",
        "\n",
        "The",
        " answer",
        " is",
        " \\boxed{",
        "7",
        "3" if right else "5",
        "}",
        ".",
    ]


def samples(rng: random.Random, problems: int) -> Iterable[dict[str, Any]]:
    for i in range(problems):
        for model in MODELS:
            right = model != "base" and not (model == "sft" and i in (1, 4)) and i != 5
            tokens = answer_tokens(rng, model, right)
            spread = 1.6 if model == "base" else 0.12
            yield {
                "problem_id": f"test-{i:04d}",
                "prompt": f"A box holds {12 + i} red and 30 blue beads. It doubles; 11 are lost.\nHow many are left?",
                "gold": "73",
                "model": model,
                "status": "correct" if right else "no_answer" if model == "base" else "wrong",
                "tokens": tokens,
                "logprobs": [
                    -abs(rng.gauss(0, spread)) if rng.random() < 0.8 else -abs(rng.gauss(0, 8 * spread)) for _ in tokens
                ],
            }


def evals(rng: random.Random, model: str, n: int) -> Iterable[dict[str, Any]]:
    accuracy, tokens, silent = MODELS[model]
    for i in range(n):
        draw = rng.random()
        steps = 2 + i % 4
        status = "correct" if draw < accuracy + (3.5 - steps) * 0.01 else "no_answer" if draw > 1 - silent else "wrong"
        if i == 17:
            status = "unchecked"
        reason = {
            "correct": "73 = 73",
            "wrong": "75 is not 73",
            "no_answer": "no \\boxed{} in the text",
            "unchecked": "the check ran out of time",
        }[status]
        yield {
            "problem_id": f"test-{i:04d}",
            "sample": 0,
            "status": status,
            "reason": reason,
            "finish": "stop",
            "text": "The answer is \\boxed{73}.",
            "n_tokens": max(8, min(256, round(rng.gauss(tokens, tokens * 0.22)))),
            "labels": {"steps": str(steps)},
        }


def rollouts(rng: random.Random, step: int) -> Iterable[dict[str, Any]]:
    for problem in range(4):
        for i in range(8):
            status = "unchecked" if (problem, i) == (2, 3) else "wrong" if i in (5, 6) and problem == 1 else "correct"
            reward = None if status == "unchecked" else (1.2 if status == "correct" else 0.2) - 0.1 * rng.random()
            yield {
                "problem_id": f"train-{step}-{problem}",
                "prompt": "Ann has 5 apples and buys 7 more. How many has she?",
                "gold": "12",
                "text": "5 + 7 = 12.\ncheck: 12 - 7 = 5, right.\nThe answer is \\boxed{12}.",
                "finish": "stop",
                "n_tokens": 24 + i,
                "status": status,
                "reason": "12 = 12"
                if status == "correct"
                else "13 is not 12"
                if status == "wrong"
                else "the check ran out of time",
                "reward": reward,
                "parts": {p: None if reward is None else round(rng.random(), 3) for p in PARTS},
                "advantage": None if reward is None else reward - 1,
            }


def summary() -> dict[str, Any]:
    def model(accuracy: float, low: float, high: float, tokens: float, silent: int, maj: float) -> dict[str, Any]:
        return {
            "n": 1000,
            "accuracy": {"value": accuracy, "interval": [low, high], "n": 999},
            "tokens": {"value": tokens, "interval": [tokens - 2.4, tokens + 2.6], "n": 1000},
            "no_answer": silent,
            "unchecked": 1,
            "maj": maj,
            "pass_at": {"1": accuracy, "4": min(1.0, accuracy + 0.05)},
        }

    budgets = [
        {"budget": b, "sft": s, "rl": r, "difference": {"value": r - s, "interval": [r - s - 0.02, r - s + 0.02]}}
        for b, s, r in ((52, 0.0, 0.11), (76, 0.01, 0.62), (104, 0.09, 0.88), (155, 0.71, 0.921), (207, 0.912, 0.922))
    ]
    return {
        "recipe": "math_two_stage",
        "preset": "laptop",
        "seed": 0,
        "seconds": {"sft": 252.0, "rl": 331.0, "eval": 88.0},
        "models": {
            "base": model(0.004, 0.001, 0.010, 231.0, 620, 0.004),
            "sft": model(0.912, 0.893, 0.929, 143.2, 11, 0.931),
            "rl": model(0.922, 0.904, 0.937, 74.5, 4, 0.938),
        },
        "comparisons": [
            {
                "name": "accuracy: sft -> rl",
                "statement": "Accuracy, RL minus SFT",
                "value": 0.010,
                "interval": [-0.008, 0.028],
                "n": 999,
            },
            {
                "name": "token_drop: sft -> rl",
                "statement": "Share of tokens saved by RL",
                "value": 0.48,
                "interval": [0.466, 0.493],
                "n": 1000,
            },
            {
                "name": "accuracy_change_shuffled",
                "statement": "Negative control: RL with shuffled rewards, minus SFT",
                "value": -0.003,
                "interval": [-0.02, 0.015],
                "n": 999,
            },
        ],
        "budgets": budgets,
        "claims": [
            {
                "id": "sft_accuracy",
                "statement": "SFT from nothing solves held-out problems",
                "measured": 0.912,
                "interval": [0.893, 0.929],
                "op": ">=",
                "threshold": 0.8,
                "n": 999,
                "met": True,
            },
            {
                "id": "tokens_drop",
                "statement": "GRPO saves tokens",
                "measured": 0.48,
                "interval": [0.466, 0.493],
                "op": ">=",
                "threshold": 0.2,
                "n": 1000,
                "met": True,
            },
            {
                "id": "accuracy_change",
                "statement": "and keeps accuracy",
                "measured": 0.010,
                "interval": [-0.008, 0.028],
                "op": ">=",
                "threshold": -0.02,
                "n": 999,
                "met": True,
            },
            {
                "id": "pass_at_4_gain",
                "statement": "GRPO raises pass@4",
                "measured": 0.002,
                "interval": [-0.01, 0.014],
                "op": ">=",
                "threshold": 0.01,
                "n": 999,
                "met": False,
            },
        ],
        "reward_order": {
            "inverted_share": 0.083,
            "inverted_share_same_style": 0.0,
            "pairs": 1944,
            "examples": ["(wrong, 8 tokens, formatted) earns 1.200, (correct, 256 tokens, unformatted) earns 1.100"],
        },
        "data": {
            "train": 6000,
            "validation": 200,
            "test": 1000,
            "selection": {"too_short": 412, "too_easy": 0, "kept": 5588},
            "decontamination": {"checked": 5588, "overlapping": 3, "kept": 5585},
            "unchecked_gold": 0,
        },
    }


MANIFEST = {
    "recipe": "math_two_stage",
    "preset": "laptop",
    "created": "2026-11-23T10:15:00Z",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "postgrad": "0.1.0",
    "python": "3.11.9",
    "packages": {"torch": "2.11.0", "transformers": "5.17.0", "tokenizers": "0.23.1", "numpy": "2.4.6"},
    "hardware": {"cpu": "AMD EPYC 7763", "cores": 2, "memory_gib": 7.8, "gpu": None},
    "seed": 0,
}


def write_run(
    folder: Path, *, sft_steps: int = 300, rl_steps: int = 150, rows: int = 1000, problems: int = 8, alarms: bool = True
) -> Path:
    """A finished run of the two-stage recipe."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "command.txt").write_text("postgrad run math_two_stage --preset laptop seed=0\n", encoding="utf-8")
    (folder / "manifest.json").write_text(json.dumps(MANIFEST), encoding="utf-8")
    done = {
        stage: {"status": "done", "fingerprint": "f00d", "seconds": s, "result": {}}
        for stage, s in summary()["seconds"].items()
    }
    (folder / "stages.json").write_text(json.dumps(done), encoding="utf-8")
    lines(folder / "metrics.jsonl", [*sft_metrics(rng, sft_steps), *rl_metrics(rng, rl_steps)])
    events = [{"stage": "rl", "step": 0, "level": "info", "message": "the reference model is not loaded: beta is 0"}]
    if alarms:
        events += [
            {"stage": "rl", "step": s, "level": "warning", "message": "5 of 128 traces were unchecked (3.9 %)"}
            for s in (40, 80, 120)
        ]
        events.append(
            {"stage": "rl", "step": 131, "level": "alarm", "message": "entropy fell below a tenth of its start"}
        )
    lines(folder / "events.jsonl", events)
    for model in MODELS:
        lines(folder / "evals" / f"{model}.jsonl", evals(rng, model, rows))
    lines(folder / "evals" / "samples.jsonl", samples(rng, problems))
    for step in (1, 75, rl_steps):
        lines(folder / "rollouts" / f"rl-{step:06d}.jsonl", rollouts(rng, step))
    (folder / "summary.json").write_text(json.dumps(summary()), encoding="utf-8")
    return folder


def write_unfinished(folder: Path) -> Path:
    """SFT is done, RL was killed in the middle of a line, nothing is evaluated."""
    rng = random.Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    (folder / "stages.json").write_text(
        json.dumps({"sft": {"status": "done", "seconds": 250.0}, "rl": {"status": "running"}}), encoding="utf-8"
    )
    lines(folder / "metrics.jsonl", [*sft_metrics(rng, 300), *rl_metrics(rng, 60)])
    with (folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"stage": "rl", "step": 61, "rew')
    return folder
