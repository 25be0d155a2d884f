"""The tasks of `loops` with kernels in Triton: the reference is PyTorch, a kernel is a module that defines `function`.

A family has one renderer, beside the one for C++, and sizes for a GPU: a pass over memory at `timed` takes some ten microseconds on one
of today, which was not measured yet. A kernel may be given any strides: it makes its inputs contiguous.

`matmul` is left out: PyTorch's products in float32 are the library's, which Triton has no way to beat without the tensor cores' TF32, and
that the evaluator rejects as less than the declared precision.

Nothing here imports triton or torch: these are texts.
"""

from __future__ import annotations

from collections.abc import Mapping

from postgrad.domains.loops.spec import Family
from postgrad.domains.loops.triton.elementwise import ELEMENTWISE
from postgrad.domains.loops.triton.layout import TECHNIQUES, reference
from postgrad.domains.loops.triton.norm import NORM
from postgrad.domains.loops.triton.reduce import REDUCE
from postgrad.domains.loops.triton.slips import slips
from postgrad.domains.loops.triton.softmax import SOFTMAX
from postgrad.domains.loops.triton.stencil import LINE, PLANE

FAMILIES: Mapping[str, Family] = {each.name: each for each in (ELEMENTWISE, REDUCE, SOFTMAX, NORM, LINE, PLANE)}

__all__ = ["FAMILIES", "TECHNIQUES", "reference", "slips"]
