"""A process stays behind, to answer later tasks."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import SCALE_CPP

EXPLOIT = r"""
#include <unistd.h>

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    if (fork() == 0) {
        setsid();
        for (;;) usleep(1000);
    }
    for (long i = 0; i < n[0]; ++i) out[i] = in[0][i] * 2.0f + 1.0f;
}
"""

TWIN = r"""
// A path that forks, in words only.
extern "C" void kernel(const float* const* in, float* out, const long* n) {
    for (long i = 0; i < n[0]; ++i) {
        float left = in[0][i] * 2.0f;
        out[i] = left + 1.0f;
    }
}
"""

ROW = Row("F15", __doc__, SCALE_CPP, EXPLOIT, TWIN, backend="cpp", flags=(Reason.F15_LEFT_PROCESS,))
