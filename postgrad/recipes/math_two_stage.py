"""Two-stage recipe for mathematics: long SFT for accuracy, then a short GRPO for fewer tokens at equal accuracy.

Paper: arXiv 2507.08267 (Fast-Math-R1), code analokmaus/kaggle-aimo2-fast-math-r1. Where the article and the code differ
(cosine similarity or cosine length, 10 or 20 epochs, tokens or characters) the preset says which it follows.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from postgrad.config import Settings
from postgrad.progress import shown
from postgrad.ranks import ALONE, Ranks
from postgrad.records import Example, Message, Problem, Status, Trace, read_jsonl, write_jsonl
from postgrad.run import Failed, Run
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


class Evaluation(Settings):
    samples: PositiveInt = Field(1, description="traces for each test problem")
    max_tokens: PositiveInt
    temperature: float = Field(1.0, ge=0, description="0: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, lt=1)
    batch_size: PositiveInt = Field(256, description="sequences decoded at once")
    bootstrap: PositiveInt = Field(10_000, description="resamples behind each interval")
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
    from postgrad.train.model import load_tokenizer
    from postgrad.verify import gold, maths

    tokenizer = load_tokenizer(config.model.path) if config.model.path else _scratch_tokenizer()
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
        name: gold.keep_checkable(_shown(run, f"gold answers, {name}", rows), maths.boxed)
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
    """What both stages start from: the given model's path, or a new one saved in the run's folder.

    A folder's path is made absolute, so that the run can be resumed from anywhere.
    """
    from postgrad.train import checkpoint
    from postgrad.train import model as models

    if config.model.path:
        # Loaded once for nothing: a folder or device that cannot be used is told of before the data is checked.
        _load(config, run, config.model.path)
        folder = Path(config.model.path)
        return str(folder.resolve()) if folder.exists() else config.model.path
    models.resolve_device(config.model.device)
    assert config.model.scratch is not None, "Model has exactly one origin"
    tokenizer = _scratch_tokenizer()
    made = models.from_scratch(
        config.model.scratch.model_dump(),
        tokenizer,
        seed=config.seed,
        dtype=_dtype(config),
        device=models.resolve_device("cpu"),
    )
    checkpoint.write_base(run.folder / "checkpoints" / "base", made, tokenizer)
    return "checkpoints/base"


def supervise(config: Config, run: Run, base: str) -> str:
    """Stage one: the whole schedule on the chosen traces; goes on from the checkpoint with the lowest validation loss."""
    from postgrad.train import fit, loss, source

    assert config.sft is not None, "main calls this stage only where there is one"
    model, tokenizer = _load(config, run, base, run.ranks)
    examples = list(read_jsonl(Example, run.folder / "data/sft.jsonl"))
    # Validation traces cost no test problem: problems kept out of both stages, with their references as responses.
    validation = _problems(run, "validation")
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
        numbers = _sampled(run, model, _engine(config, tokenizer), validation, step)
        if unseen:
            numbers["eval_loss"] = fit.mean_loss(model, unseen, ranks=run.ranks)
        return {**numbers, "eval_score": -numbers["eval_loss"] if unseen else numbers["eval_accuracy"]}

    fitted = fit.fit(run, "sft", model, tokenizer, packed, loss.likelihood, config.sft, validate)
    return str(fitted.best.relative_to(run.folder))


def shorten(config: Config, run: Run, start: str) -> str:
    """Stage two: GRPO from stage one's model; goes on from the shortest-spoken checkpoint that is still as accurate."""
    from postgrad.train import advantage, fit, loss, mismatch, reward, source
    from postgrad.train.order import check_order
    from postgrad.verify import maths

    rl = config.rl
    model, tokenizer = _load(config, run, start, run.ranks)
    problems, validation = _problems(run, "rl"), _problems(run, "validation")
    reference = _load(config, run, start, run.ranks)[0] if rl.beta else None
    rewards = reward.from_settings(rl.rewards, rl.max_completion_length, problems)
    order = check_order(rewards, rl.max_completion_length, rl.num_generations)
    run.write_json("reward_order.json", order.to_summary())
    if order.inverted_share_same_style:
        run.event("rl", 0, "warning", f"a wrong answer can out-earn a right one of the same form: {order.examples[0]}")
    credit = advantage.group_std if rl.scale_rewards == "group" else advantage.group_mean
    high = rl.epsilon if rl.epsilon_high is None else rl.epsilon_high
    corrected = rl.sampler == "vllm" if (given := rl.vllm_importance_sampling_correction) is None else given
    correction = mismatch.MODES[rl.vllm_importance_sampling_mode](rl.vllm_importance_sampling_clip_max)
    objective = loss.policy(
        epsilon_low=rl.epsilon,
        epsilon_high=high,
        beta=rl.beta,
        temperature=rl.temperature,
        correct=correction if corrected else None,
    )
    with _samplers(config, run, start, tokenizer, [*problems, *validation]) as (training, measuring):
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
        before = _sampled(run, model, measuring, validation, 0)

        def validate(model: Any, step: int) -> Mapping[str, float]:
            numbers = _sampled(run, model, measuring, validation, step)
            kept = numbers["eval_accuracy"] >= before["eval_accuracy"] - config.eval.max_accuracy_loss
            # Among checkpoints as accurate as the start the shortest-spoken one is best; any of them beats all the others.
            score = 1 - numbers["eval_tokens"] / rl.max_completion_length if kept else numbers["eval_accuracy"] - 1
            return {**numbers, "eval_score": score}

        fitted = fit.fit(run, "rl", model, tokenizer, rollouts, objective, rl, validate)
    return str(fitted.best.relative_to(run.folder))


