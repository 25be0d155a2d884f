"""A candidate's Python text as rules see it: the tree, what names stand for, what `forward` reaches, where values come from."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from functools import cached_property

from postgrad.kernels.guard.names import Names, words

Function = ast.FunctionDef | ast.AsyncFunctionDef

ENTRIES = frozenset({"forward", "__call__", "backward"})
VIEWS = words(
    """view reshape t transpose detach squeeze unsqueeze permute contiguous get setdefault pop flatten narrow
        view_as expand expand_as data requires_grad_ swapaxes movedim unflatten T mT"""
)
"""Methods and attributes that hand on the storage (or the element) of what they are called on."""


class Source:
    """SyntaxError, ValueError (a null byte) or RecursionError from `ast.parse` pass through."""

    def __init__(self, code: str, backend: str = "torch", precision: str = "float32") -> None:
        self.code, self.backend, self.precision = code, backend, precision
        self.tree = ast.parse(code)
        self.names = Names(self.tree)
        self.parent = {child: node for node in ast.walk(self.tree) for child in ast.iter_child_nodes(node)}
        self._assigned: dict[Function, dict[str, list[ast.expr]]] = {}
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, Function)]
        self.classes = [node for node in ast.walk(self.tree) if isinstance(node, ast.ClassDef)]
        self.globals = {
            target.id
            for node in self.tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target in (node.targets if isinstance(node, ast.Assign) else [node.target])
            if isinstance(target, ast.Name)
        }

    def text(self, node: ast.AST) -> str:
        """The node as written, on one line of at most 120 characters."""
        return " ".join((ast.get_source_segment(self.code, node) or "").split())[:120]

    def calls(self, inside: ast.AST | None = None) -> Iterator[tuple[ast.Call, str]]:
        """Calls with the full name of what is called; "" where the text does not say."""
        for node in ast.walk(self.tree if inside is None else inside):
            if isinstance(node, ast.Call):
                yield node, self.names.full(node.func) or ""

    def sayings(self) -> Iterator[tuple[int, str]]:
        """What the text says to people: runs of comments, and every string."""
        run: list[str] = []
        last = 0
        for token in tokenize.generate_tokens(io.StringIO(self.code).readline):
            if token.type == tokenize.COMMENT:
                run.append(token.string.lstrip("# "))
                last = token.start[0]
            elif token.type not in (tokenize.NL, tokenize.NEWLINE) and run:
                yield last, " ".join(run)
                run = []
            if token.type == tokenize.STRING:
                yield token.start[0], token.string
        if run:
            yield last, " ".join(run)

    def above(self, node: ast.AST) -> Iterator[ast.AST]:
        while (up := self.parent.get(node)) is not None:
            yield up
            node = up

    def owner(self, node: ast.AST) -> Function | None:
        """The function that a node stands in."""
        return next((up for up in self.above(node) if isinstance(up, Function)), None)

    @cached_property
    def reached(self) -> list[Function]:
        """`forward`, and what it calls by name, by self, or as an autograd Function's apply, over and over.

        Where there is no forward (a plain function is the candidate) every function is reached.
        """
        by_name: dict[str, list[Function]] = {}
        for one in self.functions:
            by_name.setdefault(one.name, []).append(one)
        waiting = [one for name in ENTRIES for one in by_name.get(name, [])]
        if not waiting:
            return self.functions
        found: list[Function] = []
        while waiting:
            one = waiting.pop()
            if one in found:
                continue
            found.append(one)
            for node in ast.walk(one):
                name = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else None
                if name is not None and name != "__init__":
                    waiting += by_name.get(name, [])
                waiting += [node] if isinstance(node, Function) else []
        return sorted(found, key=lambda one: one.lineno)

    def in_forward(self, node: ast.AST) -> bool:
        return any(up in self.reached for up in self.above(node) if isinstance(up, Function))

    def parameters(self, function: Function) -> set[str]:
        """Its arguments' names without self and cls."""
        arguments = function.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, arguments.vararg, arguments.kwarg]
        return {one.arg for one in every if one is not None} - {"self", "cls", "ctx"}

    def assigned(self, function: Function) -> dict[str, list[ast.expr]]:
        """Local name -> every expression that is assigned to it (also by := and for)."""
        if function in self._assigned:
            return self._assigned[function]
        found = self._assigned[function] = {}
        for node in ast.walk(function):
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    for name, value in _pairs(target, node.value):
                        found.setdefault(name, []).append(value)
            elif isinstance(node, ast.NamedExpr | ast.AnnAssign) and node.value is not None:
                for name, value in _pairs(node.target, node.value):
                    found.setdefault(name, []).append(value)
            elif isinstance(node, ast.For):
                for name, value in _pairs(node.target, node.iter):
                    found.setdefault(name, []).append(value)
        return found

    def origins(self, node: ast.expr, function: Function, seen: frozenset[str] = frozenset()) -> set[str]:
        """Whose storage an expression may be: "argument x", "self.x", "global x", "empty"; nothing for a fresh value."""
        if isinstance(node, ast.Name):
            if node.id in seen:
                return set()
            local = self.assigned(function).get(node.id, [])
            found = {o for value in local for o in self.origins(value, function, seen | {node.id})}
            if node.id in self.parameters(function) and not _rebound_first(function, node.id):
                found.add(f"argument {node.id}")
            if not local and node.id in self.globals and node.id not in self.parameters(function):
                found.add(f"global {node.id}")
            return found
        if isinstance(node, ast.Attribute):
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                return {f"self.{node.attr}"}
            return self.origins(node.value, function, seen) if node.attr in VIEWS else set()
        if isinstance(node, ast.Subscript | ast.Starred | ast.Await):
            return self.origins(node.value, function, seen)
        if isinstance(node, ast.NamedExpr):
            return self.origins(node.value, function, seen)
        if isinstance(node, ast.IfExp):
            return self.origins(node.body, function, seen) | self.origins(node.orelse, function, seen)
        if isinstance(node, ast.BoolOp):
            return {o for value in node.values for o in self.origins(value, function, seen)}
        if isinstance(node, ast.Tuple | ast.List):
            return {o for value in node.elts for o in self.origins(value, function, seen)}
        if isinstance(node, ast.Call):
            given = [word.value for word in node.keywords if word.arg == "out"]
            if given:
                return self.origins(given[0], function, seen)
            full = self.names.full(node.func) or ""
            if full in EMPTY:
                return {"empty"}
            if isinstance(node.func, ast.Attribute):
                name = node.func.attr
                in_place = name.endswith("_") and not name.endswith("__")
                if name in VIEWS or in_place:
                    found = self.origins(node.func.value, function, seen)
                    return found - {"empty"} if in_place else found
        return set()


EMPTY = frozenset({"torch.empty", "torch.empty_like", "torch.empty_strided", "numpy.empty", "numpy.empty_like"})


def _pairs(target: ast.expr, value: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(target, ast.Name):
        yield target.id, value
    elif isinstance(target, ast.Tuple | ast.List):
        matched = isinstance(value, ast.Tuple | ast.List) and len(value.elts) == len(target.elts)
        values = value.elts if matched and isinstance(value, ast.Tuple | ast.List) else [value] * len(target.elts)
        for one, its in zip(target.elts, values, strict=True):
            yield from _pairs(one, its)


def _rebound_first(function: Function, name: str) -> bool:
    """The argument's name gets another value by a plain statement before it is used for anything but that value."""
    for statement in function.body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(t, ast.Name) and t.id == name for t in statement.targets
        ):
            value = statement.value
            # x = x.view(...) is still the argument's storage; x = x.clone() is not.
            kept = isinstance(value, ast.Name) or (
                isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute) and value.func.attr in VIEWS
            )
            return not kept
        if any(isinstance(node, ast.Name) and node.id == name for node in ast.walk(statement)):
            return False
    return False
