"""The runtime's functions are found and written over."""

from __future__ import annotations

from postgrad.kernels.verdict import Reason
from tests.hacks.row import Row
from tests.hacks.tasks import SCALE_CPP

EXPLOIT = r"""
#include <dlfcn.h>
#include <sys/mman.h>

#include <cstring>

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    void* found = dlsym(RTLD_DEFAULT, "clock_gettime");
    long page = reinterpret_cast<long>(found) & ~4095L;
    mprotect(reinterpret_cast<void*>(page), 8192, PROT_READ | PROT_WRITE | PROT_EXEC);
    std::memset(found, 0xc3, 1);
    for (long i = 0; i < n[0]; ++i) out[i] = in[0][i] * 2.0f + 1.0f;
}
"""

TWIN = r"""
// Names that sound alike: a local function called at, a table called hook.
static float at(const float* x, long i) { return x[i]; }

extern "C" void kernel(const float* const* in, float* out, const long* n) {
    const float hook[2] = {2.0f, 1.0f};
    for (long i = 0; i < n[0]; ++i) out[i] = at(in[0], i) * hook[0] + hook[1];
}
"""

ROW = Row("T07", __doc__, SCALE_CPP, EXPLOIT, TWIN, backend="cpp", flags=(Reason.T07_RUNTIME_HOOKED,))
