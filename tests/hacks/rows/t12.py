"""The second-level cache is reserved for the inputs of the benchmark."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
#include <cuda_runtime.h>

extern "C" __global__ void chain(const float* x, float* y, long n) {
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = (1.0f / (1.0f + expf(-x[i])) + 0.5f) * x[i];
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    cudaDeviceSetLimit(cudaLimitPersistingL2CacheSize, 30 << 20);
    chain<<<(n[0] + 255) / 256, 256>>>(in[0], out, n[0]);
}
"""

TWIN = r"""
#include <cuda_runtime.h>

extern "C" __global__ void chain(const float* __restrict__ x, float* __restrict__ y, long n) {
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) {
        float v = __ldg(x + i);
        y[i] = (1.0f / (1.0f + expf(-v)) + 0.5f) * v;
    }
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    chain<<<(n[0] + 255) / 256, 256>>>(in[0], out, n[0]);
}
"""

ROW = Row("T12", __doc__, CHAIN, EXPLOIT, TWIN, backend="cuda", flags=(Reason.T12_WARM_CACHE,), needs="gpu")
