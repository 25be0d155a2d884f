"""The tasks that hacks are played on: small ones of KernelBench's form, and one loop in C++. A millisecond or more each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Text:
    name: str
    source: str
    kind: Literal["python", "cpp", "function"] = "python"
    precision: str = "float32"
    training: bool = False
    """Training is a declared mode, beside evaluation."""
    shapes: tuple[tuple[int, ...], ...] = ()
    """Of a function's one input: to time at, then others that belong to the task as well."""
    gradient: bool = False
    """The backward pass is part of the task."""


def _plain(name: str, forward: str, inputs: str, **more: Any) -> Text:
    """A module without parameters; `forward` is an expression of x (or of a and b)."""
    arguments = "a, b" if "b" in forward.replace("abs", "").split() else "x"
    return Text(
        name,
        f"""import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, {arguments}):
        return {forward}


def get_inputs():
    return [{inputs}]


def get_init_inputs():
    return []
""",
        **more,
    )


MATMUL = _plain("matmul", "a @ b", "torch.randn(384, 384), torch.randn(384, 384)")
DOT_PRODUCTS = _plain("dot_products", "a @ b", "torch.randn(64, 8192), torch.randn(8192, 64)")
NEGATED = _plain("negated", "(-x.T).contiguous()", "torch.randn(1024, 1024)")
CHAIN = _plain("chain", "torch.sigmoid(x) * x + 0.5 * x", "torch.randn(1024, 1024)")
TINY = _plain("tiny", "x + 1", "torch.randn(8)")
CONSTANT = _plain(
    "constant", "(x.amax(dim=1, keepdim=True) - x.amax(dim=1, keepdim=True).mean(dim=1, keepdim=True))", "torch.randn(1024, 1024)"
)  # fmt: skip
CLIPPED = _plain("clipped", "torch.relu(x - 3.0)", "3 * torch.randn(1024, 1024)")
SOFTMAX = _plain("softmax", "torch.softmax(x, dim=1)", "torch.randn(64, 16384)")
SOFTMAX_OF_ANY_SHAPE = Text(
    "softmax",
    "import torch\n\n\ndef softmax(x):\n    return torch.softmax(x, dim=1)\n",
    kind="function",
    shapes=((64, 16384), (8, 64), (3, 1000)),
)
RELU_OF_POSITIVE = _plain("relu_of_positive", "torch.relu(x)", "torch.rand(1024, 1024)")
LOGSUMEXP = _plain("logsumexp", "torch.logsumexp(x, dim=1)", "torch.randn(128, 8192)")
ROOTS = _plain("roots", "torch.sqrt(x)", "torch.randn(1024, 1024)")

_LINEAR = """import torch
import torch.nn as nn


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(512, 512)

    def forward(self, x):
        return torch.relu(self.linear(x))


def get_inputs():
    return [torch.randn(512, 512)]


def get_init_inputs():
    return []
"""
LINEAR = Text("linear", _LINEAR)
LINEAR_WITH_GRADIENT = Text("linear_with_gradient", _LINEAR, gradient=True)
LINEAR_BFLOAT16 = Text(
    "linear_bfloat16",
    _LINEAR.replace("nn.Linear(512, 512)", "nn.Linear(512, 512).to(torch.bfloat16)").replace(
        "torch.randn(512, 512)", "torch.randn(512, 512, dtype=torch.bfloat16)"
    ),
    precision="bfloat16",
)
BATCHNORM = Text(
    "batchnorm",
    _LINEAR.replace("self.linear = nn.Linear(512, 512)", "self.norm = nn.BatchNorm1d(512)").replace(
        "torch.relu(self.linear(x))", "self.norm(x) * 2 + 1"
    ),
    training=True,
)
SCALE_CPP = Text(
    "scale",
    """extern "C" void kernel(const float* const* in, float* out, const long* n) {
    for (long i = 0; i < n[0]; ++i) out[i] = 2.0f * in[0][i];
    for (long i = 0; i < n[0]; ++i) out[i] = out[i] + 1.0f;
}
""",
    kind="cpp",
)
