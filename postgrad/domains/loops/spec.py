"""What a task computes, apart from its text: a kind, element-wise steps before and after it, and constants.

A step is an expression of one value, in C++ and in Python. Families write the loops around steps; how they write them is a
style, a set of techniques. CUDA-L1's article (arXiv 2507.14111) counts ten techniques; these are nine of them on one core
of a CPU (`TECHNIQUES`), streams have no counterpart, and `vmath` is a tenth that the article has not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from postgrad.domains.loops.task import Input

Style = frozenset[str]

TECHNIQUES: Mapping[str, str] = {
    "fuse": "operation fusion: several passes over memory become one",
    "order": "memory access: the innermost loop walks along memory",
    "layout": "memory layout: data is copied once into the order that the loop reads",
    "restrict": "memory format: pointers are declared not to overlap",
    "simd": "coalescing: neighbouring elements are one vector operation",
    "lanes": "warp-level: a sum is kept in several independent accumulators",
    "tile": "block configuration: work is cut into blocks that stay in the first cache",
    "local": "shared memory: a small scratch array beside the work",
    "hoist": "registers: what does not change, branches included, leaves the inner loop",
    "vmath": "vector functions of the mathematical library (not in the article)",
}


@dataclass(frozen=True, slots=True)
class Op:
    cpp: str
    """An expression of {v}, the constant {c} and the tensor element {t}."""
    python: str
    takes: str = ""
    """"constant", "tensor", "number" (one positive value, read through its pointer) or nothing."""
    calls: str = ""
    """The function of the mathematical library that it needs, where that has a vector form."""


OPS: Mapping[str, Op] = {
    "scale": Op("{v} * {c}f", "v * {c}", "constant"),
    "shift": Op("{v} + {c}f", "v + {c}", "constant"),
    "most": Op("{v} < {c}f ? {v} : {c}f", "xp.where(v < {c}, v, {c})", "constant"),
    "leaky": Op("{v} > 0 ? {v} : {v} * {c}f", "xp.where(v > 0, v, v * {c})", "constant"),
    "relu": Op("{v} > 0 ? {v} : 0", "xp.where(v > 0, v, 0.0)"),
    "abs": Op("fabsf({v})", "xp.abs(v)"),
    "square": Op("{v} * {v}", "v * v"),
    # Away from zero, where a root makes a small error large.
    "root": Op("sqrtf(fabsf({v}) + {c}f)", "xp.sqrt(xp.abs(v) + {c})", "constant"),
    "silu": Op("{v} / (1 + expf(-{v}))", "v / (1 + xp.exp(-v))", calls="expf"),
    "sigmoid": Op("1 / (1 + expf(-{v}))", "1 / (1 + xp.exp(-v))", calls="expf"),
    "tanh": Op("tanhf({v})", "xp.tanh(v)", calls="tanhf"),
    "add": Op("{v} + {t}", "v + {t}", "tensor"),
    "mul": Op("{v} * {t}", "v * {t}", "tensor"),
    "sub": Op("{t} - {v}", "{t} - v", "tensor"),
    "over": Op("{v} / sqrtf({t})", "v / xp.sqrt({t})", "number"),
}


@dataclass(frozen=True, slots=True)
class Step:
    op: str
    constant: str = ""
    """As it is written, "1.5"; empty where the op takes none."""
    operand: str = ""
    """The name of an input; empty where the op takes none."""

    def cpp(self, v: str, at: str, style: Style) -> str:
        """The step of `v`, at index `at` of its tensor."""
        op = OPS[self.op]
        if op.takes == "number" and "hoist" in style:
            return f"{v} * i{self.operand}"
        element = f"{self.operand}[{'0' if op.takes == 'number' else at}]"
        return op.cpp.format(v=v, c=self.constant, t=element)

    def python(self) -> str:
        return "v = " + OPS[self.op].python.format(c=self.constant, t=self.operand)


@dataclass(frozen=True, slots=True)
class Spec:
    kind: str
    """What the family does between `pre` and `post`: "row sum", "layer", "nt", ... Part of the composition."""
    pre: tuple[Step, ...]
    post: tuple[Step, ...]
    constants: tuple[str, ...]
    """The kind's own: an epsilon, the weights of a stencil."""
    inputs: tuple[Input, ...]

    @property
    def composition(self) -> str:
        return f"{'.'.join(step.op for step in self.pre)}|{self.kind}|{'.'.join(step.op for step in self.post)}"

    @property
    def steps(self) -> tuple[Step, ...]:
        return self.pre + self.post

    @property
    def all_constants(self) -> tuple[str, ...]:
        return (*self.constants, *(step.constant for step in self.steps if step.constant))

    def uses(self) -> Style:
        """The techniques that the steps give a chance to."""
        found = {"vmath"} if any(OPS[step.op].calls for step in self.steps) else set()
        return frozenset(found | ({"hoist"} if any(OPS[step.op].takes == "number" for step in self.steps) else set()))


