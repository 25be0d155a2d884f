"""Softmax of rows: a program has whole rows in registers. Unfused, the steps before and after are PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from postgrad.domains.loops import softmax
from postgrad.domains.loops.spec import Spec, Style
from postgrad.domains.loops.triton.layout import style, whole_rows


def _write(spec: Spec, style: Style) -> str:
    exponential = "tl.exp(v - tl.max(v, 1)[:, None])"
    if "exp2" in style:
        exponential = "tl.exp2((v - tl.max(v, 1)[:, None]) * 1.442695)"
    core = [
        'v = tl.where(m, v, -float("inf"))',
        f"v = {exponential}",
        "v = v * (1 / tl.sum(v, 1)[:, None])" if "hoist" in style else "v = v / tl.sum(v, 1)[:, None]",
    ]
    return whole_rows(spec, style, core, warps=2)


def _styles(spec: Spec) -> Sequence[Style]:
    del spec
    return [
        style(),
        style("rows"),
        style("fuse"),
        style("fuse", "hoist"),
        style("fuse", "exp2"),
        style("fuse", "warps"),
        style("fuse", "rows"),
        style("fuse", "rows", "hoist", "exp2"),
        style("fuse", "warps", "hoist", "exp2"),
    ]


SOFTMAX = replace(softmax.SOFTMAX, timed=(4099, 1019), quick=(1031, 1019), write=_write, styles=_styles)
