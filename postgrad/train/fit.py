"""The one training loop. It knows no algorithm: a source makes the step's micro-batches, an objective sums their losses.

    loss = sum over the step's micro-batches of objective.total / sum of batch.count

The division is by the whole step's count, known before the first forward pass, so splitting a step into other
micro-batches changes neither the loss nor the gradient.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from postgrad.ranks import ALONE, Ranks
from postgrad.run import Failed, Preempted, Run
from postgrad.train import checkpoint, layers, loss, optim, shard, source
from postgrad.train.batch import Batch, Document, pack
from postgrad.train.loss import LossSum, Objective
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
    optimizer = optim.adamw(model, settings)
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

    run.progress.start(stage, settings.last_step, "step")
    with Saver(folder, model, tokenizer, optimizer, settings.save_total_limit, ranks) as saver:
        while taken < settings.last_step:
            started = time.perf_counter()

            # One step: the source's micro-batches, one division, one update.
            step = feed.step(model, taken)
            rate = optim.learning_rate(taken, settings)
            numbers = update(model, step.batches, objective, optimizer, rate, settings.max_grad_norm, taken + 1, ranks)
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
) -> dict[str, float]:
    """One optimizer step over all of a step's micro-batches; returns its numbers, means over trained tokens.

    Every rank is given all of the step and computes its share: count, loss, gradient and numbers are those of the whole.
    """
    count = sum(batch.count for batch in batches)
    assert count != 0, "a source makes no step that has nothing to train"
    trained = sum(len(batch.targets_K) for batch in batches)
    device = next(model.parameters()).device
    mine = [batch.to(device) for batch in ranks.share(batches)]
    # A sharded model's passes are everyone's: a rank with a micro-batch less takes part in the last with one of no weight.
    idle = [replace(batches[0], weights_K=0 * batches[0].weights_K).to(device)] * ranks.idle(len(batches))
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = optim.Gradients(weights, len(mine) + len(idle))
    model.train()
    losses = []
    for batch in [*mine, *idle]:
        summed = objective(model, batch)
        (summed.total / count).backward()
        gradients.add()
        losses.append(summed)
    gradients.finish()
    model.eval()
    del losses[len(mine) :]
    total_norm = optim.norm([p.grad for p in weights if p.grad is not None])
    # The one wait for the device: what is queued after it needs none of these numbers.
    own, (norm,) = loss.read(losses, total_norm)
    told = ranks.gather(own)
    total = sum(one.total for one in told) / count
    if not math.isfinite(total):
        raise Failed(_not_finite(model, step, mine, losses, ranks))
    # Before clipping, which would spread what is not finite over every tensor.
    if not math.isfinite(norm):
        named = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        broken = ranks.union(name for name, grad in named.items() if not shard.local(grad).isfinite().all())
        # Finite gradients can be so large that their squares are not.
        where = (
            f"gradient of {broken[0]} is not (nor of {len(broken) - 1} more tensors)"
            if broken
            else "gradient's norm is not"
        )
        raise Failed(
            f"step {step}: the loss is finite ({total:.6g}) but the {where}; nothing was updated. Lower learning_rate or max_grad_norm, or use dtype float32, and resume from the last checkpoint"
        )
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


def _not_finite(
    model: torch.nn.Module, step: int, mine: Sequence[Batch], losses: Sequence[LossSum], ranks: Ranks
) -> str:
    """Which sample, which token, which tensor: the first place where a loss is not a number."""
    weights = ranks.union(name for name, w in model.named_parameters() if not shard.local(w).isfinite().all())
    found = [place for place in ranks.everyone(_place(step, mine, losses, weights, ranks)) if place is not None]
    whole = f"step {step}: the weighted loss is not finite although every token's is: look at the examples' weights"
    return found[0] if found else whole


def _place(
    step: int, mine: Sequence[Batch], losses: Sequence[LossSum], weights: Sequence[str], ranks: Ranks
) -> str | None:
    for index, (batch, one) in enumerate(zip(mine, losses, strict=True)):
        bad_K = ~one.token_losses_K.isfinite()
        if bad_K.any():
            first = int(bad_K.nonzero()[0])
            name = batch.names[int(batch.document_K[first])]
            streams = [stream for stream, values in batch.streams_K.items() if not values[first].isfinite()]
            cause = f"its {streams[0]} are not finite either" if streams else "the model's logits are not finite there"
            cause = f"the weights {weights[0]} are not finite" if weights else cause
            return (
                f"step {step}: the loss is {float(one.token_losses_K[first])} in micro-batch {index * ranks.size + ranks.rank}, sample {name!r}, tensor token_losses "
                f"at trained token {first} (id {int(batch.targets_K[first])}); {cause}. Nothing was updated: "
                "lower learning_rate, or look at that sample, and resume from the last checkpoint"
            )
    return None


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Copy a checkpoint's weights into a model of the same shape."""
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    shard.take_weights(model, saved.state_dict())
