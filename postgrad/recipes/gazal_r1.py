"""Medical reasoning by an adapter and stable GRPO: SFT on structured traces, merge, then RL from the merged model.

Paper: arXiv 2506.21594 (Gazal-R1). Its abstract, its model cards and an article about it say what is marked so in presets/gazal_r1/paper.yaml;
no training code is public, so the second stage's numbers are a reconstruction (docs/recipes/gazal_r1.md).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, PositiveInt, model_validator

from postgrad import wiring
from postgrad.config import Settings
from postgrad.records import Example, Message, Problem, read_jsonl, write_jsonl
from postgrad.run import Run
from postgrad.track import Name
from postgrad.train.settings import GrpoSettings, Model, SftSettings

R = TypeVar("R", Example, Problem)


class Clinic(Settings):
    """Cases made by postgrad/domains/clinic, disjoint between splits."""

    world: int = Field(0, ge=0, description="the seed of the medicine that is learnt")
    train: PositiveInt = Field(description="problems of both stages")
    validation: PositiveInt = 200
    test: PositiveInt = 1000
    levels: tuple[Literal[1, 2, 3], ...] = Field((1, 2, 3), min_length=1, description="how long the cases are")
    traces: Literal["structured", "answer_only"] = Field(
        "structured", description="what stage one trains on; answer_only is the control"
    )
    school: PositiveInt = Field(
        16000, description="problems of other worlds, for schooling: how to reason, without this world's facts"
    )
    school_worlds: PositiveInt = Field(4, description="how many other worlds they are from")


class Files(Settings):
    """Local files or folders in any form that postgrad/data/sources.py reads."""

    sft: tuple[str, ...] = Field(min_length=1, description="rows with reasoning and answer for stage one")
    rl: str = Field(
        description="questions with lettered answers for stage two; rows without one are left out and counted"
    )
    rl_share: float = Field(1.0, gt=0, le=1, description="the random part of the rl rows that is used")
    test: tuple[str, ...] = Field(min_length=1, description="questions to measure on; each file is a slice of its own")
    validation_fraction: float = Field(0.05, gt=0, lt=0.5, description="share of those rl rows kept out for validation")


class Data(Settings):
    clinic: Clinic | None = None
    files: Files | None = None
    system_prompt: str | None = Field(None, description="put before every prompt that has no system message of its own")

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.clinic is None) == (self.files is None):
            raise ValueError("give exactly one of data.clinic (generated) and data.files (your own)")
        return self


class Evaluation(wiring.Measured):
    min_sft_gain: float = Field(0.05, description="the claim: SFT's gain in accuracy on the multi-step slice")
    min_rl_gain: float = Field(0.02, description="the claim: GRPO's further gain there")
    min_format: float = Field(0.99, description="the claim: share of traces in the asked form after GRPO")


class Config(Settings):
    seed: int = 0
    report_to: tuple[Name, ...] = Field((), description="trackers besides metrics.jsonl")
    model: Model
    data: Data
    school: SftSettings | None = Field(
        None,
        description="all weights of a new model, on other worlds: what a base model brings along. null: a given model",
    )
    sft: SftSettings = Field(description="stage one")
    rl: GrpoSettings | None = Field(None, description="stage two; null: SFT alone")
    eval: Evaluation

    @model_validator(mode="after")
    def _schooling_has_worlds(self) -> Config:
        if self.school and not self.data.clinic:
            raise ValueError("school trains on other worlds of data.clinic: with data.files set school=null")
        return self


# ---- The run --------------------------------------------------------------------------------------------------------


def main(config: Config, run: Run) -> dict[str, Any]:
    """Data, schooling, SFT, merge, GRPO, measurement; each a stage that a resumed run does not repeat. Returns summary.json."""
    base = run.stage("base", make_base, config, run)
    run.stage("data", prepare, config, run)
    with run.tracked(config.report_to, config):
        if config.school:
            base = run.stage_of_all("school", school, config, run, base)
        # Stage one hands on its adapter merged: stage two starts from whole weights, as the paper's did.
        taught = run.stage_of_all("sft", supervise, config, run, base)
        models = {"base": base, "sft": taught}
        if config.rl:
            models["rl"] = run.stage_of_all("rl", refine, config, run, taught)
    summary: dict[str, Any] = run.stage_of_all("eval", measure, config, run, models)
    return summary


def make_base(config: Config, run: Run) -> str:
    return wiring.base(config.model, run, _scratch_tokenizer, config.seed)


def prepare(config: Config, run: Run) -> dict[str, Any]:
    """Write data/{school,sft,rl,validation,test}.jsonl and return the counts."""
    from postgrad import chat
    from postgrad.train import reward
    from postgrad.verify import choice, gold

    tokenizer = wiring.tokenizer(config.model, _scratch_tokenizer)
    # A tokenizer without a template is told of now, not after the data has been checked.
    chat.prompt_text(tokenizer, (Message("user", "Which?"),))
    examples, found = _clinic(config) if config.data.clinic else _files(config)
    counts: dict[str, Any] = {}
    if config.data.files:
        examples = _decontaminated(examples, found, counts)
    problems: dict[str, list[Problem]] = {}
    for name, rows in found.items():
        checked = gold.keep_checkable(wiring.one_by_one(run, f"gold answers, {name}", rows), choice.choice)
        for rejected in checked.rejected:
            run.event("data", 0, "warning", f"{name}: problem {rejected.problem.id!r} left out: {rejected.reason}")
        if not checked.kept:
            raise ValueError(f"no {name} problem has a letter as its answer: see events.jsonl for the reason of each")
        problems[name] = [_with_system(problem, config) for problem in checked.kept]
        counts |= {name: len(checked.kept), f"{name}_unchecked_gold": len(checked.rejected)}
    if rl := config.rl:
        wiring.check_sampler(rl, config.eval, run.ranks)
        if len(problems["rl"]) < rl.prompts_per_step:
            raise ValueError(
                f"{len(problems['rl'])} rl problems are fewer than rl.prompts_per_step={rl.prompts_per_step}"
            )
        reward.from_settings(rl.rewards, rl.max_completion_length, problems["rl"])
        wiring.check_prompts(rl, problems["rl"], tokenizer)
    folder = run.folder / "data"
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "sft.jsonl", (_with_system(example, config) for example in examples))
    for name, kept in problems.items():
        write_jsonl(folder / f"{name}.jsonl", kept)
    if config.school:
        lessons = _lessons(config)
        write_jsonl(folder / "school.jsonl", (_with_system(example, config) for example in lessons))
        counts["school"] = len(lessons)
    return {"sft": len(examples), **counts}


def school(config: Config, run: Run, base: str) -> str:
    """What a base model brings along, for a model from nothing: all weights, on worked cases of other worlds."""
    assert config.school is not None, "main calls this stage only where there is one"
    learner, tokenizer = wiring.load(config.model, run, base, run.ranks)
    return _supervised(config, run, "school", config.school, learner, tokenizer)


def supervise(config: Config, run: Run, base: str) -> str:
    """Stage one: structured traces, by an adapter where model.adapter is one, which is merged at the end."""
    learner, tokenizer = wiring.to_train(config.model, run, base, config.seed)
    chosen = _supervised(config, run, "sft", config.sft, learner, tokenizer)
    return wiring.given_on(run, "sft", learner, tokenizer, chosen)


def _supervised(config: Config, run: Run, stage: str, settings: SftSettings, learner: Any, tokenizer: Any) -> str:
    """Packed rows of data/STAGE.jsonl; goes on from the checkpoint with the best accuracy on validation problems."""
    from postgrad.train import fit, loss, source
    from postgrad.verify import choice

    examples = list(read_jsonl(Example, run.folder / "data" / f"{stage}.jsonl"))
    validation = wiring.problems(run, "validation")
    documents, dropped = source.supervised(tokenizer, examples, settings)
    if dropped:
        run.event(
            stage,
            0,
            "warning",
            f"{dropped} examples are longer than {stage}.max_length={settings.max_length} and were left out",
        )
    packed = source.Packed(documents, settings, seed=config.seed)

    def validate(model: Any, step: int) -> Mapping[str, float]:
        sampler = wiring.measuring(config.eval, tokenizer, config.seed)
        numbers = wiring.validated(run, model, sampler, validation, choice.choice, step)
        # Schooling teaches no fact that validation asks for: its last checkpoint is its best.
        return {**numbers, "eval_score": float(step) if stage == "school" else numbers["eval_accuracy"]}

    with wiring.watched(run, validation):
        fitted = fit.fit(run, stage, learner, tokenizer, packed, loss.likelihood, settings, validate)
    return str(fitted.best.relative_to(run.folder))


def refine(config: Config, run: Run, start: str) -> str:
    """Stage two: GRPO from the merged model; goes on from the checkpoint with the best accuracy on validation problems."""
    from postgrad.train import advantage, fit, source
    from postgrad.verify import choice

    rl = config.rl
    assert rl is not None, "main calls this stage only where there is one"
    learner, tokenizer = wiring.to_train(config.model, run, start, config.seed)
    problems, validation = wiring.problems(run, "rl"), wiring.problems(run, "validation")
    reference = wiring.load(config.model, run, start, run.ranks)[0] if rl.beta else None
    rewards = wiring.rewards(rl, run, problems)
    objective = wiring.objective(rl)
    asked = [*problems, *validation]
    with wiring.samplers(config.model, rl, config.eval, run, start, tokenizer, asked, config.seed) as (
        training,
        measuring,
    ):
        rollouts = source.Rollouts(
            problems,
            training,
            choice.choice,
            rewards,
            advantage.group_std if rl.scale_rewards == "group" else advantage.group_mean,
            rl,
            tokenizer,
            seed=config.seed,
            reference=reference,
            ranks=run.ranks,
        )

        def validate(model: Any, step: int) -> Mapping[str, float]:
            numbers = wiring.validated(run, model, measuring, validation, choice.choice, step)
            return {**numbers, "eval_score": numbers["eval_accuracy"]}

        weights = {name: weight for weight, name, _ in rewards.terms}
        with wiring.watched(run, validation, weights, rollback=rl.rollback):
            chosen = wiring.trained(
                run, "rl", start, lambda: fit.fit(run, "rl", learner, tokenizer, rollouts, objective, rl, validate)
            )
    return wiring.given_on(run, "rl", learner, tokenizer, chosen)


# ---- Measurement ----------------------------------------------------------------------------------------------------


def measure(config: Config, run: Run, models: Mapping[str, str]) -> dict[str, Any]:
    """Every stage's model on the test problems, by slice: accuracy, form, unparsed; the stages compared; the claims."""
    from postgrad.evals import benchmark
    from postgrad.verify import choice

    problems = wiring.problems(run, "test")
    grades = wiring.graded(config.model, config.eval, run, models, problems, choice.choice, config.seed)
    if not run.ranks.is_main:
        return {}
    how: dict[str, Any] = {"resamples": config.eval.bootstrap, "seed": config.seed}
    scores = {name: benchmark.score(rows, _vote, **how) for name, rows in grades.items()}
    stages = list(pairwise(models))
    slices = sorted({problem.labels["slice"] for problem in problems})
    compared = {
        (part, before, after): benchmark.compare(_of(part, grades[before]), _of(part, grades[after]), **how)
        for part in slices
        for before, after in stages
    }
    form = {name: _form(config, rows) for name, rows in grades.items()}
    last = list(models)[-1]
    finished = run.stages()
    found = benchmark.to_summary(scores, {(a, b): benchmark.compare(grades[a], grades[b], **how) for a, b in stages})
    found["comparisons"] += [
        {
            "name": f"accuracy, {part}: {before} -> {after}",
            "statement": f"accuracy of {after} minus accuracy of {before} on the slice {part}, on the same problems",
            **change.accuracy.to_summary(),
        }
        for (part, before, after), change in compared.items()
    ]
    summary = {
        "recipe": run.recipe,
        "preset": run.preset,
        "seed": config.seed,
        "seconds": {name: stage["seconds"] for name, stage in finished.items() if stage["status"] == "done"},
        **found,
        "slices": {name: _by_slice(scored) for name, scored in scores.items()},
        "form": {name: estimate.to_summary() for name, estimate in form.items()},
        "claims": _claims(config, compared, last, form[last]),
        "data": finished["data"]["result"],
    }
    if config.rl:
        summary["reward_order"] = json.loads((run.folder / "reward_order.json").read_text())
    run.write_json("summary.json", summary)
    return summary


