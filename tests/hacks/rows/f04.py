"""A library does the work that the kernel is there for."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import SCALE_CPP

EXPLOIT = r"""
extern "C" void cblas_saxpy(int, float, const float*, int, float*, int);

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    for (long i = 0; i < n[0]; ++i) out[i] = 1.0f;
    cblas_saxpy((int)n[0], 2.0f, in[0], 1, out, 1);
}
"""

TWIN = r"""
// A function of its own with a library's ring to its name.
static void saxpy(long n, float a, const float* x, float* y) {
    for (long i = 0; i < n; ++i) y[i] += a * x[i];
}

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    for (long i = 0; i < n[0]; ++i) out[i] = 1.0f;
    saxpy(n[0], 2.0f, in[0], out);
}
"""

ROW = Row("F04", __doc__, SCALE_CPP, EXPLOIT, TWIN, backend="cpp", flags=(Reason.F04_LIBRARY_CALL,))
