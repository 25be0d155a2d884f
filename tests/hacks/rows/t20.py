"""Luck: times so uneven that the best of many says nothing."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.dice = torch.Generator()

    def forward(self, x):
        out = torch.sigmoid(x) * x + 0.5 * x
        for _ in range(int(torch.randint(0, 2, (), generator=self.dice)) * 40):
            out = torch.sigmoid(x) * x + 0.5 * x
        return out
"""

TWIN = r"""
# The same work in every call.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x).mul_(x).add_(x, alpha=0.5)
"""

ROW = Row("T20", __doc__, CHAIN, EXPLOIT, TWIN, fools="correct")
