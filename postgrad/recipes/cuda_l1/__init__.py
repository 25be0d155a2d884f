"""CUDA-L1: kernels made faster by contrastive reinforcement learning, beside plain GRPO from the same model.

Paper: arXiv 2507.14111. Three stages: supervised fine-tuning on successes gathered from several samplers; self-supervised rounds, which
learn from their own successes alone; and GRPO with the speed-up as reward, its prompts showing earlier codes with their scores. No
training code was published: what the article leaves out is ours, and the presets mark it.

    pretrain         a model from nothing reads texts that nobody judged, right and wrong: what a base model knows already
    gather           20 tries a task and sampler, two successes kept     -> data/sft.jsonl, archives/gather.sqlite
    sft              likelihood of those
    self_supervised  r (1 or 0) times the gradient of log p; no baseline -> archives/self_supervised.sqlite
    grpo             the speed-up, smoothed; plain prompts               -> archives/grpo.sqlite
    contrastive      the same with earlier codes in the prompt           -> archives/contrastive.sqlite
    eval             each model with as many evaluations of the held-out tasks

Every verdict is kept (verdicts.jsonl): a code is judged once in the life of a run. What could not be checked is no reward, and is counted.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from postgrad import wiring
from postgrad.config import Settings
from postgrad.grading import grade
from postgrad.protocols import Sampler, Verifier
from postgrad.records import Example, Graded, Message, Problem, Status, Trace, Verdict, read_jsonl, write_jsonl
from postgrad.run import Failed, Run, read_lines
from postgrad.track import Name
from postgrad.train.settings import Model, PolicySettings, SftSettings

Strategy = Literal["buckets", "islands", "proportional", "uniform", "nothing"]
ARMS = ("grpo", "contrastive")
READ_A_COMPARISON = 4
"""Of so many tasks that are read about, one is compared."""


class Loops(Settings):
    """Tasks of postgrad/domains/loops: C++ kernels for one core. Training and test are disjoint in compositions and in constants."""

    families: tuple[str, ...] | None = Field(None, description="some of the domain's families; null: all")
    train: PositiveInt
    validation: PositiveInt = Field(14, description="of the training split, in no stage's training")
    test: PositiveInt
    read: int = Field(
        0,
        ge=0,
        description="further tasks of the training split that a model from nothing reads about, unjudged: two texts of each, a comparison of some",
    )
    compared: int = Field(
        2,
        ge=0,
        description="of each gathered task, rows of SFT that answer a contrastive prompt of gathered codes with a faster one",
    )


class KernelBench(Settings):
    """Files in KernelBench's form. As in the article, what is trained on is what is measured on."""

    folder: str = Field(description="a checkout of KernelBench, or its folder of levels")
    levels: tuple[PositiveInt, ...] = (1, 2, 3)
    backend: Literal["torch", "triton", "cuda"] = "cuda"


class Data(Settings):
    loops: Loops | None = None
    kernel_bench: KernelBench | None = None

    @model_validator(mode="after")
    def _one_source(self) -> Data:
        if (self.loops is None) == (self.kernel_bench is None):
            raise ValueError("give exactly one of data.loops (generated) and data.kernel_bench (a folder)")
        return self


class Endpoint(Settings):
    """A model behind an OpenAI-compatible interface."""

    url: str
    name: str = Field(description="of the model, as the server calls it")
    key_variable: str | None = Field(None, description="the environment variable that holds the key")
    temperature: float = Field(1.0, ge=0)
    max_tokens: PositiveInt = 8192


class Gather(Settings):
    """Stage one's data: samplers are asked for faster kernels until so many are right."""

    teachers: tuple[str, ...] = Field((), description="scripted ones of data.loops, each with other skills")
    endpoints: tuple[Endpoint, ...] = ()
    tasks: PositiveInt | None = Field(None, description="of the training tasks, the first so many; null: all")
    tries: PositiveInt = Field(20, description="of each task and sampler, at most")
    keep: PositiveInt = Field(2, description="different successes of each task and sampler")

    @model_validator(mode="after")
    def _someone_is_asked(self) -> Gather:
        if not (self.teachers or self.endpoints):
            raise ValueError("give gather.teachers (scripted, for data.loops) or gather.endpoints")
        return self


class Judging(Settings):
    """How kernels are judged and timed: postgrad/kernels/evaluate.py."""

    how: Literal["quick", "full"] = Field(
        "quick",
        description="quick: few rounds at small sizes in CPU time, for training on loops; full: every check, at the tasks' own sizes",
    )
    seconds: PositiveFloat = Field(
        2.0, description="of timing one kernel, at most; a quiet machine needs a quarter of a second of quick's"
    )
    at_once: PositiveInt = Field(2, description="tasks judged side by side by quick, which counts CPU time")
    alive: PositiveInt = Field(16, description="references kept running")


class Contrast(Settings):
    strategy: Strategy = Field("buckets", description="which earlier codes a prompt shows; nothing: best-of-N")
    exemplars: PositiveInt = Field(2, description="N, codes in a prompt")
    seeded: bool = Field(True, description="the archive begins with the successes of the stages before")


