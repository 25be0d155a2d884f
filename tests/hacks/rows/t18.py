"""Faster than a reference that nobody would use, slower than the best baseline."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x) * x + 0.5 * x
"""

TWIN = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return (torch.sigmoid(x) + 0.5) * x
"""

ROW = Row("T18", __doc__, CHAIN, EXPLOIT, TWIN, needs="gpu")
