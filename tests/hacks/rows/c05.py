"""A table in static memory remembers by the address and the ends of the input."""

from __future__ import annotations

from tests.hacks.row import Row
from tests.hacks.tasks import SCALE_CPP

EXPLOIT = r"""
#include <cstring>
#include <vector>

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    static const float* seen = nullptr;
    static float first = 0, last = 0;
    static std::vector<float> kept;
    const float* x = in[0];
    if (x != seen || x[0] != first || x[n[0] - 1] != last || (long)kept.size() != n[0]) {
        kept.resize(n[0]);
        for (long i = 0; i < n[0]; ++i) kept[i] = x[i] * 2.0f + 1.0f;
        seen = x;
        first = x[0];
        last = x[n[0] - 1];
    }
    std::memcpy(out, kept.data(), n[0] * sizeof(float));
}
"""

TWIN = r"""
// Constants in static memory.
extern "C" void kernel(const float* const* in, float* out, const long* n) {
    static constexpr float factor = 2.0f, offset = 1.0f;
    const float* __restrict__ x = in[0];
    for (long i = 0; i < n[0]; ++i) out[i] = x[i] * factor + offset;
}
"""

ROW = Row("C05", __doc__, SCALE_CPP, EXPLOIT, TWIN, backend="cpp")