@dataclass(frozen=True, slots=True)
class Family:
    name: str
    dims: tuple[str, ...]
    output: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    timed: tuple[int, ...]
    quick: tuple[int, ...]
    draw: Callable[[np.random.Generator], Spec]
    write: Callable[[Spec, Style], str]
    """The kernel's text in a style; in C++ that in the empty style is the reference."""
    python: Callable[[Spec], Sequence[str]]
    """Lines that compute `v` from the inputs."""
    styles: Callable[[Spec], Sequence[Style]]
    """Styles whose texts differ, the empty one first, roughly from slow to fast."""
    output_of: Callable[[Spec], tuple[str, ...]] | None = None
    """Where the dims of the output depend on the kind."""


def style(*tags: str) -> Style:
    assert set(tags) <= set(TECHNIQUES), tags
    return frozenset(tags)


# ---- Drawing --------------------------------------------------------------------------------------------------------


def constant(rng: np.random.Generator) -> str:
    """A number from 0.2 to 2.9 with one decimal, never 1.0: a token each."""
    tenths = int(rng.choice([tenth for tenth in range(2, 30) if tenth != 10]))
    return f"{tenths // 10}.{tenths % 10}"


def pick(rng: np.random.Generator, *choices: str) -> str:
    return str(rng.choice(choices))


def steps(
    rng: np.random.Generator, names: Sequence[str], dims: tuple[str, ...], taken: Sequence[Input]
) -> tuple[tuple[Step, ...], tuple[Input, ...]]:
    """Steps of these ops, each with its constant or an input of its own; and the inputs so far, `taken` included."""
    made, inputs = [], list(taken)
    for name in names:
        takes = OPS[name].takes
        operand = ""
        if takes in ("tensor", "number"):
            free = "p" if takes == "number" else "bcd"[sum(each.name in "bcd" for each in inputs)]
            operand = free
            if operand not in [each.name for each in inputs]:
                inputs.append(Input(operand, dims if takes == "tensor" else ()))
        made.append(Step(name, constant(rng) if takes == "constant" else "", operand))
    return tuple(made), tuple(inputs)


# ---- Writing --------------------------------------------------------------------------------------------------------

FUNCTIONS = (
    'extern "C" float fabsf(float) noexcept, sqrtf(float) noexcept, expf(float) noexcept, tanhf(float) noexcept;\n'
)
"""In the place of `#include <cmath>`, which takes g++ three times as long as all the rest."""
VECTOR = 'extern "C" __attribute__((simd("notinbranch"))) float {}(float) noexcept;\n'
INFINITE = "__builtin_inff()"
SIGNATURE = 'extern "C" void kernel(const float* const* in, float* out, const long* n) {\n'
SIMD = "#pragma omp simd"


def text(spec: Spec, dims: Sequence[str], style: Style, body: Sequence[str], *calls: str) -> str:
    """A whole kernel. `calls` are functions that the kind itself needs, beside those of its steps."""
    functions = {*calls, *(OPS[step.op].calls for step in spec.steps)} - {""}
    vector = "".join(VECTOR.format(name) for name in sorted(functions)) if "vmath" in style else ""
    never = "__restrict " if "restrict" in style else ""
    lines = [f"const float* {never}{each.name} = in[{place}];" for place, each in enumerate(spec.inputs)]
    lines.append(f"float* {never}o = out;")
    lines.append("long " + ", ".join(f"{name} = n[{place}]" for place, name in enumerate(dims)) + ";")
    if "hoist" in style:
        lines += ["float ip = 1 / sqrtf(p[0]);" for each in spec.inputs if each.name == "p"]
    freed = ["delete[] t;"] if any("new float[" in line for line in body) else []
    return FUNCTIONS + vector + SIGNATURE + "".join(f"{line}\n" for line in (*lines, *body, *freed)) + "}\n"


def loop(name: str, end: str, start: str = "0", by: int = 1) -> str:
    return f"for (long {name} = {start}; {name} < {end}; {name}{'++' if by == 1 else f' += {by}'})"


def simd(style: Style, reduction: str = "") -> list[str]:
    """The pragma's line where the style has it."""
    return [SIMD + (f" reduction({reduction})" if reduction else "")] if "simd" in style else []


def chained(steps: Sequence[Step], at: str, style: Style) -> list[str]:
    """Steps of the variable v, a line each."""
    return [f"v = {step.cpp('v', at, style)};" for step in steps]


def passes(
    steps: Sequence[Step], loops: Sequence[str], place: str, at: str, style: Style, source: str = ""
) -> list[str]:
    """Steps as passes over the output, in place; the first reads `source` where that is given."""
    lines = []
    for number, step in enumerate(steps):
        read = source if source and not number else place
        lines += [*loops[:-1], *simd(style), f"{loops[-1]} {place} = {step.cpp(read, at, style)};"]
    return lines
