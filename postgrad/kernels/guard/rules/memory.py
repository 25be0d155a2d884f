"""Rules about what is remembered between calls, and about memory and files that are not the candidate's (rows C, F11)."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from postgrad.kernels.guard.names import words
from postgrad.kernels.guard.rule import Found, Rule, rule
from postgrad.kernels.guard.rules import find
from postgrad.kernels.guard.source import Function, Source
from postgrad.kernels.verdict import Reason

RULES: list[Rule[Source]] = []
R = Reason

FILES = words(
    """builtins.open io.open io.FileIO pathlib. tempfile. shutil. mmap. sqlite3. shelve. dbm. pickle. joblib.
    torch.save torch.load torch.from_file numpy.save numpy.savez numpy.load numpy.memmap numpy.fromfile numpy.tofile
    multiprocessing.shared_memory. glob."""
)
NETWORK = words("socket. urllib. requests. http. ftplib. httpx. aiohttp. ssl. smtplib. torch.hub. huggingface_hub.")
OS_FILES = words(
    """open write remove unlink rename replace mkdir makedirs rmdir symlink link chmod chown truncate listdir
        scandir walk mkfifo mknod memfd_create utime"""
)
ORDINARY_CHANGE = words(
    """add_ copy_ fill_ zero_ mul_ div_ sub_ clamp_ relu_ sigmoid_ exp_ tanh_ neg_ abs_ sqrt_ pow_ masked_fill_
    index_copy_ scatter_ set_ swap_ normal_ uniform_ addmm_ lerp_ clamp_min_ clamp_max_ softmax_ addcmul_ addcdiv_
    round_ floor_ erf_ silu_ resize_"""
)  # fmt: skip


@rule(RULES, R.C01_STALE_OBJECT, "reject", "remembers a tensor by its identity")
def identity_key(source: Source) -> Found:
    for call, full in source.calls():
        if full in (
            "builtins.id",
            "weakref.ref",
            "weakref.WeakKeyDictionary",
            "weakref.WeakValueDictionary",
            "weakref.WeakTensorKeyDictionary",
        ):
            yield find.line_of(call), source.text(call)
    for function in source.reached:
        given = source.parameters(function)
        for node in ast.walk(function):
            # x is self.last
            if isinstance(node, ast.Compare) and isinstance(node.ops[0], ast.Is | ast.IsNot):
                sides = [node.left, *node.comparators]
                argument = any(isinstance(side, ast.Name) and side.id in given for side in sides)
                kept = any(isinstance(side, ast.Attribute | ast.Subscript) for side in sides)
                if argument and kept:
                    yield node.lineno, source.text(node)
            # cache[x]: a tensor's hash is its identity
            if (
                isinstance(node, ast.Subscript)
                and find.kept(source, node.value, function)
                and find.names_argument(node.slice, given)
                and _dictionary(source, node.value)
            ):
                yield node.lineno, source.text(node)
    cached = {
        one.name for one in source.functions for deco in one.decorator_list
        if (source.names.full(deco.func if isinstance(deco, ast.Call) else deco) or "") in ("functools.lru_cache", "functools.cache")
    }  # fmt: skip
    for function in source.reached:
        given = source.parameters(function)
        if function.name in cached and function.name in ("forward", "__call__"):
            yield function.lineno, f"@cache def {function.name}"
        for call, _ in source.calls(function):
            name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
            if name in cached and any(find.names_argument(argument, given) for argument in call.args):
                yield find.line_of(call), source.text(call)


def _dictionary(source: Source, node: ast.expr) -> bool:
    """The attribute or global is somewhere given a dictionary."""
    wanted = node.attr if isinstance(node, ast.Attribute) else node.id if isinstance(node, ast.Name) else ""
    for one in ast.walk(source.tree):
        if isinstance(one, ast.Assign | ast.AnnAssign) and one.value is not None:
            targets = one.targets if isinstance(one, ast.Assign) else [one.target]
            named = any(getattr(target, "attr", getattr(target, "id", None)) == wanted for target in targets)
            made = isinstance(one.value, ast.Dict) or (
                isinstance(one.value, ast.Call) and (source.names.full(one.value.func) or "").endswith(("dict", "Dict"))
            )
            if named and made:
                return True
    return False


@rule(RULES, R.C02_STALE_ADDRESS, "reject", "remembers a tensor by its address")
def address_key(source: Source) -> Found:
    for call in find.methods(source, "data_ptr", "untyped_storage", "storage", "_cdata"):
        if (found := find.deciding(source, call)) is not None:
            yield find.line_of(found), source.text(found)


@rule(RULES, R.C03_STALE_VERSION, "reject", "remembers a tensor by its version counter")
def version_key(source: Source) -> Found:
    for node in find.attributes(source, ("_version",)):
        yield node.lineno, source.text(node)


@rule(RULES, R.C03_STALE_VERSION, "warn", "keeps something by the inputs' shape")
def shape_key(source: Source) -> Found:
    for node in [*find.attributes(source, ("shape",)), *find.methods(source, "stride", "size")]:
        if source.in_forward(node):
            found = find.deciding(source, node)
            if found is not None and not isinstance(found, ast.Compare):
                yield find.line_of(found), source.text(found)


@rule(RULES, R.C04_STALE_FINGERPRINT, "reject", "remembers a tensor by some of its values")
def value_key(source: Source) -> Found:
    seen: set[int] = set()
    for call in [
        *find.methods(source, "item", "tolist", "tobytes", "numpy"),
        *(c for c, _ in find.calls_of(source, ("builtins.hash", "hashlib.", "zlib.crc32", "torch.hash_tensor"))),
    ]:
        if not source.in_forward(call):
            continue
        found = find.deciding(source, call)
        if found is not None and find.line_of(found) not in seen and _about_memory(source, found):
            seen.add(find.line_of(found))
            yield find.line_of(found), source.text(found)
    for call, full in source.calls():
        name = full.rpartition(".")[2] or find.method_of(call)
        function = source.owner(call)
        if name in ("equal", "allclose", "array_equal") and function in source.reached and function is not None:
            parts = [*call.args, *([call.func.value] if isinstance(call.func, ast.Attribute) else [])]
            given = any("argument" in origin for part in parts for origin in source.origins(part, function))
            # Weights that are compared with what they were are an invalidation, not a fingerprint of the input.
            if given and any(find.kept(source, part, function) for part in parts):
                yield find.line_of(call), source.text(call)


def _about_memory(source: Source, node: ast.AST) -> bool:
    """The deciding expression meets something that outlives the call: an attribute of self, a global."""
    function = source.owner(node)
    parts: list[ast.expr] = [part for part in ast.walk(node) if isinstance(part, ast.expr)]
    if isinstance(node, ast.Assign):
        parts += node.targets
    return function is not None and any(
        origin.startswith(("self.", "global ")) for part in parts for origin in source.origins(part, function)
    )


@rule(RULES, R.C05_STALE_RESULT, "warn", "changes a global while it is called")
def changed_global(source: Source) -> Found:
    for function in source.reached:
        for node in ast.walk(function):
            if isinstance(node, ast.Global):
                yield node.lineno, f"global {', '.join(node.names)}"
            if (
                isinstance(node, ast.Subscript)
                and isinstance(node.ctx, ast.Store)
                and isinstance(node.value, ast.Name)
                and node.value.id in source.globals
            ):
                yield node.lineno, source.text(node)


@rule(RULES, R.C06_SHARED_FILE, "reject", "opens files, shared memory or a connection")
def files(source: Source) -> Found:
    for node, name in [
        *find.imports_of(source, [*NETWORK, "sqlite3.", "shelve.", "mmap.", "tempfile.", "pickle.", "joblib."]),
        *find.calls_of(source, [*FILES, *NETWORK]),
    ]:
        yield find.line_of(node), name
    for call, full in source.calls():
        touches = full.startswith("os.") and full.rpartition(".")[2] in OS_FILES
        if touches or find.method_of(call) in (
            "write_text",
            "write_bytes",
            "read_text",
            "read_bytes",
            "tofile",
            "share_memory_",
        ):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.F11_FOREIGN_MEMORY, "reject", "names a file of the system's processes")
def system_files(source: Source) -> Found:
    for node in ast.walk(source.tree):
        if (
            isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and node.value.startswith(("/proc/", "/dev/", "/sys/"))
        ):
            yield node.lineno, repr(node.value)[:80]


@rule(RULES, R.C08_FREED_MEMORY_READ, "reject", "returns memory that it never wrote")
def unwritten_output(source: Source) -> Found:
    for function in source.reached:
        for node in ast.walk(function):
            if not (
                isinstance(node, ast.Return)
                and node.value is not None
                and source.origins(node.value, function) == {"empty"}
            ):
                continue
            names = {part.id for part in ast.walk(node.value) if isinstance(part, ast.Name)}
            if not _used(function, names, node):
                yield node.lineno, source.text(node)


def _used(function: Function, names: set[str], last: ast.Return) -> bool:
    """Some name is handed to a call, changed in place, or written by index before the return."""
    for node in ast.walk(function):
        if (
            isinstance(node, ast.Name)
            and node.id in names
            and isinstance(node.ctx, ast.Load)
            and node not in set(ast.walk(last))
        ):
            return True
    return False


@rule(RULES, R.C09_ALIASED_OUTPUT, "reject", "returns memory that outlives the call")
def persistent_output(source: Source) -> Found:
    for function in source.reached:
        if function.name != "forward":
            continue
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and node.value is not None and source.owner(node) is function:
                for origin in sorted(source.origins(node.value, function)):
                    fresh = origin.startswith("self.") and _always_assigned(function, origin)
                    if origin.startswith(("self.", "global ")) and not fresh:
                        yield node.lineno, f"{source.text(node)} is {origin}"


def _always_assigned(function: Function, attribute: str) -> bool:
    """A plain statement of the function's own body gives the attribute a new value in every call."""
    for statement in function.body:
        if isinstance(statement, ast.Assign):
            for target in statement.targets:
                if isinstance(target, ast.Attribute) and f"self.{target.attr}" == attribute:
                    return True
    return False


