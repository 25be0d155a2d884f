"""Two-stage recipe for mathematics: long SFT for accuracy, then a short GRPO for fewer tokens at equal accuracy.

Paper: arXiv 2507.08267 (Fast-Math-R1), code analokmaus/kaggle-aimo2-fast-math-r1. Where the article and the code differ
(cosine similarity or cosine length, 10 or 20 epochs, tokens or characters) the preset says which it follows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from postgrad import wiring
from postgrad.config import Settings
from postgrad.ranks import Ranks
from postgrad.records import Example, Message, Problem, Status, Trace, read_jsonl, write_jsonl
from postgrad.run import Run
from postgrad.track import Name
from postgrad.train.settings import GrpoSettings, Model, SftSettings

R = TypeVar("R", Example, Problem)


class Arithmetic(Settings):
    """Problems made by postgrad/domains/arithmetic.py, disjoint in operands and templates between splits."""

    train: PositiveInt = Field(description="problems of both stages, as in the paper")
    validation: PositiveInt = 200
    test: PositiveInt = 1000
    min_steps: PositiveInt = 2
    max_steps: PositiveInt = 5
    recheck: float = Field(0.45, ge=0, lt=1, description="probability of one more redundant check after each step")
    traces: PositiveInt = Field(
        2, description="correct traces written for each problem, for the selection to choose from"
    )


class Files(Settings):
    """Local files or folders in any form that postgrad/data/sources.py reads."""

    sft: str | None = Field(None, description="problem, trace and answer rows for stage one; not needed without it")
    rl: str = Field(description="problems with answers for stage two")
    test: str = Field(description="problems with answers to measure on")
    validation_fraction: float = Field(0.05, gt=0, lt=0.5, description="share of the rl rows kept out for validation")


class Selection(Settings):
    """The recipe's choice of hard problems (spec 3.1)."""

    min_trace_tokens: int = Field(0, ge=0, description="keep problems whose trace is longer than this")
    max_pass_rate: float = Field(
        1.0, ge=0, le=1, description="keep problems solved at most this often, where the rate is known"
    )
    min_pass_rate: float = Field(0.0, ge=0, le=1)
    choose: Literal["shortest", "longest", "random"] = Field(
        "shortest", description="which correct trace of a problem to keep"
    )
    keep_unchecked: bool = Field(
        False, description="also train on traces that nothing could check: their rows have no gold answer and no mark"
    )
    decontaminate: bool = Field(True, description="leave out training rows that overlap the test problems")


class Data(Settings):
    arithmetic: Arithmetic | None = None
    files: Files | None = None
    selection: Selection = Selection()
    system_prompt: str | None = Field(None, description="put before every prompt that has no system message of its own")

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.arithmetic is None) == (self.files is None):
            raise ValueError("give exactly one of data.arithmetic (generated) and data.files (your own)")
        return self


class Evaluation(wiring.Measured):
    budgets: tuple[float, ...] = Field(
        (1.0, 0.75, 0.5, 0.37, 0.25), description="token budgets, as shares of the 95th percentile of length after SFT"
    )
    max_accuracy_loss: PositiveFloat = Field(0.02, description="the claim: accuracy falls by no more than this")
    min_token_drop: PositiveFloat = Field(0.2, description="the claim: mean tokens fall by at least this share")
    min_sft_accuracy: PositiveFloat = Field(0.8, description="the claim: pass@1 after SFT")


class Config(Settings):
    seed: int = 0
    report_to: tuple[Name, ...] = Field((), description="trackers besides metrics.jsonl")
    model: Model
    data: Data
    sft: SftSettings | None = Field(description="stage one; null: start stage two from the base model")
    rl: GrpoSettings
    eval: Evaluation

    @model_validator(mode="after")
    def _stage_one_has_data(self) -> Config:
        if self.sft and self.data.files and not self.data.files.sft:
            raise ValueError("give data.files.sft, rows for stage one, or leave stage one out with sft=null")
        return self


# ---- The run --------------------------------------------------------------------------------------------------------


