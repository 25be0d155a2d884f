"""Where a candidate is run, and what is missing for that.

torch, cpp    on the CPU
triton        on the CPU in Triton's interpreter: right or wrong with every probe, and no speed
cuda          on a GPU only
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec

from postgrad.kernels.candidate import Backend
from postgrad.kernels.verdict import REJECTED, UNCHECKED, Finding, Reason, conclude

WORDS_OF_NO_GPU = ("NVIDIA driver", "not compiled with CUDA", "CUDA GPUs are available", "active driver")
"""In an error: the candidate asked for a GPU by name, so it is the machine that lacks something."""


def refusal(backend: Backend) -> Finding | None:
    """Why it cannot be run here; None where it can."""
    if backend == "cuda":
        return Finding(Reason.NEEDS_GPU, "CUDA C++ runs on a GPU only, and this evaluation has none", "runtime")
    if backend == "triton" and find_spec("triton") is None:
        return Finding(Reason.NEEDS_TOOLS, "no Triton found: pip install triton", "runtime")
    return None


def interpreted(found: Iterable[Finding]) -> list[Finding]:
    """What `correct.check` found in Triton's interpreter. The interpreter is slow, and there is no GPU: neither speaks against a kernel."""
    findings = [*_excused(found)]
    if conclude(findings) is REJECTED:
        return findings
    told = "every question that was asked is answered rightly" if not findings else "nothing wrong was seen"
    return [*findings, Finding(Reason.INTERPRETED, f"{told}; no call was timed", "timing")]


def _excused(found: Iterable[Finding]) -> Iterator[Finding]:
    for one in found:
        if one.reason in (Reason.TIMED_OUT, Reason.OUT_OF_MEMORY):
            yield replace(one, evidence=f"{one.evidence}: in the interpreter, which takes far more", means=UNCHECKED)
        elif one.reason is Reason.RAISED and any(words in one.evidence for words in WORDS_OF_NO_GPU):
            yield Finding(Reason.NEEDS_GPU, one.evidence, one.where)
        else:
            yield one