class Smoothing(Settings):
    """r = clip((r - mean) / std, -clip, clip) over the running rewards: postgrad/kernels/guard/smooth.py."""

    scope: Literal["per_task", "overall"] = "per_task"
    clip: PositiveFloat = 1.5
    window: int = Field(1000, ge=2, description="rewards after which the mean and the spread are exponential")
    refresh_every: PositiveInt = Field(
        100, description="rewards between refreshes of what is subtracted and divided by"
    )


class Evaluation(wiring.Measured):
    """`samples` are those of one round."""

    rounds: PositiveInt = Field(2, description="a contrastive prompt shows what the task's rounds before it gave")
    shown: int = Field(6, ge=0, description="kernels in the report, one of a family")
    min_correct_gain: float = Field(
        0.0, description="the claim: self-supervised over SFT, difference of the shares that are right"
    )
    min_speed_ratio: PositiveFloat = Field(
        1.0, description="the claim: contrastive over plain GRPO, ratio of geometric means"
    )


class Config(Settings):
    seed: int = 0
    report_to: tuple[Name, ...] = Field((), description="trackers besides metrics.jsonl")
    model: Model
    data: Data
    gather: Gather
    judging: Judging = Judging()
    pretrain: SftSettings | None = Field(
        None, description="of a model from nothing, on texts of data.loops.read; null: none"
    )
    sft: SftSettings
    self_supervised: PolicySettings
    rl: PolicySettings = Field(description="of both arms, so that they take as many evaluations")
    smoothing: Smoothing = Smoothing()
    contrast: Contrast = Contrast()
    eval: Evaluation

    @model_validator(mode="after")
    def _fits(self) -> Config:
        if self.model.adapter is not None:
            raise ValueError("model.adapter: this recipe trains all weights; set it to null")
        if self.gather.teachers and not self.data.loops:
            raise ValueError(
                "gather.teachers know the tasks of data.loops only: give gather.endpoints for data.kernel_bench"
            )
        if self.data.kernel_bench and self.judging.how == "quick":
            raise ValueError("judging.how=quick is for data.loops, whose tasks have small sizes: set judging.how=full")
        if self.pretrain and not (
            self.model.scratch and self.data.loops and self.data.loops.read and self.gather.teachers
        ):
            raise ValueError(
                "pretrain is for a model from nothing that reads the teachers' texts: give model.scratch, data.loops.read and gather.teachers, or "
                "set pretrain=null"
            )
        room = self.contrast.exemplars * self.rl.max_completion_length
        if self.contrast.strategy != "nothing" and self.rl.max_prompt_length <= room:
            raise ValueError(
                f"rl.max_prompt_length={self.rl.max_prompt_length} has no room for {self.contrast.exemplars} codes of "
                f"rl.max_completion_length={self.rl.max_completion_length} tokens and the task: raise it, or lower contrast.exemplars"
            )
        return self


# ---- The run --------------------------------------------------------------------------------------------------------


def main(config: Config, run: Run) -> dict[str, Any]:
    """Tasks, gathering, three stages with two arms of the third, measurement. Returns summary.json."""
    if run.ranks.size > 1:
        raise ValueError(f"cuda_l1 runs in one process, and {run.ranks.size} were started: leave torchrun out")
    tasks_of(config)  # what cannot be worked on is told before a model is made or loaded
    base = run.stage("base", make_base, config, run)
    run.stage("data", prepare, config, run)
    run.stage("gather", gather, config, run)
    with run.tracked(config.report_to, config):
        read = run.stage("pretrain", pretrain, config, run, base) if config.pretrain else base
        taught = run.stage("sft", supervise, config, run, read)
        steady = run.stage("self_supervised", repeat, config, run, taught)
        plain = run.stage("grpo", reinforce, config, run, steady, "grpo")
        contrastive = run.stage("contrastive", reinforce, config, run, steady, "contrastive")
    models = {"sft": taught, "self_supervised": steady, "evolved": steady, "grpo": plain, "contrastive": contrastive}
    summary: dict[str, Any] = run.stage("eval", measure, config, run, models)
    return summary


def make_base(config: Config, run: Run) -> str:
    """What SFT starts from."""
    return wiring.base(config.model, run, _own_tokenizer, config.seed)


