"""Stencils: a line's taps with zeros or the edge value beyond the ends, or a plane's cross, whose border is copied.

The references ask at every tap whether it lies inside, and walk the plane against memory.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from postgrad.domains.loops.spec import (
    Family,
    Spec,
    Style,
    chained,
    constant,
    loop,
    passes,
    pick,
    simd,
    steps,
    style,
    text,
)
from postgrad.domains.loops.task import Input

BLOCK = 1024


def _draw_line(rng: np.random.Generator) -> Spec:
    after = [
        pick(rng, "add", "mul", "sub", "scale", "shift"),
        pick(rng, "relu", "leaky", "abs", "most", "square", "tanh"),
    ]
    reach = int(rng.integers(1, 4))
    post, inputs = steps(rng, after[: int(rng.integers(1, 3))], ("N",), (Input("x", ("N",)),))
    weights = tuple(constant(rng) for _ in range(2 * reach + 1))
    return Spec(f"{pick(rng, 'zero', 'edge')} {reach}", (), post, weights, inputs)


def _line(spec: Spec, style: Style) -> str:
    beyond, width = spec.kind.split()
    reach = int(width)
    taps = 2 * reach + 1
    weights = f"const float w[] = {{{', '.join(f'{each}f' for each in spec.constants)}}};"
    at = f"i + k - {reach}"
    if beyond == "zero":
        tap = [loop("k", str(taps)), f"if ({at} >= 0 && {at} < N) v += w[k] * x[{at}];"]
        copied = "{q} >= 0 && {q} < N ? x[{q}] : 0"
    else:
        tap = [
            loop("k", str(taps)) + " {",
            f"long q = {at};",
            "q = q < 0 ? 0 : q < N ? q : N - 1;",
            "v += w[k] * x[q];",
            "}",
        ]
        copied = "x[{q} < 0 ? 0 : {q} < N ? {q} : N - 1]"
    slow = ["float v = 0;", *tap]
    body = [weights]
    if "layout" in style:
        inside = [*simd(style), f"{loop('i', 'N')} t[i + {reach}] = x[i];"]
        ends = (
            []
            if beyond == "zero"
            else [f"{loop('k', width)} t[k] = x[0];", f"{loop('k', width)} t[N + {reach} + k] = x[N - 1];"]
        )
        body += [f"float* t = new float[N + {2 * reach}]();", *inside, *ends]
        fast = ["float v = 0;", f"{loop('k', str(taps))} v += w[k] * t[i + k];"]
        after = chained(spec.post, "i", style) if "fuse" in style else []
        body += [*simd(style), loop("i", "N") + " {", *fast, *after, "o[i] = v;", "}"]
    elif "tile" in style:
        q = f"(u + i - {reach})"
        body += [
            f"float t[{BLOCK + 2 * reach}];",
            loop("u", "N", by=BLOCK) + " {",
            f"long e = N - u < {BLOCK} ? N - u : {BLOCK};",
            f"{loop('i', f'e + {2 * reach}')} t[i] = {copied.format(q=q)};",
            *simd(style),
            loop("i", "e") + " {",
            "float v = 0;",
            f"{loop('k', str(taps))} v += w[k] * t[i + k];",
            *(chained(spec.post, "u + i", style) if "fuse" in style else []),
            "o[u + i] = v;",
            "}",
            "}",
        ]
    elif "hoist" in style:
        after = chained(spec.post, "i", style) if "fuse" in style else []
        body += [
            "auto end = [&](long i) {",
            *slow,
            *after,
            "o[i] = v;",
            "};",
            f"long e = N > {2 * reach} ? N - {reach} : 0;",
            *simd(style),
            loop("i", "e", width) + " {",
            "float v = 0;",
            f"{loop('k', str(taps))} v += w[k] * x[{at}];",
            *after,
            "o[i] = v;",
            "}",
            f"for (long i = 0; i < {reach} && i < N; i++) end(i);",
            f"for (long i = e > {reach} ? e : {reach}; i < N; i++) end(i);",
        ]
    else:
        after = chained(spec.post, "i", style) if "fuse" in style else []
        body += [loop("i", "N") + " {", *slow, *after, "o[i] = v;", "}"]
    if "fuse" not in style:
        body += passes(spec.post, [loop("i", "N")], "o[i]", "i", style)
    return text(spec, ("N",), style, body)


def _line_python(spec: Spec) -> Sequence[str]:
    beyond, width = spec.kind.split()
    reach = int(width)
    ends = ("xp.zeros_like(x[:1])",) * 2 if beyond == "zero" else ("x[:1]", "x[-1:]")
    left, right = (", ".join([end] * reach) for end in ends)
    terms = " + ".join(f"{weight} * t[{k}:{k} + len(x)]" for k, weight in enumerate(spec.constants))
    return [f"t = xp.concatenate(({left}, x, {right}))", f"v = {terms}", *(step.python() for step in spec.post)]


def _line_styles(spec: Spec) -> Sequence[Style]:
    uses = spec.uses()
    return [
        style(),
        style("fuse"),
        style("hoist"),
        style("layout"),
        style("tile", "local", "fuse"),
        style("layout", "fuse", "simd") | uses,
        style("tile", "local", "fuse", "simd", "restrict") | uses,
        style("hoist", "fuse", "simd", "restrict") | uses,
    ]


LINE = Family(
    "line",
    ("N",),
    ("N",),
    sizes=((1,), (2,), (5,), (6,), (7,), (67,), (1003,), (2050,)),
    timed=(1_000_003,),
    quick=(200_003,),
    draw=_draw_line,
    write=_line,
    python=_line_python,
    styles=_line_styles,
)

# ---- The plane ------------------------------------------------------------------------------------------------------

CELL = "o[r * C + j]"
MIDDLE = "x[r * C + j]"
NEIGHBOURS = {
    "cross": ("x[(r - 1) * C + j]", "x[(r + 1) * C + j]", "x[r * C + j - 1]", "x[r * C + j + 1]"),
    "corners": ("x[(r - 1) * C + j - 1]", "x[(r - 1) * C + j + 1]", "x[(r + 1) * C + j - 1]", "x[(r + 1) * C + j + 1]"),
    "rows": ("x[(r - 1) * C + j]", "x[(r + 1) * C + j]"),
    "columns": ("x[r * C + j - 1]", "x[r * C + j + 1]"),
}
SLICES = {
    "cross": ("x[:-2, 1:-1]", "x[2:, 1:-1]", "x[1:-1, :-2]", "x[1:-1, 2:]"),
    "corners": ("x[:-2, :-2]", "x[:-2, 2:]", "x[2:, :-2]", "x[2:, 2:]"),
    "rows": ("x[:-2, 1:-1]", "x[2:, 1:-1]"),
    "columns": ("x[1:-1, :-2]", "x[1:-1, 2:]"),
}
INSIDE = "r > 0 && r < R - 1 && j > 0 && j < C - 1"


def _draw_plane(rng: np.random.Generator) -> Spec:
    after = [
        pick(rng, "add", "mul", "sub", "scale", "shift"),
        pick(rng, "relu", "leaky", "abs", "most", "square", "tanh"),
    ]
    post, inputs = steps(rng, after[: int(rng.integers(1, 3))], ("C",), (Input("x", ("R", "C")),))
    return Spec(pick(rng, *NEIGHBOURS), (), post, (constant(rng), constant(rng)), inputs)


def _plane(spec: Spec, style: Style) -> str:
    middle, beside = spec.constants
    taps = f"{middle}f * {MIDDLE} + {beside}f * ({' + '.join(NEIGHBOURS[spec.kind])})"
    after = chained(spec.post, "j", style) if "fuse" in style else []
    if "hoist" in style:
        body = [
            loop("r", "R") + " {",
            *simd(style),
            loop("j", "C") + " {",
            f"float v = {MIDDLE};",
            *after,
            f"{CELL} = v;",
            "}",
            "if (r > 0 && r < R - 1)",
            *simd(style),
            loop("j", "C - 1", "1") + " {",
            f"float v = {taps};",
            *after,
            f"{CELL} = v;",
            "}",
            "}",
        ]
    else:
        loops = [loop("r", "R"), loop("j", "C") + " {"] if "order" in style else [loop("j", "C"), loop("r", "R") + " {"]
        body = [
            loops[0],
            *simd(style),
            loops[1],
            f"float v = {MIDDLE};",
            f"if ({INSIDE}) v = {taps};",
            *after,
            f"{CELL} = v;",
            "}",
        ]
    if "fuse" not in style:
        body += passes(spec.post, [loop("r", "R"), loop("j", "C")], CELL, "j", style)
    return text(spec, ("R", "C"), style, body)


def _plane_python(spec: Spec) -> Sequence[str]:
    middle, beside = spec.constants
    taps = f"{middle} * x[1:-1, 1:-1] + {beside} * ({' + '.join(SLICES[spec.kind])})"
    return ["v = x + 0", f"if min(x.shape) > 2: v[1:-1, 1:-1] = {taps}", *(step.python() for step in spec.post)]


def _plane_styles(spec: Spec) -> Sequence[Style]:
    uses = spec.uses()
    return [
        style(),
        style("fuse"),
        style("order"),
        style("order", "fuse"),
        style("order", "fuse", "simd", "restrict") | uses,
        style("order", "hoist"),
        style("order", "hoist", "fuse") | uses,
        style("order", "hoist", "fuse", "simd", "restrict") | uses,
    ]


PLANE = Family(
    "plane",
    ("R", "C"),
    ("R", "C"),
    sizes=((1, 1), (1, 5), (2, 2), (3, 3), (7, 67), (65, 30)),
    timed=(1031, 1027),
    quick=(257, 1027),
    draw=_draw_plane,
    write=_plane,
    python=_plane_python,
    styles=_plane_styles,
)
