"""What recipes wire alike: the model that a config names, samplers for rollouts and for measuring, validation, a plan's rows.

A recipe holds what is its own, read top to bottom; what two of them need stands here, with no stage and no algorithm in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt

from postgrad.config import Settings
from postgrad.progress import shown
from postgrad.protocols import Verifier
from postgrad.ranks import ALONE, Ranks
from postgrad.records import Problem, read_jsonl
from postgrad.run import Alarmed, Failed, Run
from postgrad.train.settings import GrpoSettings, Model, PolicySettings, SftSettings


class Measured(Settings):
    """How traces are sampled to be measured."""

    samples: PositiveInt = Field(1, description="traces for each test problem")
    max_tokens: PositiveInt
    temperature: float = Field(1.0, ge=0, description="0: greedy")
    top_p: float = Field(1.0, gt=0, le=1)
    min_p: float = Field(0.0, ge=0, lt=1)
    batch_size: PositiveInt = Field(256, description="sequences decoded at once")
    bootstrap: PositiveInt = Field(10_000, description="resamples behind each interval")


# ---- Models ---------------------------------------------------------------------------------------------------------


def base(model: Model, run: Run, own_tokenizer: Callable[[], Any], seed: int) -> str:
    """What the stages start from: the given model's path, or a new one, with the domain's own tokenizer, in the run's folder.

    A folder's path is made absolute, so that the run can be resumed from anywhere.
    """
    from postgrad.train import checkpoint
    from postgrad.train import model as models

    if model.path:
        # Loaded once for nothing: a folder or device that cannot be used is told of before the data is checked.
        load(model, run, model.path)
        given = Path(model.path)
        return str(given.resolve()) if given.exists() else model.path
    models.resolve_device(model.device)
    assert model.scratch is not None, "Model has exactly one origin"
    tokenizer = own_tokenizer()
    made = models.from_scratch(
        model.scratch.model_dump(), tokenizer, seed=seed, dtype=_dtype(model), device=models.resolve_device("cpu")
    )
    checkpoint.write_base(run.folder / "checkpoints" / "base", made, tokenizer)
    return "checkpoints/base"


def load(model: Model, run: Run, path: str, ranks: Ranks = ALONE) -> tuple[Any, Any]:
    """A stage's model and its tokenizer; divided among `ranks` if it is to be trained, whole on each rank if it is measured."""
    from postgrad.train import model as models

    where = folder(run, path)
    device = models.resolve_device(model.device)
    return models.load(where, dtype=_dtype(model), device=device, ranks=ranks), models.load_tokenizer(where)


def to_train(model: Model, run: Run, path: str, seed: int) -> tuple[Any, Any]:
    """A stage's model that is to be trained, with a fresh adapter where the config asks for one; and its tokenizer."""
    from postgrad.train import adapter

    made, words = load(model, run, path, run.ranks)
    if model.adapter is not None:
        adapter.attach(made, model.adapter, seed=seed)
    return made, words


def given_on(run: Run, stage: str, learner: Any, tokenizer: Any, chosen: str) -> str:
    """What comes after a stage starts from this: the chosen checkpoint, an adapter merged into the model that it was trained on.

    `learner` is the model that the stage trained; an adapter on it is gone afterwards.
    """
    from postgrad.train import adapter, checkpoint

    if not adapter.is_folder(run.folder / chosen):
        return chosen
    adapter.take(learner, run.folder / chosen)
    adapter.merge(learner)
    where = f"checkpoints/{stage}-merged"
    checkpoint.write_base(run.folder / where, learner, tokenizer)
    return where


def tokenizer(model: Model, own_tokenizer: Callable[[], Any]) -> Any:
    """The given model's, or the domain's own."""
    from postgrad.train.model import load_tokenizer

    return load_tokenizer(model.path) if model.path else own_tokenizer()


def folder(run: Run, path: str) -> str:
    """Where the model of a stage is: in the run's folder, or as given."""
    return str(run.folder / path) if (run.folder / path / "config.json").is_file() else path


def _dtype(model: Model) -> Any:
    import torch

    return {"float32": torch.float32, "bfloat16": torch.bfloat16}[model.dtype]


# ---- Samplers -------------------------------------------------------------------------------------------------------


def rolled_out(rl: PolicySettings, slots: int) -> Any:
    """How rollouts are sampled, as sample/engine.py's Sampling."""
    from postgrad.sample.engine import Sampling

    return Sampling(
        max_tokens=rl.max_completion_length,
        temperature=rl.temperature,
        top_p=rl.top_p,
        top_k=rl.top_k,
        min_p=rl.min_p,
        max_prompt_tokens=rl.max_prompt_length,
        slots=slots,
    )


