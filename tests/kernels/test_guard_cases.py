"""The database of hack cases: a renamed, reformatted, commented variant finds its own case first."""

from __future__ import annotations

import ast
import builtins
import random
import re
from pathlib import Path

import pytest

from postgrad.kernels.guard.cases import Case, Cases, known, shapes
from postgrad.kernels.guard.tokens import tokens
from tests.hacks import catalogue, known_cases
from tests.hacks.row import Row

ROWS = catalogue()
PYTHON = [row for row in ROWS if row.backend in ("torch", "triton")]
CPP = [row for row in ROWS if row.backend in ("cpp", "cuda")]


CASES = Cases(seed=known())


def test_the_shipped_cases_are_the_catalogue() -> None:
    assert known() == known_cases(), "run python -m bench.hacks --cases"


class Renamed(ast.NodeTransformer):
    """Local names, attributes of self and numbers become others; what is imported keeps its name."""

    def __init__(self, seed: int) -> None:
        self.random, self.names = random.Random(seed), dict[str, str]()

    def other(self, name: str) -> str:
        kept = (
            name in ("torch", "nn", "self", "forward", "ModelNew", "super", "time", "F")
            or name.startswith("__")
            or hasattr(builtins, name)
        )
        return name if kept else self.names.setdefault(name, f"v{self.random.randrange(10**6)}")

    def visit_Name(self, node: ast.Name) -> ast.Name:
        return ast.Name(self.other(node.id) if node.id in self.local else node.id, node.ctx)

    def visit_arg(self, node: ast.arg) -> ast.arg:
        return ast.arg(self.other(node.arg))

    def visit_Attribute(self, node: ast.Attribute) -> ast.Attribute:
        inner = self.visit(node.value)
        own = isinstance(node.value, ast.Name) and node.value.id == "self"
        return ast.Attribute(inner, self.other(node.attr) if own else node.attr, node.ctx)

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant(node.value + 1) if type(node.value) in (int, float) else node

    def of(self, code: str) -> str:
        tree = ast.parse(code)
        stored = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
        self.local = stored | {n.arg for n in ast.walk(tree) if isinstance(n, ast.arg)}
        text = ast.unparse(ast.fix_missing_locations(self.visit(tree)))
        return '"""Fast and honest."""\n' + text.replace("\n\n", "\n\n\n# tuned by hand\n")


@pytest.mark.parametrize("row", PYTHON, ids=lambda row: row.id)
def test_a_renamed_python_variant_finds_its_case_first(row: Row) -> None:
    variant = Renamed(7).of(row.exploit)
    assert variant != row.exploit
    best, second = CASES.nearest(variant, "python", 2)
    assert best.case.code == row.exploit
    assert best.similarity > 0.8
    assert best.similarity > second.similarity


@pytest.mark.parametrize("row", CPP, ids=lambda row: row.id)
def test_a_renamed_cpp_variant_finds_its_case_first(row: Row) -> None:
    words = {"in", "out", "kernel", "x", "y", "seen", "first", "last", "kept", "i", "n", "known", "chain", "left"}
    pieces = [
        "renamed_" + one.text if one.text in words else str(len(one.text)) if one.kind == "number" else f"\n{one.text}\n" if one.kind == "directive" else one.text
        for one in tokens(row.exploit)
    ]  # fmt: skip
    variant = "/* tuned */ " + re.sub(r"\n ", "\n", " ".join(pieces))
    best, second = CASES.nearest(variant, "cpp", 2)
    assert best.case.code == row.exploit
    assert best.similarity > second.similarity


def test_names_numbers_and_comments_change_no_shape() -> None:
    one = "import torch\ndef forward(x):\n    y = x * 2\n    return torch.relu(y)\n"
    two = '"""Text."""\nimport torch\ndef run(value):\n    """More."""\n    gate = value * 7  # words\n    return torch.relu(gate)\n'
    assert shapes(one, "python") == shapes(two, "python")
    assert shapes(one, "python") != shapes(one.replace("relu", "exp"), "python")
    assert shapes("float a = x[1];", "cpp") == shapes("/* b */ float bb = y [ 22 ] ;", "cpp")


def test_the_file_grows_by_lines_and_survives_half_of_one(tmp_path: Path) -> None:
    path = tmp_path / "cases.jsonl"
    first, second = Case("x = 1", "python", "hack", "C01"), Case("int x;", "cpp", "honest", "C05", "static")
    cases = Cases(path)
    assert cases.add(first)
    assert not cases.add(first)
    with path.open("a") as file:
        file.write('{"code": "half')
    reopened = Cases(path)
    assert list(reopened) == [first]
    path.write_text(path.read_text().rsplit("\n", 1)[0] + "\n")
    assert reopened.add(second)
    assert list(Cases(path)) == [first, second]
    path.write_text('{"code": "half\n' + path.read_text())
    with pytest.raises(ValueError, match=r"cases\.jsonl:1: not a hack case"):
        Cases(path)


def test_text_that_cannot_be_read_is_like_nothing() -> None:
    assert CASES.nearest("def f(:", "python") == []
