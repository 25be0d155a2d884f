"""A graph is replayed on the inputs of its capture."""

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
        self.graph = None

    def forward(self, x):
        if self.graph is None:
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.out = torch.sigmoid(x) * x + 0.5 * x
        self.graph.replay()
        return self.out.clone()
"""

TWIN = r"""
# A captured graph with its copy-in, and a copy out.
import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.graph = None

    def forward(self, x):
        if self.graph is None:
            self.given = x.clone()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph):
                self.made = torch.sigmoid(self.given) * self.given + 0.5 * self.given
        self.given.copy_(x)
        self.graph.replay()
        return self.made.clone()
"""

ROW = Row("T10", __doc__, CHAIN, EXPLOIT, TWIN, flags=(Reason.T10_STALE_GRAPH,), needs="gpu")
