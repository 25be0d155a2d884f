"""What the oracle tests share: gradients as `fit.update` hands them to the optimizer, and how far two sets are apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from postgrad.train import fit
from postgrad.train.batch import Batch
from postgrad.train.loss import Objective

Gradients = dict[str, Tensor]
TRL = "1.16.0"


def trl() -> Any:
    """TRL, of the version whose numbers are the oracle; a missing one is a failure, because a skipped oracle says nothing."""
    try:
        import trl
    except ImportError:
        pytest.fail(f"these tests compare with TRL {TRL}, which is not installed: pip install 'postgrad[test]'")
    assert trl.__version__ == TRL, f"these tests compare with TRL {TRL} and {trl.__version__} is installed"
    return trl


def updated(
    model: torch.nn.Module, batches: Sequence[Batch], objective: Objective
) -> tuple[dict[str, float], Gradients]:
    """The numbers and the gradients of one `fit.update` that moves nothing."""
    found: Gradients = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    optimizer.register_step_pre_hook(lambda *_: found.update(gradients(model)))
    numbers = fit.update(model, batches, objective, optimizer, rate=0.0, max_grad_norm=1e30, step=1)
    return numbers, found


class Look(torch.optim.Optimizer):
    """Keeps the gradients that it is given, and does nothing with them."""

    def __init__(self, model: Any) -> None:
        super().__init__(model.parameters(), {"lr": 0.0})
        self.model = model

    def step(self, closure: Any = None) -> None:
        self.found = {name: p.grad for name, p in self.model.named_parameters()}


def gradients(model: torch.nn.Module) -> Gradients:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def distance(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest relative distance of any tensor: norm of the difference by norm of theirs.

    A tensor with less than a hundredth of the whole gradient is measured against that hundredth: float32 sums of terms
    that cancel keep no more digits.
    """
    assert ours.keys() == theirs.keys()
    assert all(value.norm() > 1e-6 for value in theirs.values()), "a gradient of 0 proves nothing"
    least = 0.01 * torch.cat([value.flatten() for value in theirs.values()]).norm()
    return max(float((ours[name] - theirs[name]).norm() / theirs[name].norm().clamp(min=least)) for name in theirs)
