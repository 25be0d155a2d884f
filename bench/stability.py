"""GRPO over normalisations and clip bounds, four steps on each rollout: python -m bench.stability [--seeds 1 2 3]

Each seed begins with the model that `python -m bench.demo` has after SFT (laptop preset of math_two_stage, runs/demo-seeds/main-SEED; made here where
it is missing) and goes on with that preset's rewards, at its rate of 2e-4 (here without its fall to 0) and at 5e-4. At each rate every arm differs from
the base in one thing:

    base                  loss_type dapo, clip 0.2 / 0.28, beta 0
    grpo, bnpo, dr_grpo   the other normalisations
    symmetric             clip 0.2 / 0.2
    wide                  clip 0.4 / 0.6
    kl                    beta 0.04

and one control, the base at 1e-2, should break and be seen to.

Measured on the same held-out problems, before and after: accuracy, nats a token (entropy), tokens, share of repeated 3-grams, share cut at the limit,
and the distance, KL(trained || start) in nats a token of the trained model's own traces. From the run's metrics: gradient norms that the monitors
call spikes, the share of clipped tokens in the first to fourth step on a rollout, and the alarms that would have been told live.

A run has collapsed where its accuracy is below half of what it was, or its entropy below a tenth or above three times of what it was, or half of its
traces are cut. Each claim is that of its weakest seed. Claims and thresholds were written before seeds 1 to 3 were run, sizes and rates after one pilot at
seed 7, whose base fell by 13.5 points at 5e-4: nothing is promised of collapse at that rate, only that what falls is seen (LOG.md).
A comment in TRL's pull request 3138 reports a collapse with four steps on a rollout and no KL; its task, rate and size were others.
Resumable: what is finished is not run again.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch

from bench import small
from bench.claims import carry_out
from bench.small import weakest
from postgrad import chat, config, progress, wiring
from postgrad.evals import benchmark, monitors
from postgrad.recipes import math_two_stage
from postgrad.records import Graded
from postgrad.run import Run, read_lines
from postgrad.train import advantage, checkpoint, fit, reward, source
from postgrad.train.batch import Document, pack, score
from postgrad.train.habits import repeated
from postgrad.verify import maths

STEPS, ITERATIONS, LONGEST = 96, 4, 96
SETTINGS = (
    "model.scratch=null",
    "sft=null",
    f"rl.max_steps={STEPS}",
    f"rl.num_iterations={ITERATIONS}",
    "rl.prompts_per_step=8",
    "rl.num_generations=4",
    # Four micro-batches: in one alone, bnpo is dapo.
    "rl.per_device_train_batch_size=8",
    "rl.eval_steps=16",
    f"rl.save_steps={STEPS}",
    "rl.min_lr_ratio=1",
    "rl.epsilon_high=0.28",
    "rl.beta=0",
    f"rl.max_completion_length={LONGEST}",
    f"rl.rewards.max_length={LONGEST}",
    f"eval.max_tokens={LONGEST}",
)
"""Over the laptop preset: seconds suffice, and a rate that does not fall as it would within these steps."""
VALIDATION, TEST = 100, 200
"""The first of the demo's held-out problems."""

RATES = {"preset": 2e-4, "fast": 5e-4}
ARMS: dict[str, tuple[str, ...]] = {
    "base": (),
    "grpo": ("rl.loss_type=grpo",),
    "bnpo": ("rl.loss_type=bnpo",),
    "dr_grpo": ("rl.loss_type=dr_grpo",),
    "symmetric": ("rl.epsilon_high=0.2",),
    "wide": ("rl.epsilon=0.4", "rl.epsilon_high=0.6"),
    "kl": ("rl.beta=0.04",),
}
CONTROL_RATE = 1e-2

MAX_FALL = 0.05
"""Of accuracy, in any arm at the preset's rate."""
MAX_UNSEEN_FALL = 0.2
"""Of accuracy, without an alarm, at any rate."""
MIN_CLIPPED = 0.001
"""Of the fast base's tokens in the last step on a rollout."""
LATEST_ALARM = 0.9
"""Share of the control's steps at its first alarm."""


def asked(seed: int, model: Path, rate: float, changed: Sequence[str]) -> math_two_stage.Config:
    overrides = (*SETTINGS, f"seed={seed}", f"model.path={model.resolve()}", f"rl.learning_rate={rate}", *changed)
    layers = [config.preset("math_two_stage", "laptop"), *map(config.Override, overrides)]
    return config.load(math_two_stage.Config, layers).settings