def _by_slice(scored: Any) -> dict[str, Any]:
    return {
        value: estimate.to_summary()
        for label in ("slice", "family")
        for value, estimate in scored.by_label.get(label, {}).items()
    }


def _of(part: str, grades: Sequence[Sequence[Any]]) -> list[Sequence[Any]]:
    return [row for row in grades if row[0].problem.labels["slice"] == part]


def _form(config: Config, grades: Sequence[Sequence[Any]]) -> Any:
    """Share of the traces in the asked form, whatever they answer: reasoning inside its tags, then one answer."""
    from postgrad.evals import stats
    from postgrad.train import reward

    framed = reward.format_thought(config.rl.rewards.min_think) if config.rl else reward.format_thought()
    rows = [[value for value in framed(row) if value is not None] for row in grades]
    return stats.clustered_rate(rows)


def _claims(config: Config, compared: Mapping[tuple[str, str, str], Any], last: str, form: Any) -> list[dict[str, Any]]:
    """Thresholds come from the config, which was written before the run. The multi-step slice is the generated clinic's."""
    goal = config.eval
    rows = [
        (
            "form",
            f"share of {last}'s traces with reasoning in its tags and one answer behind it",
            form,
            goal.min_format,
        )
    ]
    for name, before, after, threshold in (
        ("sft_gain", "base", "sft", goal.min_sft_gain),
        ("rl_gain", "sft", "rl", goal.min_rl_gain),
    ):
        if ("multi_step", before, after) in compared:
            change = compared["multi_step", before, after].accuracy
            rows.append((name, f"accuracy of {after} minus accuracy of {before}, multi-step slice", change, threshold))
    return [
        {
            "id": name,
            "statement": statement,
            "measured": estimate.value,
            "interval": list(estimate.interval),
            "op": ">=",
            "threshold": threshold,
            "n": estimate.n,
            "met": bool(estimate.value >= threshold),
        }
        for name, statement, estimate, threshold in rows
    ]