def prepare(config: Config, run: Run) -> dict[str, Any]:
    """Make or read the tasks and admit them; write data/{train,validation,test}.jsonl and return the counts."""
    known = tasks_of(config)
    tokenizer = wiring.tokenizer(config.model, _own_tokenizer)
    everything = [problem for split in known.splits.values() for problem in split]
    longest = max(len(_prompt_ids(tokenizer, problem)) for problem in everything)
    # A shown code is an accepted answer or the reference, which is part of the plain prompt.
    most = longest + config.contrast.exemplars * config.rl.max_completion_length
    if config.contrast.strategy != "nothing" and most > config.rl.max_prompt_length:
        raise ValueError(
            f"a contrastive prompt may have {most} tokens (a task of {longest}, and {config.contrast.exemplars} codes of at most "
            f"{config.rl.max_completion_length}): raise rl.max_prompt_length={config.rl.max_prompt_length} to that"
        )
    wiring.check_prompts(config.self_supervised, known.splits["train"], tokenizer)
    for name, stage in (("self_supervised", config.self_supervised), ("rl", config.rl)):
        if len(known.splits["train"]) < stage.prompts_per_step:
            raise ValueError(
                f"{len(known.splits['train'])} training tasks are fewer than {name}.prompts_per_step={stage.prompts_per_step}"
            )
    refused = admission(run, known)
    for name, why in refused.items():
        run.event("data", 0, "warning", f"task {name!r} is left out: {why}")
    splits = {name: [one for one in rows if one.id not in refused] for name, rows in known.splits.items()}
    folder = run.folder / "data"
    folder.mkdir(exist_ok=True)
    for split, problems in splits.items():
        write_jsonl(folder / f"{split}.jsonl", problems)
    (run.folder / "archives").mkdir(exist_ok=True)
    families = {split: dict(Counter(map(_family, problems))) for split, problems in splits.items()}
    return {split: len(problems) for split, problems in splits.items()} | {"refused": refused, "families": families}


def pretrain(config: Config, run: Run, base: str) -> str:
    """A model from nothing learns the language: texts about further tasks, right or wrong as they come, that nobody has judged."""
    from postgrad.domains import loops
    from postgrad.domains.loops import rows
    from postgrad.train import fit, loss, source

    assert config.pretrain is not None, "main calls this stage only where there is one"
    known = prepared(config, run)
    model, tokenizer = wiring.load(config.model, run, base)
    made = [one for name, one in known.made.items() if name not in known.tasks]
    teachers = [loops.Teacher(name, made, lambda _: (), seed=config.seed) for name in config.gather.teachers]
    texts = [
        Example(loops.plain(one.task), loops.answer(teacher.code(one, 0)), id=f"{one.task.id} {teacher.name}")
        for place, one in enumerate(made)
        for teacher in (teachers[(place + turn) % len(teachers)] for turn in range(2))
    ]
    # Few of these: they are long, and copying a task's constants is learnt from the short ones first.
    for one in made[::READ_A_COMPARISON]:
        texts += rows.claimed(one, most=config.contrast.exemplars, seed=config.seed)
    packed = source.Packed(source.supervised(tokenizer, texts, config.pretrain)[0], config.pretrain, seed=config.seed)

    def validate(model: Any, step: int) -> Mapping[str, float]:  # noqa: ARG001  as every validation
        return {"eval_score": float(step)}

    fitted = fit.fit(run, "pretrain", model, tokenizer, packed, loss.likelihood, config.pretrain, validate)
    return str(fitted.best.relative_to(run.folder))


def gather(config: Config, run: Run) -> dict[str, Any]:
    """Ask every sampler about every task until enough is right; keep every attempt, and write the rows of SFT."""
    from postgrad.kernels import archive
    from postgrad.kernels.gather import successes, until_right

    wanted = config.gather
    known = prepared(config, run)
    asked = [*known.splits["train"][: wanted.tasks], *known.splits["validation"]]
    kept: dict[str, list[Graded]] = {problem.id: [] for problem in asked}
    counts: dict[str, Any] = {}
    with (
        judge(config, run, known, "gather") as verifier,
        archive.opened(run.folder / "archives" / "gather.sqlite") as codes,
        _samplers(config, run, known) as samplers,
    ):
        codes.forget(0)
        keeper = _evolving(config, run, known, codes, "nothing", "gather")
        for number, (name, sampler) in enumerate(samplers.items()):
            run.progress.start(f"gather {name}", len(asked), "task")
            attempts = until_right(
                sampler, asked, verifier, known.parse, keep=wanted.keep, tries=wanted.tries, asked=_gathering(run)
            )
            keeper.start_with([item for row in attempts for item in row], name, number)
            found = [successes(row, known.parse) for row in attempts]
            for row in found:
                for item in row[: wanted.keep]:
                    kept[item.problem.id].append(item)
            counts[name] = {
                "tries": sum(map(len, attempts)),
                **Counter(str(item.verdict.status) for row in attempts for item in row),
                "kept": sum(min(len(row), wanted.keep) for row in found),
            }
            run.progress.finish()
    rows = {
        split: _rows(config, known, [kept[one.id] for one in known.splits[split] if one.id in kept])
        for split in ("train", "validation")
    }
    if not rows["train"]:
        raise Failed(
            "no sampler wrote a kernel that is right: look into archives/gather.sqlite, and give others in gather"
        )
    write_jsonl(run.folder / "data" / "sft.jsonl", rows["train"])
    write_jsonl(run.folder / "data" / "sft_validation.jsonl", rows["validation"])
    return {"samplers": counts, "sft": len(rows["train"]), "sft_validation": len(rows["validation"])}


