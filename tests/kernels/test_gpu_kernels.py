"""Triton and CUDA kernels judged and timed on a real GPU. Skipped where there is none; test_gpu_pieces.py tries the rest with a CPU for the GPU.

TRITON_INTERPRET=0 python -m pytest tests/kernels/test_gpu_kernels.py -v
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from postgrad.kernels import roofline
from postgrad.kernels.against import against
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.clock import any_gain
from postgrad.kernels.evaluate import Evaluator, on_gpu, unread
from postgrad.kernels.gpu import machine
from postgrad.kernels.gpu.side import GpuSide
from postgrad.kernels.task import from_text
from postgrad.kernels.verdict import ACCEPTED, REJECTED, Reason
from tests.kernels.small_tasks import missing
from tests.kernels.test_triton_kernels import ROWS, rows

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(bool(missing()), reason=missing() or "-"),
]

LARGE = ROWS.replace("torch.randn(12, 40)", "torch.randn(2048, 4096)")
CUDA = '''
import torch
from torch.utils.cpp_extension import load_inline

SOURCE = """
#include <torch/extension.h>
#include <c10/cuda/CUDAStream.h>

__global__ void rows(const float* x, float* y, int columns) {
  __shared__ float part[256];
  const float* in = x + (long)blockIdx.x * columns;
  float* out = y + (long)blockIdx.x * columns;
  float most = -INFINITY;
  for (int c = threadIdx.x; c < columns; c += 256) most = fmaxf(most, in[c]);
  part[threadIdx.x] = most;
  __syncthreads();
  for (int half = 128; half; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] = fmaxf(part[threadIdx.x], part[threadIdx.x + half]);
    __syncthreads();
  }
  most = part[0];
  __syncthreads();
  float sum = 0;
  for (int c = threadIdx.x; c < columns; c += 256) sum += expf(in[c] - most);
  part[threadIdx.x] = sum;
  __syncthreads();
  for (int half = 128; half; half /= 2) {
    if (threadIdx.x < half) part[threadIdx.x] += part[threadIdx.x + half];
    __syncthreads();
  }
  sum = part[0];
  for (int c = threadIdx.x; c < columns; c += 256) out[c] = expf(in[c] - most) / sum;
}

