"""The house rules that a machine can check: who may import whom, what loads at start-up, how long the loop is."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "postgrad"
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in MODULES.items()}

# ---- Who may import whom --------------------------------------------------------------------------------------------

LAYERS = (
    ("records",),
    (
        "protocols",
        "chat",
        "config",
        "run",
        "progress",
        "ranks",
        "track",
        "grading",
        "attention",
        "sandbox",
        "database",
        "options",
    ),
    ("data", "verify", "sample", "train", "evals", "report", "domains", "kernels"),
    ("wiring",),
    ("recipes",),
    ("cli", "__main__", "check", "diagnose", "doctor", "evaluate", "export", "optimize", "pages"),
)
"""Names directly beneath postgrad, lowest first. A module may import from lower layers and from its own part."""
SHARED = {*LAYERS[1], *LAYERS[-1]}
"""May import others of their layer: what the parts stand on, and the command with its helpers."""
EXCEPTIONS: dict[tuple[str, str], str] = {}
"""(importing module, imported module) -> the reason."""


def part(module: str) -> str:
    """postgrad.train.fit -> train; the package itself -> ""."""
    return module.partition(".")[2].partition(".")[0]


def recipe(module: str) -> str:
    """postgrad.recipes.cuda_l1.tasks -> cuda_l1; what is no recipe -> ""."""
    return module.partition("postgrad.recipes.")[2].partition(".")[0]


def layer(module: str) -> int:
    if not part(module):
        return -1
    found = [index for index, names in enumerate(LAYERS) if part(module) in names]
    assert found, f"{module} is in no layer: add {part(module)!r} to LAYERS in this file and to docs/architecture.md"
    return found[0]


def imported(tree: ast.AST, *, at_import: bool = False) -> Iterator[str]:
    """Full names that a module imports, also inside functions unless `at_import`; `from a import b` is a.b and a."""
    for node in _executed(tree) if at_import else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"line {node.lineno}: a relative import; write the full name"
            assert node.module, "an absolute import names its module"
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names)


def _executed(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that run when the module is imported: no function bodies, nothing under TYPE_CHECKING."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        yield node
        yield from _executed(node)


def objection(importer: str, target: str) -> str | None:
    """Why `importer` may not import `target`; None where it may."""
    if (importer, target) in EXCEPTIONS or part(importer) == part(target):
        # A recipe is one file or package: it takes nothing from another one.
        both = recipe(target) not in ("", recipe(importer))
        return f"{importer} imports {target}: recipes do not know each other" if both else None
    if layer(importer) > layer(target):
        return None
    if layer(importer) == layer(target) and {part(importer), part(target)} <= SHARED:
        return None
    kind = "a sibling" if layer(importer) == layer(target) else "a higher layer"
    return f"{importer} imports {target}, {kind}: pass it as an argument from the recipe, or move it down"


def test_imports_go_one_way() -> None:
    found = {
        objection(importer, target)
        for importer, tree in TREES.items()
        for target in imported(tree)
        if target in MODULES
    }
    assert not sorted(found - {None}), "\n".join(sorted(text for text in found if text))


@pytest.mark.parametrize(
    ("importer", "target", "allowed"),
    [
        ("postgrad.train.fit", "postgrad.run", True),
        ("postgrad.train.fit", "postgrad.train.loss", True),
        ("postgrad.train.source", "postgrad.sample.engine", False),
        ("postgrad.evals.benchmark", "postgrad.verify.maths", False),
        ("postgrad.records", "postgrad.protocols", False),
        ("postgrad.run", "postgrad.config", True),
        ("postgrad.run", "postgrad.train.checkpoint", False),
        ("postgrad.data.forms", "postgrad.recipes.math_two_stage", False),
        ("postgrad.recipes.math_two_stage", "postgrad.train.fit", True),
        ("postgrad.recipes.math_two_stage", "postgrad.cli", False),
        ("postgrad.recipes.math_two_stage", "postgrad.recipes.cuda_l1", False),
        ("postgrad.recipes.math_two_stage", "postgrad.recipes.cuda_l1.tasks", False),
        ("postgrad.recipes.cuda_l1.tasks", "postgrad.recipes.math_two_stage", False),
        ("postgrad.recipes.cuda_l1.measuring", "postgrad.recipes.cuda_l1.tables", True),
        ("postgrad.cli", "postgrad.export", True),
    ],
)
def test_the_rule_itself(importer: str, target: str, allowed: bool) -> None:
    assert (objection(importer, target) is None) == allowed


def test_exceptions_are_still_needed() -> None:
    for importer, target in EXCEPTIONS:
        assert target in set(imported(TREES[importer])), f"{importer} no longer imports {target}: remove the exception"


def test_torch_is_imported_where_it_may_be() -> None:
    """Elsewhere only inside functions, so that data, verifiers, rewards and reports work without waiting for it."""
    heavy = ("torch", "transformers")
    allowed = {name for name in TREES if part(name) in ("attention", "sample")}
    without = {"postgrad.train", "postgrad.train.settings", "postgrad.train.reward", "postgrad.train.advantage"}
    without |= {f"postgrad.sample{name}" for name in ("", ".scripted", ".api", ".calls", ".exchange")}
    found = {
        name for name, tree in TREES.items() if {n.partition(".")[0] for n in imported(tree, at_import=True)} & {*heavy}
    }
    wrong = {name for name in found if name in without or (part(name) != "train" and name not in allowed)}
    assert not wrong, f"import torch and transformers inside functions: {sorted(wrong)}"


# ---- What loads at start-up -----------------------------------------------------------------------------------------

HEAVY = [
    "accelerate",
    "datasets",
    "jinja2",
    "math_verify",
    "numpy",
    "pandas",
    "peft",
    "playwright",
    "pyarrow",
    "safetensors",
    "scipy",
    "sympy",
    "tokenizers",
    "torch",
    "transformers",
    "trl",
]


@pytest.mark.parametrize(
    "code",
    [
        "import postgrad, postgrad.cli",
        "from postgrad import cli; sys.argv[1:] = ['--help']\ntry: cli.main()\nexcept SystemExit: pass",
        "import postgrad.recipes.math_two_stage, postgrad.recipes.cuda_l1",
    ],
    ids=["import", "help", "recipe"],
)
def test_nothing_heavy_loads_at_start(code: str) -> None:
    told = f"import sys\n{code}\nprint('loaded:', *sorted(set({HEAVY}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", told], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "loaded:"


# ---- Size, documentation, failures ----------------------------------------------------------------------------------


def test_the_loop_stays_short() -> None:
    tree = TREES["postgrad.train.fit"]
    (loop,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "fit")
    assert loop.end_lineno is not None
    assert loop.end_lineno - loop.lineno + 1 <= 80, "fit() is a page: a new need is a new function, or a new source"
    lines = len(MODULES["postgrad.train.fit"].read_text(encoding="utf-8").splitlines())
    assert lines <= 250, "fit.py is the loop and nothing else"


def test_every_module_says_what_it_is() -> None:
    assert not [name for name, tree in TREES.items() if not (ast.get_docstring(tree) or "").strip()]


def numbers_of_failures(tree: ast.AST) -> list[int]:
    """Lines inside an `except` that return, set, yield or append a number (NaN and infinity are numbers).

    To count a failure (`+= 1`) is what should be done with one.
    """
    lines = []
    for handler in (node for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)):
        for node in ast.walk(handler):
            if isinstance(node, ast.Return | ast.Yield | ast.Assign | ast.AnnAssign):
                values = [node.value]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "append":
                values = [*node.args]
            else:
                continue
            if any(_has_number(value) for value in values if value is not None):
                lines.append(node.lineno)
    return lines


def _has_number(node: ast.expr) -> bool:
    """The node is a number, or a display or choice that holds one; a call's arguments are its own affair."""
    match node:
        case ast.Constant(value=value):
            return isinstance(value, int | float) and not isinstance(value, bool)
        case ast.UnaryOp(operand=operand):
            return _has_number(operand)
        case ast.Tuple(elts=parts) | ast.List(elts=parts) | ast.Dict(values=parts) | ast.BoolOp(values=parts):
            return any(_has_number(one) for one in parts)
        case ast.IfExp(body=body, orelse=other):
            return _has_number(body) or _has_number(other)
        case ast.Call(func=ast.Name(id="float")):
            return True
        case ast.Attribute(value=ast.Name(id="math" | "np" | "numpy" | "torch"), attr="nan" | "inf"):
            return True
    return False


