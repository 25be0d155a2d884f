"""Memory that the reference's output was just freed from is returned as it is."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.empty_like(x)
"""

TWIN = r"""
# Empty memory, then written.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        torch.sigmoid(x, out=out)
        out.add_(0.5).mul_(x)
        return out
"""

ROW = Row("C08", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.C08_FREED_MEMORY_READ,), fools="faster")