def arm(out: Path, name: str, seed: int, begun: Path, rate: float, changed: Sequence[str]) -> dict[str, Any]:
    """One run's measurements, with what its metrics tell. `begun` is the demo's run."""
    settings = asked(seed, checkpoint.best(begun / "checkpoints" / "sft"), rate, changed)
    folder = out / f"stability-{name}-{seed}"
    if (folder / "manifest.json").is_file():
        run = Run.open(folder)
    else:
        run = Run.create(folder, recipe="math_two_stage", preset="stability", config=settings, command=sys.argv)
    run.progress = progress.auto()
    print(f"== {folder}", flush=True)
    measured: dict[str, Any] = run.stage("rl", trained, settings, run, str(begun))
    rows = read_lines(folder / "metrics.jsonl")
    weights = {part: weight for weight, part, _ in reward.from_settings(settings.rl.rewards, LONGEST, []).terms}
    alarms = monitors.diagnose(rows, weights=weights, held_out=VALIDATION)
    return {
        **measured,
        "collapsed": collapsed(measured["before"], measured["after"]),
        "clipped": clipped(rows),
        "spikes": spikes(rows),
        "alarms": [{"name": a.name, "level": a.level, "step": a.step, "since": a.since} for a in alarms],
        "commit": run.manifest["commit"],
    }


def trained(settings: math_two_stage.Config, run: Run, begun: str) -> dict[str, Any]:
    started = time.monotonic()
    rl, start = settings.rl, settings.model.path
    assert start is not None, "an arm begins with a model"
    model, tokenizer = wiring.load(settings.model, run, start)
    reference, _ = wiring.load(settings.model, run, start)
    given = Run.open(Path(begun))
    problems, validation = wiring.problems(given, "rl"), wiring.problems(given, "validation")[:VALIDATION]
    test = wiring.problems(given, "test")[:TEST]
    with wiring.samplers(settings.model, rl, settings.eval, run, start, tokenizer, problems, settings.seed) as (
        training,
        measuring,
    ):
        rollouts = source.Rollouts(
            problems,
            training,
            maths.boxed,
            wiring.rewards(rl, run, problems),
            advantage.group_std,
            rl,
            tokenizer,
            seed=settings.seed,
            reference=reference if rl.beta else None,
        )

        def validate(model: Any, step: int) -> Mapping[str, float]:
            numbers = wiring.validated(run, model, measuring, validation, maths.boxed, step)
            return {**numbers, "eval_score": float(step)}  # the last is what this is about

        def measure(step: int) -> dict[str, float]:
            measuring.follow(model, step)
            return told(benchmark.grade(measuring, maths.boxed, test, 1), model, reference, tokenizer)

        before = measure(0)
        fit.fit(run, "rl", model, tokenizer, rollouts, wiring.objective(rl), rl, validate)
        after = measure(rl.max_steps + 1)
    return {"before": before, "after": after, "seconds": round(time.monotonic() - started)}


def told(grades: benchmark.Grades, model: Any, reference: Any, tokenizer: Any) -> dict[str, float]:
    """What a model did on held-out problems, and what it and the reference say of its own traces."""
    graded = [one for row in grades for one in row]
    found = benchmark.score(grades, resamples=100)
    assert found.accuracy is not None, "the domain's own verifier checks every trace"
    traces = [one.trace for one in graded]
    batch = pack([document(one, tokenizer) for one in graded], count=0.0)
    with torch.no_grad():
        own, others = score(model, batch), score(reference, batch)
    return {
        "accuracy": found.accuracy.value,
        "entropy": float(own.entropy_K.mean()),
        "distance": float((own.logprobs_K - others.logprobs_K).mean()),
        "tokens": fmean(len(trace.token_ids) for trace in traces),
        "repetition": fmean(repeated(trace.token_ids) for trace in traces),
        "cut": fmean(trace.finish == "length" for trace in traces),
    }


def document(one: Graded, tokenizer: Any) -> Document:
    prompt, answer = chat.prompt_ids(tokenizer, one.problem.prompt), one.trace.token_ids
    weights = np.concatenate([np.zeros(len(prompt), np.float32), np.ones(len(answer), np.float32)])
    return Document(one.problem.id, (*prompt, *answer), weights)


def collapsed(before: Mapping[str, float], after: Mapping[str, float]) -> bool:
    nats = after["entropy"] / before["entropy"]
    return after["accuracy"] < 0.5 * before["accuracy"] or nats < 0.1 or nats > 3 or after["cut"] >= 0.5


