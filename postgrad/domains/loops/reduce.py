"""Reductions of a matrix along its rows or its columns. The reference keeps one accumulator, and walks columns against memory."""

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

LANES = 32
"""Accumulators: two vectors of 16 floats, or four of 8."""
COLUMNS = 64
"""Columns of a tile, whose accumulators are 256 bytes."""
START = {"sum": "0", "mean": "0", "max": f"-{INFINITE}", "min": INFINITE}
PYTHON = {"sum": "xp.sum", "mean": "xp.mean", "max": "xp.amax", "min": "xp.amin"}


BENDS = {
    "sum": ("abs", "square", "relu", "most", ""),
    "mean": ("abs", "square", "relu", "most", ""),
    "max": ("abs", "square", "relu", ""),
    "min": ("most", ""),
}
"""The step before a reduction, none of which would make the result a constant: the least of many magnitudes is about 0."""


def _draw(rng: np.random.Generator) -> Spec:
    axis, reducer = pick(rng, "row", "column"), pick(rng, *START)
    before = [pick(rng, "scale", "add", "mul", "sub", "shift", "leaky"), pick(rng, *BENDS[reducer])]
    # A mean of thousands is near its expectation: beside a constant, or under a root, it would seem to be one.
    mild = reducer == "mean"
    after = [
        pick(rng, "abs", "square", "") if mild else pick(rng, "root", "abs", "square", ""),
        pick(rng, "scale", "leaky") if mild else pick(rng, "scale", "shift", "leaky"),
    ]
    pre, inputs = steps(rng, [op for op in before if op], ("C",), (Input("x", ("R", "C")),))
    post, inputs = steps(rng, [op for op in after if op], (), inputs)
    return Spec(f"{axis} {reducer}", pre, post, (), inputs)


def _take(reducer: str, into: str, value: str) -> str:
    if reducer in ("sum", "mean"):
        return f"{into} += {value};"
    return f"{into} = {value} {'>' if reducer == 'max' else '<'} {into} ? {value} : {into};"


def _cpp(spec: Spec, style: Style) -> str:
    axis, reducer = spec.kind.split()
    body = (_rows if axis == "row" else _columns)(spec, style, reducer)
    if "fuse" not in style:
        body += passes(
            spec.post,
            [loop("r", "R") if axis == "row" else loop("j", "C")],
            "o[r]" if axis == "row" else "o[j]",
            "",
            style,
        )
    return text(spec, ("R", "C"), style, body)


def _rows(spec: Spec, style: Style, reducer: str) -> list[str]:
    start, clause = START[reducer], f"{'+' if reducer in ('sum', 'mean') else reducer}:s"
    mapped = ["float v = x[r * C + j];", *chained(spec.pre, "j", style)]
    if "lanes" in style:
        inner = [
            f"float t[{LANES}];",
            f"{loop('k', str(LANES))} t[k] = {start};",
            "long j = 0;",
            f"for (; j + {LANES} <= C; j += {LANES})",
            loop("k", str(LANES)) + " {",
            "float v = x[r * C + j + k];",
            *chained(spec.pre, "j + k", style),
            _take(reducer, "t[k]", "v"),
            "}",
            "for (; j < C; j++) {",
            *mapped,
            _take(reducer, "t[0]", "v"),
            "}",
            f"float s = {start};",
            f"{loop('k', str(LANES))} {_take(reducer, 's', 't[k]')}",
        ]
    else:
        inner = [
            f"float s = {start};",
            *simd(style, clause),
            loop("j", "C") + " {",
            *mapped,
            _take(reducer, "s", "v"),
            "}",
        ]
    mean = ["s = s / C;"] if reducer == "mean" else []
    after = [f"s = {step.cpp('s', '', style)};" for step in spec.post] if "fuse" in style else []
    return [loop("r", "R") + " {", *inner, *mean, *after, "o[r] = s;", "}"]


def _columns(spec: Spec, style: Style, reducer: str) -> list[str]:
    start = START[reducer]
    mapped = ["float v = x[r * C + j];", *chained(spec.pre, "j", style)]
    mean = " / R" if reducer == "mean" else ""
    after = [f"s = {step.cpp('s', '', style)};" for step in spec.post] if "fuse" in style else []
    if "tile" in style:
        return [
            loop("k", "C", by=COLUMNS) + " {",
            f"long e = k + {COLUMNS} < C ? k + {COLUMNS} : C;",
            f"float t[{COLUMNS}];",
            f"{loop('j', 'e', 'k')} t[j - k] = {start};",
            loop("r", "R"),
            *simd(style),
            loop("j", "e", "k") + " {",
            *mapped,
            _take(reducer, "t[j - k]", "v"),
            "}",
            loop("j", "e", "k") + " {",
            f"float s = t[j - k]{mean};",
            *after,
            "o[j] = s;",
            "}",
            "}",
        ]
    if "order" in style:
        tail = [f"{loop('j', 'C')} o[j] = o[j]{mean};"] if mean else []
        if after:
            tail = [loop("j", "C") + " {", f"float s = o[j]{mean};", *after, "o[j] = s;", "}"]
        return [
            f"{loop('j', 'C')} o[j] = {start};",
            loop("r", "R"),
            *simd(style),
            loop("j", "C") + " {",
            *mapped,
            _take(reducer, "o[j]", "v"),
            "}",
            *tail,
        ]
    return [
        loop("j", "C") + " {",
        f"float s = {start};",
        loop("r", "R") + " {",
        *mapped,
        _take(reducer, "s", "v"),
        "}",
        *(["s = s / R;"] if mean else []),
        *after,
        "o[j] = s;",
        "}",
    ]


def _python(spec: Spec) -> Sequence[str]:
    axis, reducer = spec.kind.split()
    before, after = ([step.python() for step in each] for each in (spec.pre, spec.post))
    return ["v = x", *before, f"v = {PYTHON[reducer]}(v, {1 if axis == 'row' else 0})", *after]


def _styles(spec: Spec) -> Sequence[Style]:
    if spec.kind.startswith("row"):
        return [
            style(),
            style("fuse"),
            style("lanes"),
            style("simd"),
            style("fuse", "lanes"),
            style("fuse", "simd", "restrict"),
        ]
    return [
        style(),
        style("fuse"),
        style("order"),
        style("tile", "local"),
        style("order", "fuse", "simd", "restrict"),
        style("tile", "local", "fuse", "simd", "restrict"),
    ]


REDUCE = Family(
    "reduce",
    ("R", "C"),
    (),
    sizes=((1, 1), (3, 5), (7, 67), (65, 130)),
    timed=(1031, 2051),
    quick=(257, 1027),
    draw=_draw,
    write=_cpp,
    python=_python,
    styles=_styles,
    output_of=lambda spec: ("R",) if spec.kind.startswith("row") else ("C",),
)
