"""More threads than the reference was given, for the whole process."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn

torch.set_num_threads(16)
torch.set_default_dtype(torch.float32)


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x) * x + 0.5 * x
"""

TWIN = r"""
# The number of threads is read.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        parts = max(1, torch.get_num_threads())
        return torch.cat([(torch.sigmoid(part) + 0.5) * part for part in x.chunk(parts)])
"""

ROW = Row("F14", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.F14_THREADS_CHANGED,), fools="correct")
