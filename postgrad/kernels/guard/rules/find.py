"""What several rules look for: calls by full name, imports, values that decide, assignments to what is not theirs."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator

from postgrad.kernels.guard.names import words
from postgrad.kernels.guard.source import Function, Source

CLOCKS = (
    "time.",
    "timeit.",
    "torch.cuda.Event",
    "torch.Event",
    "triton.testing.",
    "torch.utils.benchmark.",
    "datetime.",
)


def calls_of(source: Source, prefixes: Iterable[str], inside: ast.AST | None = None) -> Iterator[tuple[ast.Call, str]]:
    """Calls whose full name is one of the names, or lies beneath one that ends in a dot."""
    every = tuple(prefixes)
    for call, full in source.calls(inside):
        if any(full.startswith(one) if one.endswith(".") else full == one for one in every):
            yield call, full


def imports_of(source: Source, modules: Iterable[str]) -> Iterator[tuple[ast.AST, str]]:
    roots = {one.rstrip(".") for one in modules if one.endswith(".")}
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            given = [one.name for one in node.names]
        elif isinstance(node, ast.ImportFrom):
            given = [f"{node.module or ''}.{one.name}" for one in node.names]
        else:
            continue
        for name in given:
            if any(name == root or name.startswith(f"{root}.") for root in roots):
                yield node, name


def line_of(node: ast.AST) -> int:
    return int(getattr(node, "lineno", 1))


def methods(source: Source, *names: str, inside: ast.AST | None = None) -> Iterator[ast.Call]:
    for call, _ in source.calls(inside):
        if isinstance(call.func, ast.Attribute) and call.func.attr in names:
            yield call


def attributes(source: Source, names: Iterable[str]) -> Iterator[ast.Attribute]:
    wanted = set(names)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr in wanted:
            yield node


def deciding(source: Source, node: ast.AST, depth: int = 3) -> ast.AST | None:
    """Where the value of an expression is compared, looked up by, or kept on self: the deciding node; None where it is not."""
    child = node
    for up in source.above(node):
        if isinstance(up, ast.Compare):
            # A comparison with a constant (x.data_ptr() % 16 == 0) asks for a property, not for an identity.
            sides = [one for one in (up.left, *up.comparators) if one is not child]
            return None if all(isinstance(one, ast.Constant) for one in sides) else up
        if isinstance(up, ast.Subscript):
            return up if up.slice is child else None
        if isinstance(up, ast.Dict):
            return up if child in up.keys else None
        if isinstance(up, ast.Call):
            kept = isinstance(up.func, ast.Attribute) and up.func.attr in ("get", "setdefault", "pop", "add", "append")
            if kept and child in up.args:
                return up
            wraps = isinstance(up.func, ast.Name) and up.func.id in words(
                "tuple str int hash repr float map list round bytes"
            )
            hands_on = up.func is child or (isinstance(up.func, ast.Attribute) and up.func.value is child)
            if not (wraps or hands_on):
                return None
        elif isinstance(up, ast.Assign | ast.NamedExpr | ast.AnnAssign):
            targets = up.targets if isinstance(up, ast.Assign) else [up.target]
            for target in targets:
                if isinstance(target, ast.Attribute | ast.Subscript):
                    return up
                function = source.owner(up)
                if isinstance(target, ast.Name) and function is not None and depth:
                    for use in ast.walk(function):
                        if isinstance(use, ast.Name) and use.id == target.id and isinstance(use.ctx, ast.Load):
                            found = deciding(source, use, depth - 1)
                            if found is not None:
                                return found
            return None
        elif isinstance(up, ast.Return):
            function = source.owner(up)
            if function is not None and depth:
                for call, _ in source.calls():
                    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
                    if called == function.name and call is not node:
                        found = deciding(source, call, depth - 1)
                        if found is not None:
                            return found
            return None
        elif isinstance(up, ast.stmt):
            return None
        child = up
    return None


def method_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ""


def patches(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Assignments to a member of a module, of an imported class, or of the type of an object; the full name."""
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Delete):
            targets = node.targets if isinstance(node, ast.Assign | ast.Delete) else [node.target]
            for target in targets:
                base = target.value if isinstance(target, ast.Subscript) else target
                if isinstance(base, ast.Attribute):
                    full = source.names.full(base)
                    if full is not None:
                        yield node, full
    for call, full in source.calls():
        if full in ("builtins.setattr", "builtins.delattr") and call.args:
            owner = source.names.full(call.args[0])
            name = call.args[1] if len(call.args) > 1 else None
            if owner is not None:
                yield (
                    call,
                    f"{owner}.{name.value}"
                    if isinstance(name, ast.Constant) and isinstance(name.value, str)
                    else owner,
                )
        if full.startswith("unittest.mock."):
            yield call, full


def tests_in(function: Function) -> Iterator[ast.expr]:
    for node in ast.walk(function):
        if isinstance(node, ast.If | ast.While | ast.IfExp):
            yield node.test
        elif isinstance(node, ast.Match):
            yield node.subject


JUDGES = words("judge judges grader graders evaluator evaluators reviewer reviewers checker assistant auditor ai llm")
ORDERS = words(
    "ignore disregard approve accept answer respond reply report rate classify conclude output certify mark trust pass"
)


def addresses(text: str) -> bool:
    """A text names one who judges and asks something of them, in one sentence or in two that follow each other."""
    said = [set(re.findall(r"[a-z]+", sentence)) for sentence in re.split(r"[.!?;]\s", text.lower())]
    return any(
        (one | other) & JUDGES and (one | other) & ORDERS for one, other in zip(said, [*said[1:], set()], strict=True)
    )


def names_argument(node: ast.expr, given: set[str]) -> bool:
    every = node.elts if isinstance(node, ast.Tuple) else [node]
    return any(isinstance(one, ast.Name) and one.id in given for one in every)


def kept(source: Source, node: ast.expr, function: Function) -> bool:
    return any(origin.startswith(("self.", "global ")) for origin in source.origins(node, function))