def _written(function: Function) -> Iterator[tuple[ast.AST, ast.expr]]:
    """What a function writes to in place: (the node, the expression that is written)."""
    for node in ast.walk(function):
        if isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Subscript) or (isinstance(target, ast.Attribute) and target.attr == "data"):
                    yield node, target.value
                elif isinstance(node, ast.AugAssign):
                    yield node, target
        elif isinstance(node, ast.Call):
            if find.method_of(node) in ORDINARY_CHANGE and isinstance(node.func, ast.Attribute):
                yield node, node.func.value
            for word in node.keywords:
                if word.arg == "out":
                    yield node, word.value
                if (
                    word.arg == "inplace"
                    and isinstance(word.value, ast.Constant)
                    and word.value.value is True
                    and node.args
                ):
                    yield node, node.args[0]


@rule(RULES, R.C10_INPUT_CHANGED, "reject", "writes to its input")
def written_input(source: Source) -> Found:
    for function in source.reached:
        if function.name == "forward":
            for node, expression in _written(function):
                if any(origin.startswith("argument ") for origin in source.origins(expression, function)):
                    yield find.line_of(node), source.text(node)


@rule(RULES, R.C11_WEIGHTS_CHANGED, "reject", "writes to a weight while it is called")
def written_weight(source: Source) -> Found:
    for function in source.reached:
        for node, expression in _written(function):
            if set(_chain(expression)) & {"weight", "bias", "running_mean", "running_var"}:
                yield find.line_of(node), source.text(node)