def measured(wanted: Measured) -> Any:
    """How traces are sampled to be measured, as sample/engine.py's Sampling."""
    from postgrad.sample.engine import Sampling

    return Sampling(
        max_tokens=wanted.max_tokens,
        temperature=wanted.temperature,
        top_p=wanted.top_p,
        min_p=wanted.min_p,
        slots=wanted.batch_size,
    )


def measuring(wanted: Measured, tokenizer: Any, seed: int) -> Any:
    """An engine to measure with."""
    from postgrad.sample.engine import Engine

    # Another stream than training's, so that measuring never sees the uniforms of a rollout.
    return Engine(tokenizer, measured(wanted), seed=seed + 1)


@contextmanager
def samplers(
    model: Model,
    rl: GrpoSettings,
    wanted: Measured,
    run: Run,
    start: str,
    tokenizer: Any,
    problems: Sequence[Problem],
    seed: int,
) -> Iterator[tuple[Any, Any]]:
    """For rollouts and for validation. A server that is started for them lives as long as the block.

    `start` is the model that training starts from, `problems` all that will be asked.
    """
    from postgrad import chat
    from postgrad.sample import vllm
    from postgrad.sample.engine import Engine

    rollout, validation = rolled_out(rl, wanted.batch_size), measured(wanted)
    if rl.sampler == "engine":
        yield Engine(tokenizer, rollout, seed=seed), measuring(wanted, tokenizer, seed)
        return
    if model.adapter is not None:
        raise ValueError(
            "rl.sampler=vllm with model.adapter: an adapter is not sent to a server yet; set rl.sampler=engine, which samples it as it is"
        )
    from postgrad.sample.vllm.client import Client
    from postgrad.sample.vllm.server import Server, started
    from postgrad.sample.vllm.weights import Publisher

    with ExitStack() as stack:
        asked = rl.vllm
        if asked.server_base_url is not None:
            server = Server(asked.server_base_url)
        else:
            longest = max(len(chat.prompt_ids(tokenizer, problem.prompt)) for problem in problems)
            server = stack.enter_context(
                started(
                    folder(run, start),
                    run.folder / "vllm.log",
                    devices=asked.devices,
                    executable=asked.executable,
                    dtype=model.dtype,
                    logprobs_mode=vllm.logprobs_mode(rollout, validation) or "processed_logprobs",
                    max_model_len=longest + max(rollout.max_tokens, validation.max_tokens),
                    tensor_parallel_size=asked.tensor_parallel_size,
                    gpu_memory_utilization=asked.gpu_memory_utilization,
                )
            )
        publisher = Publisher(Client(server))
        yield (
            vllm.VllmSampler(publisher, tokenizer, rollout, seed=seed),
            vllm.VllmSampler(publisher, tokenizer, validation, seed=seed + 1),
        )


def check_sampler(rl: GrpoSettings, wanted: Measured, ranks: Ranks) -> None:
    """Raises ValueError for what `samplers` would refuse hours later."""
    from postgrad.sample import vllm

    if rl.sampler == "vllm":
        vllm.logprobs_mode(rolled_out(rl, wanted.batch_size), measured(wanted))
        if ranks.size > 1:
            raise ValueError(
                f"rl.sampler=vllm with {ranks.size} ranks: the weights of a divided model are not sent yet; train on one GPU, with the "
                "server on others (rl.vllm.devices), or set rl.sampler=engine"
            )


def check_prompts(rl: PolicySettings, problems: Sequence[Problem], tokenizer: Any) -> None:
    """Raises ValueError for prompts that a rollout would refuse."""
    from postgrad import chat

    lengths = {problem.id: len(chat.prompt_ids(tokenizer, problem.prompt)) for problem in problems}
    too_long = [name for name, length in lengths.items() if length > rl.max_prompt_length]
    if too_long:
        raise ValueError(
            f"{len(too_long)} of {len(lengths)} rl prompts are longer than rl.max_prompt_length={rl.max_prompt_length}: first "
            f"that of problem {too_long[0]!r}, which has {lengths[too_long[0]]} tokens; raise the limit or leave them out"
        )


# ---- GRPO -----------------------------------------------------------------------------------------------------------


def rewards(rl: GrpoSettings, run: Run, problems: Sequence[Problem]) -> Any:
    """The settings' rewards; reward_order.json tells whether a wrong answer can out-earn a right one."""
    from postgrad.train import reward
    from postgrad.train.order import check_order

    made = reward.from_settings(rl.rewards, rl.max_completion_length, problems)
    order = check_order(made, rl.max_completion_length, rl.num_generations)
    run.write_json("reward_order.json", order.to_summary())
    if order.inverted_share_same_style:
        run.event("rl", 0, "warning", f"a wrong answer can out-earn a right one of the same form: {order.examples[0]}")
    return made


