"""It inherits from the reference."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(Model):
    def forward(self, x):
        return super().forward(x)
"""

TWIN = r"""
# It inherits from a class of its own.
import torch
import torch.nn as nn


class Gate(nn.Module):
    def gate(self, x):
        return torch.sigmoid(x) + 0.5


class ModelNew(Gate):
    def forward(self, x):
        return self.gate(x) * x
"""

ROW = Row("F01", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.F01_REFERENCE_CALLED,), fools="correct")