def _chain(node: ast.expr) -> Iterator[str]:
    """The names of self.linear.weight.data[0], from the right; the arguments of a call are not of the chain."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Attribute):
            yield node.attr
        node = node.value


@rule(RULES, R.C07_STALE_WEIGHTS, "warn", "keeps something made of its weights")
def folded_weights(source: Source) -> Found:
    for function in source.functions:
        for node in ast.walk(function):
            if not isinstance(node, ast.Assign) or isinstance(node.value, ast.Name | ast.Attribute):
                continue
            kept = any(isinstance(target, ast.Attribute) for target in node.targets)
            made_of = {part.attr for part in ast.walk(node.value) if isinstance(part, ast.Attribute)}
            if kept and made_of & {"weight", "bias"}:
                yield node.lineno, source.text(node)


@rule(RULES, R.C12_REFERENCE_SOUGHT, "reject", "walks the heap or the stack")
def heap_walk(source: Source) -> Found:
    for node, name in [
        *find.imports_of(source, ("gc.", "inspect.", "traceback.", "objgraph.", "faulthandler.")),
        *find.calls_of(
            source,
            (
                "gc.",
                "sys._getframe",
                "sys._current_frames",
                "sys.exc_info",
                "inspect.",
                "sys.settrace",
                "sys.setprofile",
            ),
        ),
    ]:
        yield find.line_of(node), name
