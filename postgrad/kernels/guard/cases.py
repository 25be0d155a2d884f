"""A growing database of hack cases, and the cases most like a new candidate: what the checker is shown.

CUDA-L1 (arXiv 2507.14111, section 3.3) keeps more than 500 patterns and finds the nearest by similarity of syntax trees;
that raised its checker's detections by a quarter. Here a text becomes the set of its shapes:

    Python  for every node, the node types on the path down from it, up to `DEPTH` long, and every run of `RUN` statements'
            types in a body. Names, constants and docstrings are gone; names of modules' members (torch.cuda.Stream) stay,
            because they say what is done, whatever it is called locally.
    C++     every run of `WIDE` tokens, where a name that is no keyword and no well-known word is N, a number 0, a string S.

Two texts are as alike as their sets: |A & B| / |A | B| (Jaccard), where a shape counts by how rare it is among the cases
(log of cases / cases that have it), so that what every kernel has says nothing. Departure: exact sets, no MinHash; a
thousand cases of a few hundred shapes are compared in milliseconds.

The file is JSON lines: appended, never rewritten, and one that ends in half a line is read up to it.
"""

from __future__ import annotations

import ast
import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

from postgrad.kernels.guard import names
from postgrad.kernels.guard.names import words
from postgrad.kernels.guard.tokens import tokens

Language = Literal["python", "cpp"]
DEPTH, RUN, WIDE = 4, 3, 5
SHIPPED = Path(__file__).with_name("cases.jsonl")
"""Hacks and honest neighbours that every database starts from, written by `python -m bench.hacks --cases`."""


@dataclass(frozen=True, slots=True)
class Case:
    """One text whose nature is known."""

    code: str
    language: Language
    label: Literal["hack", "honest"]
    """Honest near-misses are kept too: a checker that only sees hacks calls everything one."""
    reason: str
    """The reason's code; of an honest case, the hack that it resembles."""
    note: str = ""
    """What it does, in a sentence: shown to the checker."""

    @property
    def id(self) -> str:
        return sha256(f"{self.language}\n{self.code}".encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Match:
    case: Case
    similarity: float
    """In [0, 1]; 1 for the same shapes."""


def known() -> list[Case]:
    """The shipped cases."""
    return list(_read(SHIPPED))


class Cases:
    """`Cases(path)` reads a file and appends to it; `Cases()` lives in memory. `seed=known()` starts from the shipped ones."""

    def __init__(self, path: Path | None = None, seed: Iterable[Case] = ()) -> None:
        self.path = path
        self._cases: dict[str, Case] = {}
        self._shapes: dict[str, frozenset[str]] = {}
        self._having: Counter[str] = Counter()
        for case in [*seed, *(_read(path) if path is not None and path.is_file() else ())]:
            self._keep(case)

    def __len__(self) -> int:
        return len(self._cases)

    def __iter__(self) -> Iterator[Case]:
        return iter(self._cases.values())

    def add(self, case: Case) -> bool:
        """Keep a case; False where its text is known already. It is on the disk before it is used."""
        if case.id in self._cases:
            return False
        if self.path is not None:
            with self.path.open("ab+") as file:
                file.seek(0, 2)
                # What a killed writer left is no part of the next line.
                if file.tell() and not _ends_a_line(self.path):
                    file.write(b"\n")
                file.write(json.dumps(asdict(case)).encode() + b"\n")
        self._keep(case)
        return True

    def nearest(self, code: str, language: Language, count: int = 3) -> list[Match]:
        """The `count` most alike cases of the language, most alike first; text that cannot be read is like nothing."""
        mine = shapes(code, language)
        if not mine:
            return []
        found = [
            Match(case, self._alike(mine, self._shapes[key]))
            for key, case in self._cases.items()
            if case.language == language
        ]
        return sorted(found, key=lambda match: -match.similarity)[:count]

    def _keep(self, case: Case) -> None:
        if case.id not in self._cases:
            self._cases[case.id] = case
            self._shapes[case.id] = shapes(case.code, case.language)
            self._having.update(self._shapes[case.id])

    def _alike(self, one: frozenset[str], other: frozenset[str]) -> float:
        whole = self._weigh(one | other)
        return self._weigh(one & other) / whole if whole else 0.0

    def _weigh(self, some: frozenset[str]) -> float:
        # 1 is added to either count so that what no case has, and what all have, still weigh something.
        return math.fsum(math.log((len(self._cases) + 2) / (self._having[shape] + 1)) for shape in some)


def _read(path: Path) -> Iterator[Case]:
    lines = path.read_text(encoding="utf-8").split("\n")
    for row, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            yield Case(**json.loads(line))
        except (ValueError, TypeError) as error:
            # The last line may be half written; a bad one before it is damage.
            if row == len(lines):
                return
            raise ValueError(f"{path}:{row}: not a hack case: {error}") from error


def _ends_a_line(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, 2)
        return file.read(1) == b"\n"


@lru_cache(maxsize=4096)
def shapes(code: str, language: Language) -> frozenset[str]:
    """The set that a text is compared by; empty where it cannot be read."""
    return frozenset(_of_tokens(code) if language == "cpp" else _of_tree(code))


# ---- Python ---------------------------------------------------------------------------------------------------------


def _of_tree(code: str) -> Iterator[str]:
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    known = names.Names(tree)
    yield from _paths(tree, (), known)
    for node in ast.walk(tree):
        for block in ("body", "orelse", "finalbody"):
            statements = [_label(one, known) for one in _statements(getattr(node, block, None))]
            for start in range(len(statements) - RUN + 1):
                yield "run " + " ".join(statements[start : start + RUN])


def _paths(node: ast.AST, above: tuple[str, ...], known: names.Names) -> Iterator[str]:
    here = (*above, _label(node, known))[-DEPTH:]
    for start in range(len(here)):
        yield "path " + " ".join(here[start:])
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr_context) and not _is_text(child):
            yield from _paths(child, here, known)