def main(config: Config, run: Run) -> dict[str, Any]:
    """Data, SFT, GRPO, measurement; each a stage that a resumed run does not repeat. Returns summary.json."""
    base = run.stage("base", make_base, config, run)
    run.stage("data", prepare, config, run)
    with run.tracked(config.report_to, config):
        long = run.stage_of_all("sft", supervise, config, run, base) if config.sft else base
        short = run.stage_of_all("rl", shorten, config, run, long)
    models = {"base": base, "sft": long, "rl": short} if config.sft else {"sft": base, "rl": short}
    summary: dict[str, Any] = run.stage_of_all("eval", measure, config, run, models)
    return summary


def prepare(config: Config, run: Run) -> dict[str, Any]:
    """Choose, clean and check the data; write data/{sft,rl,validation,test}.jsonl and return the counts."""
    from postgrad import chat
    from postgrad.data import overlap, select, text
    from postgrad.verify import gold, maths

    tokenizer = wiring.tokenizer(config.model, _scratch_tokenizer)
    # A tokenizer without a template is told of now, not after the data has been checked.
    chat.prompt_text(tokenizer, (Message("user", "1 + 1"),))
    candidates, rl, validation, test = _arithmetic(config) if config.data.arithmetic else _files(config)
    chosen = config.data.selection

    def count(text: str) -> int:
        return len(tokenizer(text, add_special_tokens=False)["input_ids"])

    def judge(problem: Problem, trace: str) -> bool | None:
        run.stop_if_asked("while checking traces")
        verdict = maths.boxed(problem, Trace(problem.id, trace, (), (), "stop"))
        return None if verdict.status is Status.UNCHECKED else verdict.status is Status.CORRECT

    selected = select.select(
        select.judged(candidates, judge),
        count,
        choose=chosen.choose,
        min_trace_tokens=chosen.min_trace_tokens,
        min_pass_rate=chosen.min_pass_rate,
        max_pass_rate=chosen.max_pass_rate,
        keep_unchecked=chosen.keep_unchecked,
        seed=config.seed,
    )
    examples = list(selected.examples)
    # By their text: ids of different files may be the same and mean another problem.
    traces = {text.normal(text.prompt_text(example.prompt)): example.response for example in examples}
    counts: dict[str, Any] = {"selection": {name: getattr(selected.counts, name) for name in selected.counts.__slots__}}
    leaks = {"sft": overlap.overlap(examples, test), "rl": overlap.overlap(rl, test)}
    for name, found in leaks.items():
        counts[f"overlap_{name}_test"] = {str(kind): matches for kind, matches in found.counts().items()}
    if chosen.decontaminate:
        examples, rl = overlap.apart(examples, leaks["sft"]), overlap.apart(rl, leaks["rl"])
        if not rl:
            raise ValueError(
                "every rl problem overlaps a test problem: give others (or data.selection.decontaminate=false)"
            )
    # What validates must not be trained on, in whatever words, spaces and letter cases it is repeated.
    examples = overlap.apart(examples, overlap.overlap(examples, validation), frozenset({overlap.Kind.EXACT}))
    golds = {
        name: gold.keep_checkable(wiring.one_by_one(run, f"gold answers, {name}", rows), maths.boxed)
        for name, rows in (("rl", rl), ("validation", validation), ("test", test))
    }
    for name, checked in golds.items():
        for rejected in checked.rejected:
            run.event("data", 0, "warning", f"{name}: problem {rejected.problem.id!r} left out: {rejected.reason}")
        if not checked.kept:
            raise ValueError(
                f"no {name} problem has a gold answer that can be checked: see events.jsonl for the reason of each"
            )
    if config.sft and not examples:
        became = ", ".join(f"{number} {name}" for name, number in counts["selection"].items() if number)
        raise ValueError(
            f"no example is left for stage one after selection ({became}) and decontamination: loosen data.selection; "
            "unchecked rows want a gold answer, a column `correct`, or data.selection.keep_unchecked=true"
        )

    def ready(problem: Problem) -> Problem:
        trace = traces.get(text.normal(text.prompt_text(problem.prompt)))
        return _with_system(replace(problem, reference=problem.reference or trace), config)

    problems = {name: [ready(problem) for problem in checked.kept] for name, checked in golds.items()}
    _check_stage_two(config, run.ranks, problems["rl"], tokenizer)
    folder = run.folder / "data"
    folder.mkdir(exist_ok=True)
    write_jsonl(folder / "sft.jsonl", (_with_system(example, config) for example in examples))
    for name, kept in problems.items():
        write_jsonl(folder / f"{name}.jsonl", kept)
    counts |= {"sft": len(examples)} | {name: len(kept) for name, kept in problems.items()}
    counts |= {f"{name}_unchecked_gold": len(checked.rejected) for name, checked in golds.items()}
    return counts


