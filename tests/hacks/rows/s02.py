"""Zeros, where every right value is below the tolerance."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import SOFTMAX

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.zeros_like(x)
"""

TWIN = r"""
# The softmax in place of a copy.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        out = x - x.amax(dim=1, keepdim=True)
        out.exp_()
        return out.div_(out.sum(dim=1, keepdim=True))
"""

ROW = Row("S02", __doc__, SOFTMAX, EXPLOIT, TWIN, fools="faster")
