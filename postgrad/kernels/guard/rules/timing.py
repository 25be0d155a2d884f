"""Rules about time and about settings that a whole process shares (rows T, F14, S17)."""

from __future__ import annotations

import ast

from postgrad.kernels.guard.names import words
from postgrad.kernels.guard.rule import Found, Rule, rule
from postgrad.kernels.guard.rules import find
from postgrad.kernels.guard.source import Function, Source
from postgrad.kernels.verdict import Reason

RULES: list[Rule[Source]] = []
R = Reason

JOINS = frozenset({"wait_stream", "wait_event", "synchronize", "join", "result", "shutdown", "wait", "record_stream"})
WORKERS = words(
    """threading. _thread. concurrent. multiprocessing. torch.multiprocessing. asyncio. torch.jit.fork torch.jit._fork
    torch.futures. subprocess. os.fork os.forkpty os.spawn os.posix_spawn os.popen os.system queue."""
)
STREAMS = (
    "torch.cuda.Stream",
    "torch.cuda.ExternalStream",
    "torch.Stream",
    "torch.cuda.stream",
    "torch.cuda.set_stream",
    "torch.cuda.StreamContext",
)
SETTERS = {
    "torch.set_float32_matmul_precision": R.T16_GLOBALS_CHANGED,
    "torch.use_deterministic_algorithms": R.F14_THREADS_CHANGED,
    "torch.set_default_dtype": R.F14_THREADS_CHANGED,
    "torch.set_default_device": R.F14_THREADS_CHANGED,
    "torch.set_default_tensor_type": R.F14_THREADS_CHANGED,
    "torch.set_num_threads": R.F14_THREADS_CHANGED,
    "torch.set_num_interop_threads": R.F14_THREADS_CHANGED,
    "torch.set_flush_denormal": R.F14_THREADS_CHANGED,
    "torch.manual_seed": R.S17_RANDOM_STATE,
    "torch.seed": R.S17_RANDOM_STATE,
    "torch.cuda.manual_seed": R.S17_RANDOM_STATE,
    "torch.cuda.manual_seed_all": R.S17_RANDOM_STATE,
    "torch.set_rng_state": R.S17_RANDOM_STATE,
    "torch.get_rng_state": R.S17_RANDOM_STATE,
    "torch.initial_seed": R.S17_RANDOM_STATE,
    "torch.random.fork_rng": R.S17_RANDOM_STATE,
    "numpy.random.seed": R.S17_RANDOM_STATE,
    "random.seed": R.S17_RANDOM_STATE,
    "random.setstate": R.S17_RANDOM_STATE,
    "random.getstate": R.S17_RANDOM_STATE,
}


@rule(RULES, R.T01_SIDE_STREAM, "reject", "work on another stream, and nothing waits for it")
def stream_without_join(source: Source) -> Found:
    if not any(find.methods(source, *JOINS)):
        for call, _ in find.calls_of(source, STREAMS):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.T01_SIDE_STREAM, "warn", "works on another stream")
def stream(source: Source) -> Found:
    for call, _ in find.calls_of(source, STREAMS):
        yield find.line_of(call), source.text(call)


@rule(RULES, R.T02_LATE_WORK, "reject", "starts a thread or a process, and nothing waits for it")
def thread_without_join(source: Source) -> Found:
    joined = any(find.methods(source, "join", "result", "shutdown", "wait")) or any(
        find.calls_of(source, ("torch.jit.wait", "concurrent.futures.wait"))
    )
    managed = any(
        isinstance(up, ast.With)
        for call, _ in find.calls_of(source, WORKERS)
        for up in (source.parent[source.parent[call]],)
    )
    if not (joined or managed):
        for call, _ in find.calls_of(source, WORKERS):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.T02_LATE_WORK, "warn", "works with threads or processes")
def thread(source: Source) -> Found:
    for node, name in [*find.imports_of(source, WORKERS), *find.calls_of(source, WORKERS)]:
        yield find.line_of(node), name


