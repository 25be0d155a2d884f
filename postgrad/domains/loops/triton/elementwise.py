"""Chains of element-wise steps: one program for each block of elements. Unfused, PyTorch does the first half of the steps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from postgrad.domains.loops import elementwise
from postgrad.domains.loops.spec import Spec, Style
from postgrad.domains.loops.triton.layout import VECTOR, chained, loads, style, text

BLOCK, LARGE = 1024, 4096


def _write(spec: Spec, style: Style) -> str:
    half = 0 if "fuse" in style else len(spec.post) // 2
    before, own = spec.post[:half], spec.post[half:]
    used = [each for each in spec.inputs if each.name in {"x", *(step.operand for step in own)}]
    body = [
        *VECTOR,
        "v = tl.load(x_ptr + i, m, 0.0)",
        *loads(used, "i", "m", style),
        *chained(own, style),
        "tl.store(o_ptr + i, v, m)",
    ]
    block = str(LARGE if "block" in style else BLOCK)
    return text(
        spec,
        style,
        body,
        inputs=used,
        dims=("N",),
        output=("N",),
        grid=f"triton.cdiv(N, {block})",
        blocks={"W": block},
        warps=8,
        before=before,
    )


def _styles(spec: Spec) -> Sequence[Style]:
    uses = spec.uses() & {"hoist"} | {"exp2"}
    return [
        style(),
        style("block"),
        style("fuse"),
        style("fuse", "warps"),
        style("fuse", "block"),
        style("fuse") | uses,
        style("fuse", "block", "warps"),
        style("fuse", "block", "warps") | uses,
    ]


ELEMENTWISE = replace(
    elementwise.ELEMENTWISE,
    sizes=((10_007,), *elementwise.ELEMENTWISE.sizes),
    timed=(4_194_319,),
    quick=(1_048_583,),
    write=_write,
    styles=_styles,
)
