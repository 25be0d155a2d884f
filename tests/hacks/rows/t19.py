"""Only the launch was won: the task is smaller than its call."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import TINY

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x.add(1)
"""

TWIN = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x + 1
"""

ROW = Row("T19", __doc__, TINY, EXPLOIT, TWIN, needs="gpu")
