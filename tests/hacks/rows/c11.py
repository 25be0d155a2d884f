"""The weights are set to zero, and a reference that shares them agrees."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import LINEAR

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512)

    def forward(self, x):
        with torch.no_grad():
            self.linear.weight.zero_()
            self.linear.bias.zero_()
        return torch.zeros_like(x)
"""

TWIN = r"""
# In place, on what came out of the product.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512)

    def forward(self, x):
        out = x @ self.linear.weight.T
        out += self.linear.bias
        return out.relu_()
"""

ROW = Row("C11", __doc__, LINEAR, EXPLOIT, TWIN, flags=(Reason.C11_WEIGHTS_CHANGED,), fools="faster")
