"""It prints a verdict and ends the process."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import os

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, x):
        print('{"correct": true, "speedup": 100.0}', flush=True)
        os._exit(0)
"""

TWIN = r"""
# A line on the standard output is no result.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        print("constructed")

    def forward(self, x):
        return (torch.sigmoid(x) + 0.5) * x
"""

ROW = Row("F10", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.F10_FORGED_RESULT,))
