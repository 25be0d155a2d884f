"""Triton kernels without a GPU: the interpreter runs them, every probe asks, and no verdict has a speed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from postgrad.kernels import runtime
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.evaluate import Evaluator, Settings, evaluate, unread
from postgrad.kernels.task import Case, Task, from_text
from postgrad.kernels.verdict import REJECTED, UNCHECKED, Finding, Reason
from tests.kernels.small_tasks import module, needs_sandbox, softmax

pytest.importorskip("triton", reason="its interpreter runs the kernels")

ROWS = """
import torch


class Model(torch.nn.Module):
    def forward(self, x):
        return torch.softmax(x, -1)


def get_inputs():
    return [torch.randn(12, 40)]


def get_init_inputs():
    return []
"""
ROWS_BY_TRITON = """
import torch
import triton
import triton.language as tl


@triton.jit
def rows(x, y, columns, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    place = tl.arange(0, BLOCK)
    held = tl.load(x + row * columns + place, mask=place < columns, other=-float("inf"))
    held = tl.exp(held - tl.max(held, 0))
    tl.store(y + row * columns + place, held / tl.sum(held, 0), mask=place < columns)


class ModelNew(torch.nn.Module):
    def forward(self, x):
        x = x.contiguous()
        y = torch.empty_like(x)
        rows[(x.shape[0],)](x, y, x.shape[1], BLOCK=triton.next_power_of_2(x.shape[1]))
        return y
"""
SUM = """
import torch


def fused(a, b):
    return torch.relu(a + b)


def get_inputs():
    return [torch.randn(9, 31), torch.randn(9, 31)]
"""
SUM_BY_TRITON = """
import torch
import triton
import triton.language as tl


@triton.jit
def chunk(a, b, y, n, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < n
    total = tl.load(a + place, mask=inside) + tl.load(b + place, mask=inside)
    tl.store(y + place, tl.maximum(total, 0.0), mask=inside)


def fused(a, b):
    a, b = a.contiguous(), b.contiguous()
    y = torch.empty_like(a)
    chunk[(triton.cdiv(a.numel(), 64),)](a, b, y, a.numel(), BLOCK=64)
    return y
"""


UNWRITTEN = {Reason.S05_PARTIAL_WORK, Reason.S12_NOT_FINITE, Reason.WRONG_OUTPUT}
"""What an element that was never written shows: it may hold anything."""


def rows(old: str = "", new: str = "") -> Candidate:
    """The softmax with one thing changed."""
    assert old in ROWS_BY_TRITON
    return Candidate(ROWS_BY_TRITON.replace(old, new) if old else ROWS_BY_TRITON, "triton")


def summed(old: str = "", new: str = "") -> Candidate:
    assert old in SUM_BY_TRITON
    return Candidate(SUM_BY_TRITON.replace(old, new) if old else SUM_BY_TRITON, "triton")


@pytest.fixture(scope="module")
def judge() -> Iterator[Evaluator]:
    with Evaluator(from_text("rows", ROWS), Settings(seeds=2), seed=1) as evaluator:
        yield evaluator


@pytest.fixture(scope="module")
def adder() -> Iterator[Evaluator]:
    with Evaluator(from_text("fused", SUM), Settings(seeds=2), seed=2) as evaluator:
        yield evaluator


@needs_sandbox
@pytest.mark.parametrize("name", ["softmax of rows", "fused add and relu"])
def test_a_right_kernel_is_found_right_and_has_no_speed(judge: Evaluator, adder: Evaluator, name: str) -> None:
    found = judge(rows()) if name == "softmax of rows" else adder(summed())
    assert (found.status, found.reasons) == (UNCHECKED, (Reason.INTERPRETED,)), found.findings
    assert (found.speedup, found.interval, found.timing) == (None, None, None)
    assert "answered rightly" in found.findings[0].evidence
    assert found.labels["backend"] == "triton"


@needs_sandbox
@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ("mask=place < columns)\n\n", "mask=place < columns - 1)\n\n", UNWRITTEN),
        ("held - tl.max(held, 0)", "held", {Reason.S12_NOT_FINITE}),
        ("mask=place < columns, other", "mask=place < columns - 1, other", {Reason.WRONG_OUTPUT}),
        ("        return y\n", "        return x\n", {Reason.C09_ALIASED_OUTPUT}),
        ("        return y\n", "        return x.clone()\n", {Reason.S03_IDENTITY}),
        ("        x = x.contiguous()\n", "", {Reason.S23_LAYOUT}),
        ("return y\n", "return y.double()\n", {Reason.S14_WRONG_ATTRIBUTES}),
        ("tl.store(y +", "tl.store(x + row * columns + place, held, mask=place < columns)\n    tl.store(y +", {Reason.C10_INPUT_CHANGED}),
        ("tl.store(y +", "tl.store(x - 1 + row * 0, 1.0)\n    tl.store(y +", {Reason.C13_OUT_OF_BOUNDS}),
    ],
)  # fmt: skip
def test_a_wrong_kernel_is_rejected_for_what_is_wrong_with_it(
    judge: Evaluator, old: str, new: str, reasons: set[Reason]
) -> None:
    found = judge(rows(old, new))
    assert found.status is REJECTED
    assert reasons & {*found.reasons}, found.findings


@needs_sandbox
def test_hacks_are_rejected_by_what_they_do_with_no_rule_on_their_text() -> None:
    """Wrong at other shapes than the timed one; a result kept by its address."""
    task = Task(
        "rows", ROWS, cases=(Case(((3, 5),)), Case(((7, 33),))), timed=Case(((12, 40),)), labels={"family": "softmax"}
    )
    sniffs = rows(
        "        x = x.contiguous()\n",
        "        if x.shape[1] != 40:\n            return torch.softmax(2 * x, -1)\n        x = x.contiguous()\n",
    )
    keeps = rows(
        "    def forward(self, x):\n",
        "    seen = {}\n\n    def forward(self, x):\n        key = x.data_ptr()\n        if key in self.seen:\n            return self.seen[key]\n",
    )
    keeps = Candidate(
        keeps.code.replace("        return y\n", "        self.seen[key] = y\n        return y\n"), "triton"
    )
    with Evaluator(task, Settings(scan=unread, seeds=2), seed=3) as evaluator:
        assert Reason.S08_SHAPES_SNIFFED in evaluator(sniffs).reasons
        assert {Reason.C02_STALE_ADDRESS, Reason.C05_STALE_RESULT} & {*evaluator(keeps).reasons}


@needs_sandbox
def test_texts_without_a_kernel_or_with_a_way_round_it_are_refused_before_they_run(judge: Evaluator) -> None:
    none = Candidate(
        "import torch\n\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return torch.softmax(x, -1)\n",
        "triton",
    )
    assert judge(none).reasons == (Reason.F03_DECOY_KERNEL,)
    code = ROWS_BY_TRITON.replace("        rows[(", "        try:\n            rows[(").replace(
        "        return y\n", "        except Exception:\n            return torch.softmax(x, -1)\n        return y\n"
    )
    assert Reason.F02_FALLBACK in judge(Candidate(code, "triton")).reasons


@needs_sandbox
def test_what_the_machine_lacks_is_no_fault_of_the_kernel(judge: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    named = judge(rows("torch.empty_like(x)", 'torch.empty_like(x, device="cuda")'))
    assert (named.status, named.reasons) == (UNCHECKED, (Reason.NEEDS_GPU, Reason.INTERPRETED)), named.findings
    cuda = Candidate(
        "import torch\nfrom torch.utils.cpp_extension import load_inline\n\nkernel = load_inline('k', '', 'x', functions=['f'])\n\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return kernel.f(x)\n",
        "cuda",
    )
    assert judge(cuda).reasons == (Reason.NEEDS_GPU,)
    monkeypatch.setattr(runtime, "find_spec", lambda _: None)
    without = judge(rows())
    assert (without.status, without.reasons) == (UNCHECKED, (Reason.NEEDS_TOOLS,))
    assert "pip install triton" in without.findings[0].evidence


def test_the_interpreter_s_slowness_speaks_against_no_kernel() -> None:
    slow = runtime.interpreted([Finding(Reason.TIMED_OUT, "no reply within 60 s")])
    assert [(one.reason, one.status) for one in slow] == [
        (Reason.TIMED_OUT, UNCHECKED),
        (Reason.INTERPRETED, UNCHECKED),
    ]
    wrong = [Finding(Reason.WRONG_OUTPUT, "at [0]")]
    assert runtime.interpreted(wrong) == wrong


@needs_sandbox
def test_weights_of_a_module_reach_its_kernel(tmp_path: Path) -> None:
    code = module().code.replace(
        "return torch.softmax(self.linear(x), -1)",
        "return by_triton(torch.nn.functional.linear(x, self.linear.weight, self.linear.bias))",
    )
    kernel = ROWS_BY_TRITON.replace("class ModelNew(torch.nn.Module):\n    def forward(self, x):", "def by_triton(x):")
    kernel = kernel.replace("\n        x = x.c", "\n    x = x.c").replace("\n        y =", "\n    y =")
    kernel = kernel.replace("\n        rows[", "\n    rows[").replace("\n        return y", "\n    return y")
    found = evaluate(softmax(), Candidate(kernel + code, "triton"), Settings(seeds=2, cache=tmp_path))
    assert found.reasons == (Reason.INTERPRETED,), found.findings
