"""What a name in Python text stands for, as far as the text says: `S()` after `from torch.cuda import Stream as S` is torch.cuda.Stream.

Imports anywhere in the file and plain assignments of such names (`Stream = torch.cuda.Stream`, also through getattr with a
constant name) are followed, in any order, until nothing new is found. Scopes are not: a name that stands for something
anywhere stands for it everywhere, which errs on the side of seeing more.
"""

from __future__ import annotations

import ast
import builtins


def words(text: str) -> frozenset[str]:
    """The words of a text as a set: how rules write the names that they look for."""
    return frozenset(text.split())


class Names:
    def __init__(self, tree: ast.AST) -> None:
        self._known: dict[str, str] = {}
        self.defined: set[str] = set()
        """Names of functions and classes that the text defines."""
        assigned: list[tuple[str, ast.expr]] = []
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                for one in node.names:
                    top = one.name.partition(".")[0]
                    self._known[one.asname or top] = one.name if one.asname else top
            elif isinstance(node, ast.ImportFrom):
                for one in node.names:
                    self._known[one.asname or one.name] = f"{'.' * node.level}{node.module or ''}.{one.name}"
            elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                self.defined.add(node.name)
            elif isinstance(node, ast.Assign):
                assigned += [(t.id, node.value) for t in node.targets if isinstance(t, ast.Name)]
            elif isinstance(node, ast.AnnAssign | ast.NamedExpr) and isinstance(node.target, ast.Name):
                assigned += [(node.target.id, node.value)] if node.value is not None else []
        grown = True
        while grown:
            grown = False
            for name, value in assigned:
                full = self.full(value)
                # A name rebound to its own member (x = x.y) would never end.
                if full is not None and name not in self._known and not full.startswith(f"{name}."):
                    self._known[name] = full
                    grown = True

    def full(self, node: ast.AST | None) -> str | None:
        """The dotted name that an expression stands for; None where the text does not say. `builtins.` for built-in functions."""
        if isinstance(node, ast.Name):
            if node.id in self._known:
                return self._known[node.id]
            is_builtin = hasattr(builtins, node.id) and node.id not in self.defined
            return f"builtins.{node.id}" if is_builtin else None
        if isinstance(node, ast.Attribute):
            owner = self.full(node.value)
            return f"{owner}.{node.attr}" if owner is not None else None
        if isinstance(node, ast.Call) and self.full(node.func) == "builtins.getattr" and len(node.args) >= 2:
            owner, name = self.full(node.args[0]), node.args[1]
            if owner is not None and isinstance(name, ast.Constant) and isinstance(name.value, str):
                return f"{owner}.{name.value}"
        return None
