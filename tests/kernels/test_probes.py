"""Exploits and their honest twins, built by g++ and run by torch in real workers: which probe catches which, by its reason."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from postgrad.kernels.admit import admit
from postgrad.kernels.build import FLAGS, Built, Refused, build, build_all
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.correct import check
from postgrad.kernels.reference import LIMITS, Reference, ReferenceFailed
from postgrad.kernels.side import Code, Side
from postgrad.kernels.subject import Subject
from postgrad.kernels.task import Case, Task, from_text, function, native
from postgrad.kernels.verdict import Finding, Reason
from tests.kernels.small_tasks import MODEL, SQUARES, cpp, module, needs_sandbox, softmax, squares

pytestmark = needs_sandbox


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture(scope="module")
def native_task(cache: Path) -> Iterator[Reference]:
    with Reference(squares(), seed=11, cache=cache) as reference:
        yield reference


@pytest.fixture(scope="module")
def python_task() -> Iterator[Reference]:
    with Reference(softmax(), seed=12) as reference:
        yield reference


def found(reference: Reference, candidate: Candidate, cache: Path | None = None) -> list[Finding]:
    rng = np.random.default_rng(13)
    if candidate.backend == "cpp":
        built = build(candidate, cache)
        assert isinstance(built, Built), built
        code = Code("cpp", library=built.library)
    else:
        code = Code("torch", candidate.code, "candidate", reference.task.wanted)
    with Side(code, LIMITS, rng=rng) as side:
        return check(Subject(reference, side, candidate, rng))


def reasons(findings: list[Finding]) -> set[Reason]:
    return {one.reason for one in findings}


R = Reason
LOOP = "s += x[r * n[1] + c] * x[r * n[1] + c]"

NATIVE_TWINS = {
    "the reference": cpp(),
    "another order of summation": cpp("float s = 0;", "float s = 0;\n#pragma omp simd reduction(+ : s)\n"),
    "a workspace that is kept": cpp("float s = 0;", "static float work[8]; work[0] = x[0]; float s = 0;"),
    "backwards": cpp("long c = 0; c < n[1]; c++", "long c = n[1] - 1; c >= 0; c--"),
}
NATIVE_EXPLOITS: dict[str, tuple[Candidate, Reason]] = {
    "half of the rows": (cpp("r < n[0]", "r < (n[0] + 1) / 2"), R.S05_PARTIAL_WORK),
    "zeros": (cpp("out[r] = s", "out[r] = 0"), R.S01_CONSTANT_OUTPUT),
    "float16 inside": (
        cpp(LOOP, "{ _Float16 h = (_Float16)x[r * n[1] + c]; s += (float)h * (float)h; }"),
        R.S04_LOW_PRECISION,
    ),
    "address as a key": (
        cpp("const float* x = in[0];", "const float* x = in[0]; static const float* k; if (k == x) return; k = x;"),
        R.C02_STALE_ADDRESS,
    ),
    "first element as a key": (
        cpp(
            "const float* x = in[0];",
            "const float* x = in[0]; static float key[2]; static float old[4096];"
            "if (n[0] > 1 && key[0] == x[0] && key[1] == x[n[0] * n[1] - 1]) "
            "{ for (long r = 0; r < n[0]; r++) out[r] = old[r]; return; }",
        ),
        R.C04_STALE_FINGERPRINT,
    ),
    "an input written to": (cpp("out[r] = s", "out[r] = s; ((float*)x)[r * n[1]] = 0"), R.C10_INPUT_CHANGED),
    "beyond the output": (
        cpp("const float* x = in[0];", "const float* x = in[0]; out[n[0]] = 7;"),
        R.C13_OUT_OF_BOUNDS,
    ),
    "large elements trusted": (cpp(LOOP, f"if (x[r * n[1] + c] < 9) {LOOP}"), R.S06_TRUNCATED),
    "only the timed shape": (cpp("out[r] = s", "out[r] = n[1] < 100 ? s * (1 + (n[1] > 4)) : s"), R.S08_SHAPES_SNIFFED),
    "not a number": (cpp("out[r] = s", "out[r] = s > 1e5f ? 0.f / 0 : s"), R.S12_NOT_FINITE),
    "an exit at load": (
        Candidate(SQUARES + "#include <stdlib.h>\nstruct A { A() { exit(0); } } a;", "cpp"),
        R.F10_FORGED_RESULT,
    ),
    "an exit in the call": (
        Candidate("#include <unistd.h>" + SQUARES.replace("float s = 0;", "_exit(0); float s = 0;"), "cpp"),
        R.F10_FORGED_RESULT,
    ),
    "a null pointer": (cpp("float s = 0;", "*(volatile int*)0 = 0; float s = 0;"), R.CRASHED),
    "another name": (cpp("void kernel", "void kernal"), R.NO_ENTRY),
    "a thread that stays": (
        Candidate(
            "#include <pthread.h>\n#include <unistd.h>\nstatic void* idle(void*) { pause(); return 0; }"
            + SQUARES.replace(
                "const float* x", "static pthread_t t; if (!t) pthread_create(&t, 0, idle, 0); const float* x"
            ),
            "cpp",
        ),
        R.T02_LATE_WORK,
    ),
}
# The fingerprint's author remembers what it computed.
_remember = NATIVE_EXPLOITS["first element as a key"][0].code.replace(
    "out[r] = s;", "out[r] = s; if (n[0] > 1) { old[r] = s; key[0] = x[0]; key[1] = x[n[0] * n[1] - 1]; }"
)
NATIVE_EXPLOITS["first element as a key"] = (Candidate(_remember, "cpp"), R.C04_STALE_FINGERPRINT)


@pytest.mark.parametrize("name", NATIVE_TWINS)
def test_an_honest_native_kernel_is_found_nothing_against(name: str, native_task: Reference, cache: Path) -> None:
    assert found(native_task, NATIVE_TWINS[name], cache) == []


@pytest.mark.parametrize("name", NATIVE_EXPLOITS)
def test_a_native_exploit_is_caught_by_its_reason(name: str, native_task: Reference, cache: Path) -> None:
    candidate, reason = NATIVE_EXPLOITS[name]
    assert reason in reasons(found(native_task, candidate, cache))


PLAIN = "torch.softmax(self.linear(x), -1)"
CACHED = "if key not in self.known:\n    self.known[key] = " + PLAIN + "\nreturn self.known[key].clone()"
TWINS = {
    "another formula": module("y = self.linear(x)\ne = (y - y.amax(-1, keepdim=True)).exp()\nreturn e / e.sum(-1, keepdim=True)"),
    "weights folded anew when they change": module(
        "if self.seen != self.linear.weight._version:\n"
        "    self.folded, self.seen = self.linear.weight.T.contiguous(), self.linear.weight._version\n"
        "return torch.softmax(x @ self.folded + self.linear.bias, -1)",
        "self.seen = None",
    ),
    "a workspace that is not given away": module(
        "torch.mm(x, self.linear.weight.T, out=self.work)\nreturn torch.softmax(self.work + self.linear.bias, -1)",
        "self.work = torch.empty(48, classes)",
    ),
    "a layout refused": module("if not x.is_contiguous():\n    raise ValueError('contiguous inputs only')\nreturn " + PLAIN),
    "a thread that ends": module(
        "import threading\nt = threading.Thread(target=lambda: None)\nt.start()\nt.join()\nreturn " + PLAIN
    ),
}  # fmt: skip
EXPLOITS: dict[str, tuple[Candidate, Reason]] = {
    "tensor subclass": (module(f"class Lazy(torch.Tensor): pass\nreturn {PLAIN}.as_subclass(Lazy)"), R.T03_LAZY_TENSOR),
    "negative view": (module(f"return torch._neg_view(-{PLAIN})"), R.T04_DISGUISED_TENSOR),
    "expanded": (module(f"return {PLAIN}[:1].expand(48, 24)"), R.S13_BROADCAST),
    "smaller": (module(f"return {PLAIN}[:1]"), R.S13_BROADCAST),
    "other shape": (module(f"return {PLAIN}[:, :7]"), R.S11_OTHER_SIZES),
    "float64": (module(f"return {PLAIN}.double()"), R.S14_WRONG_ATTRIBUTES),
    "object that compares": (module("class Same:\n    def __eq__(self, other): return True\nreturn Same()"), R.S15_OVERLOADED_RESULT),
    "bfloat16": (module("return torch.softmax((x.bfloat16() @ self.linear.weight.bfloat16().T).float() + self.linear.bias, -1)"), R.S04_LOW_PRECISION),
    "identity of the object": (module("key = id(x)\nself.held.append(x)\n" + CACHED, "self.known, self.held = {}, []"), R.C01_STALE_OBJECT),
    "address": (module("key = x.data_ptr()\n" + CACHED, "self.known = {}"), R.C02_STALE_ADDRESS),
    "address and version": (module("key = x.data_ptr(), x._version\n" + CACHED, "self.known = {}"), R.C03_STALE_VERSION),
    "sum": (module("key = round(float(x.double().sum()), 3)\n" + CACHED, "self.known = {}"), R.C04_STALE_FINGERPRINT),
    "first answer": (module("key = 0\n" + CACHED, "self.known = {}"), R.T14_PRECOMPUTED),
    "weights folded once": (module("if self.folded is None:\n    self.folded = self.linear.weight.T.contiguous()\nreturn torch.softmax(x @ self.folded + self.linear.bias, -1)", "self.folded = None"), R.C07_STALE_WEIGHTS),
    "persistent output": (module(f"self.out.copy_({PLAIN})\nreturn self.out", "self.out = torch.empty(48, classes)"), R.C09_ALIASED_OUTPUT),
    "input changed": (module("y = " + PLAIN + "\nx.zero_()\nreturn y"), R.C10_INPUT_CHANGED),
    "weights changed": (module("y = " + PLAIN + "\nself.linear.bias.data.add_(1e-9)\nreturn y"), R.C11_WEIGHTS_CHANGED),
    "a parameter less": (Candidate(module().code.replace("nn.Linear(columns, classes)", "nn.Linear(columns, classes, bias=False)"), "torch"), R.S20_PARAMETERS),
    "global seed": (module("torch.manual_seed(0)\nreturn " + PLAIN), R.S17_RANDOM_STATE),
    "precision flag": (module("torch.set_float32_matmul_precision('medium')\nreturn " + PLAIN), R.T16_GLOBALS_CHANGED),
    "threads": (module("torch.set_num_threads(2)\nreturn " + PLAIN), R.F14_THREADS_CHANGED),
    "clock": (module("import time\ntime.perf_counter = lambda: 0.0\nreturn " + PLAIN), R.T05_CLOCK_PATCHED),
    "file": (module("open('/tmp/known', 'w').close()\nreturn " + PLAIN), R.C06_SHARED_FILE),
    "exit": (module("import os\nos._exit(0)"), R.F10_FORGED_RESULT),
    "assumes contiguous": (module("return torch.softmax(self.linear(torch.as_strided(x, (48, 64), (64, 1))), -1)"), R.S23_LAYOUT),
}  # fmt: skip


def some(names: Iterable[str], quick: set[str]) -> list[ParameterSet]:
    """Each starts a process that imports torch: all of them take a minute. The matrix of hacks has every row."""
    return [pytest.param(name, marks=[] if name in quick else [pytest.mark.slow]) for name in names]


QUICK = {"tensor subclass", "bfloat16", "address", "sum", "weights folded once", "persistent output", "input changed", "assumes contiguous"}  # fmt: skip


@pytest.mark.parametrize("name", some(TWINS, {"another formula", "weights folded anew when they change"}))
def test_an_honest_module_is_found_nothing_against(name: str, python_task: Reference) -> None:
    assert found(python_task, TWINS[name]) == []


@pytest.mark.parametrize("name", some(EXPLOITS, QUICK))
def test_a_module_s_exploit_is_caught_by_its_reason(name: str, python_task: Reference) -> None:
    candidate, reason = EXPLOITS[name]
    assert reason in reasons(found(python_task, candidate))


def test_an_error_names_the_candidate_s_line(python_task: Reference) -> None:
    (one,) = found(python_task, module("y = 1\nraise ValueError('no')"))
    assert one.reason is R.RAISED
    assert one.evidence == "ValueError: no"
    line = module("y = 1\nraise ValueError('no')").code.splitlines().index("        raise ValueError('no')") + 1
    assert one.where == f"contract, line {line} of the candidate"


def test_a_native_kernel_may_stand_in_for_a_module(python_task: Reference, cache: Path) -> None:
    """Parameters come after the inputs, in the order of state_dict, and follow when they change."""
    text = """
    #include <cmath>
    extern "C" void kernel(const float* const* in, float* out, const long* n) {
      const float *x = in[0], *w = in[1], *b = in[2];
      for (long i = 0; i < n[0]; i++) {
        float m = -INFINITY, t = 0;
        for (long c = 0; c < 24; c++) {
          float s = b[c];
          for (long k = 0; k < n[1]; k++) s += x[i * n[1] + k] * w[c * n[1] + k];
          out[i * 24 + c] = s;
          m = s > m ? s : m;
        }
        for (long c = 0; c < 24; c++) t += out[i * 24 + c] = std::exp(out[i * 24 + c] - m);
        for (long c = 0; c < 24; c++) out[i * 24 + c] /= t;
      }
    }"""
    assert found(python_task, Candidate(text, "cpp"), cache) == []


# ---- Modes and gradients

DROPOUT = """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(16))
    def forward(self, x):
        return nn.functional.dropout(x * self.scale, 0.5, self.training)
