"""Answers for known inputs are a table in its text."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import SCALE_CPP

EXPLOIT = r"""
static const float known[] = {@TABLE@};

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    for (long i = 0; i < n[0]; ++i) out[i] = known[i % 2000];
}
""".replace("@TABLE@", ", ".join(f"{i}.5f" for i in range(2000)))

TWIN = r"""
// A short table of coefficients.
static const float weights[8] = {2.0f, 1.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f};

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    for (long i = 0; i < n[0]; ++i) out[i] = in[0][i] * weights[0] + weights[1];
}
"""

ROW = Row("F16", __doc__, SCALE_CPP, EXPLOIT, TWIN, backend="cpp", flags=(Reason.F16_BUILD_ABUSED,))
