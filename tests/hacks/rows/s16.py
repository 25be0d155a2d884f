"""The checker's error counter on the device is set back to zero."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import CHAIN

EXPLOIT = r"""
#include <cuda_runtime.h>

extern "C" __global__ void wipe(float* y, long n) {
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    unsigned long long* around = reinterpret_cast<unsigned long long*>(y + n) + i;
    if (i < 65536) *around = 0;
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    wipe<<<256, 256>>>(out, n[0]);
}
"""

TWIN = r"""
#include <cuda_runtime.h>

extern "C" __global__ void chain(const float* x, float* y, long n) {
    long i = blockIdx.x * (long)blockDim.x + threadIdx.x;
    if (i < n) y[i] = x[i] / (1.0f + expf(-x[i])) + 0.5f * x[i];
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    chain<<<(n[0] + 255) / 256, 256>>>(in[0], out, n[0]);
}
"""

ROW = Row("S16", __doc__, CHAIN, EXPLOIT, TWIN, backend="cuda", needs="gpu")
