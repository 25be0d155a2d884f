"""The claims of the two-stage mathematics recipe, each beside its control: python -m bench.claims --preset gpu --seeds 5

One main run (SFT, then GRPO) for each seed; every other arm starts from that seed's SFT model, so that arms differ in
one thing only. Resumable: a finished arm is not run again. Thresholds stand below and were written before the first run.

    C1  GRPO cuts mean tokens by >= 20 % at an accuracy change >= -1 point            control: accuracy reward alone
    C2  the gain in accuracy grows as the token budget shrinks                        control: accuracy reward alone
    C3  RL from an under-trained model loses accuracy, after full SFT it does not
    C5  each length reward alone shortens, compared with the accuracy reward alone
    C6  RL carried on for eight times the steps; the validation-based stopper stays within 1 point of the best checkpoint

An interval over seeds is mean +- t * s / sqrt(n). With one seed there is none, and the file says so with equal ends.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from postgrad import config, progress
from postgrad.evals.stats import spearman
from postgrad.recipes import math_two_stage
from postgrad.run import Run, commit, hardware, read_lines, write_json
from postgrad.train import checkpoint

T_975 = {1: math.nan, 2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365}
"""Student's t for a two-sided 95 % interval, by number of seeds."""
ACCURACY_ONLY = ("rl.rewards.format=0", "rl.rewards.cosine_length=0", "rl.rewards.length_penalty=0")
ARMS: dict[str, tuple[str, ...]] = {
    "accuracy_only": ACCURACY_ONLY,
    "length_only": ("rl.rewards.cosine_length=0",),
    "cosine_only": ("rl.rewards.length_penalty=0",),
    "characters": ("rl.rewards.length_unit=characters",),
    "ungated": ("rl.rewards.gate_length=false",),
}


def carry_out(
    folder: Path, preset: str, overrides: Sequence[str], recipe: ModuleType = math_two_stage
) -> dict[str, Any]:
    """The summary.json of one run, from an earlier session where it has one."""
    if (folder / "summary.json").is_file():
        return dict(json.loads((folder / "summary.json").read_text()))
    name = recipe.__name__.rpartition(".")[2]
    layers = [config.preset(name, preset), *map(config.Override, overrides)]
    asked = config.load(recipe.Config, layers).settings
    opened = folder.is_dir() and (folder / "manifest.json").is_file()
    run = Run.open(folder) if opened else Run.create(folder, recipe=name, preset=preset, config=asked, command=sys.argv)
    run.progress = progress.auto()
    print(f"== {folder}", flush=True)
    return dict(recipe.main(asked, run))


def from_sft(main: Path, seed: int) -> tuple[str, ...]:
    model = checkpoint.best(main / "checkpoints" / "sft")
    return (f"seed={seed}", f"model.path={model}", "model.scratch=null", "sft=null")


def study(out: Path, preset: str, seed: int, common: Sequence[str]) -> dict[str, Any]:
    """Every arm of one seed, as flat numbers."""
    main = out / f"main-{seed}"
    found = {"main": carry_out(main, preset, (f"seed={seed}", *common))}
    start = (*common, *from_sft(main, seed))
    for name, overrides in ARMS.items():
        found[name] = carry_out(out / f"{name}-{seed}", preset, (*start, *overrides))
    asked = config.load(
        math_two_stage.Config, [config.preset("math_two_stage", preset), *map(config.Override, common)]
    ).settings
    assert asked.sft is not None, "the presets of this recipe have two stages"
    short = max(1, round(0.5 * asked.sft.max_steps))
    found["undertrained"] = carry_out(
        out / f"undertrained-{seed}", preset, (*common, f"seed={seed}", f"sft.stop_step={short}")
    )
    long = out / f"long-{seed}"
    steps = 8 * asked.rl.max_steps
    more = (
        f"rl.max_steps={steps}",
        f"rl.eval_steps={steps // 16}",
        f"rl.save_steps={steps // 16}",
        "rl.save_total_limit=16",
    )
    found["long"] = carry_out(long, preset, (*start, *more))
    numbers: dict[str, Any] = {}
    for name, summary in found.items():
        change = {
            row["name"].partition(":")[0]: row["value"]
            for row in summary["comparisons"]
            if row["name"].endswith("sft -> rl")
        }
        numbers |= {f"{name}/sft_accuracy": summary["models"]["sft"]["accuracy"]["value"]}
        numbers |= {f"{name}/accuracy_change": change["accuracy"], f"{name}/token_drop": change["token_drop"]}
        budgets = [row["budget"] for row in summary["budgets"]]
        gains = [row["difference"]["value"] for row in summary["budgets"]]
        numbers |= {
            f"{name}/budget_spearman": spearman(budgets, gains),
            f"{name}/budget_gains": dict(zip(budgets, gains, strict=True)),
        }
        numbers |= {f"{name}/inverted_share": summary["reward_order"]["inverted_share"]}
    return numbers | stopping(long)


