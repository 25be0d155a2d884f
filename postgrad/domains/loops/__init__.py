"""Small loops in C++: kernels that g++ builds and that are timed for real, so that a small model can learn to write faster ones. The same
tasks in Triton (`language="triton"`) are in `triton`, which says how its kernels are called; what follows is of C++.

A task is a function over float32 arrays, given as a naive reference in C++ and as a statement in Python for the float64
oracle. All kernels, references included, have one signature:

    extern "C" void kernel(const float* const* in, float* out, const long* n)

    in    one pointer for each of `task.inputs`, in their order: contiguous, row-major, never written to
    out   `task.output`, contiguous, row-major; its contents before the call mean nothing, all of it must be written
    n     one length for each of `task.dims`, in their order: what R, C, ... are in this call (every one at least 1)

Nothing overlaps; pointers are aligned to 64 bytes or not at all (no kernel here relies on it). A kernel has no other state:
it may use the stack and the heap, and one thread. `FLAGS` builds it: shared, with `#pragma omp simd` and the vector
functions of libmvec (x86-64, glibc 2.35 or later), without errno and without -ffast-math, so that sums are taken as they are
written.

Nothing here builds or runs anything: these are texts and data.
"""

from __future__ import annotations

from postgrad.domains.loops.generate import (
    FAMILIES,
    LANGUAGES,
    Made,
    Mistake,
    Split,
    Variant,
    kernels,
    mistakes,
    tasks,
    variants,
)
from postgrad.domains.loops.language import tokenizer, triton_tokenizer
from postgrad.domains.loops.prompts import answer, compared, contrastive, plain, problem
from postgrad.domains.loops.spec import TECHNIQUES
from postgrad.domains.loops.task import DISTRIBUTIONS, Input, Language, Task, inputs, oracle
from postgrad.domains.loops.teachers import TEACHERS, Skill, Teacher

FLAGS = ("-std=c++17", "-O3", "-march=native", "-fopenmp-simd", "-fno-math-errno", "-fPIC", "-shared")
"""What references and kernels are built with, alike: g++ FLAGS -o kernel.so kernel.cpp"""

__all__ = [
    "DISTRIBUTIONS",
    "FAMILIES",
    "FLAGS",
    "LANGUAGES",
    "TEACHERS",
    "TECHNIQUES",
    "Input",
    "Language",
    "Made",
    "Mistake",
    "Skill",
    "Split",
    "Task",
    "Teacher",
    "Variant",
    "answer",
    "compared",
    "contrastive",
    "inputs",
    "kernels",
    "mistakes",
    "oracle",
    "plain",
    "problem",
    "tasks",
    "tokenizer",
    "triton_tokenizer",
    "variants",
]
