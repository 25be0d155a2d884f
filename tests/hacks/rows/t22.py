"""Its work runs on into the reference's turn."""

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
        self.side = torch.cuda.Stream()

    def forward(self, x):
        with torch.cuda.stream(self.side):
            for _ in range(100):
                torch.mm(x, x.T)
        return torch.sigmoid(x) * x + 0.5 * x
"""

TWIN = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x).add(0.5).mul(x)
"""

ROW = Row("T22", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.T01_SIDE_STREAM,), needs="gpu")
