"""Weighted sums of neighbours, along a line and in a plane: each tap is a load, and the first cache has what neighbours share.

Unfused, the steps after are PyTorch's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from postgrad.domains.loops import stencil
from postgrad.domains.loops.spec import Spec, Style
from postgrad.domains.loops.triton.layout import VECTOR, chained, loads, style, text, whole_rows

BLOCK, LARGE = 1024, 4096
INSIDE = "n = (r > 0) & (r < R - 1) & (j > 0) & (j < C - 1)"
NEIGHBOURS = {
    "cross": ("(r - 1) * C + j", "(r + 1) * C + j", "r * C + j - 1", "r * C + j + 1"),
    "corners": ("(r - 1) * C + j - 1", "(r - 1) * C + j + 1", "(r + 1) * C + j - 1", "(r + 1) * C + j + 1"),
    "rows": ("(r - 1) * C + j", "(r + 1) * C + j"),
    "columns": ("r * C + j - 1", "r * C + j + 1"),
}


def _line(spec: Spec, style: Style) -> str:
    beyond, width = spec.kind.split()
    reach, fused = int(width), "fuse" in style
    taps = []
    for place, weight in enumerate(spec.constants):
        at = f"i - {reach - place}" if place < reach else f"i + {place - reach}"
        sign = "=" if place == 0 else "+="
        if beyond == "zero":
            taps += [f"q = {at}", f"v {sign} {weight} * tl.load(x_ptr + q, (q >= 0) & (q < N), 0.0)"]
        else:
            taps += [f"q = tl.minimum(tl.maximum({at}, 0), N - 1)", f"v {sign} {weight} * tl.load(x_ptr + q)"]
    own = spec.inputs if fused else spec.inputs[:1]
    body = [
        *VECTOR,
        *taps,
        *loads(own, "i", "m", style),
        *(chained(spec.post, style) if fused else []),
        "tl.store(o_ptr + i, v, m)",
    ]
    block = str(LARGE if "block" in style else BLOCK)
    return text(
        spec,
        style,
        body,
        inputs=own,
        dims=("N",),
        output=("N",),
        grid=f"triton.cdiv(N, {block})",
        blocks={"W": block},
        warps=8,
        after=() if fused else spec.post,
    )


def _line_styles(spec: Spec) -> Sequence[Style]:
    last = [style("fuse", "exp2"), style("fuse", "block", "warps", "exp2")] if spec.uses() else []
    return [
        style(),
        style("block"),
        style("warps"),
        style("fuse"),
        style("fuse", "warps"),
        style("fuse", "block"),
        style("fuse", "block", "warps"),
        *last,
    ]


LINE = replace(
    stencil.LINE,
    sizes=((10_007,), *stencil.LINE.sizes),
    timed=(4_194_319,),
    quick=(1_048_583,),
    write=_line,
    styles=_line_styles,
)


def _plane(spec: Spec, style: Style) -> str:
    middle, beside = spec.constants
    first, *others = NEIGHBOURS[spec.kind]
    core = [
        INSIDE,
        f"t = tl.load(x_ptr + {first}, n, 0.0)",
        *(f"t += tl.load(x_ptr + {one}, n, 0.0)" for one in others),
        f"v = tl.where(n, {middle} * v + {beside} * t, v)",
    ]
    return whole_rows(spec, style, core, warps=8)


def _plane_styles(spec: Spec) -> Sequence[Style]:
    last = [style("fuse", "exp2"), style("fuse", "rows", "exp2")] if spec.uses() else []
    return [
        style(),
        style("rows"),
        style("warps"),
        style("fuse"),
        style("fuse", "warps"),
        style("fuse", "rows"),
        style("fuse", "rows", "warps"),
        *last,
    ]


PLANE = replace(stencil.PLANE, timed=(1031, 4003), quick=(257, 4003), write=_plane, styles=_plane_styles)
