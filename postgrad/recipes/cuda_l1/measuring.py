"""The stage eval: every model on the held-out tasks with as many evaluations each, comparisons of stages, claims; writes summary.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postgrad import wiring
from postgrad.recipes.cuda_l1 import tables
from postgrad.recipes.cuda_l1.asking import ask, environment
from postgrad.recipes.cuda_l1.judging import judge
from postgrad.recipes.cuda_l1.settings import ARMS, Config
from postgrad.recipes.cuda_l1.tasks import Tasks, prepared
from postgrad.records import Graded
from postgrad.run import Run

PAIRS = (
    ("sft", "self_supervised"),
    ("self_supervised", "grpo"),
    ("self_supervised", "evolved"),
    ("grpo", "contrastive"),
    ("evolved", "contrastive"),
)
STATEMENTS = {
    "correct difference": "share of right answers",
    "fast difference": "share of answers right and above 1.01x",
    "speedup ratio": "geometric-mean speed-up of right answers, tasks that both solve",
    "kept ratio": "geometric-mean speed-up, the reference kept where wrong or slower",
    "best ratio": "geometric mean of each task's fastest answer",
    "found ratio": "geometric mean of each training task's fastest code of the arm's own",
}


def measure(config: Config, run: Run, models: Mapping[str, str]) -> dict[str, Any]:
    """Every model on the held-out tasks, with as many evaluations each; comparisons, claims, costs, kernels to look at."""
    from postgrad.evals import benchmark, speed

    known = prepared(config, run)
    problems = known.splits["test"]
    grades: dict[str, list[list[Graded]]] = {}
    with judge(config, run, known, "eval") as verifier:
        for name, path in models.items():
            run.stop_if_asked(f"in the evaluation, before {name}")
            model, tokenizer = wiring.load(config.model, run, path)
            strategy = config.contrast.strategy if name in ("evolved", "contrastive") else "nothing"
            run.progress.start(f"eval {name}", config.eval.rounds, "round")
            grades[name] = ask(
                config, run, known, verifier, model, tokenizer, problems, strategy, config.eval.rounds, f"eval-{name}"
            )
            run.progress.finish()
    (run.folder / "evals").mkdir(exist_ok=True)
    for name, rows in grades.items():
        benchmark.write_rows(run.folder / "evals" / f"{name}.jsonl", rows)
    how: dict[str, Any] = {"resamples": config.eval.bootstrap, "seed": config.seed}
    found = {name: speed.measures(rows, **how) for name, rows in grades.items()}
    compared = [
        _comparison(what, before, after, one)
        for before, after in PAIRS
        for what, one in speed.compare(grades[before], grades[after], **how).items()
    ]
    compared += _found_in_training(config, run, known, **how)
    stages = run.stages()
    summary = {
        "recipe": run.recipe,
        "preset": run.preset,
        "seed": config.seed,
        "seconds": {name: stage["seconds"] for name, stage in stages.items() if stage["status"] == "done"},
        "headline": tables.headline(found, compared),
        "models": {
            name: benchmark.score(rows, **how).to_summary() | speed.summary(found[name])
            for name, rows in grades.items()
        },
        "comparisons": compared,
        "budgets": [],
        "claims": _claims(config, compared),
        "kernels": {
            "stages": tables.by_stage(found),
            "families": tables.by_family(grades),
            "shown": tables.shown(config, known, grades),
            "costs": tables.costs(run),
        },
        "data": stages["data"]["result"] | stages["gather"]["result"],
    }
    run.write_json("summary.json", summary)
    return summary


def _comparison(what: str, before: str, after: str, found: Any) -> dict[str, Any]:
    pair = f"{before} to {after}"
    return {"name": f"{what}, {pair}", "statement": f"{STATEMENTS[what]}: {pair}", **found.to_summary()}


def _found_in_training(config: Config, run: Run, known: Tasks, **how: int) -> list[dict[str, Any]]:
    """What the article reports: the best code of each training task. Of the arms' own codes, those they began with left out."""
    from postgrad.evals import speed
    from postgrad.kernels import archive

    best: dict[str, list[list[float]]] = {arm: [] for arm in ARMS}
    for arm, rows in best.items():
        with archive.reading(run.folder / "archives" / f"{arm}.sqlite") as codes:
            where = environment(config, run)
            for problem in known.splits["train"]:
                tried = any(one.place.step > 0 for one in codes.attempts(problem.id, where))
                own = [one.score for one in codes.successes(problem.id, where) if one.place and one.place.step > 0]
                rows.append([max(map(speed.kept, own), default=0.0)] if tried else [])
    found = speed.ratio(best["grpo"], best["contrastive"], **how)
    return [] if found is None else [_comparison("found ratio", "grpo", "contrastive", found)]


def _claims(config: Config, compared: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Thresholds come from the config, which was written before the run; the lower end of the interval decides."""
    by_name = {row["name"]: row for row in compared}
    goal = config.eval
    wanted = (
        (
            "self_supervised_over_sft",
            "share of right answers, self-supervised minus SFT, held-out tasks; the lower end of the interval decides",
            "correct difference, sft to self_supervised",
            goal.min_correct_gain,
        ),
        (
            "contrastive_over_grpo",
            "geometric-mean speed-up of right answers, contrastive over plain GRPO at equal evaluations, held-out tasks; the lower end of the "
            "interval decides",
            "speedup ratio, grpo to contrastive",
            goal.min_speed_ratio,
        ),
    )
    return [
        {
            "id": name,
            "statement": statement,
            "measured": by_name[row]["value"],
            "interval": by_name[row]["interval"],
            "op": ">=",
            "threshold": threshold,
            "n": by_name[row]["n"],
            "met": bool(by_name[row]["interval"][0] >= threshold),
        }
        for name, statement, row, threshold in wanted
        if row in by_name
    ]
