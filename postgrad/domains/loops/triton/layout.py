"""What all Triton texts share: one kernel over a block of a matrix or of a vector, and the function that launches it.

    import torch, triton
    import triton.language as tl

    @triton.jit
    def kernel(x_ptr, b_ptr, o_ptr, R, C, H: tl.constexpr, W: tl.constexpr):
        r = tl.program_id(0) * H + tl.arange(0, H)[:, None]
        j = tl.arange(0, W)[None, :]
        m = (r < R) & (j < C)
        v = tl.load(x_ptr + r * C + j, m, 0.0)
        b = tl.load(b_ptr + j, j < C, 0.0)
        ...                                                 the task's lines, `tl` in the place of the reference's `torch`
        tl.store(o_ptr + r * C + j, v, m)

    def function(x, b):
        x = x.contiguous()
        b = b.contiguous()
        R, C = x.shape
        o = x.new_empty(R, C)
        kernel[(triton.cdiv(R, 4),)](x, b, o, R, C, 4, triton.next_power_of_2(C), num_warps=8)
        return o

Where steps stay in PyTorch (without "fuse"), they are the reference's own lines before and after the launch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from postgrad.domains.loops.spec import OPS, Spec, Step, Style
from postgrad.domains.loops.task import Input

TECHNIQUES: Mapping[str, str] = {
    "fuse": "operation fusion: the steps before and after are part of the kernel",
    "order": "coalescing: neighbouring threads read neighbouring elements",
    "tile": "block configuration: what is longer than a block is walked along in blocks",
    "block": "block configuration: a block of more elements than usual",
    "rows": "block configuration: several rows in one program",
    "warps": "warp-level: another number of warps than four",
    "hoist": "registers: what is the same for a row is divided by once",
    "exp2": "the machine's own exponential, to the base two (not in the article)",
}

HEADER = "import torch, triton\nimport triton.language as tl\n\n"
JIT = "@triton.jit\n"
ROWS = (
    "r = tl.program_id(0) * H + tl.arange(0, H)[:, None]",
    "j = tl.arange(0, W)[None, :]",
    "m = (r < R) & (j < C)",
)
"""A block of H whole rows."""
VECTOR = ("i = tl.program_id(0) * W + tl.arange(0, W)", "m = i < N")
"""A block of W elements."""
CELL = "r * C + j"
INFINITE = 'float("inf")'


def style(*tags: str) -> Style:
    assert set(tags) <= set(TECHNIQUES), tags
    return frozenset(tags)


# ---- Lines ----------------------------------------------------------------------------------------------------------


def chained(steps: Sequence[Step], style: Style) -> list[str]:
    """Steps of the variable v, as the reference writes them, with the names of `loads`."""
    return [_line(step, style) for step in steps]


def _line(step: Step, style: Style) -> str:
    if step.op == "tanh":  # Triton has none that its interpreter knows too
        return exponential("v = 2 / (1 + tl.exp(-2 * v)) - 1", style)
    if OPS[step.op].takes == "number" and "hoist" in style:
        return f"v = v * {step.operand}"
    return exponential(step.python().replace("xp.", "tl."), style)


def exponential(line: str, style: Style) -> str:
    """The line with its `tl.exp(...)` to the base two, where the style says so."""
    if "exp2" not in style:
        return line
    return line.replace("tl.exp(-2 * v)", "tl.exp2(-2.885390 * v)").replace("tl.exp(-v)", "tl.exp2(-1.442695 * v)")


def loads(inputs: Sequence[Input], at: str, mask: str, style: Style) -> list[str]:
    """Inputs beside x, at index `at` of theirs, each under its own name."""
    root = "p = 1 / tl.sqrt(tl.load(p_ptr))" if "hoist" in style else "p = tl.load(p_ptr)"
    return [
        f"{each.name} = tl.load({each.name}_ptr + {at}, {mask}, 0.0)" if each.dims else root
        for each in inputs
        if each.name not in "xy"
    ]


def indented(lines: Sequence[str]) -> str:
    return "".join(f"    {line}\n" for line in lines)


# ---- Whole texts ----------------------------------------------------------------------------------------------------


def reference(spec: Spec, python: Sequence[str]) -> str:
    """PyTorch, step by step: the lines of the task's statement."""
    return "import torch\n\n" + _function(spec, [*_torch(python), "return v"])


def text(
    spec: Spec,
    style: Style,
    body: Sequence[str],
    *,
    inputs: Sequence[Input],
    dims: Sequence[str],
    output: Sequence[str],
    grid: str,
    blocks: Mapping[str, str],
    warps: int,
    before: Sequence[Step] = (),
    after: Sequence[Step] = (),
) -> str:
    """A whole module. `inputs`: what the kernel takes; `before` and `after`: steps that PyTorch does; `blocks`: sizes of a block, as the
    launch gives them."""
    arrays = [each.name for each in inputs]
    takes = [f"{name}_ptr" for name in (*arrays, "o")]
    kernel = (
        f"def kernel({', '.join([*takes, *dims, *(f'{name}: tl.constexpr' for name in blocks)])}):\n{indented(body)}"
    )
    # The kernel is given what the steps before it made of x.
    first = "v" if before else "x"
    given = [first if name == "x" else name for name in arrays]
    number = [f"num_warps={warps}"] if "warps" in style else []
    host = [f"{now} = {name}.contiguous()" for now, name in zip(given, arrays, strict=True) if name != "p"]
    host += _torch([step.python() for step in before])
    host += [
        f"{dims[0]} = {first}.numel()" if len(dims) == 1 else f"{', '.join(dims)} = {first}.shape",
        f"o = {first}.new_empty({', '.join(output)})",
        f"kernel[({grid},)]({', '.join([*given, 'o', *dims, *blocks.values(), *number])})",
    ]
    host += ["v = o", *_torch([step.python() for step in after])] if after else []
    host += ["return v" if after else "return o"]
    return f"{HEADER}{JIT}{kernel}\n{_function(spec, host)}"


def whole_rows(spec: Spec, style: Style, core: Sequence[str], *, warps: int) -> str:
    """A kernel that has whole rows in its block, from which `core` makes as many of the same length."""
    fused = "fuse" in style
    own = spec.inputs if fused else spec.inputs[:1]
    body = [
        *ROWS,
        f"v = tl.load(x_ptr + {CELL}, m, 0.0)",
        *loads(own, "j", "j < C", style),
        *(chained(spec.pre, style) if fused else []),
        *core,
        *(chained(spec.post, style) if fused else []),
        f"tl.store(o_ptr + {CELL}, v, m)",
    ]
    height = "4" if "rows" in style else "1"
    return text(
        spec,
        style,
        body,
        inputs=own,
        dims=("R", "C"),
        output=("R", "C"),
        grid=f"triton.cdiv(R, {height})",
        blocks={"H": height, "W": "triton.next_power_of_2(C)"},
        warps=warps,
        before=() if fused else spec.pre,
        after=() if fused else spec.post,
    )


def _torch(python: Sequence[str]) -> list[str]:
    return [line.replace("xp.", "torch.") for line in python]


def _function(spec: Spec, lines: Sequence[str]) -> str:
    return f"def function({', '.join(each.name for each in spec.inputs)}):\n{indented(lines)}"