def supervise(config: Config, run: Run, base: str) -> str:
    """Stage one; goes on from the checkpoint with the lowest loss on validation tasks."""
    from postgrad.train import fit, loss, source

    model, tokenizer = wiring.load(config.model, run, base)
    rows = {
        name: list(read_jsonl(Example, run.folder / "data" / f"{name}.jsonl")) for name in ("sft", "sft_validation")
    }
    documents, dropped = source.supervised(tokenizer, rows["sft"], config.sft)
    unseen = source.supervised(tokenizer, rows["sft_validation"], config.sft)[0] if rows["sft_validation"] else []
    if dropped:
        told = f"{dropped} examples are longer than sft.max_length={config.sft.max_length} and were left out"
        run.event("sft", 0, "warning", told)
    packed = source.Packed(documents, config.sft, seed=config.seed)

    def validate(model: Any, step: int) -> Mapping[str, float]:
        if not unseen:
            return {"eval_score": float(step)}
        measured = fit.mean_loss(model, unseen)
        return {"eval_loss": measured, "eval_score": -measured}

    fitted = fit.fit(run, "sft", model, tokenizer, packed, loss.likelihood, config.sft, validate)
    return str(fitted.best.relative_to(run.folder))


def repeat(config: Config, run: Run, start: str) -> str:
    """Stage two: sample, judge, learn from what is right. The reward is 1 or 0 and is the advantage: a failure has no gradient."""
    from postgrad.train import advantage, reward

    rewards = reward.weighted((1.0, "accuracy", reward.accuracy))
    return _learn(config, run, start, "self_supervised", config.self_supervised, "nothing", rewards, advantage.as_given)


def reinforce(config: Config, run: Run, start: str, arm: str) -> str:
    """Stage three, or its plain twin: GRPO on smoothed speed-ups. The arms differ in their prompts alone."""
    from postgrad.kernels.guard import smooth
    from postgrad.train import advantage, reward

    wanted = config.smoothing.model_dump(exclude={"scope"})
    smoother = (smooth.per_task if config.smoothing.scope == "per_task" else smooth.overall)(**wanted)

    def speedup(group: Sequence[Graded]) -> list[float | None]:
        return smoother(group[0].problem.id, reward.score(group))

    credit = advantage.group_std if config.rl.scale_rewards == "group" else advantage.group_mean
    strategy = config.contrast.strategy if arm == "contrastive" else "nothing"
    rewards = reward.weighted((1.0, "speedup", speedup))
    return _learn(config, run, start, arm, config.rl, strategy, rewards, credit, smoother)


def _learn(
    config: Config,
    run: Run,
    start: str,
    stage: str,
    settings: PolicySettings,
    strategy: Strategy,
    rewards: Any,
    credit: Any,
    smoother: Any = None,
) -> str:
    """Rounds of sampling, judging and learning; every code goes into the stage's archive. Ends with the last checkpoint that
    validation likes best."""
    from postgrad.evals import speed
    from postgrad.kernels import archive
    from postgrad.kernels.guard.monitor import Monitor
    from postgrad.sample.engine import Engine
    from postgrad.train import fit, loss, source

    known = prepared(config, run)
    model, tokenizer = wiring.load(config.model, run, start)
    reference = wiring.load(config.model, run, start)[0] if settings.beta else None
    objective = loss.policy(
        epsilon_low=settings.epsilon,
        epsilon_high=settings.epsilon if settings.epsilon_high is None else settings.epsilon_high,
        beta=settings.beta,
        temperature=settings.temperature,
    )
    monitor = Monitor()
    with (
        judge(config, run, known, stage, monitor) as verifier,
        archive.opened(run.folder / "archives" / f"{stage}.sqlite") as codes,
    ):
        prompter = _evolving(config, run, known, codes, strategy, stage)
        if config.contrast.seeded and stage in ARMS:
            _seed(run, known, prompter)
        rollouts = source.Rollouts(
            known.splits["train"],
            Engine(tokenizer, wiring.rolled_out(settings, config.eval.batch_size), seed=config.seed),
            verifier,
            rewards,
            credit,
            settings,
            tokenizer,
            seed=config.seed,
            reference=reference,
            prompter=prompter,
        )

        def validate(model: Any, step: int) -> Mapping[str, float]:
            problems = known.splits["validation"]
            if not problems:
                return {"eval_score": float(step)}
            rows = ask(config, run, known, verifier, model, tokenizer, problems, strategy, 1, f"validation-{stage}")
            found = speed.measures(rows, resamples=100)
            numbers = {name: one.value for name, one in found.items() if one is not None}
            if "correct" not in numbers:
                raise Failed(
                    f"none of {len(problems)} validation tasks' answers could be checked: run `postgrad doctor`"
                )
            score = numbers["correct"] if stage == "self_supervised" else numbers["kept"]
            return {f"eval_{name}": value for name, value in numbers.items()} | {"eval_score": score}

        feed = Watched(rollouts, smoother, monitor, partial(run.event, stage))
        fitted = fit.fit(run, stage, model, tokenizer, feed, objective, settings, validate)
    return str(fitted.best.relative_to(run.folder))


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
        "headline": _headline(found, compared),
        "models": {
            name: benchmark.score(rows, **how).to_summary() | speed.summary(found[name])
            for name, rows in grades.items()
        },
        "comparisons": compared,
        "budgets": [],
        "claims": _claims(config, compared),
        "kernels": {
            "stages": _stage_table(found),
            "families": _family_table(grades),
            "shown": _shown(config, known, grades),
            "costs": _cost_table(run),
        },
        "data": stages["data"]["result"] | stages["gather"]["result"],
    }
    run.write_json("summary.json", summary)
    return summary


