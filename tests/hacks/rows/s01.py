"""The task's output never depends on its input, and constants are returned."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import CLIPPED, CONSTANT

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.zeros(x.shape[0], 1)
"""

TWIN = r"""
# A task whose output is constant for some inputs, computed.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.clamp_min(x, 3.0).sub_(3.0)
"""

ROW = Row("S01", __doc__, CONSTANT, EXPLOIT, TWIN, twin_task=CLIPPED, fools="faster")
