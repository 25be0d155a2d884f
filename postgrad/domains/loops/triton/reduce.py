"""Reductions of a matrix along its rows or its columns. Unfused, the steps before and after are PyTorch's.

Whole rows (or columns) in a block, or walked along block by block with an accumulator for each of the block's elements.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from postgrad.domains.loops import reduce
from postgrad.domains.loops.spec import Spec, Style
from postgrad.domains.loops.triton.layout import CELL, INFINITE, chained, loads, style, text

START = {"sum": "0.0", "mean": "0.0", "max": f"-{INFINITE}", "min": INFINITE}
TAKE = {"sum": "a + {}", "mean": "a + {}", "max": "tl.maximum(a, {})", "min": "tl.minimum(a, {})"}
TRITON = {"sum": "tl.sum", "mean": "tl.sum", "max": "tl.max", "min": "tl.min"}


def _write(spec: Spec, style: Style) -> str:
    axis, reducer = spec.kind.split()
    row, fused = axis == "row", "fuse" in style
    own = spec.inputs if fused else spec.inputs[:1]
    masked = f"tl.where(m, v, {START[reducer]})"
    back = "1)[:, None]" if row else "0)[None, :]"
    mean = (" / C" if row else " / R") if reducer == "mean" else ""
    mapped = [
        f"v = tl.load(x_ptr + {CELL}, m, 0.0)",
        *loads(own, "j", "j < C", style),
        *(chained(spec.pre, style) if fused else []),
    ]
    rows, columns = "tl.program_id(0) * H + tl.arange(0, H)", "tl.program_id(0) * W + tl.arange(0, W)"
    mask = "m = (r < R) & (j < C)"
    if "tile" in style:
        fixed, walked = (f"r = {rows}[:, None]", "j = k + tl.arange(0, W)[None, :]")
        span = "range(0, C, W)"
        if not row:
            fixed, walked = (f"j = {columns}[None, :]", "r = k + tl.arange(0, H)[:, None]")
            span = "range(0, R, H)"
        loop = [walked, mask, *mapped, f"a = {TAKE[reducer].format(masked)}"]
        body = [
            fixed,
            f"a = tl.full((H, W), {START[reducer]}, tl.float32)",
            f"for k in {span}:",
            *(f"    {line}" for line in loop),
            f"v = {TRITON[reducer]}(a, {back}{mean}",
        ]
    else:
        place = (
            [f"r = {rows}[:, None]", "j = tl.arange(0, W)[None, :]"]
            if row
            else ["r = tl.arange(0, H)[:, None]", f"j = {columns}[None, :]"]
        )
        body = [*place, mask, *mapped, f"v = {TRITON[reducer]}({masked}, {back}{mean}"]
    body += chained(spec.post, style) if fused else []
    body += ["tl.store(o_ptr + r, v, r < R)" if row else "tl.store(o_ptr + j, v, j < C)"]
    if row:
        height, width = "4" if "rows" in style else "1", "1024" if "tile" in style else "triton.next_power_of_2(C)"
        grid = f"triton.cdiv(R, {height})"
    else:
        height, width = (
            ("32", "32") if "tile" in style else ("triton.next_power_of_2(R)", "8" if "order" in style else "1")
        )
        grid = f"triton.cdiv(C, {width})"
    return text(
        spec,
        style,
        body,
        inputs=own,
        dims=("R", "C"),
        output=("R" if row else "C",),
        grid=grid,
        blocks={"H": height, "W": width},
        warps=8,
        before=() if fused else spec.pre,
        after=() if fused else spec.post,
    )


def _styles(spec: Spec) -> Sequence[Style]:
    if spec.kind.startswith("row"):
        return [
            style(),
            style("rows"),
            style("fuse"),
            style("fuse", "warps"),
            style("fuse", "rows"),
            style("fuse", "rows", "warps"),
            style("fuse", "tile"),
            style("fuse", "tile", "rows"),
        ]
    return [
        style(),
        style("order"),
        style("fuse"),
        style("fuse", "order"),
        style("fuse", "order", "warps"),
        style("fuse", "order", "tile"),
        style("fuse", "order", "tile", "warps"),
    ]


REDUCE = replace(reduce.REDUCE, timed=(1019, 4003), quick=(257, 4003), write=_write, styles=_styles)
