"""A device that is out of memory gets smaller micro-batches; the step is the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import oracle
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from postgrad.ranks import Ranks
from postgrad.run import Failed
from postgrad.train import fit, loss
from postgrad.train.batch import Batch, Document, halves, pack
from postgrad.train.room import Room

POLICY = loss.policy(epsilon_low=0.2, epsilon_high=0.2, beta=0.0, temperature=1.0)


def documents(*groups: tuple[int, ...]) -> list[Document]:
    """Groups of completions of these lengths behind a shared prompt of six tokens."""
    rng = np.random.default_rng(0)
    made = []
    for index, lengths in enumerate(groups):
        prompt = tuple(map(int, rng.integers(0, 200, 6)))
        for length in lengths:
            context = np.zeros(6, np.float32)
            values = {name: rng.normal(0, 1, length).astype(np.float32) for name in ("advantages", "weights")}
            made.append(
                Document(
                    f"g{index}",
                    (*prompt, *map(int, rng.integers(0, 200, length))),
                    np.r_[context, np.abs(values["weights"]) + 0.1].astype(np.float32),
                    {"advantages": np.r_[context, values["advantages"]]},
                    prefix=6,
                )
            )
    return made


@given(st.lists(st.lists(st.integers(1, 40), min_size=1, max_size=5), min_size=1, max_size=4))
def test_halves_hold_the_same_documents_in_order_and_each_is_shorter(groups: list[list[int]]) -> None:
    whole = pack(documents(*map(tuple, groups)), count=7.0)
    if len(whole.documents) == 1:
        return
    first, second = halves(whole)
    assert first.documents + second.documents == whole.documents
    assert first.documents
    assert second.documents
    assert (first.count, second.count) == (7.0, 0.0)
    assert max(len(first.input_ids_T), len(second.input_ids_T)) < len(whole.input_ids_T)
    assert torch.equal(torch.cat([first.targets_K, second.targets_K]), whole.targets_K)
    assert torch.equal(torch.cat([first.weights_K, second.weights_K]), whole.weights_K)


def test_halves_are_about_as_long() -> None:
    sizes = [len(half.documents) for half in halves(pack(documents((10,), (10,), (10,), (40,)), count=1.0))]
    assert sizes == [3, 1]


class Small:
    """An objective on a device with room for `tokens`: the error comes where it does on a GPU, in either pass."""

    def __init__(self, objective: loss.Objective, tokens: int, *, backward: bool) -> None:
        self.objective, self.tokens, self.backward = objective, tokens, backward
        self.asked: list[int] = []

    def __call__(self, model: Any, batch: Batch) -> loss.LossSum:
        size = len(batch.input_ids_T)
        self.asked.append(size)
        if size > self.tokens and not self.backward:
            raise torch.OutOfMemoryError("CUDA out of memory")
        summed = self.objective(model, batch)
        if size > self.tokens:
            summed.total.register_hook(self.fail)
        return summed

    def fail(self, gradient: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")


def batches() -> list[Batch]:
    # The first fits, so that its gradient is there when the step begins again.
    return [
        pack(documents((9, 5)), count=2.0),
        pack(documents((20, 20, 20), (30, 10)), count=5.0),
        pack(documents((64,)), count=1.0),
        pack(documents((7, 7, 7, 7, 7, 7, 7, 7)), count=0.0),
    ]


def updated(model: Any, objective: Any, room: Room | None = None) -> tuple[dict[str, float], dict[str, Any]]:
    optimizer = oracle.Look(model)
    numbers = fit.update(model, batches(), objective, optimizer, 0.0, 1e30, 3, room=room)
    return numbers, {name: gradient.clone() for name, gradient in optimizer.found.items()}


@pytest.mark.parametrize("backward", [False, True], ids=["in the forward pass", "in the backward pass"])
@pytest.mark.parametrize("objective", [loss.likelihood, POLICY], ids=["likelihood", "policy"])
def test_a_step_that_did_not_fit_has_the_gradient_of_one_that_did(model: Any, objective: Any, backward: bool) -> None:
    wanted, whole = updated(model, objective)
    told: list[str] = []
    room = Room(told.append)
    small = Small(objective, 75, backward=backward)
    numbers, gradients = updated(model, small, room)
    assert numbers == pytest.approx(wanted, rel=1e-5)
    for name, gradient in whole.items():
        assert float((gradients[name] - gradient).norm() / gradient.norm()) < 1e-5, name
    assert told == [
        "step 3: the device has no memory for a micro-batch of 112 tokens; from now on they have at most 72, or one document. "
        "Loss and gradient stay the same; a lower per_device_train_batch_size saves the attempt"
    ]
    assert small.asked == [20, 112, 20, 46, 72, 70, 62]
    small.asked.clear()
    assert updated(model, small, room)[0] == numbers
    assert small.asked == [20, 46, 72, 70, 62], "what did not fit is not tried again"
    assert len(told) == 1


def test_it_goes_on_until_it_fits(model: Any) -> None:
    wanted, _ = updated(model, loss.likelihood)
    told: list[str] = []
    small = Small(loss.likelihood, 70, backward=False)
    assert updated(model, small, Room(told.append))[0] == pytest.approx(wanted, rel=1e-5)
    assert len(told) == 2
    # The document of 70 tokens cannot be cut, and need not be.
    assert small.asked == [20, 112, 20, 46, 72, 20, 46, 26, 46, 70, 34, 34]


def test_a_document_that_does_not_fit_alone_is_a_failure_that_says_what_to_change(model: Any) -> None:
    before = [weight.detach().clone() for weight in model.parameters()]
    told: list[str] = []
    with pytest.raises(
        Failed,
        match=r"step 3: the device has no memory for 'g0' alone, 26 tokens\. Lower max_length or .* gradient_checkpointing=true",
    ):
        updated(model, Small(loss.likelihood, 20, backward=False), Room(told.append))
    assert len(told) == 2
    for weight, old in zip(model.parameters(), before, strict=True):
        assert torch.equal(weight, old)


def test_with_several_ranks_it_is_a_failure() -> None:
    batch = pack(documents((9, 5)), count=2.0)
    with pytest.raises(
        Failed, match=r"step 4: rank 1 has no memory for a micro-batch of 20 tokens, and a step that 2 ranks are in"
    ):
        Room(print).shrink(batch, 4, Ranks(1, 2))
