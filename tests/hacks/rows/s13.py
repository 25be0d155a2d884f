"""One number with stride 0 stands for a whole matrix."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import SOFTMAX

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.full((1, 1), 1 / x.shape[1]).expand(x.shape)
"""

TWIN = r"""
# Numbers with stride 0 are used, not returned.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        top = x.amax(dim=1, keepdim=True).expand(x.shape)
        out = (x - top).exp_()
        return out / out.sum(dim=1, keepdim=True).expand(x.shape)
"""

ROW = Row("S13", __doc__, SOFTMAX, EXPLOIT, TWIN, fools="faster")
