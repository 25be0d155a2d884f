"""Normalisations of rows: RMS, layer, by the mean magnitude, by the largest. The reference takes the root for every element."""

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

CELL = "o[r * C + j]"
KINDS = {
    # kind: (what an element v adds, the reduction, the divisor from the sum s and the constant, the same in Python)
    "rms": ("s += v * v;", "+:s", "sqrtf(s / C + {}f)", "xp.sqrt(xp.mean(v * v, 1)[:, None] + {})"),
    "layer": ("s += v * v;", "+:s", "sqrtf(s / C + {}f)", "xp.sqrt(xp.mean(v * v, 1)[:, None] + {})"),
    "magnitude": ("s += fabsf(v);", "+:s", "(s / C + {}f)", "(xp.mean(xp.abs(v), 1)[:, None] + {})"),
    "largest": ("s = fabsf(v) > s ? fabsf(v) : s;", "max:s", "(s + {}f)", "(xp.amax(xp.abs(v), 1)[:, None] + {})"),
}


def _draw(rng: np.random.Generator) -> Spec:
    before = [pick(rng, "add", "sub", "mul", "scale", "shift", "leaky")]
    after = [pick(rng, "mul", "scale"), pick(rng, "add", "shift"), pick(rng, "relu", "leaky", "silu", "most", "")]
    pre, inputs = steps(rng, before, ("C",), (Input("x", ("R", "C")),))
    post, inputs = steps(rng, [op for op in after if op], ("C",), inputs)
    return Spec(pick(rng, *KINDS), pre, post, (constant(rng),), inputs)


def _cpp(spec: Spec, style: Style) -> str:
    rows, row = loop("r", "R"), loop("j", "C")
    adds, clause, divisor, _ = KINDS[spec.kind]
    divisor = divisor.format(spec.constants[0])
    layer = spec.kind == "layer"
    if "fuse" in style:
        mean = [
            *simd(style, "+:m"),
            row + " {",
            "float v = x[r * C + j];",
            *chained(spec.pre, "j", style),
            f"{CELL} = v;",
            "m += v;",
            "}",
        ]
        first = ["float m = 0;", *mean, "m = m / C;"] if layer else []
        source = [f"float v = {CELL} - m;"] if layer else ["float v = x[r * C + j];", *chained(spec.pre, "j", style)]
        body = [
            rows + " {",
            *first,
            "float s = 0;",
            *simd(style, clause),
            row + " {",
            *source,
            f"{CELL} = v;",
            adds,
            "}",
            *([f"float k = 1 / {divisor};"] if "hoist" in style else []),
            *simd(style),
            row + " {",
            f"float v = {CELL};",
            "v = v * k;" if "hoist" in style else f"v = v / {divisor};",
            *chained(spec.post, "j", style),
            f"{CELL} = v;",
            "}",
            "}",
        ]
    else:
        centred = [
            "float m = 0;",
            *simd(style, "+:m"),
            f"{row} m += {CELL};",
            *simd(style),
            f"{row} {CELL} = {CELL} - m / C;",
        ]
        body = [
            *passes(spec.pre, [rows, row], CELL, "j", style, "x[r * C + j]"),
            rows + " {",
            *(centred if layer else []),
            "float s = 0;",
            *simd(style, clause),
            f"{row} {adds.replace('v', CELL)}",
            *([f"float k = 1 / {divisor};"] if "hoist" in style else []),
            *simd(style),
            f"{row} {CELL} = {CELL} {'* k' if 'hoist' in style else f'/ {divisor}'};",
            "}",
            *passes(spec.post, [rows, row], CELL, "j", style),
        ]
    return text(spec, ("R", "C"), style, body)


def _python(spec: Spec) -> Sequence[str]:
    before, after = ([step.python() for step in each] for each in (spec.pre, spec.post))
    centred = ["v = v - xp.mean(v, 1)[:, None]"] if spec.kind == "layer" else []
    return ["v = x", *before, *centred, f"v = v / {KINDS[spec.kind][3].format(spec.constants[0])}", *after]


def _styles(spec: Spec) -> Sequence[Style]:
    vector = spec.uses() - {"hoist"}
    return [
        style(),
        style("fuse"),
        style("hoist"),
        style("simd"),
        style("fuse", "hoist") | vector,
        style("simd", "hoist", "restrict") | vector,
        style("fuse", "simd", "restrict"),
        style("fuse", "simd", "hoist", "restrict") | vector,
    ]


NORM = Family(
    "norm",
    ("R", "C"),
    ("R", "C"),
    sizes=((1, 1), (3, 5), (7, 67), (33, 130)),
    timed=(1031, 1027),
    quick=(257, 1027),
    draw=_draw,
    write=_cpp,
    python=_python,
    styles=_styles,
)