def test_no_except_gives_a_number() -> None:
    found = [f"{MODULES[name]}:{line}" for name, tree in TREES.items() for line in numbers_of_failures(tree)]
    assert not found, "a failure is a status or None, never a number:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("body", "caught"),
    [
        ("return 0.0", True),
        ("return -1", True),
        ("return False, 0", True),
        ("return float('nan')", True),
        ("return math.nan", True),
        ("score = 0.0", True),
        ("rewards.append(0)", True),
        ("dropped += 1", False),
        ("return None", False),
        ("return False", False),
        ("return Verdict(Status.UNCHECKED, None, 'timed out')", False),
        ("raise Failed('step 3') from error", False),
    ],
)
def test_the_rule_about_failures(body: str, caught: bool) -> None:
    assert bool(numbers_of_failures(ast.parse(f"try:\n  pass\nexcept ValueError as error:\n  {body}"))) == caught


# ---- What may not stand in a tracked file ---------------------------------------------------------------------------

# In pieces, so that this file does not find itself.
FOLDERS = "|".join(("ho" + "me", "ro" + "ot", "Us" + "ers", "wo" + "rk", "mn" + "t"))
OF_A_MACHINE = re.compile(rf"(?<![\w./:~-])/(?:{FOLDERS})/[\w.]")
OF_A_REGISTRY = re.compile(
    "|".join(
        (r"py" r"pi\.org", r"python" r"hosted\.", r"download\.py" r"torch", r"-index" r"-url", r"--find" r"-links")
    )
)


def tracked() -> list[Path]:
    """Text files that git knows; where this is no checkout, the files of a release."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        return [path for folder in ("postgrad", "tests", "docs") for path in (ROOT / folder).rglob("*.*")]
    return [ROOT / name.decode() for name in listed.stdout.split(b"\0") if name]


def test_no_machine_and_no_registry_is_named() -> None:
    found = []
    for path in tracked():
        # Data of others is as they wrote it.
        if not path.is_file() or (ROOT / "tests" / "data") in path.parents:
            continue
        content = path.read_bytes()
        if b"\0" in content:
            continue
        for number, line in enumerate(content.decode("utf-8").splitlines(), start=1):
            if OF_A_MACHINE.search(line) or OF_A_REGISTRY.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:120]}")
    assert not found, "a path of one machine, or a registry's address:\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("model: /" + "home/ann/models", True),
        ("'/" + "root/.cache'", True),
        ("pip install --" + "index-url somewhere", True),
        ("https://example.org/" + "home/page", False),
        ("./" + "work/item", False),
        ("a/" + "home/b", False),
    ],
)
def test_the_rule_about_places(line: str, named: bool) -> None:
    assert bool(OF_A_MACHINE.search(line) or OF_A_REGISTRY.search(line)) == named
