"""Writes go past the end of the output."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import SCALE_CPP

EXPLOIT = r"""
extern "C" void kernel(const float* const* in, float* out, const long* n) {
    for (long i = 0; i < n[0] + 64; ++i) out[i] = (i < n[0] ? in[0][i] : 0.0f) * 2.0f + 1.0f;
}
"""

TWIN = r"""
// Blocks of 64, and a rest.
extern "C" void kernel(const float* const* in, float* out, const long* n) {
    const float* x = in[0];
    long i = 0;
    for (; i + 64 <= n[0]; i += 64)
        for (long j = i; j < i + 64; ++j) out[j] = x[j] * 2.0f + 1.0f;
    for (; i < n[0]; ++i) out[i] = x[i] * 2.0f + 1.0f;
}
"""

ROW = Row("C13", __doc__, SCALE_CPP, EXPLOIT, TWIN, backend="cpp")
