"""Normalisations of rows: a program has whole rows in registers. Unfused, the steps before and after are PyTorch's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from postgrad.domains.loops import norm
from postgrad.domains.loops.spec import Spec, Style
from postgrad.domains.loops.triton.layout import style, whole_rows

DIVISORS = {
    "rms": "tl.sqrt(tl.sum(v * v, 1)[:, None] / C + {})",
    "layer": "tl.sqrt(tl.sum(v * v, 1)[:, None] / C + {})",
    "magnitude": "(tl.sum(tl.abs(v), 1)[:, None] / C + {})",
    "largest": "(tl.max(tl.abs(v), 1)[:, None] + {})",
}


def _write(spec: Spec, style: Style) -> str:
    divisor = DIVISORS[spec.kind].format(spec.constants[0])
    core = [
        "v = tl.where(m, v, 0.0)",
        *(["v = tl.where(m, v - tl.sum(v, 1)[:, None] / C, 0.0)"] if spec.kind == "layer" else []),
        f"v = v * (1 / {divisor})" if "hoist" in style else f"v = v / {divisor}",
    ]
    return whole_rows(spec, style, core, warps=8)


def _styles(spec: Spec) -> Sequence[Style]:
    uses = spec.uses() - {"vmath"} | {"hoist"}
    if any(step.op == "silu" for step in spec.post):
        uses |= {"exp2"}
    return [
        style(),
        style("rows"),
        style("hoist"),
        style("fuse"),
        style("fuse", "hoist"),
        style("fuse", "warps"),
        style("fuse", "rows"),
        style("fuse", "rows") | uses,
        style("fuse", "warps") | uses,
    ]


NORM = replace(norm.NORM, timed=(1031, 4003), quick=(257, 4003), write=_write, styles=_styles)