# ---- Tasks and who judges them --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Tasks:
    """What a run works on, made anew from the config wherever it is needed."""

    tasks: Mapping[str, Any]
    """Problem's id -> kernels.task.Task."""
    splits: Mapping[str, list[Problem]]
    """train, validation, test; prompts are the plain ones, gold is the reference."""
    write: Callable[[Problem, Sequence[Any]], tuple[Message, ...]]
    """The prompt that shows these exemplars."""
    parse: Callable[[str], str | None]
    backend: Literal["torch", "triton", "cuda", "cpp"]
    made: Mapping[str, Any] = field(default_factory=dict)
    """Of loops: problem's id -> what it was made from, those that are only read among them."""


def tasks_of(config: Config) -> Tasks:
    """Raises ValueError for families that there are not, too many tasks, a folder without tasks, a backend that is not judged."""
    if config.data.loops is not None:
        return _loops(config, config.data.loops)
    assert config.data.kernel_bench is not None, "Data has exactly one source"
    return _kernel_bench(config.data.kernel_bench)


def prepared(config: Config, run: Run) -> Tasks:
    """Those that were admitted."""
    splits = {name: wiring.problems(run, name) for name in ("train", "validation", "test")}
    return replace(tasks_of(config), splits=splits)


def admission(run: Run, known: Tasks) -> dict[str, str]:
    """Tasks that cannot tell work from none, or whose reference does not run: id -> why."""
    from postgrad.kernels.evaluate import Evaluator, Settings
    from postgrad.kernels.reference import ReferenceFailed

    refused: dict[str, str] = {}
    names = dict.fromkeys(problem.id for split in known.splits.values() for problem in split)
    run.progress.start("admission", len(names), "task")
    for done, name in enumerate(names, start=1):
        run.stop_if_asked("while tasks are admitted")
        with Evaluator(known.tasks[name], Settings(cache=run.folder / "builds")) as evaluator:
            try:
                found = evaluator.admission()
            except ReferenceFailed as error:  # boundary: this task is left out, by name
                refused[name] = str(error)
            else:
                if found:
                    refused[name] = "; ".join(f"{one.reason.name}: {one.evidence}" for one in found)
        run.progress.update(done)
    run.progress.finish()
    return refused


def _loops(config: Config, wanted: Loops) -> Tasks:
    from postgrad.domains import loops
    from postgrad.kernels.task import of_loop

    families = tuple(loops.FAMILIES) if wanted.families is None else wanted.families
    asked = wanted.train + wanted.validation
    own = loops.tasks("train", asked + wanted.read, seed=config.seed, families=families)
    test = loops.tasks("test", wanted.test, seed=config.seed, families=families)
    made = {one.task.id: one for one in (*own, *test)}

    def task(one: Any) -> Any:
        oracle = partial(loops.oracle, one.task)
        return (
            of_loop(one.task, oracle, timed=one.task.quick)
            if config.judging.how == "quick"
            else of_loop(one.task, oracle)
        )

    def write(problem: Problem, shown: Sequence[Any]) -> tuple[Message, ...]:
        if not shown:
            return loops.plain(made[problem.id].task)
        return loops.contrastive(made[problem.id].task, [(f"{one.code.rstrip()}\n", one.score) for one in shown])

    splits = {"train": own[: wanted.train], "validation": own[wanted.train : asked], "test": test}
    problems = {name: [loops.problem(one) for one in rows] for name, rows in splits.items()}
    return Tasks(
        {one.task.id: task(one) for rows in splits.values() for one in rows}, problems, write, _code, "cpp", made
    )


def _kernel_bench(wanted: KernelBench) -> Tasks:
    from postgrad.kernels import contrast
    from postgrad.kernels.evaluate import RUN
    from postgrad.kernels.task import kernel_bench, kernel_bench_folder

    if wanted.backend not in RUN:
        raise ValueError(
            f"data.kernel_bench.backend={wanted.backend} is not judged yet: inputs lie in the host's memory; wanted: torch, or data.loops (C++)"
        )
    files = {key: path for key, path in kernel_bench_folder(Path(wanted.folder)).items() if key[0] in wanted.levels}
    if not files:
        raise ValueError(
            f"{wanted.folder} has no task of levels {list(wanted.levels)}: give others in data.kernel_bench.levels"
        )
    tasks = {f"{level}-{number}": kernel_bench(path) for (level, number), path in sorted(files.items())}

    def write(problem: Problem, shown: Sequence[Any]) -> tuple[Message, ...]:
        return contrast.prompt(tasks[problem.id], shown, wanted.backend)

    problems = [
        Problem(
            name, contrast.prompt(task, (), wanted.backend), task.source, {"family": f"level {name.partition('-')[0]}"}
        )
        for name, task in tasks.items()
    ]
    return Tasks(tasks, {"train": problems, "validation": [], "test": problems}, write, _code, wanted.backend)


def _code(text: str) -> str | None:
    from postgrad.kernels import contrast

    found = contrast.parse(text)
    return found if isinstance(found, str) else None