def objective(rl: GrpoSettings) -> Any:
    """The policy's loss, with the correction for a sampler that is not the trainer's."""
    from postgrad.train import loss, mismatch

    corrected = rl.sampler == "vllm" if (given := rl.vllm_importance_sampling_correction) is None else given
    correction = mismatch.MODES[rl.vllm_importance_sampling_mode](rl.vllm_importance_sampling_clip_max)
    return loss.policy(
        epsilon_low=rl.epsilon,
        epsilon_high=rl.epsilon if rl.epsilon_high is None else rl.epsilon_high,
        beta=rl.beta,
        temperature=rl.temperature,
        correct=correction if corrected else None,
    )


# ---- Measurement ----------------------------------------------------------------------------------------------------


def graded(
    model: Model,
    wanted: Measured,
    run: Run,
    models: Mapping[str, str],
    problems: Sequence[Problem],
    verifier: Verifier,
    seed: int,
) -> dict[str, Any]:
    """Each model's graded traces of all problems, by its name; rank 0 writes evals/<name>.jsonl. Every rank must ask."""
    from postgrad.evals import benchmark

    def told(done: int, _: int) -> None:
        run.stop_if_asked(f"in the evaluation, after {done} traces")
        run.progress.update(done)

    grades: dict[str, Any] = {}
    mine = run.ranks.share(problems)
    for name, path in models.items():
        followed, words = load(model, run, path)
        sampler = measuring(wanted, words, seed)
        sampler.follow(followed, 0)
        sampler.report = told
        run.progress.start(f"eval {name}", len(mine) * wanted.samples, "trace")
        grades[name] = run.ranks.gather(benchmark.grade(sampler, verifier, mine, wanted.samples))
        run.progress.finish()
    if run.ranks.is_main:
        (run.folder / "evals").mkdir(exist_ok=True)
        for name, rows in grades.items():
            benchmark.write_rows(run.folder / "evals" / f"{name}.jsonl", rows)
    return grades


# ---- Validation -----------------------------------------------------------------------------------------------------


def validated(
    run: Run, model: Any, sampler: Any, problems: Sequence[Problem], verifier: Verifier, step: int
) -> dict[str, float]:
    """Accuracy and mean tokens on validation problems, one trace each."""
    from postgrad.evals import benchmark
    from postgrad.train import shard

    sampler.follow(model, step)
    with shard.whole(model):
        mine = benchmark.grade(sampler, verifier, run.ranks.share(problems), 1)
    found = benchmark.score(run.ranks.gather(mine), resamples=100)
    if found.accuracy is None or found.tokens is None:
        raise Failed(
            f"none of {len(problems)} validation traces could be checked: run `postgrad doctor`, and look at the gold answers"
        )
    return {"eval_accuracy": found.accuracy.value, "eval_tokens": found.tokens.value}


def problems(run: Run, name: str) -> list[Problem]:
    """Of the run's data/NAME.jsonl."""
    return list(read_jsonl(Problem, run.folder / "data" / f"{name}.jsonl"))


def one_by_one(run: Run, stage: str, problems: Sequence[Problem]) -> Iterator[Problem]:
    """The problems, with live progress as they are taken."""
    with shown(run.progress, stage, len(problems), "problem") as live:
        for done, problem in enumerate(problems, start=1):
            yield problem
            live.update(done)


# ---- Alarms ---------------------------------------------------------------------------------------------------------


@contextmanager
def watched(
    run: Run, validation: Sequence[Problem], weights: Mapping[str, float] | None = None, *, rollback: bool = False
) -> Iterator[None]:
    """A stage under the monitors' eyes. `weights` are those of its reward's parts; with `rollback` an alarm ends it: see `trained`."""
    from postgrad.evals.monitors import Monitors

    with run.watched(Monitors(weights or {}, len(validation)), ends_at_alarm=rollback):
        yield


def trained(run: Run, stage: str, start: str, fitted: Callable[[], Any]) -> str:
    """The model that a stage hands on: the best by validation of what `fitted` trains, as train/fit.py's Fitted.

    Where an alarm ended the stage: its newest checkpoint of before the trouble, or else what it started from.
    """
    from postgrad.train import checkpoint

    try:
        return str(fitted().best.relative_to(run.folder))
    except Alarmed as ended:
        alarm = ended.alarm
        good = run.ranks.first(checkpoint.newest, run.folder / "checkpoints" / stage, alarm.since)
        chosen = start if good is None else str(good.relative_to(run.folder))
        run.event(
            stage, alarm.step, "warning", f"{stage} ends here at the alarm of {alarm.name}; going on from {chosen}"
        )
        return chosen


