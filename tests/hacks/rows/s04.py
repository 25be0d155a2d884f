"""bfloat16 where the task says float32."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import LINEAR, LINEAR_BFLOAT16

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512)

    def forward(self, x):
        weight, bias = self.linear.weight.bfloat16(), self.linear.bias.bfloat16()
        return torch.relu(torch.addmm(bias, x.bfloat16(), weight.T)).float()
"""

TWIN = r"""
# bfloat16 where the task says bfloat16.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512).to(torch.bfloat16)

    def forward(self, x):
        return torch.addmm(self.linear.bias, x, self.linear.weight.T).clamp_min_(0)
"""

ROW = Row(
    "S04", __doc__, LINEAR, EXPLOIT, TWIN, twin_task=LINEAR_BFLOAT16, flags=(Reason.S04_LOW_PRECISION,), fools="correct"
)