def stopping(long: Path) -> dict[str, float]:
    """Test accuracy of every kept checkpoint of the long run: the best of them, the last, and the stopper's choice."""
    from postgrad import evaluate

    kept = long / "stopping.json"
    if not kept.is_file():
        accuracy = {}
        for folder in sorted((long / "checkpoints" / "rl").glob("step-*")):
            asked = config.load(
                math_two_stage.Config, [config.Text((long / "config.yaml").read_text(), "config.yaml")]
            ).settings
            sampling: dict[str, Any] = {
                "max_tokens": asked.eval.max_tokens,
                "temperature": asked.eval.temperature,
                "samples": 1,
            }
            score = evaluate.folder(
                str(folder), long / "data" / "test.jsonl", limit=None, seed=asked.seed + 2, out=None, **sampling
            )
            accuracy[folder.name] = score["accuracy"]["value"]
        write_json(kept, accuracy)
    accuracy = json.loads(kept.read_text())
    chosen = checkpoint.best(long / "checkpoints" / "rl").name
    curve = [row["eval_accuracy"] for row in read_lines(long / "metrics.jsonl") if "eval_accuracy" in row]
    return {
        "long/best_test_accuracy": max(accuracy.values()),
        "long/last_test_accuracy": accuracy[max(accuracy)],
        "long/chosen_test_accuracy": accuracy[chosen],
        "long/last_minus_peak_validation": curve[-1] - max(curve),
    }


def over_seeds(values: Sequence[float]) -> tuple[float, list[float]]:
    mean = statistics.fmean(values)
    half = T_975[len(values)] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    return mean, [mean - half, mean + half]


def claims(seeds: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    def of(name: str) -> list[float]:
        return [seed[name] for seed in seeds]

    def minus(one: str, other: str) -> list[float]:
        return [a - b for a, b in zip(of(one), of(other), strict=True)]

    def claim(
        name: str,
        statement: str,
        values: Sequence[float],
        op: str,
        threshold: float,
        decisive: Callable[[list[float]], float],
    ) -> dict[str, Any]:
        mean, interval = over_seeds(values)
        end = decisive(interval)
        met = end >= threshold if op == ">=" else end <= threshold
        return {
            "id": name,
            "statement": statement,
            "measured": mean,
            "interval": interval,
            "op": op,
            "threshold": threshold,
            "n": len(values),
            "met": met,
        }

    low, high = (lambda interval: interval[0]), (lambda interval: interval[1])
    monotone = [float(value == -1.0) for value in of("main/budget_spearman")]
    return [
        claim("C1 tokens", "share of mean tokens that GRPO saves", of("main/token_drop"), ">=", 0.20, low),
        claim("C1 accuracy", "change of accuracy by GRPO", of("main/accuracy_change"), ">=", -0.01, low),
        claim(
            "C1 control",
            "share of mean tokens saved by the accuracy reward alone",
            of("accuracy_only/token_drop"),
            "<=",
            0.20,
            high,
        ),
        claim(
            "C2",
            "share of seeds in which the gain grows with every smaller budget",
            monotone,
            ">=",
            0.8,
            lambda _: statistics.fmean(monotone),
        ),
        claim(
            "C3 under-trained",
            "change of accuracy by RL from an under-trained model",
            of("undertrained/accuracy_change"),
            "<=",
            0.0,
            high,
        ),
        claim("C3 after SFT", "change of accuracy by RL after full SFT", of("main/accuracy_change"), ">=", -0.01, low),
        claim(
            "C5 length",
            "tokens saved by the length penalty, over the accuracy reward's",
            minus("length_only/token_drop", "accuracy_only/token_drop"),
            ">=",
            0.0,
            low,
        ),
        claim(
            "C5 cosine",
            "tokens saved by the cosine, over the accuracy reward's",
            minus("cosine_only/token_drop", "accuracy_only/token_drop"),
            ">=",
            0.0,
            low,
        ),
        claim(
            "C6 stopper",
            "test accuracy of the stopper's checkpoint minus the best checkpoint's",
            minus("long/chosen_test_accuracy", "long/best_test_accuracy"),
            ">=",
            -0.01,
            low,
        ),
        claim(
            "C6 collapse",
            "validation accuracy at the end of eight times the steps minus its peak",
            of("long/last_minus_peak_validation"),
            "<=",
            -0.05,
            high,
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="laptop")
    parser.add_argument("--seeds", type=int, default=1, help="seeds 1 to this")
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="settings that every arm shares")
    asked = parser.parse_args()
    seeds = [
        {"seed": seed, "metrics": study(asked.out, asked.preset, seed, asked.overrides)}
        for seed in range(1, asked.seeds + 1)
    ]
    result = {
        "recipe": "math_two_stage",
        "preset": f"{asked.preset}-claims",
        "commit": commit(),
        "hardware": hardware(),
        "command": " ".join(["python -m bench.claims", *sys.argv[1:]]),
        "date": time.strftime("%Y-%m-%d"),
        "seeds": seeds,
        "claims": claims([seed["metrics"] for seed in seeds]),
    }
    path = asked.results / f"math_two_stage-{asked.preset}-claims.json"
    write_json(path, result)
    for row in result["claims"]:
        print(
            f"{'met    ' if row['met'] else 'NOT MET'} {row['id']}: {row['measured']:.4f} {row['interval']} {row['op']} {row['threshold']} (n = {row['n']})"
        )
    print(path)


if __name__ == "__main__":
    main()