def clipped(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Mean share of clipped tokens in the first, second ... step on a rollout."""
    return [
        fmean(row["clip_ratio/region_mean"] for row in rows if (row["step"] - 1) % ITERATIONS == place)
        for place in range(ITERATIONS)
    ]


def spikes(rows: Sequence[Mapping[str, Any]]) -> int:
    """Steps whose gradient norm the monitors called a spike."""
    history, steps = monitors.History({}, VALIDATION), set()
    for row in rows:
        history.add(row["step"], row)
        steps |= {step for step, _ in monitors.spikes(history)}
    return len(steps)


def study(out: Path, seed: int) -> dict[str, Any]:
    begun = out / f"main-{seed}"
    carry_out(begun, "laptop", (f"seed={seed}",))
    found: dict[str, Any] = {
        rate: {name: arm(out, f"{rate}-{name}", seed, begun, RATES[rate], changed) for name, changed in ARMS.items()}
        for rate in RATES
    }
    control = arm(out, "control", seed, begun, CONTROL_RATE, ())
    return {**found, "control": control, "demo's commit": Run.open(begun).manifest["commit"]}


def claims(seeds: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    slow, fast, control = ([seed[name] for seed in seeds] for name in ("preset", "fast", "control"))
    every = [[*seed["preset"].values(), *seed["fast"].values()] for seed in seeds]
    rise = [one["base"]["after"]["entropy"] - one["symmetric"]["after"]["entropy"] for one in fast]
    nearer = [one["kl"]["after"]["distance"] / one["base"]["after"]["distance"] for one in fast]
    unseen = [sum(fall(a) > MAX_UNSEEN_FALL and not alarmed(a) for a in arms) for arms in every]
    # No alarm at all is as late as can be.
    first = [min((a["step"] / STEPS for a in alarmed(one)), default=1.0) for one in control]
    preset, quick, broken = (f"at {rate}" for rate in ("the preset's rate", "5e-4", "1e-2"))

    def of_all(number: Callable[[Mapping[str, Any]], float]) -> list[float]:
        return [sum(map(number, one.values())) for one in slow]

    return [
        weakest("B5 collapse", f"{preset}, of 7 arms those that collapse", of_all(lambda a: a["collapsed"]), "<=", 0),
        weakest(
            "B5 accuracy",
            f"{preset}, the most accuracy that an arm loses",
            [max(map(fall, one.values())) for one in slow],
            "<=",
            MAX_FALL,
        ),
        weakest(
            "B5 spikes", f"{preset}, spikes of the gradient's norm in 7 arms", of_all(lambda a: a["spikes"]), "<=", 0
        ),
        weakest(
            "B5 false alarms", f"{preset}, of 7 arms those with an alarm", of_all(lambda a: bool(alarmed(a))), "<=", 0
        ),
        weakest(
            "B5 inert",
            "share of tokens clipped in the first step on a rollout, the highest of 14 runs",
            [max(a["clipped"][0] for a in arms) for arms in every],
            "<=",
            0,
        ),
        weakest(
            "B5 acting",
            f"{quick}, share of the base's tokens clipped in the fourth step on a rollout",
            [one["base"]["clipped"][-1] for one in fast],
            ">=",
            MIN_CLIPPED,
        ),
        weakest(
            "B5 clip-higher", f"{quick}, entropy after clip 0.2 / 0.28 minus that after 0.2 / 0.2, nats", rise, ">=", 0
        ),
        weakest("B5 KL", f"{quick}, distance from the start with beta 0.04 over that with 0", nearer, "<=", 1),
        weakest("B5 unseen", "of 14 runs those that lose 20 points of accuracy without an alarm", unseen, "<=", 0),
        weakest(
            "B5 control collapse", f"{broken}, collapsed: 1", [float(one["collapsed"]) for one in control], ">=", 1
        ),
        weakest("B5 control alarm", f"{broken}, part of the steps at the first alarm", first, "<=", LATEST_ALARM),
    ]


def fall(found: Mapping[str, Any]) -> float:
    return float(found["before"]["accuracy"] - found["after"]["accuracy"])


def alarmed(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Alarms; warnings are none."""
    return [a for a in found["alarms"] if a["level"] == "alarm"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--out", type=Path, default=Path("runs/demo-seeds"))
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = [study(given.out, seed) for seed in given.seeds]
    small.record("stability", given.results, given.seeds, found, claims(found))


if __name__ == "__main__":
    main()
