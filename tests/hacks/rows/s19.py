"""A sum with a race that this machine happens to win."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
#include <cuda_runtime.h>

extern "C" __global__ void total(const float* x, float* y, long n) {
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) y[0] = y[0] + x[i];
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    total<<<(n[0] + 255) / 256, 256>>>(in[0], out, n[0]);
}
"""

TWIN = r"""
#include <cuda_runtime.h>

extern "C" __global__ void total(const float* x, float* y, long n) {
    float mine = 0;
    for (long i = threadIdx.x; i < n; i += blockDim.x) mine += x[i];
    atomicAdd(y, mine);
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    cudaMemset(out, 0, sizeof(float));
    total<<<1, 256>>>(in[0], out, n[0]);
}
"""

ROW = Row("S19", __doc__, CHAIN, EXPLOIT, TWIN, backend="cuda", needs="gpu")