@rule(RULES, R.F15_LEFT_PROCESS, "reject", "starts a process of its own")
def process(source: Source) -> Found:
    names = words(
        "subprocess. os.fork os.forkpty os.popen os.system os.posix_spawn os.spawn pty. multiprocessing.Process"
    )
    for call, _ in find.calls_of(source, names):
        yield find.line_of(call), source.text(call)


@rule(RULES, R.T03_LAZY_TENSOR, "reject", "a tensor class of its own can compute when it is looked at")
def tensor_subclass(source: Source) -> Found:
    for one in source.classes:
        bases = [source.names.full(base) or "" for base in one.bases]
        if any(
            base in ("torch.Tensor", "torch.nn.Parameter", "torch.FloatTensor") or "FakeTensor" in base
            for base in bases
        ):
            yield one.lineno, f"class {one.name}({', '.join(bases)})"
    for node in source.functions:
        if node.name in ("__torch_function__", "__torch_dispatch__"):
            yield node.lineno, f"def {node.name}"


@rule(RULES, R.T04_DISGUISED_TENSOR, "reject", "makes something that only looks like a tensor with values")
def disguised_tensor(source: Source) -> Found:
    made = ("_make_subclass", "_make_wrapper_subclass", "as_subclass", "_conj", "_neg_view")
    for call in find.methods(source, *made):
        yield find.line_of(call), source.text(call)
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Assign) and any(
            isinstance(t, ast.Attribute) and t.attr == "__class__" for t in node.targets
        ):
            yield node.lineno, source.text(node)
        # A view whose conjugation or sign waits for a reader.
        if (
            isinstance(node, ast.Return)
            and isinstance(node.value, ast.Call)
            and find.method_of(node.value) in ("conj", "imag", "adjoint")
        ):
            yield node.lineno, source.text(node)
    for call, full in source.calls():
        meta = [
            w
            for w in call.keywords
            if w.arg == "device" and isinstance(w.value, ast.Constant) and w.value.value == "meta"
        ]
        if meta or "fake_tensor" in full or "_subclasses" in full or full.startswith("torch._C._functorch"):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.T05_CLOCK_PATCHED, "reject", "replaces a clock's or a timer's function")
def patched_clock(source: Source) -> Found:
    for node, full in find.patches(source):
        if full.startswith(find.CLOCKS) or full.rpartition(".")[2] in (
            "synchronize",
            "elapsed_time",
            "record",
            "do_bench",
            "perf_counter",
        ):
            yield find.line_of(node), source.text(node)


@rule(RULES, R.T16_GLOBALS_CHANGED, "reject", "changes a setting that the whole process shares")
def backend_setting(source: Source) -> Found:
    for node, full in find.patches(source):
        if full.startswith("torch.backends.") or full.startswith("torch._C._set"):
            yield find.line_of(node), source.text(node)
    for call, full in source.calls():
        if SETTERS.get(full) is R.T16_GLOBALS_CHANGED or full.startswith("torch._C._set_"):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.F14_THREADS_CHANGED, "reject", "changes threads, determinism or a default of the whole process")
def process_setting(source: Source) -> Found:
    for call, full in source.calls():
        if SETTERS.get(full) is R.F14_THREADS_CHANGED or full in (
            "os.sched_setaffinity",
            "os.nice",
            "sys.setswitchinterval",
        ):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.S17_RANDOM_STATE, "reject", "sets or reads the shared random state")
def random_state(source: Source) -> Found:
    for call, full in source.calls():
        if SETTERS.get(full) is R.S17_RANDOM_STATE:
            yield find.line_of(call), source.text(call)


@rule(RULES, R.F09_GRADER_OVERWRITTEN, "reject", "replaces a function of the framework")
def patched_framework(source: Source) -> Found:
    for node, full in find.patches(source):
        other = full.startswith(find.CLOCKS) or full.startswith("torch.backends.") or full.startswith("torch._C._set")
        if not other and full.partition(".")[0] in words("torch numpy builtins sys os gc unittest math site atexit"):
            yield find.line_of(node), source.text(node)


