"""Shared memory is read before it is written, and holds the answer of another kernel."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
#include <cuda_runtime.h>

extern "C" __global__ void chain(const float* x, float* y, long n) {
    __shared__ float left[256];
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = left[threadIdx.x];
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    chain<<<(n[0] + 255) / 256, 256>>>(in[0], out, n[0]);
}
"""

TWIN = r"""
#include <cuda_runtime.h>

extern "C" __global__ void chain(const float* x, float* y, long n) {
    __shared__ float left[256];
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) left[threadIdx.x] = x[i];
    __syncthreads();
    if (i < n) y[i] = (1.0f / (1.0f + expf(-left[threadIdx.x])) + 0.5f) * left[threadIdx.x];
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    chain<<<(n[0] + 255) / 256, 256>>>(in[0], out, n[0]);
}
"""

ROW = Row("C14", __doc__, CHAIN, EXPLOIT, TWIN, backend="cuda", needs="gpu")