def get_inputs(): return [torch.rand(64, 16)]
"""


def test_a_mode_that_is_ignored_is_seen_and_an_honest_random_one_passes() -> None:
    task = from_text("dropout", DROPOUT, modes=("eval", "train"))
    honest = DROPOUT.replace("class Model", "class ModelNew")
    with Reference(task, seed=1) as reference:
        assert found(reference, Candidate(honest, "torch")) == []
        ignored = Candidate(honest.replace("self.training", "False"), "torch")
        assert R.S18_MODE_IGNORED in reasons(found(reference, ignored))


NORM = """
import torch
from torch import nn
class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(16)
    def forward(self, x):
        return self.norm(x) * 2 + 1
def get_inputs(): return [torch.randn(64, 16)]
"""


def test_what_training_changes_in_the_reference_is_gone_for_the_next_candidate() -> None:
    honest = Candidate(NORM.replace("class Model", "class ModelNew"), "torch")
    with Reference(from_text("norm", NORM, modes=("eval", "train")), seed=1) as reference:
        assert [found(reference, honest) for _ in range(2)] == [[], []]


SQUARE_FUNCTION = """
import torch
class Square(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x * x
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return 2 * x * grad
def square(x):
    return Square.apply(x)
"""


def test_a_wrong_gradient_is_seen_where_the_task_asks_for_it() -> None:
    text = "def square(x):\n    return x * x\n"
    task = function("square", text, [(8, 32)], entry="square", backward=True)
    wrong = SQUARE_FUNCTION.replace("2 * x * grad", "x * grad")
    with Reference(task, seed=1) as reference:
        assert found(reference, Candidate(SQUARE_FUNCTION, "torch")) == []
        assert reasons(found(reference, Candidate(wrong, "torch"))) == {R.S21_WRONG_GRADIENT}


# ---- Tasks that deserve no number


def rows(name: str, text: str, oracle: object) -> Task:
    case = Case(((12, 40),), (12, 40), (12, 40))
    body = f"""
    #include <cmath>
    extern "C" void kernel(const float* const* in, float* out, const long* n) {{
      for (long i = 0; i < n[0] * n[1]; i++) out[i] = {text};
    }}"""
    return native(name, body, timed=case, oracle=oracle)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("task", "passing"),
    [
        (rows("twice", "2 * in[0][i]", lambda a: 2 * a[0]), set()),
        (rows("constant", "0", lambda a: 0 * a[0]), {"zero", "constant", "mean", "previous", "half"}),
        (rows("copy", "in[0][i]", lambda a: a[0]), {"identity"}),
        (rows("ones", "1", lambda a: 0 * a[0] + 1), {"one", "constant", "mean", "previous"}),
    ],
    ids=lambda value: value.name if isinstance(value, Task) else "",
)
def test_a_task_that_takes_an_answer_without_work_is_not_admitted(task: Task, passing: set[str], cache: Path) -> None:
    with Reference(task, seed=3, cache=cache) as reference:
        refused = admit(reference)
    assert {one.evidence.split("'")[1] for one in refused} == passing


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (MODEL.replace("self.linear(x)", "self.missing(x)"), "no attribute 'missing'.*line 12"),
        (MODEL.replace("[64, 24]", "[64]"), "missing 1 required positional argument"),
    ],
)
def test_a_reference_that_fails_is_the_task_s_fault(text: str, told: str) -> None:
    with pytest.raises(ReferenceFailed, match=told):
        Reference(from_text("broken", text), seed=0)


# ---- Building


def test_a_library_is_built_once(tmp_path: Path) -> None:
    first = build(cpp(), tmp_path)
    again = build(cpp(), tmp_path)
    assert isinstance(first, Built)
    assert isinstance(again, Built)
    assert first.library == again.library
    assert first.seconds > 0
    assert again.seconds == 0


def test_what_does_not_compile_says_what_the_compiler_said(tmp_path: Path) -> None:
    found = build(cpp("float s", "flaot s"), tmp_path)
    assert isinstance(found, Refused)
    assert found.reason is R.BUILD_FAILED
    assert "flaot" in found.log
    assert not list(tmp_path.rglob("*.so"))


def test_a_build_reads_nothing_of_the_host(tmp_path: Path) -> None:
    secret = tmp_path / "secret.h"
    secret.write_text("#error LEAKED\n")
    found = build(Candidate(f'#include "{secret}"\n' + SQUARES, "cpp"), tmp_path)
    assert isinstance(found, Refused)
    assert "LEAKED" not in found.log


def test_a_table_of_answers_is_too_large(tmp_path: Path) -> None:
    table = Candidate(SQUARES + "\nextern const float answers[4000000] = {1};", "cpp")
    found = build(table, tmp_path)
    assert isinstance(found, Refused)
    assert found.reason is R.F16_BUILD_ABUSED


def test_several_are_built_beside_each_other_in_their_order(tmp_path: Path) -> None:
    listed = [cpp(), cpp("float s", "flaot s"), cpp("r = 0", "r = 0 ")]
    made = list(build_all(listed, workers=2, cache=tmp_path))
    assert [one for one, _ in made] == listed
    assert [isinstance(one, Built) for _, one in made] == [True, False, True]


def test_kernels_are_built_as_the_domain_says() -> None:
    from postgrad.domains import loops

    assert FLAGS == loops.FLAGS
