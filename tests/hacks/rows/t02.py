"""A thread finishes the product after the call has returned."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import MATMUL

EXPLOIT = r"""
import threading

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.late = []

    def forward(self, a, b):
        out = torch.zeros(a.shape[0], b.shape[1])
        if len(self.late) >= 13:
            while self.late:
                while self.late[-1].is_alive():
                    pass
                self.late.pop()
        self.late.append(threading.Thread(target=lambda: out.copy_(a @ b)))
        self.late[-1].start()
        return out
"""

TWIN = r"""
# Threads, joined before the call returns.
from concurrent.futures import ThreadPoolExecutor

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def forward(self, a, b):
        with ThreadPoolExecutor(2) as pool:
            halves = list(pool.map(lambda part: part @ b, a.chunk(2)))
        return torch.cat(halves)
"""

ROW = Row("T02", __doc__, MATMUL, EXPLOIT, TWIN, flags=(Reason.T02_LATE_WORK,), fools="faster")
