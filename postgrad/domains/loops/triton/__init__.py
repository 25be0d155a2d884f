"""The tasks of `loops` with kernels in Triton: the reference is PyTorch, a kernel is a module that defines `function`.

A family has one renderer, beside the one for C++, and sizes for a GPU: a pass over memory at `timed` takes some tens of microseconds on
one of today. None was measured yet. A kernel may take any strides: it makes its inputs contiguous. What is not rendered here cannot be
asked for: `matmul`, `line` and `plane`.

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

FAMILIES: Mapping[str, Family] = {each.name: each for each in (ELEMENTWISE, REDUCE, SOFTMAX, NORM)}

__all__ = ["FAMILIES", "TECHNIQUES", "reference", "slips"]
