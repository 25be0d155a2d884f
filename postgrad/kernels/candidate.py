"""What is to be checked: one text and the backend that runs it."""

from __future__ import annotations

import ast
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Backend = Literal["torch", "cpp", "triton", "cuda"]
"""cpp: C++ with the signature of `build`. The others: Python that defines ModelNew (or the task's function); triton and cuda are
run as `runtime` says."""
SUFFIXES: dict[str, Backend] = {".py": "torch", ".cpp": "cpp", ".cc": "cpp", ".cxx": "cpp"}
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Candidate:
    code: str
    backend: Backend
    origin: str = ""
    """Where it came from, for messages: a path, or a row of a file."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(f"{self.backend}\0{self.code}".encode()).hexdigest()


def from_file(path: Path, backend: Backend | None = None) -> Candidate:
    """A candidate from a .py or .cpp file. Raises ValueError, with the file and line, where it is no such text."""
    if not path.is_file():
        raise ValueError(
            f"{path}: no such file; give a .py file that defines ModelNew, or a .cpp file that defines kernel"
        )
    chosen = backend or SUFFIXES.get(path.suffix)
    if chosen is None:
        raise ValueError(f"{path}: suffix {path.suffix!r} is not one of {', '.join(SUFFIXES)}; or name its --backend")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes; at most {MOST_BYTES:,} are read")
    try:
        code = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: byte {error.start} is not UTF-8: a candidate is source text") from None
    return Candidate(code, chosen, str(path))


def fault(candidate: Candidate, entry: str = "ModelNew") -> str | None:
    """Why Python code cannot define `entry`, with its line; None where it seems to (or is C++). Nothing is run."""
    if candidate.backend == "cpp":
        return None
    origin = candidate.origin or "candidate.py"
    try:
        tree = ast.parse(candidate.code)
    except SyntaxError as error:
        return f"{origin}:{error.lineno}: syntax error: {error.msg}"
    except (ValueError, RecursionError, MemoryError) as error:
        return f"{origin}: not Python: {type(error).__name__}: {error}"
    names = defined(tree)
    if entry not in names:
        known = ", ".join(sorted(names)) or "nothing"
        return f"{origin}: no {entry} at the top level; it defines {known}"
    return None


def defined(tree: ast.Module) -> set[str]:
    """Names that a module binds at its top level, also inside `if` and `try`."""
    found: set[str] = set()
    todo: list[ast.AST] = [*tree.body]
    while todo:
        node = todo.pop()
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {one.id for target in targets for one in ast.walk(target) if isinstance(one, ast.Name)}
            case ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {(one.asname or one.name).partition(".")[0] for one in names}
            case ast.If() | ast.Try() | ast.With():
                todo += [*ast.iter_child_nodes(node)]
            case ast.ExceptHandler(body=body):
                todo += body
            case _:
                pass
    return found
