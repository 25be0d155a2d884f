"""Static flags: what a candidate's text gives away before it is built, each with its reason, line and words.

    flags = scan(code, "torch", precision="float32")
    findings(flags)                 # for the verdict: what no honest kernel does, and what somebody must look at
    [flag for flag in flags if flag.tier == "warn"]   # what honest kernels do too: a reason to look closer, no finding

Rules work on Python's syntax tree and on C++ tokens (`rules/`), never on substrings: a comment
that names a stream is no stream, and `from torch.cuda import Stream as S` is one. Python text that holds C++ text (the
strings given to load_inline and its like) is scanned as both.

What this cannot do. Static rules are for saying why, early and cheaply; a determined author gets past any of them. Every
hack that they name has a run-time probe that does not read the text at all, and the matrix of hacks (`python -m
bench.hacks`) is also run with the rules switched off.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from typing import TypeVar

from postgrad.kernels.guard.rule import Backend, Flag, Rule
from postgrad.kernels.guard.rules import cpp, evasion, memory, semantics, timing
from postgrad.kernels.guard.source import Source
from postgrad.kernels.guard.tokens import Text
from postgrad.kernels.verdict import REJECTED, SUSPICIOUS, Finding, Reason

PYTHON = (timing.RULES, memory.RULES, semantics.RULES, evasion.RULES)
INLINE = {
    "torch.utils.cpp_extension.load_inline": ("cpp_sources", "cuda_sources", "sycl_sources"),
    "cupy.RawKernel": ("code",),
    "cupy.RawModule": ("code",),
    "torch.cuda._compile_kernel": ("kernel_source",),
}
"""Functions that compile a string, and the arguments that may hold it (the positions are those of the names' order)."""


def scan(code: str, backend: Backend, precision: str = "float32") -> list[Flag]:
    """Every flag, by line. Text that cannot be read gives none: the build will say what is wrong with it."""
    if backend == "cpp" or (backend == "cuda" and not _is_python(code)):
        text = Text.of(code, backend, precision)
        return sorted(_apply(cpp.RULES, text), key=lambda flag: flag.line)
    try:
        source = Source(code, backend, precision)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    found = [flag for table in PYTHON for flag in _apply(table, source)]
    for inner, line in inline_sources(source):
        inside = _apply(cpp.RULES, Text.of(inner, backend, precision))
        found += [Flag(flag.rule, line + flag.line - 1, flag.evidence) for flag in inside]
    return sorted(found, key=lambda flag: flag.line)


def findings(flags: Iterable[Flag]) -> list[Finding]:
    """One for each reason, of its strictest tier, at its first line, with how often. A warning is no finding."""
    by_reason: dict[Reason, list[Flag]] = {}
    for flag in sorted(flags, key=lambda flag: flag.tier != "reject"):
        if flag.tier != "warn":
            by_reason.setdefault(flag.reason, []).append(flag)
    return [
        Finding(
            reason,
            f"{some[0].rule.explains}: {some[0].evidence}" + (f" (and {len(some) - 1} more)" if len(some) > 1 else ""),
            f"line {some[0].line}",
            REJECTED if some[0].tier == "reject" else SUSPICIOUS,
        )
        for reason, some in by_reason.items()
    ]


def inline_sources(source: Source) -> Iterator[tuple[str, int]]:
    """C++ or CUDA text inside Python text, with the line it starts on: what is given to a function that compiles it."""
    constants: dict[str, list[ast.expr]] = {}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    constants.setdefault(target.id, []).append(node.value)
    for call, full in source.calls():
        names = INLINE.get(full, ())
        given = [*call.args, *(word.value for word in call.keywords if word.arg in names)] if names else []
        for argument in given:
            yield from _strings(argument, constants, frozenset())


def _strings(node: ast.expr, constants: dict[str, list[ast.expr]], seen: frozenset[str]) -> Iterator[tuple[str, int]]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value, node.lineno
    elif isinstance(node, ast.Name) and node.id not in seen:
        for value in constants.get(node.id, []):
            yield from _strings(value, constants, seen | {node.id})
    elif isinstance(node, ast.List | ast.Tuple | ast.BinOp | ast.JoinedStr | ast.Call):
        for part in ast.walk(node):
            if isinstance(part, ast.Constant | ast.Name):
                yield from _strings(part, constants, seen)


def _is_python(code: str) -> bool:
    try:
        ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


T = TypeVar("T")


def _apply(rules: Iterable[Rule[T]], text: T) -> Iterator[Flag]:
    for rule in rules:
        for line, evidence in rule.find(text):
            yield Flag(rule, line, evidence)