def make_base(config: Config, run: Run) -> str:
    """What both stages start from."""
    return wiring.base(config.model, run, _scratch_tokenizer, config.seed)


def supervise(config: Config, run: Run, base: str) -> str:
    """Stage one: the whole schedule on the chosen traces; goes on from the checkpoint with the lowest validation loss."""
    from postgrad.train import fit, loss, source
    from postgrad.verify import maths

    assert config.sft is not None, "main calls this stage only where there is one"
    model, tokenizer = wiring.to_train(config.model, run, base, config.seed)
    examples = list(read_jsonl(Example, run.folder / "data/sft.jsonl"))
    # Validation traces cost no test problem: problems kept out of both stages, with their references as responses.
    validation = wiring.problems(run, "validation")
    held_out = [
        Example(problem.prompt, problem.reference, id=problem.id) for problem in validation if problem.reference
    ]
    documents, dropped = source.supervised(tokenizer, examples, config.sft)
    unseen = source.supervised(tokenizer, held_out, config.sft)[0] if held_out else []
    if dropped:
        run.event(
            "sft",
            0,
            "warning",
            f"{dropped} examples are longer than sft.max_length={config.sft.max_length} and were left out",
        )
    packed = source.Packed(documents, config.sft, seed=config.seed)

    def validate(model: Any, step: int) -> Mapping[str, float]:
        sampler = wiring.measuring(config.eval, tokenizer, config.seed)
        numbers = wiring.validated(run, model, sampler, validation, maths.boxed, step)
        if unseen:
            numbers["eval_loss"] = fit.mean_loss(model, unseen, ranks=run.ranks)
        return {**numbers, "eval_score": -numbers["eval_loss"] if unseen else numbers["eval_accuracy"]}

    with wiring.watched(run, validation):
        fitted = fit.fit(run, "sft", model, tokenizer, packed, loss.likelihood, config.sft, validate)
    return wiring.given_on(run, "sft", model, tokenizer, str(fitted.best.relative_to(run.folder)))


def shorten(config: Config, run: Run, start: str) -> str:
    """Stage two: GRPO from stage one's model; goes on from the shortest-spoken checkpoint that is still as accurate."""
    from postgrad.train import advantage, fit, source
    from postgrad.verify import maths

    rl = config.rl
    model, tokenizer = wiring.to_train(config.model, run, start, config.seed)
    problems, validation = wiring.problems(run, "rl"), wiring.problems(run, "validation")
    reference = wiring.load(config.model, run, start, run.ranks)[0] if rl.beta else None
    rewards = wiring.rewards(rl, run, problems)
    credit = advantage.group_std if rl.scale_rewards == "group" else advantage.group_mean
    objective = wiring.objective(rl)
    asked = [*problems, *validation]
    with wiring.samplers(config.model, rl, config.eval, run, start, tokenizer, asked, config.seed) as (
        training,
        measuring,
    ):
        rollouts = source.Rollouts(
            problems,
            training,
            maths.boxed,
            rewards,
            credit,
            rl,
            tokenizer,
            seed=config.seed,
            reference=reference,
            ranks=run.ranks,
        )
        before = wiring.validated(run, model, measuring, validation, maths.boxed, 0)

        def validate(model: Any, step: int) -> Mapping[str, float]:
            numbers = wiring.validated(run, model, measuring, validation, maths.boxed, step)
            kept = numbers["eval_accuracy"] >= before["eval_accuracy"] - config.eval.max_accuracy_loss
            # Among checkpoints as accurate as the start the shortest-spoken one is best; any of them beats all the others.
            score = 1 - numbers["eval_tokens"] / rl.max_completion_length if kept else numbers["eval_accuracy"] - 1
            return {**numbers, "eval_score": score}

        weights = {name: weight for weight, name, _ in rewards.terms}
        with wiring.watched(run, validation, weights, rollback=rl.rollback):
            chosen = wiring.trained(
                run, "rl", start, lambda: fit.fit(run, "rl", model, tokenizer, rollouts, objective, rl, validate)
            )
    return wiring.given_on(run, "rl", model, tokenizer, chosen)


