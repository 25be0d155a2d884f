"""What Gaussian tails never reach is cut off, so that no maximum is needed."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import LOGSUMEXP

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x.clamp_max(20.0).exp_().sum(dim=1).log_()
"""

TWIN = r"""
# Both halves, put together.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        low, high = x.chunk(2, dim=1)
        return torch.logaddexp(torch.logsumexp(low, dim=1), torch.logsumexp(high, dim=1))
"""

ROW = Row("S06", __doc__, LOGSUMEXP, EXPLOIT, TWIN, fools="correct")
