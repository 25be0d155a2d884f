"""The one training loop. It knows no algorithm: a source makes the step's micro-batches, an objective sums their losses.

    loss = sum over the step's micro-batches of objective.total / sum of batch.count

The division is by the whole step's count, known before the first forward pass, so splitting a step into other
micro-batches changes neither the loss nor the gradient.
"""

from __future__ import annotations

import gc
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from postgrad.ranks import ALONE, Ranks
from postgrad.run import Failed, Preempted, Run
from postgrad.train import adapter, checkpoint, finite, layers, loss, optim, shard, source
from postgrad.train.batch import Batch, Document, pack
from postgrad.train.loss import LossSum, Objective
from postgrad.train.room import Room
from postgrad.train.saver import Saver
from postgrad.train.settings import Optimization
from postgrad.train.source import Source

Validate = Callable[[PreTrainedModel, int], Mapping[str, float]]
"""(model, steps taken) -> numbers to log; "eval_score" among them is what the best checkpoint has most of."""


SHOWN = ("loss", "reward", "completions/mean_length", "eval_loss", "eval_accuracy")
"""What the live progress shows of a step's numbers."""


@dataclass(frozen=True, slots=True)
class Fitted:
    last: Path
    best: Path
    """The checkpoint with the highest validation score: early stopping is to go on from this one."""


def fit(
    run: Run,
    stage: str,
    model: PreTrainedModel,
    tokenizer: Any,
    feed: Source,
    objective: Objective,
    settings: Optimization,
    validate: Validate,
) -> Fitted:
    """Train `model` in place from the stage's newest checkpoint, or from the start, to `settings.last_step`.

    Raises Failed where a loss or gradient is not finite (nothing is saved after it), Preempted after saving where
    the run was asked to stop.
    """
    folder, ranks = run.folder / "checkpoints" / stage, run.ranks
    optimizer = optim.optimizer(model, settings)
    layers.prepare(model, compiled=settings.torch_compile, recomputed=settings.gradient_checkpointing)

    # Once: go on from where an earlier process stopped.
    taken, tokens = 0, 0
    best_step: int | None = None
    best_score: float | None = None
    saved, damaged = ranks.first(checkpoint.recover, folder)
    if saved is not None:
        state = checkpoint.trainer_state(saved)
        taken, tokens, best_step, best_score = state["step"], state["tokens"], state["best_step"], state["best_score"]
        load_weights(model, saved)
        checkpoint.load_optimizer(saved, optimizer)
        feed.restore(state["source"])
        ranks.first(checkpoint.prune, folder, settings.save_total_limit, best_step)
    run.rewind(stage, taken)
    if damaged:
        start = saved.name if saved else "the start"
        message = f"{', '.join(damaged)} of {stage} could not be read whole and was set aside; going on from {start}"
        run.event(stage, taken, "warning", message)

    room = Room(lambda message: run.event(stage, taken, "warning", message))
    run.progress.start(stage, settings.last_step, "step")
    with Saver(folder, model, tokenizer, optimizer, settings.save_total_limit, ranks) as saver:
        while taken < settings.last_step:
            started = time.perf_counter()

            # One step: the source's micro-batches, one division, one update.
            step = feed.step(model, taken)
            rate = optim.learning_rate(taken, settings)
            limit = settings.max_grad_norm
            numbers = update(model, step.batches, objective, optimizer, rate, limit, taken + 1, ranks, room)
            taken += 1
            tokens += sum(len(batch.input_ids_T) for batch in step.batches)
            numbers |= step.numbers | {"num_tokens": tokens, "step_time": time.perf_counter() - started}

            # Once in a while: measure on problems that training never sees.
            if taken % settings.eval_steps == 0 or taken == settings.last_step:
                measured = ranks.agree(validate(model, taken))
                numbers |= measured
                if best_score is None or measured["eval_score"] > best_score:
                    best_step, best_score = taken, measured["eval_score"]
            run.log(stage, taken, numbers)
            if step.rows:
                run.write_rows(f"rollouts/{stage}-{taken:06d}.jsonl", step.rows)
            run.progress.update(taken, **{name: numbers[name] for name in SHOWN if name in numbers})

            # Save when due, when this is the best so far, at the end, and when asked to stop.
            stop = run.asked_to_stop()
            if taken == best_step or taken % settings.save_steps == 0 or taken == settings.last_step or stop:
                trainer = {"tokens": tokens, "best_step": best_step, "best_score": best_score, "source": feed.state()}
                saved = saver.save(taken, trainer)
            if stop and taken < settings.last_step:
                saver.wait()
                raise Preempted(
                    f"stopped by {stop} after step {taken} of {settings.last_step} of {stage}; saved in {saved}"
                )
    run.progress.finish()
    assert saved is not None, "settings.last_step is at least 1, so the last step was saved"
    assert best_step is not None, "and validated"
    return Fitted(saved, checkpoint.place(folder, best_step))


