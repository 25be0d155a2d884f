"""What several kernel tests share: two small tasks, and whether this machine can run them at all."""

from __future__ import annotations

import shutil
from functools import cache

import pytest

from postgrad import sandbox
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.task import Case, Task, from_text, native
from postgrad.sandbox import Ended, Limits


@cache
def missing() -> str:
    """Why no kernel can be run here; empty where it can."""
    if shutil.which("g++") is None:
        return "no g++"
    tried = sandbox.run(["true"], limits=Limits(wall_s=20, cpu_s=5, memory_bytes=1 << 28))
    return f"no sandbox: {tried.reason}" if tried.ended is Ended.BROKEN else ""


needs_sandbox = pytest.mark.skipif(bool(missing()), reason=missing() or "-")

SQUARES = """
extern "C" void kernel(const float* const* in, float* out, const long* n) {
  const float* x = in[0];
  for (long r = 0; r < n[0]; r++) {
    float s = 0;
    for (long c = 0; c < n[1]; c++) s += x[r * n[1] + c] * x[r * n[1] + c];
    out[r] = s;
  }
}
"""
"""Sums of squares of rows."""


def squares(rows: int = 256, columns: int = 1024) -> Task:
    def case(r: int, c: int) -> Case:
        return Case(((r, c),), (r,), (r, c))

    return native(
        "squares",
        SQUARES,
        timed=case(rows, columns),
        cases=[case(1, 1), case(3, 5), case(7, 33)],
        oracle=lambda arrays: (arrays[0] ** 2).sum(-1),
    )


def cpp(old: str = "", new: str = "") -> Candidate:
    """The reference with one thing changed."""
    assert old in SQUARES
    return Candidate(SQUARES.replace(old, new) if old else SQUARES, "cpp")


MODEL = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, columns, classes):
        super().__init__()
        self.linear = nn.Linear(columns, classes)

    def forward(self, x):
        return torch.softmax(self.linear(x), -1)


def get_inputs():
    return [torch.rand(48, 64)]


def get_init_inputs():
    return [64, 24]
"""


def softmax() -> Task:
    return from_text("softmax", MODEL)


def module(forward: str = "return torch.softmax(self.linear(x), -1)", init: str = "") -> Candidate:
    """ModelNew with another forward (lines), and more lines in its constructor."""
    body = "\n".join(f"        {line}" for line in forward.splitlines())
    more = "\n".join(f"        {line}" for line in init.splitlines())
    text = MODEL.replace("class Model(", "class ModelNew(")
    text = text.replace("        return torch.softmax(self.linear(x), -1)", body)
    return Candidate(text.replace("nn.Linear(columns, classes)", f"nn.Linear(columns, classes)\n{more}"), "torch")