def measure(config: Config, run: Run, models: Mapping[str, str]) -> dict[str, Any]:
    """Every model on the test problems, the comparison of stage two with stage one, and the claims."""
    from postgrad.evals import benchmark
    from postgrad.train.model import load_tokenizer
    from postgrad.verify import maths

    problems = wiring.problems(run, "test")
    grades = wiring.graded(config.model, config.eval, run, models, problems, maths.boxed, config.seed)
    if not run.ranks.is_main:
        return {}
    how: dict[str, Any] = {"resamples": config.eval.bootstrap, "seed": config.seed}
    scores = {name: benchmark.score(rows, _vote, **how) for name, rows in grades.items()}
    compared = {
        (a, b): benchmark.compare(grades[a], grades[b], **how)
        for a, b in (("base", "sft"), ("sft", "rl"))
        if a in grades
    }
    lengths = sorted(len(item.trace.token_ids) for row in grades["sft"] for item in row)
    longest = lengths[int(0.95 * (len(lengths) - 1))]
    tokenizer = load_tokenizer(wiring.folder(run, models["rl"]))
    budgets = benchmark.budget_comparison(
        grades["sft"],
        grades["rl"],
        {max(1, round(share * longest)) for share in config.eval.budgets},
        maths.boxed,
        wiring.measuring(config.eval, tokenizer, config.seed).truncate,
        **how,
    )
    run.write_rows("evals/samples.jsonl", _side_by_side(tokenizer, grades))
    stages = run.stages()
    order = run.folder / "reward_order.json"
    summary = {
        "recipe": run.recipe,
        "preset": run.preset,
        "seed": config.seed,
        "seconds": {name: stage["seconds"] for name, stage in stages.items() if stage["status"] == "done"},
        **benchmark.to_summary(scores, compared, budgets),
        "claims": _claims(config, scores["sft"], compared["sft", "rl"]),
        "reward_order": json.loads(order.read_text()),
        "data": stages["data"]["result"],
    }
    run.write_json("summary.json", summary)
    return summary


def _claims(config: Config, sft: Any, change: Any) -> list[dict[str, Any]]:
    """Thresholds come from the config, which was written before the run."""
    goal = config.eval
    rows = [
        (
            "sft_accuracy",
            "pass@1 after SFT, held-out problems",
            sft.accuracy,
            sft.accuracy.value,
            goal.min_sft_accuracy,
        ),
        (
            "tokens_drop",
            "share of mean tokens that GRPO saves",
            change.token_drop,
            change.token_drop.value,
            goal.min_token_drop,
        ),
        (
            "accuracy_change",
            "change of accuracy by GRPO; the lower end of its interval is what must reach the threshold",
            change.accuracy,
            change.accuracy.interval[0],
            -goal.max_accuracy_loss,
        ),
    ]
    return [
        {
            "id": name,
            "statement": statement,
            "measured": estimate.value,
            "interval": list(estimate.interval),
            "op": ">=",
            "threshold": threshold,
            "n": estimate.n,
            "met": bool(decisive >= threshold),
        }
        for name, statement, estimate, decisive, threshold in (rows if config.sft else rows[1:])
    ]


