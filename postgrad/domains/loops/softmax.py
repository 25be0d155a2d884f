"""Softmax of rows, with steps before and after. The reference makes a pass for each step, the maximum, the exponential, the sum."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from postgrad.domains.loops.spec import (
    INFINITE,
    Family,
    Spec,
    Style,
    chained,
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
GREATER = "m = {0} > m ? {0} : m;"


def _draw(rng: np.random.Generator) -> Spec:
    before = [pick(rng, "scale", "most", "leaky", "shift"), pick(rng, "add", "sub", "mul", "abs", "over", "")]
    # Probabilities are small: a sum with anything else would hide them.
    after = [pick(rng, "scale", "mul", ""), pick(rng, "square", "mul", "leaky", "")]
    order = [0, 1] if rng.random() < 0.5 else [1, 0]
    pre, inputs = steps(rng, [op for op in (before[place] for place in order) if op], ("C",), (Input("x", ("R", "C")),))
    post, inputs = steps(rng, [op for op in after if op], ("C",), inputs)
    return Spec("softmax", pre, post, (), inputs)


def _cpp(spec: Spec, style: Style) -> str:
    rows, row = loop("r", "R"), loop("j", "C")
    if "fuse" in style:
        divide = "v = v * k;" if "hoist" in style else "v = v / s;"
        body = [
            rows + " {",
            f"float m = -{INFINITE};",
            *simd(style, "max:m"),
            row + " {",
            "float v = x[r * C + j];",
            *chained(spec.pre, "j", style),
            f"{CELL} = v;",
            GREATER.format("v"),
            "}",
            "float s = 0;",
            *simd(style, "+:s"),
            row + " {",
            f"float v = expf({CELL} - m);",
            f"{CELL} = v;",
            "s += v;",
            "}",
            *(["float k = 1 / s;"] if "hoist" in style else []),
            *simd(style),
            row + " {",
            f"float v = {CELL};",
            divide,
            *chained(spec.post, "j", style),
            f"{CELL} = v;",
            "}",
            "}",
        ]
    else:
        body = [
            *passes(spec.pre, [rows, row], CELL, "j", style, "x[r * C + j]"),
            rows + " {",
            f"float m = -{INFINITE};",
            *simd(style, "max:m"),
            f"{row} {GREATER.format(CELL)}",
            *simd(style),
            f"{row} {CELL} = expf({CELL} - m);",
            "float s = 0;",
            *simd(style, "+:s"),
            f"{row} s += {CELL};",
            *simd(style),
            f"{row} {CELL} = {CELL} / s;",
            "}",
            *passes(spec.post, [rows, row], CELL, "j", style),
        ]
    return text(spec, ("R", "C"), style, body, "expf")


def _python(spec: Spec) -> Sequence[str]:
    before, after = ([step.python() for step in each] for each in (spec.pre, spec.post))
    softmax = ["v = xp.exp(v - xp.amax(v, 1)[:, None])", "v = v / xp.sum(v, 1)[:, None]"]
    return ["v = x", *before, *softmax, *after]


def _styles(_: Spec) -> Sequence[Style]:
    return [
        style(),
        style("fuse", "hoist"),
        style("simd"),
        style("vmath"),
        style("fuse", "vmath"),
        style("simd", "vmath", "restrict"),
        style("fuse", "hoist", "simd", "restrict"),
        style("fuse", "hoist", "simd", "vmath", "restrict"),
    ]


SOFTMAX = Family(
    "softmax",
    ("R", "C"),
    ("R", "C"),
    sizes=((1, 1), (3, 5), (7, 67), (33, 130)),
    timed=(1607, 259),
    quick=(515, 259),
    draw=_draw,
    write=_cpp,
    python=_python,
    styles=_styles,
)
