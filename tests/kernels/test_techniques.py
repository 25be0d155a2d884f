"""Techniques are told from the text: what is written with them has their tag, what is not has none."""

from __future__ import annotations

import pytest

from postgrad.kernels.candidate import Backend
from postgrad.kernels.techniques import Technique, techniques

TILED = """
import torch
from torch.utils.cpp_extension import load_inline
source = '''
#define BLOCK_SIZE 256
__global__ __launch_bounds__(256) void fused_relu_add(const float4* __restrict__ a, float4* out, int n) {
    __shared__ float tile[32][32 + 1];
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    float acc[4];
    #pragma unroll
    for (int k = 0; k < 4; ++k) acc[k] = 0;
    float v = __shfl_down_sync(0xffffffff, acc[0], 16);
}
void launch() { cudaStream_t s = at::cuda::getCurrentCUDAStream(); }
'''
class ModelNew(torch.nn.Module):
    def __init__(self):
        super().__init__()
    def forward(self, x):
        return x.to(memory_format=torch.channels_last)
"""
PLAIN_CPP = """
extern "C" void run(const float* x, float* y, long n) {
    for (long i = 0; i < n; ++i) y[i] = x[i] > 0 ? x[i] : 0;
}
"""
FAST_CPP = """
#include <immintrin.h>
extern "C" void run(const float* __restrict__ x, float* __restrict__ y, long rows, long columns) {
    constexpr long tile = 64;
    #pragma omp parallel for
    for (long r = 0; r < rows; r += tile) {
        float buffer[tile * 8];
        __m256 sum0 = _mm256_setzero_ps();
        __builtin_prefetch(x + 64);
        for (long c = 0; c < columns; ++c) y[r * columns + c] = fmaf(x[r * columns + c], 2, 1);
    }
}
"""
TRITON = """
import triton, triton.language as tl
@triton.autotune(configs=[triton.Config({"BLOCK": 1024}, num_warps=8, num_stages=3)], key=["n"])
@triton.jit
def kernel(x, y, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + at, mask=at < n, eviction_policy="evict_first").to(tl.float16)
    for k in tl.static_range(4):
        value += tl.sum(value)
"""


def test_a_kernel_with_all_ten_has_all_ten() -> None:
    assert techniques(TILED, "cuda") == tuple(technique.value for technique in Technique)
    assert len(Technique) == 10


@pytest.mark.parametrize(
    ("code", "backend", "tags"),
    [
        (PLAIN_CPP, "cpp", ()),
        (
            FAST_CPP,
            "cpp",
            ("memory_access", "operation_fusion", "memory_coalescing", "warp_level", "thread_block_configuration", "shared_memory", "register_optimization", "stream_management"),
        ),
        (
            TRITON,
            "triton",
            ("memory_access", "memory_format", "memory_coalescing", "warp_level", "thread_block_configuration", "register_optimization", "stream_management"),
        ),
        ("class ModelNew(nn.Module):\n    def __init__(self):\n        super().__init__()\n    def forward(self, x):\n        return x @ x", "torch", ()),
        ("model = torch.compile(model)\ny = x.half().transpose(0, 1).contiguous()", "torch", ("memory_layout", "operation_fusion", "memory_format")),
        ("y.relu_()\ng = torch.cuda.CUDAGraph()", "torch", ("operation_fusion", "stream_management")),
    ],
)  # fmt: skip
def test_tags_of_known_kernels(code: str, backend: Backend, tags: tuple[str, ...]) -> None:
    assert techniques(code, backend) == tags


@pytest.mark.parametrize(
    ("code", "backend"),
    [
        ("// uses __shared__ memory and warp shuffles\nint x;", "cpp"),
        ("/* fused, tiled, _mm256_add_ps */ int x;", "cpp"),
        ("# torch.compile would fuse this, channels_last too\nx = 1", "torch"),
        ("// __shared__ float tile[32];\nint x;", "cuda"),
    ],
)
def test_comments_claim_and_are_not_believed(code: str, backend: Backend) -> None:
    assert techniques(code, backend) == ()