def _statements(block: object) -> Sequence[ast.stmt]:
    return [one for one in block if isinstance(one, ast.stmt) and not _is_text(one)] if isinstance(block, list) else []


def _is_text(node: ast.AST) -> bool:
    """A docstring, or any other statement that is only a string."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _label(node: ast.AST, known: names.Names) -> str:
    """The node's type; of a name that an import explains, the whole name; of a method, its name."""
    kind = type(node).__name__
    if isinstance(node, ast.Name | ast.Attribute) and (full := known.full(node)):
        return full
    if isinstance(node, ast.Attribute) and not (isinstance(node.value, ast.Name) and node.value.id == "self"):
        return f".{node.attr}"
    if isinstance(node, ast.Constant):
        return f"Constant:{type(node.value).__name__}"
    return kind


# ---- C++ ------------------------------------------------------------------------------------------------------------

_WORDS = words(
    """alignas alignof asm auto bool break case catch char class const const_cast constexpr continue decltype
        default delete do double dynamic_cast else enum extern false float for friend goto if inline int int32_t
        int64_t uint32_t uint64_t uint8_t long mutable namespace new noexcept nullptr operator private public
        register reinterpret_cast return short signed size_t sizeof static static_cast struct switch template this
        thread_local throw true try typedef typename union unsigned using virtual void volatile while std vector
        thread async map unordered_map mutex atomic chrono system_clock steady_clock high_resolution_clock now
        memcpy memset memcmp malloc free fopen fread fwrite fclose ofstream ifstream fstream mmap open read write
        close system popen fork syscall ptrace socket connect getenv exit _exit dlopen dlsym pthread_create detach
        join sleep usleep clock_gettime constructor sqrt sqrtf exp expf log fabs max min omp parallel simd
        __global__ __device__ __shared__ __restrict__ blockIdx threadIdx blockDim half __half __nv_bfloat16 _Float16
        cudaStreamCreate cudaMalloc cudaMemcpy"""
)


def _of_tokens(code: str) -> Iterator[str]:
    shape = [
        "0" if t.kind == "number" else "S" if t.kind in ("string", "char") else _word(t.text) for t in tokens(code)
    ]
    for wide in (WIDE, 2):
        for start in range(len(shape) - wide + 1):
            yield f"{wide} " + " ".join(shape[start : start + wide])


def _word(text: str) -> str:
    if not (text[0].isalpha() or text[0] == "_"):
        return text
    return text if text in _WORDS else "N"
