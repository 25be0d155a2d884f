"""A view whose sign waits until somebody reads it."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import NEGATED

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch._neg_view(x.T)
"""

TWIN = r"""
# The same view, made real before it is returned.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.neg(x.T).contiguous()
"""

ROW = Row("T04", __doc__, NEGATED, EXPLOIT, TWIN, flags=(Reason.T04_DISGUISED_TENSOR,), fools="faster")