# ---- Plans ----------------------------------------------------------------------------------------------------------


class Planned:
    """Rows of `postgrad plan`, from the config alone: no data is read and no weights are loaded."""

    def __init__(self, model: Model, own_tokenizer: Callable[[], Any]) -> None:
        """Raises ValueError where the model's size is not known on this machine."""
        from transformers import AutoConfig

        from postgrad.train import memory
        from postgrad.train import model as models

        if model.path:
            try:
                made = AutoConfig.from_pretrained(model.path, local_files_only=True)
            except OSError as error:
                raise ValueError(
                    f"model.path={model.path!r} is not on this machine, so its size is not known: give a local folder"
                ) from error
        else:
            assert model.scratch is not None, "Model has exactly one origin"
            made = models.scratch_config(model.scratch.model_dump(), own_tokenizer())
        self.shape = memory.shape(made)
        self.adapted = None if model.adapter is None else memory.adapted(made, model.adapter)
        self.dtype, device = model.dtype, model.device
        # A GPU that is named need not be in the machine that plans for it.
        self.on_cuda = device.startswith("cuda") or (device == "auto" and models.resolve_device(device).type == "cuda")

    def of_model(self) -> Mapping[str, str]:
        trained = "" if self.adapted is None else f"; {self.adapted:,} more of an adapter are trained"
        return {"model": f"{self.shape.parameters:,} parameters in {self.dtype}{trained}"}

    def of_sft(self, stage: str, sft: SftSettings) -> Mapping[str, str]:
        tokens = sft.rows_per_step * sft.max_length
        row = sft.per_device_train_batch_size * sft.max_length
        return {
            f"{stage} batch": f"{sft.per_device_train_batch_size} rows x {sft.gradient_accumulation_steps} micro-batches x {sft.max_length} tokens",
            f"{stage} tokens": f"at most {tokens:,} a step x {sft.last_step:,} steps = {tokens * sft.last_step:,}",
            f"{stage} memory": f"{self._state(sft, sft.gradient_accumulation_steps)} + {self._activations(sft, row, row)}",
        }

    def of_policy(self, stage: str, rl: PolicySettings, slots: int) -> Mapping[str, str]:
        """`slots`: sequences decoded at once."""
        from postgrad.train import memory

        completions = rl.prompts_per_step * rl.num_generations
        sequence = rl.max_prompt_length + rl.max_completion_length
        rollouts = -(-rl.last_step // rl.num_iterations)
        batch, limit = rl.per_device_train_batch_size, rl.max_tokens_per_micro_batch
        micro_batches, how = completions // batch, f"micro-batches x {batch}"
        tokens, trained = batch * sequence, batch * rl.max_completion_length
        if limit is not None:
            # With every prompt its own, which is more than there are.
            micro_batches, how = -(-completions * sequence // limit), f"micro-batches, at most, of {limit:,} tokens"
            tokens = trained = min(limit, completions * sequence)
        peak = self._activations(rl, tokens, trained)
        held = memory.cache(self.shape, min(slots, completions), sequence, dtype=self.dtype)
        return {
            f"{stage} batch": f"{rl.prompts_per_step} prompts x {rl.num_generations} generations = {completions} completions "
            f"= {micro_batches} {how}",
            f"{stage} steps": f"{rl.last_step:,} updates on {rollouts:,} rollouts = {completions * rollouts:,} completions of at most {rl.max_completion_length:,} tokens",
            f"{stage} memory": f"{self._state(rl, micro_batches, reference=rl.beta > 0)} + {peak} + {_size(held)} cache",
        }

    def of_ranks(self) -> Mapping[str, str]:
        from postgrad.train import memory

        weights = _size(self.shape.parameters * memory.BYTES[self.dtype])
        return {
            "ranks": f"R of them divide a step's micro-batches and hold 1/R of the state each, and all weights, {weights}, while sampling"
        }

    def _state(self, of: SftSettings | PolicySettings, micro_batches: int, *, reference: bool = False) -> str:
        from postgrad.train import memory

        held = memory.state(
            self.shape,
            dtype=self.dtype,
            master_weights=of.master_weights,
            micro_batches=micro_batches,
            reference=reference,
            adapted=self.adapted,
        )
        return f"{_size(held)} state"

    def _activations(self, of: SftSettings | PolicySettings, tokens: int, trained: int) -> str:
        from postgrad.train import memory

        peak = memory.activations(
            self.shape, tokens, trained, dtype=self.dtype, recomputed=of.gradient_checkpointing, on_cuda=self.on_cuda
        )
        return f"at most {_size(peak)} activations"


def _size(count: float) -> str:
    from postgrad.train import memory

    return f"{count / memory.GIB:.2f} GiB"
