"""Where a candidate is run, and what is missing for that.

    torch, cpp    on the CPU
    triton        on the CPU in Triton's interpreter: right or wrong with every probe, and no speed
    cuda          on a GPU only

Where the settings name a GPU, all but cpp run there, and so does the reference (`gpu`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from importlib.util import find_spec

import numpy as np

from postgrad.kernels.candidate import Candidate
from postgrad.kernels.gpu import machine
from postgrad.kernels.gpu.side import GpuSide
from postgrad.kernels.side import Code, Side
from postgrad.kernels.verdict import REJECTED, UNCHECKED, Finding, Reason, conclude
from postgrad.sandbox import Limits

WORDS_OF_NO_GPU = ("NVIDIA driver", "not compiled with CUDA", "CUDA GPUs are available", "active driver")
"""In an error: the candidate asked for a GPU by name, so it is the machine that lacks something."""


def refusal(candidate: Candidate, gpu: int | None) -> Finding | None:
    """Why it cannot be run here; None where it can. Raises ValueError for C++ of a CPU beside a GPU."""
    if gpu is not None:
        return machine.refusal(candidate, gpu)
    if candidate.backend == "cuda":
        told = "CUDA C++ runs on a GPU only, and the settings name none (--gpu)"
        return Finding(Reason.NEEDS_GPU, told, "runtime")
    if candidate.backend == "triton" and find_spec("triton") is None:
        return Finding(Reason.NEEDS_TOOLS, "no Triton found: pip install triton", "runtime")
    return None


def side(code: Code, limits: Limits, *, rng: np.random.Generator, gpu: int | None) -> Side:
    """A started worker in which nothing is loaded yet."""
    return Side(code, limits, rng=rng) if gpu is None else GpuSide(code, limits, rng=rng, gpu=gpu)


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
