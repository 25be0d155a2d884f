"""Chains of element-wise steps, one of them a call of the mathematical library. The reference makes a pass over the output for each.

Without such a call memory bounds a chain, and only arrays of many megabytes take long enough to be timed: fresh ones for every
check and every timed call would cost far more than the kernel.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from postgrad.domains.loops.spec import Family, Spec, Style, chained, loop, passes, pick, simd, steps, style, text
from postgrad.domains.loops.task import Input

BLOCK = 1024
"""Elements of a tile: 4 KiB, so that three arrays stay in the first cache."""


def _draw(rng: np.random.Generator) -> Spec:
    ops = [
        pick(rng, "scale", "shift", "abs", "add", "mul", "sub"),
        pick(rng, "relu", "leaky", "most", "square", "root", "over", "sigmoid"),
        pick(rng, "scale", "shift", "add", "mul", "sub"),
        pick(rng, "sigmoid", "silu", "tanh"),
        pick(rng, "scale", "shift", "add", "mul"),
        pick(rng, "abs", "relu", "most", "over"),
    ][: int(rng.integers(4, 7))]
    made, inputs = steps(rng, ops, ("N",), (Input("x", ("N",)),))
    return Spec("chain", (), made, (), inputs)


def _cpp(spec: Spec, style: Style) -> str:
    if "fuse" in style:
        body = [
            *simd(style),
            loop("i", "N") + " {",
            "float v = x[i];",
            *chained(spec.post, "i", style),
            "o[i] = v;",
            "}",
        ]
    elif "tile" in style:
        body = [
            loop("k", "N", by=BLOCK) + " {",
            f"long e = k + {BLOCK} < N ? k + {BLOCK} : N;",
            *passes(spec.post, [loop("i", "e", "k")], "o[i]", "i", style, "x[i]"),
            "}",
        ]
    else:
        body = passes(spec.post, [loop("i", "N")], "o[i]", "i", style, "x[i]")
    return text(spec, ("N",), style, body)


def _python(spec: Spec) -> Sequence[str]:
    return ["v = x", *(step.python() for step in spec.post)]


def _styles(spec: Spec) -> Sequence[Style]:
    uses = spec.uses()
    plain = [style(), style("fuse"), style("tile"), style("fuse", "restrict", "simd")]
    more = [style("fuse"), style("tile", "restrict", "simd"), style("fuse", "restrict", "simd")]
    return plain + ([uses, *(each | uses for each in more)] if uses else [style("tile", "restrict", "simd")])


ELEMENTWISE = Family(
    "elementwise",
    ("N",),
    ("N",),
    sizes=((1,), (17,), (1003,), (2050,)),
    timed=(300_007,),
    quick=(100_003,),
    draw=_draw,
    write=_cpp,
    python=_python,
    styles=_styles,
)
