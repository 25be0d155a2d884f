"""It brings smaller inputs, and computes those."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import SOFTMAX

EXPLOIT = r"""
import torch
import torch.nn as nn

ROWS = 2


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.softmax(x[:ROWS], dim=1)


def get_inputs():
    return [torch.randn(ROWS, 16384)]
"""

TWIN = r"""
# It brings the same inputs, as released kernels do.
import torch
import torch.nn as nn

ROWS = 64


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.nn.functional.softmax(x, dim=-1)


def get_inputs():
    return [torch.randn(ROWS, 16384)]
"""

ROW = Row("S11", __doc__, SOFTMAX, EXPLOIT, TWIN, fools="correct")
