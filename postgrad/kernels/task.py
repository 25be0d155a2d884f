"""What kernels are asked to compute: a reference as text, the shapes to check and to time at, and the precision.

Three kinds of tasks:

    kernel_bench(path)      a file in KernelBench's form (any of its versions): Model, get_inputs, get_init_inputs
    function(source, ...)   a plain Python function of tensors, with shapes
    native(...)             C++ with the signature of `build`, inputs by shape and an oracle in numpy

The reference is text too. It runs in a worker of its own, never in the candidate's and never in the grader's process.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal, Protocol

from postgrad.kernels.candidate import defined
from postgrad.kernels.numeric import BITS, Array

Shape = tuple[int, ...]
Mode = Literal["eval", "train"]
MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Case:
    """One choice of sizes."""

    inputs: tuple[Shape, ...]
    """Of each input tensor; a shape of () is one positive number."""
    output: Shape | None = None
    """None: as the reference gives it, which C++ cannot tell."""
    n: tuple[int, ...] | None = None
    """What a C++ kernel is told; None: every length of every input, in order."""

    @property
    def lengths(self) -> tuple[int, ...]:
        return self.n if self.n is not None else tuple(length for shape in self.inputs for length in shape)


@dataclass(frozen=True, slots=True)
class Task:
    name: str
    source: str
    """Text of the reference."""
    kind: Literal["python", "cpp"] = "python"
    entry: str = "Model"
    """What the source defines. A candidate defines ModelNew for Model, else the same name."""
    precision: str = "float32"
    """Of parameters and floating inputs; errors are judged by it."""
    cases: tuple[Case, ...] = ()
    """To check at, beside `timed`, which must be given then. Each belongs to the contract: a kernel that is wrong at one is wrong."""
    timed: Case | None = None
    """None: the shapes that the source's get_inputs() gives."""
    modes: tuple[Mode, ...] = ("eval",)
    """Of a module: checked in each, timed in the first."""
    backward: bool = False
    """Gradients are checked too."""
    oracle: Callable[[Sequence[Array]], Array] | None = None
    """float64 arrays -> the right output in float64; our own code, run in the grader. None: the reference in float64, in its worker."""
    reads: bool = False
    """Every element of every input decides the output, so no kernel can leave one unread."""
    labels: Mapping[str, str] = field(default_factory=dict)
    origin: str = ""

    def __post_init__(self) -> None:
        if self.precision not in BITS:
            raise ValueError(f"{self.name}: precision={self.precision!r} is not one of {', '.join(BITS)}")
        if self.kind == "cpp" and (self.timed is None or self.oracle is None or self.precision != "float32"):
            raise ValueError(f"{self.name}: a C++ task needs timed shapes, an oracle and precision float32")
        if self.timed is None and self.cases:
            raise ValueError(
                f"{self.name}: cases has {len(self.cases)} sizes, but the inputs come from get_inputs(), which has its own: "
                "give `timed` too, and inputs are standard normal of the sizes given, or leave `cases` empty"
            )
        for place, case in [("timed", self.timed), *((f"cases[{k}]", one) for k, one in enumerate(self.cases))]:
            if self.kind == "cpp" and case is not None and case.output is None:
                raise ValueError(
                    f"{self.name}: {place} has no output: C++ cannot be asked for its shape, so give Case(inputs, output)"
                )
        if not self.modes:
            raise ValueError(f"{self.name}: modes is empty; give ('eval',), ('train',) or both")

    @property
    def sha256(self) -> str:
        told = [self.source, self.kind, self.entry, self.precision, self.modes, self.backward]
        told += [[case.inputs, case.output, case.n] for case in (*self.cases, *([self.timed] if self.timed else []))]
        return hashlib.sha256(json.dumps(told).encode()).hexdigest()

    @property
    def wanted(self) -> str:
        """The name that Python candidates define."""
        return "ModelNew" if self.entry in ("Model", "kernel") else self.entry


def function(name: str, source: str, shapes: Sequence[Shape], *, entry: str, **settings: object) -> Task:
    """A task from the text of a Python function `entry` of as many tensors as there are shapes; inputs are standard normal."""
    _check(source, name, entry)
    timed = Case(tuple(map(tuple, shapes)))
    return Task(name, source, entry=entry, timed=timed, **settings)  # type: ignore[arg-type]


def native(
    name: str,
    source: str,
    *,
    timed: Case,
    cases: Sequence[Case] = (),
    oracle: Callable[[Sequence[Array]], Array],
    labels: Mapping[str, str] | None = None,
) -> Task:
    """A task from C++; `oracle` says in numpy what is right."""
    return Task(
        name, source, "cpp", "kernel", "float32", tuple(cases), timed, oracle=oracle, reads=True, labels=labels or {}
    )


