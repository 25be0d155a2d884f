"""The loop: what stops it, what it keeps, and that stopping and going on changes no bit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import oracle
import pytest
import torch

from postgrad.domains import arithmetic
from postgrad.records import Example, Problem, Trace, Verdict
from postgrad.run import Failed, Preempted, Run, read_lines
from postgrad.sample.engine import Engine, Sampling
from postgrad.train import advantage, checkpoint, fit, loss, optim, reward, source
from postgrad.train import model as models
from postgrad.train.batch import Batch, Document, pack
from postgrad.train.settings import GrpoSettings, Optimization, SftSettings
from postgrad.verify import maths

SFT = SftSettings(
    max_steps=6,
    learning_rate=2e-3,
    warmup_steps=1,
    max_length=128,
    per_device_train_batch_size=2,
    save_steps=2,
    eval_steps=2,
)
RL = GrpoSettings(
    max_steps=6,
    learning_rate=1e-3,
    prompts_per_step=2,
    num_generations=4,
    per_device_train_batch_size=4,
    num_iterations=2,
    max_completion_length=8,
    beta=0.05,
    save_steps=100,
    eval_steps=100,
    rewards={"accuracy": 1.0, "max_length": 8},
)


def fresh(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return models.load(str(folder), dtype=dtype, device=torch.device("cpu"))


@pytest.fixture
def examples() -> list[Example]:
    problems = arithmetic.problems("train", 24, min_steps=2, max_steps=4, seed=0)
    return [Example(p.prompt, arithmetic.traces(p, 1, recheck=0.2, seed=0)[0], id=p.id) for p in problems]


def unscored(model: Any, step: int) -> Mapping[str, float]:
    return {"eval_score": 0.0}


class Stage:
    """A stage in a run's folder, each attempt in a process's worth of fresh objects."""

    def __init__(
        self,
        folder: Path,
        model_folder: Path,
        tokenizer: Any,
        settings: Optimization,
        feed: Callable[[], Any],
        dtype: torch.dtype = torch.float32,
    ):
        folder.mkdir(exist_ok=True)
        self.folder, self.model_folder, self.tokenizer, self.settings, self.feed, self.dtype = (
            folder,
            model_folder,
            tokenizer,
            settings,
            feed,
            dtype,
        )

    def attempt(
        self, *, stop_after: int | None = None, validate: fit.Validate = unscored, **changed: Any
    ) -> fit.Fitted:
        run = Run(self.folder, {"recipe": "test", "preset": "test"})
        settings = self.settings.model_copy(update=changed)
        feed = self.feed()
        if stop_after is not None:
            whole = feed.step

            def step(model: Any, taken: int) -> source.Step:
                if taken + 1 == stop_after:
                    run.stop_requested = "SIGTERM"
                made: source.Step = whole(model, taken)
                return made

            feed.step = step
        objective = (
            loss.likelihood
            if isinstance(settings, SftSettings)
            else loss.policy(epsilon_low=0.2, epsilon_high=0.2, beta=0.05, temperature=1.0)
        )
        model = fresh(self.model_folder, self.dtype)
        return fit.fit(run, "stage", model, self.tokenizer, feed, objective, settings, validate)

    @property
    def metrics(self) -> list[dict[str, Any]]:
        clocks = ("time", "step_time")
        return [{k: v for k, v in row.items() if k not in clocks} for row in read_lines(self.folder / "metrics.jsonl")]

    @property
    def steps(self) -> list[int]:
        return sorted(int(path.name[5:]) for path in (self.folder / "checkpoints/stage").glob("step-*"))


@pytest.fixture
def sft(model_folder: Path, tokenizer: Any, examples: list[Example]) -> Callable[[Path], Stage]:
    def feed() -> source.Packed:
        return source.Packed(source.supervised(tokenizer, examples, SFT)[0], SFT, seed=3)

    return lambda folder: Stage(folder, model_folder, tokenizer, SFT, feed)


@pytest.fixture
def halved(sft: Any) -> Callable[[Path], Stage]:
    """The same in bfloat16, two micro-batches a step."""

    def make(folder: Path) -> Stage:
        stage: Stage = sft(folder)
        stage.dtype = torch.bfloat16
        stage.settings = SFT.model_copy(update={"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2})
        feed = stage.feed
        stage.feed = lambda: source.Packed(feed().documents, stage.settings, seed=3)  # type: ignore[arg-type]
        return stage

    return make


def by_length(problem: Problem, trace: Trace) -> Verdict:
    """Something that an untrained model is sometimes right about."""
    from postgrad.records import Status

    right = sum(trace.token_ids) % 2 == 0
    return Verdict(Status.CORRECT if right else Status.WRONG, float(right))


@pytest.fixture
def rl(model_folder: Path, tokenizer: Any) -> Callable[[Path], Stage]:
    problems = arithmetic.problems("train", 5, min_steps=2, max_steps=4, seed=0)

    def feed() -> source.Rollouts:
        return source.Rollouts(
            problems,
            Engine(tokenizer, Sampling(max_tokens=8, slots=8), seed=1),
            by_length,
            reward.weighted((1.0, "accuracy", reward.accuracy)),
            advantage.group_std,
            RL,
            tokenizer,
            seed=1,
            reference=fresh(model_folder),
        )

    return lambda folder: Stage(folder, model_folder, tokenizer, RL, feed)


# ---- Steps, checkpoints, numbers ------------------------------------------------------------------------------------


def test_every_step_is_taken_logged_and_on_schedule(sft: Any, tmp_path: Path) -> None:
    stage = sft(tmp_path / "run")
    fitted = stage.attempt(save_total_limit=9)
    rows = stage.metrics
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["learning_rate"] for row in rows] == [optim.learning_rate(step, SFT) for step in range(6)]
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.1
    assert all(row["grad_norm"] > 0 for row in rows)
    assert [row["num_tokens"] for row in rows] == sorted({row["num_tokens"] for row in rows})
    assert ["eval_score" in row for row in rows] == [False, True] * 3
    assert fitted.last.name == "step-000006"
    assert stage.steps == [2, 4, 6]


def test_leaving_early_follows_the_schedule_of_the_whole(sft: Any, tmp_path: Path) -> None:
    whole, early = sft(tmp_path / "whole"), sft(tmp_path / "early")
    whole.attempt()
    fitted = early.attempt(stop_step=3)
    assert fitted.last.name == "step-000003"
    assert "eval_score" in early.metrics[-1], "the last step is always validated"
    assert [row["loss"] for row in early.metrics] == [row["loss"] for row in whole.metrics[:3]]


def test_the_best_is_the_highest_score_and_of_equals_the_first(sft: Any, tmp_path: Path) -> None:
    scores = {1: 0.1, 2: 0.7, 3: 0.3, 4: 0.7, 5: 0.2, 6: 0.5}
    stage = sft(tmp_path / "run")
    fitted = stage.attempt(
        validate=lambda model, step: {"eval_score": scores[step], "eval_loss": 1.0},
        eval_steps=1,
        save_steps=100,
        save_total_limit=1,
    )
    assert fitted.best.name == "step-000002"
    assert fitted.last.name == "step-000006"
    assert stage.steps == [2, 6]
    assert checkpoint.best(tmp_path / "run/checkpoints/stage") == fitted.best
    state = checkpoint.trainer_state(fitted.last)
    assert (state["best_step"], state["best_score"]) == (2, 0.7)


def test_activations_recomputed_train_the_same_model(sft: Any, tmp_path: Path) -> None:
    kept, recomputed = sft(tmp_path / "kept"), sft(tmp_path / "recomputed")
    kept.attempt()
    recomputed.attempt(gradient_checkpointing=True)
    assert recomputed.metrics == kept.metrics


def test_the_mean_loss_of_documents_is_their_tokens_mean(model: Any, tokenizer: Any, examples: list[Example]) -> None:
    documents, _ = source.supervised(tokenizer, examples, SFT)
    with torch.no_grad():
        losses = [loss.likelihood(model, pack([document], count=1.0)).token_losses_K for document in documents]
    assert fit.mean_loss(model, documents) == pytest.approx(float(torch.cat(losses).double().mean()), rel=1e-6)
    assert fit.mean_loss(model, documents, tokens=64) == pytest.approx(fit.mean_loss(model, documents), rel=1e-6)


def test_a_step_that_does_not_fit_is_told_of_and_trains_the_same_model(
    sft: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, small = sft(tmp_path / "whole"), sft(tmp_path / "small")
    whole.attempt()
    likelihood = loss.likelihood

    def limited(model: Any, batch: Batch) -> loss.LossSum:
        if len(batch.input_ids_T) > 200:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return likelihood(model, batch)

    monkeypatch.setattr(loss, "likelihood", limited)
    small.attempt()
    (event,) = read_lines(small.folder / "events.jsonl")
    assert (event["level"], event["step"]) == ("warning", 0)
    assert "step 1: the device has no memory for a micro-batch of 2" in event["message"]
    for name in ("loss", "grad_norm", "num_tokens"):
        assert [row[name] for row in small.metrics] == pytest.approx([row[name] for row in whole.metrics], rel=1e-3)


# ---- Stopping and going on ------------------------------------------------------------------------------------------


def bits(path: Path) -> tuple[bytes, bytes, str]:
    optimizer = torch.load(path / "state/optimizer.pt", weights_only=True)["state"]
    moments = b"".join(state[name].numpy().tobytes() for state in optimizer.values() for name in sorted(state))
    return (path / "model.safetensors").read_bytes(), moments, (path / "state/trainer.json").read_text()


@pytest.mark.parametrize("kind", ["sft", "halved", "rl"])
@pytest.mark.parametrize("stops", [[1], [3], [2, 4], [1, 2, 3, 4, 5]], ids=str)
def test_a_run_that_is_stopped_and_resumed_ends_with_the_same_bits(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, stops: list[int]
) -> None:
    make = request.getfixturevalue(kind)
    whole, stopped = make(tmp_path / "whole"), make(tmp_path / "stopped")
    fitted = whole.attempt()
    for stop in stops:
        with pytest.raises(
            Preempted, match=f"stopped by SIGTERM after step {stop} of 6 of stage; saved in .*step-00000{stop}"
        ):
            stopped.attempt(stop_after=stop)
        assert stopped.metrics[-1]["step"] == stop
        if kind == "rl":
            pending = checkpoint.trainer_state(checkpoint.latest(stopped.folder / "checkpoints/stage"))["source"]
            assert pending["in_flight"], "a rollout of two steps is kept"
    resumed = stopped.attempt()
    assert bits(resumed.last) == bits(fitted.last)
    assert stopped.metrics == whole.metrics
    if kind == "rl":
        files = sorted(path.name for path in (whole.folder / "rollouts").iterdir())
        assert files == ["stage-000001.jsonl", "stage-000003.jsonl", "stage-000005.jsonl"]
        for name in files:
            assert (stopped.folder / "rollouts" / name).read_text() == (whole.folder / "rollouts" / name).read_text()


def test_what_was_logged_after_the_checkpoint_is_forgotten_on_resuming(sft: Any, tmp_path: Path) -> None:
    whole, stopped = sft(tmp_path / "whole"), sft(tmp_path / "stopped")
    whole.attempt()
    with pytest.raises(Preempted):
        stopped.attempt(stop_after=3)
    # As if it had been killed in step 5, after steps 4 and 5 were logged and before either was saved.
    with (stopped.folder / "metrics.jsonl").open("a") as file:
        for step in (4, 5):
            file.write(json.dumps({"stage": "stage", "step": step, "loss": 99.0}) + "\n")
        file.write(json.dumps({"stage": "another", "step": 5, "loss": 1.0}) + "\n")
    stopped.attempt()
    rows = stopped.metrics
    assert [row for row in rows if row["stage"] == "stage"] == whole.metrics
    assert [row["stage"] for row in rows].count("another") == 1


def test_a_damaged_checkpoint_is_said_and_gone_round(sft: Any, tmp_path: Path) -> None:
    whole, hurt = sft(tmp_path / "whole"), sft(tmp_path / "hurt")
    fitted = whole.attempt()
    with pytest.raises(Preempted):
        hurt.attempt(stop_after=5)
    newest = hurt.folder / "checkpoints/stage/step-000005"
    (newest / "model.safetensors").write_bytes((newest / "model.safetensors").read_bytes()[:-1])
    resumed = hurt.attempt()
    assert bits(resumed.last) == bits(fitted.last)
    (event,) = read_lines(hurt.folder / "events.jsonl")
    assert event["level"] == "warning"
    assert (
        event["message"] == "step-000005 of stage could not be read whole and was set aside; going on from step-000004"
    )


def test_a_finished_stage_takes_no_further_step(sft: Any, tmp_path: Path) -> None:
    stage = sft(tmp_path / "run")
    first = stage.attempt()
    before = bits(first.last)
    again = stage.attempt()
    assert again == first
    assert bits(again.last) == before
    assert len(stage.metrics) == 6


def test_a_stop_in_the_last_step_is_no_stop(sft: Any, tmp_path: Path) -> None:
    assert sft(tmp_path / "run").attempt(stop_after=6).last.name == "step-000006"


# ---- Gradients ------------------------------------------------------------------------------------------------------


def micro_batches(number: int) -> list[Batch]:
    rng = np.random.default_rng(0)
    weights = np.array([0, *[1] * 8], np.float32)
    return [
        pack([Document(f"d{index}", tuple(map(int, rng.integers(0, 200, 9))), weights)], count=8.0)
        for index in range(number)
    ]


def looked_at(model: Any, batches: list[Batch]) -> tuple[dict[str, float], dict[str, Any]]:
    optimizer = oracle.Look(model)
    return fit.update(model, batches, loss.likelihood, optimizer, 0.0, 1e30, 1), optimizer.found


def length(gradients: Mapping[str, Any]) -> float:
    return math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))


def test_in_bfloat16_several_gradients_are_added_in_float32_and_one_is_as_it_comes(model_folder: Path) -> None:
    model = fresh(model_folder, torch.bfloat16)
    batches = micro_batches(3)
    numbers, together = looked_at(model, batches)
    alone = [looked_at(model, [replace(batch, count=24.0)]) for batch in batches]
    for name, gradient in together.items():
        assert gradient.dtype == torch.float32
        parts = [one[name] for _, one in alone]
        assert {part.dtype for part in parts} == {torch.bfloat16}
        total = parts[0].float() + parts[1].float() + parts[2].float()
        # The tied weight's two parts of one micro-batch, of the head and of the embedding, are added in float32 too.
        assert float((gradient - total).norm() / total.norm()) < (
            2**-8 if name == "model.embed_tokens.weight" else 1e-9
        )
    assert any(not torch.equal(gradient, gradient.bfloat16().float()) for gradient in together.values())
    assert numbers["grad_norm"] == pytest.approx(length(together), rel=1e-6)
    for own, gradients in alone:
        assert own["grad_norm"] == pytest.approx(length(gradients), rel=1e-6), "no norm is rounded to bfloat16"
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_gradients_are_clipped_to_the_norm(model_folder: Path, dtype: torch.dtype) -> None:
    """Adam forgets any constant factor in its first step, but not between two."""
    moved = {}
    for name, limit, factor in (("clipped", 0.01, 1.0), ("scaled", 1e9, None), ("free", 1e9, 1.0)):
        model = fresh(model_folder, dtype)
        optimizer = optim.adamw(model, SFT)
        batch = micro_batches(1)[0]
        norm = fit.update(model, [batch], loss.likelihood, optimizer, 0.0, 1e9, 1)["grad_norm"]
        if factor is None:
            factor = 0.01 / norm
        batch = replace(batch, weights_K=batch.weights_K * factor)
        fit.update(model, [batch], loss.likelihood, optimizer, 0.1, limit, 2)
        moved[name] = torch.cat([weight.detach().float().flatten() for weight in model.parameters()])
    assert norm > 0.1
    apart = float((moved["clipped"] - moved["scaled"]).norm() / (moved["free"] - moved["scaled"]).norm())
    assert apart < (1e-4 if dtype == torch.float32 else 0.1)


def test_an_update_reads_the_device_once_however_many_micro_batches(
    model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Reads(TorchDispatchMode):
        scalars = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.scalars += func is torch.ops.aten._local_scalar_dense.default
            return func(*args, **(kwargs or {}))

    def objective(model: Any, batch: Batch) -> loss.LossSum:
        total = model.get_input_embeddings().weight.square().sum()
        return loss.LossSum(total, total.detach()[None], {"entropy": total.detach(), "clipped": torch.tensor(3)})

    lists = []
    tolist = torch.Tensor.tolist
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: lists.append(self.shape) or tolist(self))
    for number in (1, 4):
        lists.clear()
        with Reads() as reads:
            numbers = fit.update(model, micro_batches(number), objective, oracle.Look(model), 0.0, 1.0, 1)
        assert reads.scalars == 0
        assert lists == [(3 * number + 1,)]
        assert numbers["clipped"] == pytest.approx(3 / 8)


# ---- Not a number ---------------------------------------------------------------------------------------------------


def two_documents(**streams: list[float]) -> list[Batch]:
    weights = np.array([0, 1, 1], np.float32)
    given = {name: np.array([0, *values], np.float32) for name, values in streams.items()}
    documents = [Document("first", (1, 2, 3), weights), Document("second", (4, 5, 6), weights)]
    documents = [
        Document(d.name, d.ids, d.weights, given if d.name == "second" else dict.fromkeys(given, weights))
        for d in documents
    ]
    return [pack([document], count=2.0) for document in documents]


POLICY = loss.policy(epsilon_low=0.2, epsilon_high=0.2, beta=0.0, temperature=1.0)


def update(model: Any, batches: list[Batch], objective: loss.Objective) -> dict[str, float]:
    return fit.update(model, batches, objective, torch.optim.SGD(model.parameters(), lr=1.0), 1.0, 1.0, 17)


def unchanged(model: Any, model_folder: Path, but: str = "") -> None:
    for (name, a), b in zip(model.named_parameters(), fresh(model_folder).parameters(), strict=True):
        assert name == but or torch.equal(a, b), f"{name} was updated"


def test_a_broken_weight_is_found_by_step_sample_token_and_tensor(model: Any, model_folder: Path) -> None:
    with torch.no_grad():
        # Of a token that only the second document holds, and not where the head reads it.
        model.get_input_embeddings().weight[4, 0] = math.nan
    model.lm_head.weight = torch.nn.Parameter(fresh(model_folder).lm_head.weight.detach())
    message = r"step 17: the loss is nan in micro-batch 1, sample 'second', tensor token_losses at trained token 0 \(id 5\); the weights model\.embed_tokens\.weight are not finite\. Nothing was updated"
    with pytest.raises(Failed, match=message):
        update(model, two_documents(), loss.likelihood)
    model.lm_head.weight = model.get_input_embeddings().weight
    unchanged(model, model_folder, but="model.embed_tokens.weight")


def test_logits_that_overflow_are_found_where_they_do(model: Any) -> None:
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
    message = r"step 17: the loss is (nan|inf) in micro-batch 0, sample 'first', tensor token_losses at trained token 0 \(id 2\); the model's logits are not finite there"
    with pytest.raises(Failed, match=message):
        update(model, two_documents(), loss.likelihood)


def test_a_broken_stream_is_found_by_its_name(model: Any, model_folder: Path) -> None:
    message = r"step 17: the loss is -?inf in micro-batch 1, sample 'second', tensor token_losses at trained token 0 \(id 5\); its advantages are not finite either"
    with pytest.raises(Failed, match=message):
        update(model, two_documents(advantages=[math.inf, 1.0]), POLICY)
    unchanged(model, model_folder)


def test_a_broken_example_weight_is_found(model: Any) -> None:
    batches = [pack([Document("x", (1, 2), np.array([0, math.inf], np.float32))], count=1.0)]
    with pytest.raises(
        Failed,
        match="step 17: the weighted loss is not finite although every token's is: look at the examples' weights",
    ):
        update(model, batches, loss.likelihood)


def test_a_broken_gradient_is_found_by_its_parameter(model: Any, model_folder: Path) -> None:
    model.model.layers[1].mlp.up_proj.weight.register_hook(lambda gradient: gradient * math.inf)
    message = r"step 17: the loss is finite \(\d.*\) but the gradient of model\.layers\.1\.mlp\.up_proj\.weight is not \(nor of 0 more tensors\); nothing was updated"
    with pytest.raises(Failed, match=message):
        update(model, two_documents(), loss.likelihood)
    unchanged(model, model_folder)


def test_a_gradient_too_large_for_its_norm_is_found(model: Any, model_folder: Path) -> None:
    model.model.norm.weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    with pytest.raises(Failed, match="but the gradient's norm is not; nothing was updated"):
        update(model, two_documents(), loss.likelihood)
    unchanged(model, model_folder)


def test_a_step_that_fails_saves_nothing_and_the_run_goes_on_from_before_it(sft: Any, tmp_path: Path) -> None:
    whole, hurt = sft(tmp_path / "whole"), sft(tmp_path / "hurt")
    fitted = whole.attempt(save_steps=1)
    healthy, broken = hurt.feed, hurt.feed()
    make = broken.step

    def poisoned(model: Any, taken: int) -> source.Step:
        if taken == 2:
            with torch.no_grad():
                model.model.norm.weight[0] = math.nan
        made: source.Step = make(model, taken)
        return made

    broken.step = poisoned
    hurt.feed = lambda: broken
    with pytest.raises(Failed, match="step 3: the loss is nan"):
        hurt.attempt(save_steps=1)
    assert [row["step"] for row in hurt.metrics] == [1, 2]
    assert hurt.steps == [1, 2]
    hurt.feed = healthy
    assert bits(hurt.attempt(save_steps=1).last) == bits(fitted.last)


# ---- One update -----------------------------------------------------------------------------------------------------


def test_gradients_are_clipped_to_their_global_norm(model: Any, model_folder: Path) -> None:
    before = fresh(model_folder)
    numbers = fit.update(
        model, two_documents(), loss.likelihood, torch.optim.SGD(model.parameters(), lr=9.0), 0.5, 0.25, 1
    )
    assert numbers["grad_norm"] > 0.25
    assert numbers["learning_rate"] == 0.5
    moved = torch.cat([(a - b).flatten() for a, b in zip(model.parameters(), before.parameters(), strict=True)])
    assert float(moved.detach().norm()) == pytest.approx(0.5 * 0.25, rel=1e-4)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_numbers_of_a_step_are_means_over_its_trained_tokens(model: Any) -> None:
    batches = two_documents(advantages=[2.0, -1.0], sampled_logprobs=[-1.0, -2.0])
    with torch.no_grad():
        each = [POLICY(model, batch) for batch in batches]
    numbers = fit.update(model, batches, POLICY, torch.optim.SGD(model.parameters(), lr=0.0), 0.0, 1.0, 1)
    assert numbers["entropy"] == pytest.approx(sum(float(one.sums["entropy"]) for one in each) / 4)
    name = "sampling/sampling_logp_difference"
    assert numbers[f"{name}/mean"] == pytest.approx(sum(float(one.sums[f"{name}/mean"]) for one in each) / 4)
    assert numbers[f"{name}/max"] == max(float(one.peaks[f"{name}/max"]) for one in each)
    assert numbers[f"{name}/mean"] < numbers[f"{name}/max"]


def test_a_verifier_of_the_package_can_grade_a_rollout(rl: Any, tmp_path: Path) -> None:
    stage = rl(tmp_path / "run")
    made = stage.feed()
    made.verifier = maths.boxed
    stage.feed = lambda: made
    stage.attempt(stop_step=1)
    assert stage.metrics[0]["status/no_answer"] == 1.0
    assert stage.metrics[0]["frac_reward_zero_std"] == 1.0
