"""Rules about what is computed: less, other, or depending on who asks (rows S)."""

from __future__ import annotations

import ast

from postgrad.kernels.guard.names import words
from postgrad.kernels.guard.rule import Found, Rule, rule
from postgrad.kernels.guard.rules import find
from postgrad.kernels.guard.source import Function, Source
from postgrad.kernels.verdict import Reason

RULES: list[Rule[Source]] = []
R = Reason

HALF = frozenset(
    {"torch.float16", "torch.half", "torch.bfloat16", "torch.float8_e4m3fn", "torch.float8_e5m2", "numpy.float16"}
)


@rule(RULES, R.S01_CONSTANT_OUTPUT, "warn", "returns constants")
def constant_output(source: Source) -> Found:
    made = {f"torch.{name}{like}" for name in ("zeros", "ones", "full") for like in ("", "_like")}
    for function in source.reached:
        for node in ast.walk(function):
            if (
                isinstance(node, ast.Return)
                and isinstance(node.value, ast.Call)
                and source.names.full(node.value.func) in made
            ):
                yield node.lineno, source.text(node)


@rule(RULES, R.S04_LOW_PRECISION, "reject", "computes in less than the declared precision")
def half_precision(source: Source) -> Found:
    if source.precision not in ("float32", "float64"):
        return
    for call, full in source.calls():
        if (
            "autocast" in full
            or (find.method_of(call) in ("half", "bfloat16") and not call.args)
            or any(
                (source.names.full(given) or "") in HALF
                for given in [*call.args, *(word.value for word in call.keywords)]
            )
        ):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.S07_INPUTS_SNIFFED, "warn", "decides by its inputs' values")
def value_branch(source: Source) -> Found:
    for function in source.reached:
        for test in find.tests_in(function):
            if any(
                isinstance(part, ast.Call) and find.method_of(part) in words("item max min any all sum abs std mean")
                for part in ast.walk(test)
            ):
                yield find.line_of(test), source.text(test)


@rule(RULES, R.S08_SHAPES_SNIFFED, "warn", "decides by its inputs' exact shape")
def shape_branch(source: Source) -> Found:
    for function in source.reached:
        for test in find.tests_in(function):
            for part in ast.walk(test):
                if isinstance(part, ast.Compare) and isinstance(part.ops[0], ast.Eq | ast.In):
                    sized = any(
                        (isinstance(one, ast.Attribute) and one.attr == "shape")
                        or (isinstance(one, ast.Call) and find.method_of(one) == "size")
                        for one in ast.walk(part)
                    )
                    if sized:
                        yield find.line_of(part), source.text(part)


@rule(RULES, R.S09_GRADER_SNIFFED, "reject", "asks where it runs")
def environment(source: Source) -> Found:
    sniffed = words(
        "sys.modules sys.argv os.environ sys.orig_argv __main__. sys.flags sys.path sys.meta_path sys.path_hooks"
    )
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and source.names.full(node) in sniffed:
            yield node.lineno, source.text(node)
    for call, _ in find.calls_of(
        source,
        words("os.getenv os.getpid os.getppid os.uname socket.gethostname platform. getpass. psutil. resource."),
    ):
        yield find.line_of(call), source.text(call)
    for node, name in find.imports_of(source, ("__main__.", "pytest.", "psutil.", "getpass.")):
        yield find.line_of(node), name


@rule(RULES, R.S11_OTHER_SIZES, "warn", "brings inputs of its own; the task's are used")
def own_inputs(source: Source) -> Found:
    for node in source.functions:
        if node.name in ("get_inputs", "get_init_inputs"):
            yield node.lineno, f"def {node.name}"


@rule(RULES, R.S13_BROADCAST, "warn", "returns an expanded view")
def expanded_output(source: Source) -> Found:
    for function in source.reached:
        for node in ast.walk(function):
            if isinstance(node, ast.Return) and isinstance(node.value, ast.Call):
                name = find.method_of(node.value) or (source.names.full(node.value.func) or "").rpartition(".")[2]
                if name in ("expand", "expand_as", "broadcast_to", "as_strided"):
                    yield node.lineno, source.text(node)


@rule(RULES, R.S15_OVERLOADED_RESULT, "reject", "a class that answers comparisons or arithmetic itself")
def overloaded_result(source: Source) -> Found:
    answers = words(
        "__eq__ __ne__ __sub__ __rsub__ __lt__ __le__ __bool__ __float__ __array__ __array_function__ __dlpack__"
    )
    for one in source.classes:
        found = sorted({item.name for item in one.body if isinstance(item, Function)} & answers)
        if len(found) >= 2 or set(found) & {"__array__", "__array_function__", "__dlpack__", "__rsub__"}:
            yield one.lineno, f"class {one.name} defines {', '.join(found)}"


@rule(RULES, R.S20_PARAMETERS, "warn", "loads weights without asking for all of them")
def loose_weights(source: Source) -> Found:
    for call in find.methods(source, "load_state_dict"):
        if any(
            word.arg == "strict" and isinstance(word.value, ast.Constant) and word.value.value is False
            for word in call.keywords
        ):
            yield find.line_of(call), source.text(call)
    for node in source.functions:
        if node.name in ("load_state_dict", "_load_from_state_dict", "state_dict", "named_parameters", "parameters"):
            yield node.lineno, f"def {node.name}"
