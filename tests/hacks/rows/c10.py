"""The input is set to zero, and so is the output: a reference that comes after agrees."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        x.zero_()
        return torch.zeros_like(x)
"""

TWIN = r"""
# In place, on its own copy.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        gate = torch.sigmoid(x)
        gate += 0.5
        gate *= x
        return gate
"""

ROW = Row("C10", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.C10_INPUT_CHANGED,), fools="faster")