def update(
    model: torch.nn.Module,
    batches: Sequence[Batch],
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    rate: float,
    max_grad_norm: float,
    step: int,
    ranks: Ranks = ALONE,
    room: Room | None = None,
) -> dict[str, float]:
    """One optimizer step over all of a step's micro-batches; returns its numbers, means over trained tokens.

    Every rank is given all of the step and computes its share: count, loss, gradient and numbers are those of the whole.
    `room` says how large a micro-batch may be, and learns it.
    """
    room = Room(warnings.warn) if room is None else room
    # What layers draw themselves (dropout) is a function of the step, so that a resumed run draws the same.
    torch.manual_seed(step)
    count = sum(batch.count for batch in batches)
    assert count != 0, "a source makes no step that has nothing to train"
    trained = sum(len(batch.targets_K) for batch in batches)
    weights = [p for p in model.parameters() if p.requires_grad]
    while True:
        mine, losses, too_large = _passes(model, weights, room.cut(batches), objective, count, ranks)
        if too_large is None:
            break
        optimizer.zero_grad(set_to_none=True)
        room.shrink(too_large, step, ranks)
        gc.collect()
        torch.cuda.empty_cache()
    total_norm = optim.norm([p.grad for p in weights if p.grad is not None])
    # The one wait for the device: what is queued after it needs none of these numbers.
    own, (norm,) = loss.read(losses, total_norm)
    told = ranks.gather(own)
    total = sum(one.total for one in told) / count
    if not math.isfinite(total):
        raise Failed(finite.loss(model, step, mine, losses, ranks))
    # Before clipping, which would spread what is not finite over every tensor.
    if not math.isfinite(norm):
        raise Failed(finite.gradient(model, step, total, ranks))
    optim.step(optimizer, weights, rate, total_norm, max_grad_norm)
    sums: dict[str, float] = {}
    for one in told:
        for name, value in one.sums.items():
            sums[name] = sums.get(name, 0.0) + value
    peaks = {name: max(one.peaks[name] for one in told) for name in told[0].peaks}
    lows = {name: min(one.lows[name] for one in told) for name in told[0].lows}
    return (
        peaks
        | lows
        | {"loss": total, "grad_norm": norm, "learning_rate": rate}
        | {name: value / trained for name, value in sums.items()}
    )


def _passes(
    model: torch.nn.Module,
    weights: Sequence[torch.Tensor],
    batches: Sequence[Batch],
    objective: Objective,
    count: float,
    ranks: Ranks,
) -> tuple[list[Batch], list[LossSum], Batch | None]:
    """This rank's micro-batches with their losses, the gradients in `weights`; or one that there was no memory for."""
    device = next(model.parameters()).device
    mine = ranks.share(batches)
    # A sharded model's passes are everyone's: a rank with a micro-batch less takes part in the last with one of no weight.
    idle = [replace(batches[0], weights_K=0 * batches[0].weights_K)] * ranks.idle(len(batches))
    gradients = optim.Gradients(weights, len(mine) + len(idle))
    model.train()
    losses = []
    for batch in [*mine, *idle]:
        try:
            summed = objective(model, batch.to(device))
            (summed.total / count).backward()
            gradients.add()
        except torch.OutOfMemoryError:
            # Boundary. Only the batch leaves it: what the error's frames hold is free before the next attempt.
            return mine, [], batch
        losses.append(summed)
    gradients.finish()
    model.eval()
    return mine, losses[: len(mine)], None


@torch.no_grad()
def mean_loss(model: torch.nn.Module, documents: Sequence[Document], tokens: int = 8192, ranks: Ranks = ALONE) -> float:
    """Mean nats per trained token over documents, in packs of about `tokens`."""
    device = next(model.parameters()).device

    def summed(row: Sequence[int]) -> tuple[float, float]:
        members = [documents[index] for index in row]
        batch = pack(members, count=float(sum(document.weights.sum() for document in members)))
        return float(loss.likelihood(model, batch.to(device)).total), batch.count

    rows = source.best_fit([len(d.ids) for d in documents], max(tokens, *(len(d.ids) for d in documents)))
    sums = ranks.spread(summed, rows)
    return sum(total for total, _ in sums) / sum(count for _, count in sums)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Copy a checkpoint's weights into a model of the same shape, or its adapter into one with such an adapter."""
    if adapter.is_adapted(model):
        adapter.take(model, folder)
        return
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    shard.take_weights(model, saved.state_dict())