def measure(config: Config, run: Run, models: Mapping[str, str]) -> dict[str, Any]:
    """Every model on the test problems, the comparison of stage two with stage one, and the claims."""
    from postgrad.evals import benchmark
    from postgrad.verify import maths

    problems = _problems(run, "test")
    grades = {}
    for name, path in models.items():
        model, tokenizer = _load(config, run, path)
        sampler = _engine(config, tokenizer)
        sampler.follow(model, 0)
        mine = run.ranks.share(problems)
        run.progress.start(f"eval {name}", len(mine) * config.eval.samples, "trace")
        sampler.report = lambda done, total: _sampling(run, done)  # noqa: ARG005
        grades[name] = run.ranks.gather(benchmark.grade(sampler, maths.boxed, mine, config.eval.samples))
        run.progress.finish()
    if not run.ranks.is_main:
        return {}
    (run.folder / "evals").mkdir(exist_ok=True)
    for name, rows in grades.items():
        benchmark.write_rows(run.folder / "evals" / f"{name}.jsonl", rows)
    how: dict[str, Any] = {"resamples": config.eval.bootstrap, "seed": config.seed}
    scores = {name: benchmark.score(rows, _vote, **how) for name, rows in grades.items()}
    compared = {
        (a, b): benchmark.compare(grades[a], grades[b], **how)
        for a, b in (("base", "sft"), ("sft", "rl"))
        if a in grades
    }
    lengths = sorted(len(item.trace.token_ids) for row in grades["sft"] for item in row)
    longest = lengths[int(0.95 * (len(lengths) - 1))]
    budgets = benchmark.budget_comparison(
        grades["sft"],
        grades["rl"],
        {max(1, round(share * longest)) for share in config.eval.budgets},
        maths.boxed,
        sampler.truncate,
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
    from transformers import AutoConfig

    from postgrad.train import memory
    from postgrad.train import model as models

    if config.model.path:
        try:
            made = AutoConfig.from_pretrained(config.model.path, local_files_only=True)
        except OSError as error:
            raise ValueError(
                f"model.path={config.model.path!r} is not on this machine, so its size is not known: give a local folder"
            ) from error
    else:
        assert config.model.scratch is not None, "Model has exactly one origin"
        made = models.scratch_config(config.model.scratch.model_dump(), _scratch_tokenizer())
    shape = memory.shape(made)
    dtype, device = config.model.dtype, config.model.device
    # A GPU that is named need not be in the machine that plans for it.
    on_cuda = device.startswith("cuda") or (device == "auto" and models.resolve_device(device).type == "cuda")
    rl = config.rl
    completions = rl.prompts_per_step * rl.num_generations
    sequence = rl.max_prompt_length + rl.max_completion_length
    rollouts = -(-rl.last_step // rl.num_iterations)

    def size(count: float) -> str:
        return f"{count / memory.GIB:.2f} GiB"

    def state(of: Any, micro_batches: int, *, reference: bool = False) -> str:
        held = memory.state(
            shape, dtype=dtype, master_weights=of.master_weights, micro_batches=micro_batches, reference=reference
        )
        return f"{size(held)} state"

    def activations(of: Any, tokens: int, trained: int) -> str:
        peak = memory.activations(
            shape, tokens, trained, dtype=dtype, recomputed=of.gradient_checkpointing, on_cuda=on_cuda
        )
        return f"at most {size(peak)} activations"

    rows = {"model": f"{shape.parameters:,} parameters in {dtype}"}
    if config.sft:
        sft = config.sft
        tokens = sft.rows_per_step * sft.max_length
        row = sft.per_device_train_batch_size * sft.max_length
        rows |= {
            "sft batch": f"{sft.per_device_train_batch_size} rows x {sft.gradient_accumulation_steps} micro-batches x {sft.max_length} tokens",
            "sft tokens": f"at most {tokens:,} a step x {sft.last_step:,} steps = {tokens * sft.last_step:,}",
            "sft memory": f"{state(sft, sft.gradient_accumulation_steps)} + {activations(sft, row, row)}",
        }
    batch, limit = rl.per_device_train_batch_size, rl.max_tokens_per_micro_batch
    micro_batches, how = completions // batch, f"micro-batches x {batch}"
    tokens, trained = batch * sequence, batch * rl.max_completion_length
    if limit is not None:
        # With every prompt its own, which is more than there are.
        micro_batches, how = -(-completions * sequence // limit), f"micro-batches, at most, of {limit:,} tokens"
        tokens = trained = min(limit, completions * sequence)
    peak = activations(rl, tokens, trained)
    held = memory.cache(shape, min(config.eval.batch_size, completions), sequence, dtype=dtype)
    rows |= {
        "rl batch": f"{rl.prompts_per_step} prompts x {rl.num_generations} generations = {completions} completions "
        f"= {micro_batches} {how}",
        "rl steps": f"{rl.last_step:,} updates on {rollouts:,} rollouts = {completions * rollouts:,} completions of at most {rl.max_completion_length:,} tokens",
        "rl memory": f"{state(rl, micro_batches, reference=rl.beta > 0)} + {peak} + {size(held)} cache",
        "ranks": f"R of them divide a step's micro-batches and hold 1/R of the state each, and all weights, {size(shape.parameters * memory.BYTES[dtype])}, while sampling",
    }
    return rows


# ---- Small pieces ---------------------------------------------------------------------------------------------------


def _check_stage_two(config: Config, ranks: Ranks, problems: Sequence[Problem], tokenizer: Any) -> None:
    """Raises ValueError for what stage two would refuse, which would be hours later."""
    from postgrad import chat
    from postgrad.sample import vllm
    from postgrad.train import reward

    rl = config.rl
    if rl.sampler == "vllm":
        vllm.logprobs_mode(_rolled_out(config), _measured(config))
        if ranks.size > 1:
            raise ValueError(
                f"rl.sampler=vllm with {ranks.size} ranks: the weights of a divided model are not sent yet; train on one GPU, with the "
                "server on others (rl.vllm.devices), or set rl.sampler=engine"
            )
    if len(problems) < rl.prompts_per_step:
        raise ValueError(f"{len(problems)} rl problems are fewer than rl.prompts_per_step={rl.prompts_per_step}")
    reward.from_settings(rl.rewards, rl.max_completion_length, problems)
    lengths = {problem.id: len(chat.prompt_ids(tokenizer, problem.prompt)) for problem in problems}
    too_long = [name for name, length in lengths.items() if length > rl.max_prompt_length]
    if too_long:
        raise ValueError(
            f"{len(too_long)} of {len(lengths)} rl prompts are longer than rl.max_prompt_length={rl.max_prompt_length}: first "
            f"that of problem {too_long[0]!r}, which has {lengths[too_long[0]]} tokens; raise the limit or leave them out"
        )


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


def _problems(run: Run, name: str) -> list[Problem]:
    return list(read_jsonl(Problem, run.folder / "data" / f"{name}.jsonl"))


def _scratch_tokenizer() -> Any:
    from postgrad.domains import arithmetic

    return arithmetic.tokenizer()


def _dtype(config: Config) -> Any:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[config.model.dtype]


def _folder(run: Run, path: str) -> str:
    """Where the model of a stage is: in the run's folder, or as given."""
    return str(run.folder / path) if (run.folder / path / "config.json").is_file() else path


def _load(config: Config, run: Run, path: str, ranks: Ranks = ALONE) -> tuple[Any, Any]:
    """A model and its tokenizer; divided among `ranks` if it is to be trained, whole on each rank if it is measured."""
    from postgrad.train import model as models

    folder = _folder(run, path)
    device = models.resolve_device(config.model.device)
    return models.load(folder, dtype=_dtype(config), device=device, ranks=ranks), models.load_tokenizer(folder)


def _engine(config: Config, tokenizer: Any) -> Any:
    from postgrad.sample.engine import Engine

    # Another stream than training's, so that measuring never sees the uniforms of a rollout.
    return Engine(tokenizer, _measured(config), seed=config.seed + 1)


def _rolled_out(config: Config) -> Any:
    """How rollouts are sampled."""
    from postgrad.sample.engine import Sampling

    rl = config.rl
    return Sampling(
        max_tokens=rl.max_completion_length,
        temperature=rl.temperature,
        top_p=rl.top_p,
        top_k=rl.top_k,
        min_p=rl.min_p,
        max_prompt_tokens=rl.max_prompt_length,
        slots=config.eval.batch_size,
    )


def _measured(config: Config) -> Any:
    """How traces are sampled to be measured."""
    from postgrad.sample.engine import Sampling

    wanted = config.eval
    return Sampling(
        max_tokens=wanted.max_tokens,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        min_p=wanted.min_p,
        slots=wanted.batch_size,
    )


@contextmanager
def _samplers(
    config: Config, run: Run, start: str, tokenizer: Any, problems: Sequence[Problem]
) -> Iterator[tuple[Any, Any]]:
    """Stage two's samplers, for rollouts and for validation. A server that is started for them lives as long as the block."""
    from postgrad import chat
    from postgrad.sample import vllm
    from postgrad.sample.engine import Engine

    rollout, measured = _rolled_out(config), _measured(config)
    if config.rl.sampler == "engine":
        yield Engine(tokenizer, rollout, seed=config.seed), _engine(config, tokenizer)
        return
    from postgrad.sample.vllm.client import Client
    from postgrad.sample.vllm.server import Server, started
    from postgrad.sample.vllm.weights import Publisher

    with ExitStack() as stack:
        wanted = config.rl.vllm
        if wanted.server_base_url is not None:
            server = Server(wanted.server_base_url)
        else:
            longest = max(len(chat.prompt_ids(tokenizer, problem.prompt)) for problem in problems)
            server = stack.enter_context(
                started(
                    _folder(run, start),
                    run.folder / "vllm.log",
                    devices=wanted.devices,
                    executable=wanted.executable,
                    dtype=config.model.dtype,
                    logprobs_mode=vllm.logprobs_mode(rollout, measured) or "processed_logprobs",
                    max_model_len=longest + max(rollout.max_tokens, measured.max_tokens),
                    tensor_parallel_size=wanted.tensor_parallel_size,
                    gpu_memory_utilization=wanted.gpu_memory_utilization,
                )
            )
        publisher = Publisher(Client(server))
        yield (
            vllm.VllmSampler(publisher, tokenizer, rollout, seed=config.seed),
            vllm.VllmSampler(publisher, tokenizer, measured, seed=config.seed + 1),
        )


def _sampled(run: Run, model: Any, sampler: Any, problems: Sequence[Problem], step: int) -> dict[str, float]:
    """Accuracy and mean tokens on validation problems, one trace each."""
    from postgrad.evals import benchmark
    from postgrad.train import shard
    from postgrad.verify import maths

    sampler.follow(model, step)
    with shard.whole(model):
        mine = benchmark.grade(sampler, maths.boxed, run.ranks.share(problems), 1)
    found = benchmark.score(run.ranks.gather(mine), resamples=100)
    if found.accuracy is None or found.tokens is None:
        raise Failed(
            f"none of {len(problems)} validation traces could be checked: run `postgrad doctor`, and look at the gold answers"
        )
    return {"eval_accuracy": found.accuracy.value, "eval_tokens": found.tokens.value}


def _sampling(run: Run, done: int) -> None:
    run.stop_if_asked(f"in the evaluation, after {done} traces")
    run.progress.update(done)


def _shown(run: Run, stage: str, problems: Sequence[Problem]) -> Iterator[Problem]:
    """The problems, with live progress as they are taken."""
    with shown(run.progress, stage, len(problems), "problem") as live:
        for done, problem in enumerate(problems, start=1):
            yield problem
            live.update(done)


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