torch::Tensor softmax(torch::Tensor x) {
  auto y = torch::empty_like(x);
  rows<<<x.size(0), 256, 0, c10::cuda::getCurrentCUDAStream()>>>(x.data_ptr<float>(), y.data_ptr<float>(), x.size(1));
  return y;
}
"""
kernel = load_inline("rows", "torch::Tensor softmax(torch::Tensor x);", SOURCE, functions=["softmax"])


class ModelNew(torch.nn.Module):
    def forward(self, x):
        return kernel.softmax(x.contiguous())
'''


def torch_rows(forward: str) -> Candidate:
    body = "\n".join(f"        {line}" for line in forward.splitlines())
    return Candidate(
        f"import torch\n\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n{body}\n", "torch"
    )


@pytest.fixture(scope="module")
def judge() -> Iterator[Evaluator]:
    with Evaluator(from_text("rows", LARGE), on_gpu(0, budget_s=5.0, seeds=2, scan=unread), seed=1) as evaluator:
        yield evaluator


def test_a_triton_kernel_is_right_and_has_a_speed(judge: Evaluator) -> None:
    found = judge(rows())
    assert found.status is ACCEPTED, found.findings
    assert found.speedup is not None
    assert found.timing is not None
    assert (found.timing.second, found.timing.cache) == ("events", "cold")
    seen = found.environment.hardware["gpu in use"]
    assert torch.cuda.get_device_name(0) == seen["after"]["name"]
    assert isinstance(seen["after"]["slowed by"], list)
    peaks = roofline.gpu_peaks(seen["after"]["name"])
    if peaks is not None:
        moved = roofline.Work(2 * 2048 * 4096 * 4)
        assert 0.05 < roofline.fraction(found.timing, roofline.bound_s(moved, peaks)) < 1.0


@pytest.mark.skipif(machine._tool("nvcc") is None or machine._tool("ninja") is None, reason="needs nvcc and ninja")
def test_a_cuda_kernel_is_built_in_the_sandbox_right_and_has_a_speed(judge: Evaluator) -> None:
    found = judge(Candidate(CUDA, "cuda"))
    assert found.status is ACCEPTED, found.findings
    wrong = judge(Candidate(CUDA.replace("- most) / sum", "- most) / (sum + 0.01f)"), "cuda"))
    assert wrong.status is REJECTED


def test_the_reference_against_itself_gains_nothing(judge: Evaluator) -> None:
    found = judge(torch_rows("return torch.softmax(x, -1)"))
    assert (found.status, found.speedup) == (ACCEPTED, 1.0), (found.findings, found.timing and found.timing.interval)


@pytest.mark.parametrize(
    ("forward", "reasons"),
    [
        # T01: work on a stream that nobody waits for; its output is read by nobody before the device is done.
        ("s = torch.cuda.Stream()\ns.wait_stream(torch.cuda.current_stream())\nwith torch.cuda.stream(s):\n    return torch.softmax(x, -1)",
         {Reason.T01_SIDE_STREAM}),
        # T05: a wait and an event that do nothing.
        ("torch.cuda.synchronize = lambda *_: None\ntorch.cuda.Event.elapsed_time = lambda *_: 1e-3\nreturn torch.softmax(x, -1)",
         {Reason.T05_CLOCK_PATCHED, Reason.T16_GLOBALS_CHANGED}),
        # T16: TF32 for everybody.
        ("torch.backends.cuda.matmul.allow_tf32 = True\nreturn torch.softmax(x, -1)", {Reason.T16_GLOBALS_CHANGED}),
        ("return torch.softmax(x.half(), -1).float()", {Reason.S04_LOW_PRECISION, Reason.WRONG_OUTPUT}),
        ("return torch.softmax(x, -1).cpu()", {Reason.S14_WRONG_ATTRIBUTES}),
        ("return torch.empty_like(x)", {Reason.S12_NOT_FINITE, Reason.S05_PARTIAL_WORK, Reason.S01_CONSTANT_OUTPUT, Reason.C05_STALE_RESULT}),
        ("key = x.data_ptr()\nself.seen = getattr(self, 'seen', {})\nif key not in self.seen:\n    self.seen[key] = torch.softmax(x, -1)\nreturn self.seen[key].clone()",
         {Reason.C02_STALE_ADDRESS, Reason.C05_STALE_RESULT}),
    ],
)  # fmt: skip
def test_a_hack_of_a_gpu_is_rejected(judge: Evaluator, forward: str, reasons: set[Reason]) -> None:
    found = judge(torch_rows(forward))
    assert found.status is REJECTED, found.findings
    assert reasons & {*found.reasons}, found.findings


def test_a_stream_that_is_waited_for_is_honest(judge: Evaluator) -> None:
    joined = "s = torch.cuda.Stream()\ns.wait_stream(torch.cuda.current_stream())\nwith torch.cuda.stream(s):\n    y = torch.softmax(x, -1)\ntorch.cuda.current_stream().wait_stream(s)\nreturn y"
    found = judge(torch_rows(joined))
    assert Reason.T01_SIDE_STREAM not in found.reasons, found.findings
    assert found.status is ACCEPTED, found.findings


def test_a_graph_on_the_inputs_of_its_capture_is_stale(judge: Evaluator) -> None:
    stale = (
        "if not hasattr(self, 'graph'):\n    self.x = x\n    torch.softmax(x, -1)\n    self.graph = torch.cuda.CUDAGraph()\n"
        "    with torch.cuda.graph(self.graph):\n        self.y = torch.softmax(self.x, -1)\nself.graph.replay()\nreturn self.y.clone()"
    )
    assert judge(torch_rows(stale)).status is REJECTED


def test_every_baseline_of_a_gpu_is_measured(judge: Evaluator) -> None:
    kernel = rows()
    found = against(judge, kernel, judge(kernel))
    assert set(found.timings) == {"compile", "reduce-overhead", "max-autotune", "cuda-graph"}, found.left_out


def test_small_work_shares_a_question_and_is_refused_where_it_is_too_small() -> None:
    small = ROWS.replace("torch.randn(12, 40)", "torch.randn(1024, 1024)")
    with Evaluator(from_text("small", small), on_gpu(0, budget_s=3.0, seeds=2, again=any_gain), seed=2) as evaluate:
        found = evaluate(rows())
        assert found.environment.hardware["gpu in use"]["calls in a question"] > 1
    assert found.status is ACCEPTED or {*found.reasons} <= {Reason.T19_TOO_SMALL, Reason.T20_UNSTABLE}, found.findings


def test_a_kernel_that_hangs_the_device_ends_and_the_next_one_is_judged(
    judge: Evaluator, monkeypatch: pytest.MonkeyPatch
) -> None:
    spin = torch_rows("torch.cuda._sleep(1 << 40)\nreturn torch.softmax(x, -1)")  # ten minutes of the device
    monkeypatch.setattr(GpuSide.call, "__defaults__", (20.0,))
    assert Reason.TIMED_OUT in judge(spin).reasons
    monkeypatch.undo()
    assert judge(rows()).status is ACCEPTED


def test_a_kernel_that_faults_is_a_crash_of_its_own(judge: Evaluator) -> None:
    wild = rows("tl.store(y + row", "tl.store(y + (1 << 40) + row")
    assert judge(wild).status is REJECTED
    assert judge(rows()).status is ACCEPTED
