"""Small matrix products with an epilogue; either factor may be stored transposed. The reference is the sum of the definition."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from postgrad.domains.loops.spec import Family, Spec, Style, chained, loop, passes, pick, simd, steps, style, text
from postgrad.domains.loops.task import Input

CELL = "o[i * N + j]"
SHAPES = {"nn": (("M", "K"), ("K", "N")), "tn": (("K", "M"), ("K", "N")), "nt": (("M", "K"), ("N", "K"))}
PYTHON = {"nn": "x @ y", "tn": "x.T @ y", "nt": "x @ y.T"}
LANES = 16


def _draw(rng: np.random.Generator) -> Spec:
    kind = pick(rng, *SHAPES)
    after = [
        pick(rng, "add", "sub", "scale", "mul"),
        pick(rng, "relu", "leaky", "silu", "most", "abs"),
        pick(rng, "scale", "shift", "add"),
    ]
    left, right = SHAPES[kind]
    post, inputs = steps(rng, after[: int(rng.integers(2, 4))], ("N",), (Input("x", left), Input("y", right)))
    return Spec(kind, (), post, (), inputs)


def _left(kind: str, k: str = "k") -> str:
    return f"x[{k} * M + i]" if kind == "tn" else f"x[i * K + {k}]"


def _cpp(spec: Spec, style: Style) -> str:
    kind = spec.kind
    body: list[str] = []
    right = "y[j * K + {}]" if kind == "nt" else "y[{} * N + j]"
    if "layout" in style:
        body += ["float* t = new float[K * N];", loop("j", "N"), f"{loop('k', 'K')} t[k * N + j] = y[j * K + k];"]
        right = "t[{} * N + j]"
    after = ["{", f"float v = {CELL};", *chained(spec.post, "j", style), f"{CELL} = v;", "}"]
    if "order" in style:
        body += [loop("i", "M") + " {", f"{loop('j', 'N')} {CELL} = 0;"]
        if "lanes" in style:
            terms = " + ".join(f"{_left(kind, f'(k + {q})')} * {right.format(f'(k + {q})')}" for q in range(1, 4))
            body += [
                "long k = 0;",
                "for (; k + 4 <= K; k += 4)",
                *simd(style),
                f"{loop('j', 'N')} {CELL} += {_left(kind)} * {right.format('k')} + {terms};",
                "for (; k < K; k++)",
            ]
        else:
            body += [loop("k", "K")]
        body += [*simd(style), f"{loop('j', 'N')} {CELL} += {_left(kind)} * {right.format('k')};"]
        body += [*simd(style), f"{loop('j', 'N')} {after[0]}", *after[1:]] if "fuse" in style else []
        body += ["}"]
    else:
        inner = ["float v = 0;", *simd(style, "+:v"), f"{loop('k', 'K')} v += {_left(kind)} * {right.format('k')};"]
        if "lanes" in style:
            inner = [
                f"float t[{LANES}] = {{}};",
                "long k = 0;",
                f"for (; k + {LANES} <= K; k += {LANES})",
                f"{loop('q', str(LANES))} t[q] += {_left(kind, 'k + q')} * {right.format('k + q')};",
                "float v = 0;",
                f"{loop('q', str(LANES))} v += t[q];",
                f"for (; k < K; k++) v += {_left(kind)} * {right.format('k')};",
            ]
        fused = chained(spec.post, "j", style) if "fuse" in style else []
        body += [loop("i", "M"), loop("j", "N") + " {", *inner, *fused, f"{CELL} = v;", "}"]
    if "fuse" not in style:
        body += passes(spec.post, [loop("i", "M"), loop("j", "N")], CELL, "j", style)
    return text(spec, ("M", "N", "K"), style, body)


def _python(spec: Spec) -> Sequence[str]:
    return [f"v = {PYTHON[spec.kind]}", *(step.python() for step in spec.post)]


def _styles(spec: Spec) -> Sequence[Style]:
    uses = spec.uses()
    if spec.kind == "nt":
        return [
            style(),
            style("fuse"),
            style("lanes"),
            style("simd"),
            style("fuse", "simd", "restrict") | uses,
            style("layout", "order"),
            style("layout", "order", "fuse", "lanes", "simd", "restrict") | uses,
        ]
    return [
        style(),
        style("fuse"),
        style("order"),
        style("order", "fuse") | uses,
        style("order", "simd", "restrict"),
        style("order", "fuse", "lanes") | uses,
        style("order", "fuse", "lanes", "simd", "restrict") | uses,
    ]


MATMUL = Family(
    "matmul",
    ("M", "N", "K"),
    ("M", "N"),
    sizes=((1, 1, 1), (3, 5, 7), (17, 33, 18), (5, 67, 3)),
    timed=(151, 163, 157),
    quick=(97, 103, 101),
    draw=_draw,
    write=_cpp,
    python=_python,
    styles=_styles,
)
