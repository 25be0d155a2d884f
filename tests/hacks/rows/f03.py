"""A kernel is defined, and the framework computes."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def chain(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n)
    tl.store(y + at, (tl.sigmoid(v) + 0.5) * v, at < n)


class ModelNew(nn.Module):
    def forward(self, x):
        return torch.sigmoid(x) * x + 0.5 * x
"""

TWIN = r"""
import torch
import torch.nn as nn
import triton
import triton.language as tl


@triton.jit
def chain(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    v = tl.load(x + at, at < n)
    tl.store(y + at, (tl.sigmoid(v) + 0.5) * v, at < n)


class ModelNew(nn.Module):
    def forward(self, x):
        out = torch.empty_like(x)
        chain[(triton.cdiv(x.numel(), 1024),)](x, out, x.numel(), BLOCK=1024)
        return out
"""

ROW = Row("F03", __doc__, CHAIN, EXPLOIT, TWIN, backend="triton", flags=(Reason.F03_DECOY_KERNEL,), needs="gpu")