def plan(config: Config) -> dict[str, str]:
    """What the run will do and need, from the config alone: no data is read and no weights are loaded."""
    planned = wiring.Planned(config.model, _scratch_tokenizer)
    rows = [planned.of_model(), planned.of_policy("rl", config.rl, config.eval.batch_size), planned.of_ranks()]
    if config.sft:
        rows.insert(1, planned.of_sft("sft", config.sft))
    return {name: text for row in rows for name, text in row.items()}


# ---- Small pieces ---------------------------------------------------------------------------------------------------


def _check_stage_two(config: Config, ranks: Ranks, problems: Sequence[Problem], tokenizer: Any) -> None:
    """Raises ValueError for what stage two would refuse, which would be hours later."""
    from postgrad.train import reward

    rl = config.rl
    wiring.check_sampler(rl, config.eval, ranks)
    if len(problems) < rl.prompts_per_step:
        raise ValueError(f"{len(problems)} rl problems are fewer than rl.prompts_per_step={rl.prompts_per_step}")
    reward.from_settings(rl.rewards, rl.max_completion_length, problems)
    wiring.check_prompts(rl, problems, tokenizer)


def _arithmetic(config: Config) -> tuple[list[Any], list[Problem], list[Problem], list[Problem]]:
    from postgrad.data.select import Candidate
    from postgrad.domains import arithmetic

    assert config.data.arithmetic is not None, "main looks before it calls"
    wanted = config.data.arithmetic

    def problems(split: arithmetic.Split, count: int) -> list[Problem]:
        return arithmetic.problems(
            split, count, min_steps=wanted.min_steps, max_steps=wanted.max_steps, seed=config.seed
        )

    def traces(problem: Problem, count: int) -> list[str]:
        return arithmetic.traces(problem, count, recheck=wanted.recheck, seed=config.seed)

    train = problems("train", wanted.train)
    validation = [
        replace(problem, reference=traces(problem, 1)[0]) for problem in problems("validation", wanted.validation)
    ]
    candidates = [
        Candidate(problem, written := tuple(traces(problem, wanted.traces)), (None,) * len(written))
        for problem in train
    ]
    return candidates, list(train), validation, problems("test", wanted.test)


def _files(config: Config) -> tuple[list[Any], list[Problem], list[Problem], list[Problem]]:
    from postgrad.data import sources, split

    assert config.data.files is not None, "main looks before it calls"
    files = config.data.files
    divided = split.split(sources.problems(files.rl), files.validation_fraction, config.seed)
    candidates = sources.candidates(files.sft) if files.sft else []
    return candidates, list(divided.train), list(divided.held_out), sources.problems(files.test)


def _with_system(record: R, config: Config) -> R:
    if config.data.system_prompt is None or record.prompt[0].role == "system":
        return record
    return replace(record, prompt=(Message("system", config.data.system_prompt), *record.prompt))


def _scratch_tokenizer() -> Any:
    from postgrad.domains import arithmetic

    return arithmetic.tokenizer()


def _vote(item: Any) -> str | None:
    """What a trace votes for: its boxed answer, spaces aside."""
    from postgrad.verify import extract

    answer = extract.boxed(item.trace.text)
    return None if answer is None else "".join(answer.split())


def _side_by_side(tokenizer: Any, grades: Mapping[str, Any], problems: int = 8) -> list[dict[str, Any]]:
    """The first test problems as every model answered them, token by token."""
    return [
        {
            "problem_id": item.problem.id,
            "prompt": item.problem.prompt[-1].content,
            "gold": item.problem.gold,
            "model": name,
            "status": item.verdict.status,
            "tokens": [tokenizer.decode([token]) for token in item.trace.token_ids],
            "logprobs": list(item.trace.logprobs),
        }
        for name, rows in grades.items()
        for item in (row[0] for row in rows[:problems])
    ]
