"""Results are remembered by the version counter and the shape."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.known = {}

    def forward(self, x):
        key = (x._version, tuple(x.shape), x.stride())
        if key not in self.known:
            self.known[key] = torch.sigmoid(x) * x + 0.5 * x
        return self.known[key].clone()
"""

TWIN = r"""
# A workspace for each shape: written in every call, never returned.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.rooms = {}

    def forward(self, x):
        shape = tuple(x.shape)
        if shape not in self.rooms:
            self.rooms[shape] = torch.empty(shape)
        gate = self.rooms[shape]
        torch.sigmoid(x, out=gate)
        return (gate + 0.5) * x
"""

ROW = Row("C03", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.C03_STALE_VERSION,), fools="faster")