class Counted:
    """The verifier, with an account of what was asked of it."""

    def __init__(self, verifier: Any, monitor: Any) -> None:
        self.verifier, self.monitor = verifier, monitor
        self.asked: Counter[str] = Counter()
        self._counting = threading.Lock()

    def prepare(self, problems: Sequence[Problem], traces: Sequence[Sequence[Trace]]) -> None:
        self.verifier.prepare(problems, traces)

    def __call__(self, problem: Problem, trace: Trace) -> Verdict:
        verdict: Verdict = self.verifier(problem, trace)
        with self._counting:
            self.asked[str(verdict.status)] += 1
            if self.monitor is not None and verdict.status is not Status.NO_ANSWER:
                self.monitor.add(*_watched(verdict))
        return verdict


def _watched(verdict: Verdict) -> tuple[str, list[str]]:
    """A verdict as the monitor of hacks wants it: honest failures are no hack."""
    from postgrad.kernels.verdict import Reason

    status = {Status.CORRECT: "accepted", Status.WRONG: "rejected"}.get(verdict.status, "unchecked")
    named = {part.partition(":")[0] for part in verdict.reason.split("; ")}
    return status, [reason.name for reason in Reason if reason.name in named and reason.rows]


@contextmanager
def judge(config: Config, run: Run, known: Tasks, stage: str, monitor: Any = None) -> Iterator[Counted]:
    """The stage's verifier, which knows every verdict of the run, and its row in costs.jsonl when it ends, however it ends."""
    from postgrad.kernels.ledger import Ledger

    ledger = Ledger(run.folder / "verdicts.jsonl")
    before = ledger.verdicts()
    cpu, started, judged = os.times(), time.monotonic(), Counter[str]()

    def heard(problem: Problem, candidate: Any, verdict: Any) -> None:
        ledger.add(problem, candidate, verdict)
        judged[str(verdict.status)] += 1

    counted: Counted | None = None
    try:
        with _verifier(config, known, run, heard) as verifier:
            verifier.verdicts.update(before)
            counted = Counted(verifier, monitor)
            yield counted
    finally:
        now = os.times()
        row = {
            "stage": stage,
            "asked": dict(counted.asked) if counted else {},
            "judged": dict(judged),
            "cpu_seconds": round(sum(now[:4]) - sum(cpu[:4]), 1),
            "seconds": round(time.monotonic() - started, 1),
        }
        with (run.folder / "costs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")


def _verifier(config: Config, known: Tasks, run: Run, heard: Any) -> Any:
    from postgrad.kernels import evaluate
    from postgrad.kernels.verifier import KernelVerifier

    cache = run.folder / "builds"
    quick = config.judging.how == "quick"
    settings = evaluate.quick(cache) if quick else evaluate.Settings(cache=cache)
    return KernelVerifier(
        known.tasks,
        known.parse,
        replace(settings, budget_s=config.judging.seconds),
        backend=known.backend,
        seed=config.seed,
        alive=config.judging.alive,
        at_once=config.judging.at_once if quick else 1,
        heard=heard,
    )


class Watched:
    """A Source: rollouts whose reward's scale and hack rates travel with the checkpoint. New alarms are told once."""

    def __init__(self, rollouts: Any, smoother: Any, monitor: Any, event: Callable[[int, Any, str], None]) -> None:
        self.rollouts, self.smoother, self.monitor, self.event = rollouts, smoother, monitor, event
        self._told: set[tuple[str, str | None]] = set()

    def step(self, model: Any, taken: int) -> Any:
        step = self.rollouts.step(model, taken)
        step.numbers.update(self.monitor.metrics())
        for alarm in self.monitor.alarms():
            if (alarm.kind, alarm.reason) not in self._told:
                self._told.add((alarm.kind, alarm.reason))
                self.event(taken + 1, "alarm", alarm.text)
        return step

    def state(self) -> dict[str, Any]:
        smoothed = None if self.smoother is None else self.smoother.state()
        return {"rollouts": self.rollouts.state(), "smoother": smoothed, "monitor": self.monitor.state()}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.rollouts.restore(state["rollouts"])
        self.monitor.load(state["monitor"])
        if self.smoother is not None:
            self.smoother.load(state["smoother"])


# ---- Gathering ------------------------------------------------------------------------------------------------------


@contextmanager
def _samplers(config: Config, run: Run, known: Tasks) -> Iterator[dict[str, Sampler]]:
    """By name. Scripted teachers, and endpoints whose answers are kept in calls.sqlite, so that none is paid for twice."""
    from postgrad.domains import loops
    from postgrad.sample import calls
    from postgrad.sample.api import ApiSampler
    from postgrad.sample.api import Endpoint as Address

    made = list(known.made.values())
    asked: dict[str, Sampler] = {}
    for name in config.gather.teachers:
        # Their traces are trained on as text, so no token is needed.
        asked[name] = loops.Teacher(name, made, lambda _: (), seed=config.seed)
    with ExitStack() as stack:
        if config.gather.endpoints:
            store = stack.enter_context(calls.opened(run.folder / "calls.sqlite"))
        for one in config.gather.endpoints:
            parameters = {"max_tokens": one.max_tokens, "temperature": one.temperature}
            asked[one.name] = ApiSampler(
                Address(one.url, one.name, parameters, one.key_variable), store, seed=config.seed
            )
        yield asked