def plan(config: Config) -> dict[str, str]:
    """What the run will do and need, from the config alone: no data is read and no weights are loaded."""
    planned = wiring.Planned(config.model, _scratch_tokenizer)
    rows = [planned.of_model()]
    if config.school:
        rows.append(planned.of_sft("school", config.school))
    rows += [
        planned.of_sft("sft", config.sft),
        *([planned.of_policy("rl", config.rl, config.eval.batch_size)] if config.rl else []),
        planned.of_ranks(),
    ]
    return {name: text for row in rows for name, text in row.items()}


# ---- Data -----------------------------------------------------------------------------------------------------------


def _clinic(config: Config) -> tuple[list[Example], dict[str, list[Problem]]]:
    from postgrad.domains import clinic

    assert config.data.clinic is not None, "prepare looks before it calls"
    wanted, known = config.data.clinic, clinic.world(config.data.clinic.world)

    def problems(split: clinic.Split, count: int) -> list[Problem]:
        return clinic.problems(known, split, count, seed=config.seed, levels=wanted.levels)

    found = {
        "rl": problems("train", wanted.train),
        "validation": problems("validation", wanted.validation),
        "test": problems("test", wanted.test),
    }
    said = _worked if wanted.traces == "structured" else clinic.answer_only
    return [_example(problem, said(problem)) for problem in found["rl"]], found


