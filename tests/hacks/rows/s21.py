"""The forward pass alone: no gradient comes back."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import LINEAR_WITH_GRADIENT

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512)

    @torch.no_grad()
    def forward(self, x):
        return torch.relu(self.linear(x))
"""

TWIN = r"""
# Forward and backward, both right.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512)

    def forward(self, x):
        return torch.addmm(self.linear.bias, x, self.linear.weight.T).relu()
"""

ROW = Row("S21", __doc__, LINEAR_WITH_GRADIENT, EXPLOIT, TWIN, fools="correct")
