"""The next calls are captured as one."""

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
        self.waiting = []
        self.calls = 0

    def forward(self, x):
        out = torch.empty_like(x)
        self.waiting.append((x, out))
        self.calls += 1
        if self.calls % 10 == 0:
            for given, place in self.waiting:
                torch.mul(torch.sigmoid(given) + 0.5, given, out=place)
            self.waiting.clear()
        return out
"""

TWIN = r"""
# Several launches in one call.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        for given, place in zip(x.chunk(4), out.chunk(4)):
            torch.mul(torch.sigmoid(given) + 0.5, given, out=place)
        return out
"""

ROW = Row("T11", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.S10_LATE_WRONG,), needs="gpu")
