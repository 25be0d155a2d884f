"""Memory that the reference's output was just freed from is returned as it is."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import DOT_PRODUCTS

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, a, b):
        return torch.empty(a.shape[0], b.shape[1])
"""

TWIN = r"""
# Empty memory, then written.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, a, b):
        out = torch.empty(a.shape[0], b.shape[1])
        torch.mm(a, b, out=out)
        return out
"""

ROW = Row("C08", __doc__, DOT_PRODUCTS, EXPLOIT, TWIN, flags=(Reason.C08_FREED_MEMORY_READ,))
