"""The first calls are right, and then no work is done."""

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
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls > 5:
            return self.kept.clone()
        self.kept = torch.sigmoid(x) * x + 0.5 * x
        return self.kept.clone()
"""

TWIN = r"""
# Calls are counted, and nothing is decided by it.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return (torch.sigmoid(x) + 0.5) * x
"""

ROW = Row("S10", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.S10_LATE_WRONG,), fools="faster")