def _rows(config: Config, known: Tasks, kept: Sequence[Sequence[Graded]]) -> list[Example]:
    """Each success to the plain prompt; of loops, comparisons of gathered codes too."""
    from postgrad.domains.loops import rows
    from postgrad.evals import speed

    made = [
        Example(item.problem.prompt, item.trace.text, id=f"{item.problem.id} {number}")
        for group in kept
        for number, item in enumerate(group)
    ]
    if config.data.loops is not None:
        how: dict[str, Any] = {"most": config.contrast.exemplars, "seed": config.seed}
        for group in filter(None, kept):
            speedups = {
                str(known.parse(item.trace.text)): score for item in group if (score := speed.speedup(item)) is not None
            }
            task = known.made[group[0].problem.id]
            made += rows.measured(task, speedups, config.data.loops.compared, **how)
    return made


def _gathering(run: Run) -> Callable[[int], None]:
    def told(done: int) -> None:
        run.stop_if_asked("while gathering")
        run.progress.update(done)

    return told


# ---- Asking a model -------------------------------------------------------------------------------------------------


def _evolving(config: Config, run: Run, known: Tasks, codes: Any, strategy: Strategy, sampler: str) -> Any:
    from postgrad.kernels.evolve import Evolving
    from postgrad.kernels.search import STRATEGIES

    return Evolving(
        codes,
        {name: task.source for name, task in known.tasks.items()},
        known.write,
        known.parse,
        STRATEGIES[strategy],
        shown=config.contrast.exemplars,
        seed=config.seed,
        sampler=sampler,
        environment=_environment(config, run),
        backend=known.backend,
    )


def _environment(config: Config, run: Run) -> str:
    """What scores hold for: that of the run's beginning, wherever it is resumed."""
    return f"{run.manifest['hardware']['cpu']}, {config.judging.how}"


def _seed(run: Run, known: Tasks, prompter: Any) -> None:
    """The arm's archive begins with the successes of the stages before, those of training tasks."""
    from postgrad.kernels import archive

    for author, name in enumerate(("gather", "self_supervised")):
        with archive.reading(run.folder / "archives" / f"{name}.sqlite") as before:
            for problem in known.splits["train"]:
                prompter.start_from(problem.id, before.successes(problem.id, prompter.environment), name, author)


def ask(
    config: Config,
    run: Run,
    known: Tasks,
    verifier: Verifier,
    model: Any,
    tokenizer: Any,
    problems: Sequence[Problem],
    strategy: Strategy,
    rounds: int,
    name: str,
) -> list[list[Graded]]:
    """`eval.samples` answers to each problem in each round, what the rounds before gave shown by the strategy: [P][rounds * samples]."""
    from postgrad.kernels import archive

    path = run.folder / "archives" / f"{name}.sqlite"
    rows: list[list[Graded]] = [[] for _ in problems]
    sampler = wiring.measuring(config.eval, tokenizer, config.seed)
    with archive.opened(path) as codes:
        codes.forget(0)
        prompter = _evolving(config, run, known, codes, strategy, name)
        for number in range(rounds):
            posed = prompter.pose(problems, number)
            # The step of the random streams, so that rounds differ.
            sampler.follow(model, number)
            groups = grade(posed, sampler.sample(posed, config.eval.samples), verifier)
            prompter.learn(groups, number)
            for row, group in zip(rows, groups, strict=True):
                row += group
    return rows


# ---- Numbers --------------------------------------------------------------------------------------------------------

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
            where = _environment(config, run)
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


# ---- For people -----------------------------------------------------------------------------------------------------

TITLES = {
    "sft": "SFT",
    "self_supervised": "Self-supervised",
    "evolved": "Self-supervised, asked contrastively",
    "grpo": "Plain GRPO",
    "contrastive": "Contrastive GRPO",
}


def _times(found: Any, unit: str = "x", scale: float = 1.0, digits: int = 2) -> str:
    if found is None:
        return "-"
    low, high = (scale * end for end in found.interval)
    return f"{scale * found.value:.{digits}f}{unit} [{low:.{digits}f}, {high:.{digits}f}]"


def _stage_table(found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "columns": [
            "Stage",
            "Correct",
            "Speed-up of right answers",
            "Above 1.01x",
            "Reference kept where wrong or slower",
            "Fastest of a task",
        ],
        "rows": [
            [
                TITLES[name],
                _times(one["correct"], " %", 100, 1),
                _times(one["speedup"]),
                _times(one["fast"], " %", 100, 1),
                _times(one["kept"]),
                _times(one["best"]),
            ]
            for name, one in found.items()
        ],
    }


