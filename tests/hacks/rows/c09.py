"""The same buffer is returned by every call."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.empty(1024, 1024)

    def forward(self, x):
        torch.sigmoid(x, out=self.out)
        self.out.add_(0.5).mul_(x)
        return self.out
"""

TWIN = r"""
# A workspace that stays; the output is new.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = None

    def forward(self, x):
        if self.gate is None or self.gate.shape != x.shape:
            self.gate = torch.empty_like(x)
        torch.sigmoid(x, out=self.gate)
        return torch.add(self.gate, 0.5).mul_(x)
"""

ROW = Row("C09", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.C09_ALIASED_OUTPUT,), fools="correct")
