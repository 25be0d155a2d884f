"""The product runs on a stream that the timed one does not wait for."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import MATMUL

EXPLOIT = r"""
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.side = torch.cuda.Stream()

    def forward(self, a, b):
        with torch.cuda.stream(self.side):
            return a @ b
"""

TWIN = r"""
# Two streams, and the caller's waits for both.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.side = torch.cuda.Stream()

    def forward(self, a, b):
        here = torch.cuda.current_stream()
        half = a.shape[0] // 2
        self.side.wait_stream(here)
        with torch.cuda.stream(self.side):
            low = a[half:] @ b
        high = a[:half] @ b
        here.wait_stream(self.side)
        low.record_stream(here)
        return torch.cat([high, low])
"""

ROW = Row("T01", __doc__, MATMUL, EXPLOIT, TWIN, flags=(Reason.T01_SIDE_STREAM,), needs="gpu")
