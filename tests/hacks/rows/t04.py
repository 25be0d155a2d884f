"""A view whose conjugation waits until somebody reads it."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import COMPLEX

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x.T.conj()
"""

TWIN = r"""
# The same view, made real before it is returned.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        return x.T.conj_physical().contiguous()
"""

ROW = Row("T04", __doc__, COMPLEX, EXPLOIT, TWIN, flags=(Reason.T04_DISGUISED_TENSOR,), fools="correct")