@rule(RULES, R.T08_WARM_UP_NOTICED, "reject", "sleeps")
def sleeping(source: Source) -> Found:
    for call, _ in find.calls_of(
        source, ("time.sleep", "torch.cuda._sleep", "asyncio.sleep", "select.select", "signal.pause")
    ):
        yield find.line_of(call), source.text(call)


@rule(RULES, R.S10_LATE_WRONG, "reject", "counts its calls and decides by the count")
def call_counter(source: Source) -> Found:
    for function in source.reached:
        counted = {
            source.text(node.target)
            for node in ast.walk(function)
            if isinstance(node, ast.AugAssign) and isinstance(node.target, ast.Attribute | ast.Subscript | ast.Name)
            and (not isinstance(node.target, ast.Name) or node.target.id in _declared_global(function))
        }  # fmt: skip
        for test in find.tests_in(function):
            for part in ast.walk(test):
                if isinstance(part, ast.Attribute | ast.Subscript | ast.Name) and source.text(part) in counted:
                    yield find.line_of(test), source.text(test)
                    break
        for call, full in source.calls(function):
            if full == "builtins.next" and call.args and isinstance(call.args[0], ast.Attribute | ast.Name):
                yield find.line_of(call), source.text(call)


def _declared_global(function: Function) -> set[str]:
    return {name for node in ast.walk(function) if isinstance(node, ast.Global | ast.Nonlocal) for name in node.names}


@rule(RULES, R.T08_WARM_UP_NOTICED, "warn", "keeps a flag between calls and decides by it")
def warm_up_flag(source: Source) -> Found:
    for function in source.reached:
        kept = {
            source.text(target)
            for node in ast.walk(function)
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Attribute)
        }
        for test in find.tests_in(function):
            if any(isinstance(part, ast.Attribute) and source.text(part) in kept for part in ast.walk(test)):
                yield find.line_of(test), source.text(test)


@rule(RULES, R.T10_STALE_GRAPH, "reject", "replays a captured graph without copying the inputs in")
def graph_without_copy(source: Source) -> Found:
    graphs = any(find.calls_of(source, ("torch.cuda.CUDAGraph", "torch.cuda.graphs.")))
    for function in source.functions:
        replays = list(find.methods(source, "replay", inside=function))
        if graphs and replays and not any(find.methods(source, "copy_", "_foreach_copy_", inside=function)):
            yield find.line_of(replays[0]), source.text(replays[0])


@rule(RULES, R.T10_STALE_GRAPH, "warn", "captures a CUDA graph")
def graph(source: Source) -> Found:
    for call, _ in find.calls_of(
        source, ("torch.cuda.CUDAGraph", "torch.cuda.graph", "torch.cuda.make_graphed_callables")
    ):
        yield find.line_of(call), source.text(call)


@rule(RULES, R.T12_WARM_CACHE, "warn", "sets the cache's carve-out")
def cache_carve_out(source: Source) -> Found:
    for call in find.methods(source, "cudaDeviceSetLimit", "cudaCtxResetPersistingL2Cache", "cudaStreamSetAttribute"):
        yield find.line_of(call), source.text(call)


@rule(RULES, R.T17_TIMES_ITSELF, "reject", "reads a clock while it is called")
def clock_in_forward(source: Source) -> Found:
    for call, full in source.calls():
        if full.startswith(find.CLOCKS) and full != "time.sleep" and source.in_forward(call):
            yield find.line_of(call), source.text(call)


@rule(RULES, R.T17_TIMES_ITSELF, "warn", "reads a clock")
def clock(source: Source) -> Found:
    for call, full in source.calls():
        if full.startswith(find.CLOCKS) and full != "time.sleep" and not source.in_forward(call):
            yield find.line_of(call), source.text(call)