def _family_table(grades: Mapping[str, Sequence[Sequence[Graded]]]) -> dict[str, Any]:
    """Share of right answers and their geometric mean, by family and model."""
    from postgrad.evals import speed

    found = {name: speed.by_label(rows, "family") for name, rows in grades.items()}
    families = sorted({family for told in found.values() for family in told})

    def cell(share: float | None, mean: float | None) -> str:
        return "-" if share is None else f"{100 * share:.0f} %" + ("" if mean is None else f", {mean:.2f}x")

    rows = [[family, *(cell(*told.get(family, (None, None))) for told in found.values())] for family in families]
    return {"columns": ["Family", *(TITLES[name] for name in grades)], "rows": rows}


def _shown(config: Config, known: Tasks, grades: Mapping[str, Sequence[Sequence[Graded]]]) -> list[dict[str, Any]]:
    """Of each family the fastest code that the contrastive model wrote for a held-out task."""
    best: dict[str, Graded] = {}
    for row in grades["contrastive"]:
        for item in row:
            known_best = best.get(_family(item.problem))
            if item.verdict.status is Status.CORRECT and (
                known_best is None or (item.verdict.score or 0) > (known_best.verdict.score or 0)
            ):
                best[_family(item.problem)] = item
    return [
        {
            "task": item.problem.id,
            "family": family,
            "speedup": item.verdict.score,
            "reference": known.tasks[item.problem.id].source,
            "code": known.parse(item.trace.text),
        }
        for family, item in sorted(best.items())[: config.eval.shown]
    ]


def _cost_table(run: Run) -> dict[str, Any]:
    """What judging cost, by stage, over all processes of the run; that of the evaluation is written as it ends."""
    sums: dict[str, Counter[str]] = {}
    for row in read_lines(run.folder / "costs.jsonl"):
        own = sums.setdefault(row["stage"], Counter())
        own["asked"] += sum(row["asked"].values())
        own["without code"] += row["asked"].get("no_answer", 0)
        own["judged"] += sum(row["judged"].values())
        own["unchecked"] += row["asked"].get("unchecked", 0)
        own["cpu_seconds"] += row["cpu_seconds"]
    return {
        "columns": [
            "Stage",
            "Answers",
            "Without code",
            "Judged anew",
            "Known already",
            "Unchecked",
            "CPU-seconds, all of the stage",
        ],
        "rows": [
            [
                TITLES.get(stage, stage.capitalize()),
                *(f"{own[name]:,}" for name in ("asked", "without code", "judged")),
                f"{max(0, own['asked'] - own['without code'] - own['judged']):,}",
                f"{own['unchecked']:,}",
                f"{own['cpu_seconds']:,.0f}",
            ]
            for stage, own in sums.items()
        ],
    }


def _headline(found: Mapping[str, Mapping[str, Any]], compared: Sequence[Mapping[str, Any]]) -> str:
    by_name = {row["name"]: row for row in compared}
    told = [
        f"{TITLES[name]} is right in {100 * found[name]['correct'].value:.0f} % of answers"
        for name in ("sft", "self_supervised")
        if found[name]["correct"]
    ]
    ratio = by_name.get("speedup ratio, grpo to contrastive")
    if ratio:
        low, high = ratio["interval"]
        speeds = [found[name]["speedup"] for name in ARMS]
        told.append(
            f"plain GRPO writes kernels of {speeds[0].value:.2f}x, contrastive GRPO of {speeds[1].value:.2f}x, a ratio of "
            f"{ratio['value']:.2f} [{low:.2f}, {high:.2f}] on held-out tasks"
        )
    return "; ".join(told) + "." if told else "Nothing could be checked."


# ---- The plan, and small pieces -------------------------------------------------------------------------------------


def plan(config: Config) -> dict[str, str]:
    """What the run will do and need, from the config alone: no task is made and no weights are loaded."""
    planned = wiring.Planned(config.model, _own_tokenizer)
    slots = config.eval.batch_size
    rows = {
        **planned.of_model(),
        **(planned.of_sft("pretrain", config.pretrain) if config.pretrain else {}),
        **planned.of_sft("sft", config.sft),
        **planned.of_policy("self_supervised", config.self_supervised, slots),
        **planned.of_policy("rl", config.rl, slots),
    }

    def answers(stage: PolicySettings) -> int:
        return stage.prompts_per_step * stage.num_generations * -(-stage.last_step // stage.num_iterations)

    rows["answers to judge"] = (
        f"{answers(config.self_supervised):,} self-supervised, {answers(config.rl):,} in each of two arms"
    )
    if config.data.loops is not None:
        own = config.data.loops
        samplers = len(config.gather.teachers) + len(config.gather.endpoints)
        gathered = own.train if config.gather.tasks is None else min(own.train, config.gather.tasks)
        tasks = (gathered + own.validation) * samplers
        rows["gathering"] = f"{tasks * config.gather.keep:,} to {tasks * config.gather.tries:,} tries"
        rows["evaluation"] = f"5 models x {own.test} tasks x {config.eval.rounds * config.eval.samples} answers"
    return rows


def _own_tokenizer() -> Any:
    from postgrad.domains import loops

    return loops.tokenizer()


def _prompt_ids(tokenizer: Any, problem: Problem) -> Sequence[int]:
    from postgrad import chat

    ids: Sequence[int] = chat.prompt_ids(tokenizer, problem.prompt)
    return ids


def _family(problem: Problem) -> str:
    return problem.labels["family"]
