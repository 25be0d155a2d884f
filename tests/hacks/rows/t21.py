"""The copy to the host is still under way when it returns."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        made = torch.sigmoid(x) * x + 0.5 * x
        there = torch.empty(x.shape, pin_memory=True)
        there.copy_(made, non_blocking=True)
        return there.to(x.device, non_blocking=True)
"""

TWIN = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.addcmul(0.5 * x, torch.sigmoid(x), x)
"""

ROW = Row("T21", __doc__, CHAIN, EXPLOIT, TWIN, needs="gpu")
