"""The tokenizer's fragments for Triton texts: most lines of the layout are one token, constants and the names of steps are their own.

An answer has 34 to 65 tokens, half of all less than 48; a plain prompt has 15 to 52.
"""

from __future__ import annotations

from postgrad.domains.loops.stencil import SLICES
from postgrad.domains.loops.triton.layout import CELL, HEADER, INFINITE, JIT, ROWS, VECTOR
from postgrad.domains.loops.triton.stencil import INSIDE, NEIGHBOURS

ARRAYS = "xybcdp"
LINES = (
    f"{HEADER}{JIT}def kernel(",
    *(f"{name}_ptr, " for name in (*ARRAYS, "o")),
    *(f"{dims}, {name}: tl.constexpr" for dims, name in (("R, C", "H"), ("N", "W"))),
    ", W: tl.constexpr",
    *(f"    {line}\n" for line in ROWS),
    *(f"    {line}\n" for line in (*VECTOR, "v = tl.load(x_ptr + i, m, 0.0)")),
    *(f"    {line}\n" for line in ("r = tl.arange(0, H)[:, None]", "j = tl.program_id(0) * W + tl.arange(0, W)[None, :]")),
    *(f"    {line}\n" for line in ("j = k + tl.arange(0, W)[None, :]", "r = k + tl.arange(0, H)[:, None]")),
    f"    v = tl.load(x_ptr + {CELL}, m, 0.0)\n",
    *(f"    {name} = tl.load({name}_ptr + {at}, 0.0)\n" for name in "bcd" for at in ("i, m", "j, j < C")),
    "    p = tl.load(p_ptr)\n",
    "    p = 1 / tl.sqrt(tl.load(p_ptr))\n",
    "    tl.store(o_ptr + i, v, m)\n",
    f"    tl.store(o_ptr + {CELL}, v, m)\n",
    "    tl.store(o_ptr + r, v, r < R)\n",
    "    tl.store(o_ptr + j, v, j < C)\n",
    "import torch\n\ndef function(",
    "\ndef function(",
    *(f"    {name} = {name}.contiguous()\n" for name in ARRAYS),
    "    v = x.contiguous()\n",
    "    v = x\n",
    *(f"    {dims} = {name}.{told}\n" for dims, told in (("R, C", "shape"), ("N", "numel()")) for name in "xv"),
    *(f"    o = {name}.new_empty({dims})\n" for name in "xv" for dims in ("R, C", "R", "C", "N")),
    *(f"    kernel[(triton.cdiv({dim}, " for dim in "RCN"),
    *(f"{name}, " for name in (*ARRAYS, "o", "v")),
    *(f"{dims}, " for dims in ("R, C", "R", "C", "N")),
    "),)](",
    *(f"triton.next_power_of_2({dim})" for dim in "RC"),
    *(f", num_warps={count}" for count in (2, 4, 8)),
    "    v = o\n",
    "    return v\n",
    "    return o\n",
)  # fmt: skip
CORES = (
    "    a = tl.full((H, W), ",
    ", tl.float32)\n",
    *(f"    for k in range(0, {span}):\n" for span in ("C, W", "R, H")),
    *(f"    {line}\n" for line in ("v = tl.where(m, v, 0.0)", f"v = tl.where(m, v, -{INFINITE})", "v = tl.where(m, v - tl.sum(v, 1)[:, None] / C, 0.0)")),
    "    v = tl.exp(v - tl.max(v, 1)[:, None])\n",
    "    v = tl.exp2((v - tl.max(v, 1)[:, None]) * 1.442695)\n",
    "    v = v / ",
    "    v = v * ",
    "    v = v * (1 / ",
    *("tl.sqrt(tl.sum(v * v, 1)[:, None] / C + ", "(tl.sum(tl.abs(v), 1)[:, None] / C + ", "(tl.max(tl.abs(v), 1)[:, None] + ", "tl.sum(v, 1)[:, None]"),
    *(f"tl.where(m, v, {start})" for start in ("0.0", INFINITE, f"-{INFINITE}")),
    *(f"    v = tl.{name}(" for name in ("sum", "max", "min")),
    *("a, ", "1)[:, None]", "0)[None, :]", " / C\n", " / R\n", "    a = a + ", "    a = tl.maximum(a, ", "    a = tl.minimum(a, "),
    f"-{INFINITE}",
    INFINITE,
)  # fmt: skip
STEPS = (
    *(f"    v = v {sign} {name}\n" for sign in "+*" for name in "bcdp"),
    *(f"    v = {name} - v\n" for name in "bcd"),
    "    v = v + ",
    "    v = v * v\n",
    *(
        f"    v = {line}\n".replace("xp.", f"{library}.")
        for library in ("tl", "torch")
        for line in (
            *("xp.where(v > 0, v, 0.0)", "xp.abs(v)", "1 / (1 + xp.exp(-v))", "v / (1 + xp.exp(-v))"),
            *("2 / (1 + xp.exp(-2 * v)) - 1", "xp.tanh(v)", "v / xp.sqrt(p)"),
            *("1 / (1 + xp.exp2(-1.442695 * v))", "v / (1 + xp.exp2(-1.442695 * v))", "2 / (1 + xp.exp2(-2.885390 * v)) - 1"),
        )
    ),
    *(f"    v = {library}.{start}" for library in ("tl", "torch") for start in ("where(v < ", "where(v > 0, v, v * ", "sqrt(")),
    *("tl.abs(v) + ", "torch.abs(v) + ", ", v, ", ")\n", ")"),
    *(f"    v = torch.{name}(v, {axis})\n" for name in ("sum", "mean", "amax", "amin") for axis in (0, 1)),
    "    v = torch.exp(v - torch.amax(v, 1)[:, None])\n",
    "    v = v / torch.sum(v, 1)[:, None]\n",
    "    v = v - torch.mean(v, 1)[:, None]\n",
    *("torch.sqrt(torch.mean(v * v, 1)[:, None] + ", "(torch.mean(torch.abs(v), 1)[:, None] + ", "(torch.amax(torch.abs(v), 1)[:, None] + "),
)  # fmt: skip
STENCILS = (
    *(f"    q = i {sign} {reach}\n" for sign in "-+" for reach in range(4)),
    *(f"    q = tl.minimum(tl.maximum(i {sign} {reach}, 0), N - 1)\n" for sign in "-+" for reach in range(4)),
    *("    v = ", "    v += ", " * tl.load(x_ptr + q, (q >= 0) & (q < N), 0.0)\n", " * tl.load(x_ptr + q)\n"),
    f"    {INSIDE}\n",
    *(f"    t {sign} tl.load(x_ptr + {at}, n, 0.0)\n" for sign in ("=", "+=") for at in dict.fromkeys(sum(NEIGHBOURS.values(), ()))),
    *("    v = tl.where(n, ", " * v + ", " * t, v)\n"),
    *("    t = torch.concatenate((", "torch.zeros_like(x[:1])", "x[:1]", "x[-1:]", "))\n", " + "),
    *(f" * t[{place}:{place} + len(x)]" for place in range(7)),
    *("    v = x + 0\n", "    if min(x.shape) > 2: v[1:-1, 1:-1] = ", " * x[1:-1, 1:-1] + "),
    *(f" * ({' + '.join(slices)})\n" for slices in SLICES.values()),
)  # fmt: skip
WORDS = ("    ", "\n", "):\n", ", ", *("1", "4", "8", "32", "1024", "4096"))
NUMBERS = (
    *(f"{tenths // 10}.{tenths % 10}" for tenths in range(30)),
    *(f"{digit}." for digit in range(10)),
    *map(str, range(10)),
)
"""Every constant is a token of its own."""
FRAGMENTS = (*LINES, *CORES, *STEPS, *STENCILS, *WORDS, *NUMBERS)