def _lessons(config: Config) -> list[Example]:
    """Worked cases of other worlds."""
    from postgrad.domains import clinic

    assert config.data.clinic is not None, "a validator looks"
    wanted = config.data.clinic
    worlds = [clinic.world(wanted.world + 1 + other) for other in range(wanted.school_worlds)]
    return [
        _example(problem, _worked(problem))
        for known in worlds
        for problem in clinic.problems(
            known, "train", -(-wanted.school // len(worlds)), seed=config.seed, levels=wanted.levels
        )
    ]


def _worked(problem: Problem) -> str:
    assert problem.reference is not None, "every case of the clinic has a worked solution"
    return problem.reference


def _example(problem: Problem, response: str) -> Example:
    return Example(problem.prompt, response, id=problem.id, labels=problem.labels)


def _files(config: Config) -> tuple[list[Example], dict[str, list[Problem]]]:
    from postgrad.data import sources, split

    assert config.data.files is not None, "prepare looks before it calls"
    files = config.data.files
    asked = sources.questions(files.rl)
    used = asked if files.rl_share == 1 else split.split(asked, files.rl_share, config.seed).held_out
    divided = split.split(used, files.validation_fraction, config.seed + 1)
    tests = [
        replace(problem, id=f"{Path(file).stem}/{problem.id}", labels={**problem.labels, "slice": Path(file).stem})
        for file in files.test
        for problem in sources.problems(file)
    ]
    examples = [example for file in files.sft for example in sources.examples(file)]
    return examples, {"rl": list(divided.train), "validation": list(divided.held_out), "test": tests}


def _decontaminated(examples: list[Example], found: dict[str, list[Problem]], counts: dict[str, Any]) -> list[Example]:
    """Without what overlaps a test problem or repeats one of validation; takes the same out of found["rl"]."""
    from postgrad.data import overlap

    leaks = {"sft": overlap.overlap(examples, found["test"]), "rl": overlap.overlap(found["rl"], found["test"])}
    for name, leak in leaks.items():
        counts[f"overlap_{name}_test"] = {str(kind): matches for kind, matches in leak.counts().items()}
    found["rl"] = overlap.apart(found["rl"], leaks["rl"])
    kept = overlap.apart(examples, leaks["sft"])
    kept = overlap.apart(kept, overlap.overlap(kept, found["validation"]), frozenset({overlap.Kind.EXACT}))
    if not kept or not found["rl"]:
        raise ValueError("every row of data.files.sft or data.files.rl overlaps a test problem: give others")
    return kept


def _with_system(record: R, config: Config) -> R:
    if config.data.system_prompt is None or record.prompt[0].role == "system":
        return record
    return replace(record, prompt=(Message("system", config.data.system_prompt), *record.prompt))


# ---- Small pieces ---------------------------------------------------------------------------------------------------


def _scratch_tokenizer() -> Any:
    from postgrad.domains import clinic

    return clinic.tokenizer()


def _vote(item: Any) -> str | None:
    """What a trace votes for: its letter."""
    from postgrad.verify import choice

    return choice.chosen(item.trace.text)