class Dim(Protocol):
    @property
    def dims(self) -> tuple[str, ...]: ...


class Loop(Protocol):
    """A task of the domain `loops`, by its attributes: no part imports another."""

    @property
    def id(self) -> str: ...
    @property
    def dims(self) -> tuple[str, ...]: ...
    @property
    def inputs(self) -> Sequence[Dim]: ...
    @property
    def output(self) -> tuple[str, ...]: ...
    @property
    def sizes(self) -> Sequence[tuple[int, ...]]: ...
    @property
    def timed(self) -> tuple[int, ...]: ...
    @property
    def reference(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def language(self) -> str: ...


def of_loop(loop: Loop, oracle: Callable[[Sequence[Array]], Array], *, timed: Sequence[int] | None = None) -> Task:
    """A loop as a task: of_loop(one, lambda arrays: loops.oracle(one, arrays)). `timed`: sizes in the place of the loop's own.

    The reference of a loop whose kernels are no C++ is a `function` in PyTorch, at the same shapes.
    """

    def case(size: Sequence[int]) -> Case:
        lengths = dict(zip(loop.dims, size, strict=True))
        shapes = tuple(tuple(lengths[name] for name in each.dims) for each in loop.inputs)
        return Case(shapes, tuple(lengths[name] for name in loop.output) or (1,), tuple(size))

    chosen = tuple(loop.timed if timed is None else timed)
    # The loop's own timed size is the last of its sizes.
    cases = [case(size) for size in loop.sizes if size != loop.timed]
    made = native(loop.id, loop.reference, timed=case(chosen), cases=cases, oracle=oracle, labels=loop.labels)
    return made if loop.language == "cpp" else replace(made, kind="python", entry="function")


def kernel_bench(path: Path, **settings: object) -> Task:
    """A task from a file in KernelBench's form. Raises ValueError, with file and line, where it is none."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file; wanted: Python that defines Model, get_inputs and get_init_inputs")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"{path}: {path.stat().st_size:,} bytes; a task has at most {MOST_BYTES:,}")
    return from_text(path.stem, path.read_text(encoding="utf-8"), origin=str(path), **settings)


def from_text(name: str, source: str, *, origin: str = "", **settings: object) -> Task:
    """The same from a text. A file with get_inputs and one function in the place of Model is a task too."""
    where = origin or name
    names = _check(source, where, "get_inputs")
    if "Model" in names:
        entry = "Model"
    else:
        tree = ast.parse(source)
        functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
        own = [one for one in functions if one not in ("get_inputs", "get_init_inputs") and not one.startswith("_")]
        if len(own) != 1:
            known = ", ".join(own) or "none"
            raise ValueError(f"{where}: no class Model and no single function to be replaced (functions: {known})")
        entry = own[0]
    return Task(name, source, entry=entry, origin=origin, **settings)  # type: ignore[arg-type]


def _check(source: str, where: str, wanted: str) -> set[str]:
    try:
        names = defined(ast.parse(source))
    except SyntaxError as error:
        raise ValueError(f"{where}:{error.lineno}: syntax error: {error.msg}") from None
    if wanted not in names:
        raise ValueError(f"{where}: the task defines no {wanted}; it defines {', '.join(sorted(names)) or 'nothing'}")
    return names


# ---- Folders in KernelBench's layout

_LEVEL = re.compile(r"level[_ ]?(\d+)$", re.IGNORECASE)
_NUMBER = re.compile(r"(\d+)_")


def kernel_bench_folder(folder: Path) -> dict[tuple[int, int], Path]:
    """(level, task) -> file, from a checkout of any version, its KernelBench folder or one level's folder.

    Raises ValueError where no task is found, or where one number names two files of a level.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder; give a checkout of KernelBench")
    found: dict[tuple[int, int], Path] = {}
    for path in sorted(folder.rglob("*.py")):
        level = _LEVEL.match(path.parent.name)
        number = _NUMBER.match(path.name)
        if not level or not number:
            continue
        key = (int(level[1]), int(number[1]))
        if key in found:
            if found[key].read_bytes() == path.read_bytes():
                continue  # a newer layout keeps a copy
            raise ValueError(f"{folder}: level {key[0]} has two files of task {key[1]}: {found[key]} and {path}")
        found[key] = path
    if not found:
        raise ValueError(f"{folder}: no task; wanted: files such as level1/1_Square_matrix_multiplication_.py")
    return found
