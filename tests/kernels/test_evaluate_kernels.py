"""The whole pipeline with real workers: verdicts, what ends them, records, and the commands."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from postgrad.cli import app
from postgrad.domains import loops
from postgrad.kernels import audit, signed
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.clock import Rules
from postgrad.kernels.evaluate import Evaluator, Settings, evaluate, unread
from postgrad.kernels.side import Side
from postgrad.kernels.task import Case, from_text, native, of_loop
from postgrad.kernels.verdict import ACCEPTED, REJECTED, UNCHECKED, Reason
from postgrad.sandbox import Ended, Outcome, WorkerEnded
from tests.kernels.small_tasks import MODEL, SQUARES, cpp, module, needs_sandbox, squares

TWO_SUMS = """float t = 0; long c = 0;
    for (; c + 1 < n[1]; c += 2) { float a = x[r * n[1] + c], b = x[r * n[1] + c + 1]; s += a * a; t += b * b; }
    s += t;
    for (; c < n[1]; c++) s +="""
# A busy machine is no finding here: what the clock says is tested in test_clock.py.
PATIENT = Rules(gate=100, widest=100, overhead=10, disagree=100, late=10, precise=0.2)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(budget_s=1.0, rules=PATIENT, cache=tmp_path_factory.mktemp("libraries"), clock="cpu")


@pytest.fixture(scope="module")
def judge(settings: Settings) -> Iterator[Evaluator]:
    with Evaluator(squares(512, 2048), settings) as evaluator:
        yield evaluator


@needs_sandbox
def test_a_faster_kernel_is_accepted_with_its_speed_up(judge: Evaluator) -> None:
    found = judge(cpp("for (long c = 0; c < n[1]; c++) s +=", TWO_SUMS))
    assert found.status is ACCEPTED, found.findings
    assert found.speedup is not None
    assert found.speedup > 1.1
    assert found.timing is not None
    assert found.environment.compiler is not None
    assert "-O3" in found.environment.compiler


@needs_sandbox
def test_a_gain_above_three_is_measured_again_by_other_workers(judge: Evaluator) -> None:
    lanes = judge(cpp("float s = 0;", "float s = 0;\n#pragma omp simd reduction(+ : s)\n"), best=1.0)
    assert lanes.timing is not None
    assert lanes.timing.again is not None
    assert set(lanes.reasons) <= {Reason.T20_NOT_REPRODUCED}  # on a busy machine the two may differ


@needs_sandbox
def test_a_record_says_what_was_changed_in_it(judge: Evaluator) -> None:
    found = judge(cpp())
    assert found.status is ACCEPTED, found.findings
    record = json.loads(json.dumps(signed.sign(found, b"k" * 32)))
    assert signed.opened(record, b"k" * 32) == found
    record["verdict"]["speedup"] = 9.0
    assert signed.changes(record, b"k" * 32) == ["speedup: changed"]


@needs_sandbox
def test_a_kernel_that_is_right_only_while_it_is_checked_is_rejected(judge: Evaluator) -> None:
    late = cpp("const float* x = in[0];", "const float* x = in[0]; static int calls; if (++calls > 75) x = in[0] + 1;")
    found = judge(late)
    assert found.status is REJECTED
    assert Reason.S10_LATE_WRONG in found.reasons
    assert found.speedup is None


@needs_sandbox
@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (Candidate("x = (", "torch", "k.py"), Reason.BUILD_FAILED),
        (Candidate("class Model: pass", "torch", "k.py"), Reason.NO_ENTRY),
        (cpp("float s", "flaot s"), Reason.BUILD_FAILED),
        (cpp("s += ", "s -= "), Reason.WRONG_OUTPUT),
    ],
)
def test_what_cannot_be_right_is_not_timed(judge: Evaluator, candidate: Candidate, reason: Reason) -> None:
    found = judge(candidate)
    assert (found.status, found.timing) == (REJECTED, None)
    assert reason in found.reasons


@needs_sandbox
def test_a_kernel_that_hangs_ends_and_the_next_one_is_judged(judge: Evaluator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Side.call, "__defaults__", (1.0,))
    assert judge(cpp("float s = 0;", "volatile int going = 1; while (going) {} float s = 0;")).reasons == (
        Reason.TIMED_OUT,
    )
    monkeypatch.undo()
    assert judge(cpp()).status is ACCEPTED


@needs_sandbox
def test_static_rules_speak_first_and_can_be_left_out(settings: Settings) -> None:
    task = from_text("softmax", MODEL)
    patched = module("import time\ntime.perf_counter = lambda: 0.0\nreturn torch.softmax(self.linear(x), -1)")
    said = evaluate(task, patched, settings)
    assert Reason.T05_CLOCK_PATCHED in said.reasons
    assert said.findings[0].where.startswith("line")
    seen = evaluate(task, patched, Settings(scan=unread, cache=settings.cache))
    assert Reason.T05_CLOCK_PATCHED in seen.reasons
    assert seen.findings[0].where == "settings"


@needs_sandbox
def test_an_answer_in_the_runner_s_place_is_one_too_many(settings: Settings) -> None:
    forge = module(
        "import sys\nframe = sys._getframe()\n"
        "while 'serial' not in frame.f_locals:\n    frame = frame.f_back\n"
        "frame.f_locals['channel'].answer(frame.f_locals['serial'] + b' ')\n"
        "return torch.softmax(self.linear(x), -1)"
    )
    found = evaluate(from_text("softmax", MODEL), forge, Settings(scan=unread, cache=settings.cache))
    assert found.status is REJECTED
    assert Reason.F10_FORGED_RESULT in found.reasons


@needs_sandbox
def test_our_failures_are_unchecked_and_never_a_score(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = evaluate(from_text("broken", MODEL.replace("self.linear(x)", "self.lost(x)")), module(), settings)
    assert (broken.status, broken.reasons) == (UNCHECKED, (Reason.REFERENCE_FAILED,))

    case = Case(((8, 8),), (8, 8), (8, 8))
    zeros = (
        'extern "C" void kernel(const float* const*, float* o, const long*) { for (int i = 0; i < 64; i++) o[i] = 0; }'
    )
    idle = evaluate(native("zeros", zeros, timed=case, oracle=lambda a: 0 * a[0]), Candidate(zeros, "cpp"), settings)
    assert idle.status is UNCHECKED
    assert set(idle.reasons) == {Reason.TASK_NOT_ADMITTED}

    def fails(*_: object, **__: object) -> None:
        raise WorkerEnded(Outcome(Ended.BROKEN, reason="mounts: no"))

    monkeypatch.setattr("postgrad.kernels.side.Worker", fails)
    lost = evaluate(squares(), cpp(), settings)
    assert (lost.status, lost.reasons, lost.speedup) == (UNCHECKED, (Reason.SANDBOX_BROKEN,), None)


@needs_sandbox
def test_loops_of_the_domain_are_tasks_here(settings: Settings) -> None:
    """A right variant is accepted, each of its mistakes is not: builds, values, bounds."""
    (made,) = loops.tasks("train", 1, seed=5, families=["matmul"])
    task = of_loop(made.task, lambda arrays: loops.oracle(made.task, arrays))
    variant = loops.variants(made)[1]
    wrong = {mistake.fails: mistake for mistake in loops.mistakes(made, variant)}
    with Evaluator(task, settings) as evaluator:
        assert evaluator(Candidate(variant.code, "cpp")).status is ACCEPTED
        for mistake in wrong.values():
            assert evaluator(Candidate(mistake.code, "cpp")).status is REJECTED, mistake.name


# ---- Commands


def written(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


@needs_sandbox
def test_check_tells_why_and_writes_a_record(tmp_path: Path) -> None:
    task = written(tmp_path / "softmax.py", MODEL)
    wrong = written(tmp_path / "wrong.py", module("return self.linear(x)").code)
    done = CliRunner().invoke(app, ["kernels", "check", task, wrong, "--out", str(tmp_path / "record.json")])
    assert done.exit_code == 1
    assert done.stdout.startswith("softmax: rejected\n  WRONG_OUTPUT (")
    record = json.loads((tmp_path / "record.json").read_text())
    assert signed.opened(record, (tmp_path / "key").read_bytes()).status is REJECTED


@pytest.mark.parametrize(
    ("task", "candidate", "told"),
    [
        ("none.py", "k.py", "none.py: no such file"),
        ("t.py", "none.cpp", "none.cpp: no such file"),
        ("bad.py", "k.py", "bad.py:2: syntax error"),
    ],
)
def test_check_says_what_is_missing(tmp_path: Path, task: str, candidate: str, told: str) -> None:
    written(tmp_path / "t.py", MODEL)
    written(tmp_path / "k.py", module().code)
    written(tmp_path / "bad.py", "x = 1\ny = (")
    done = CliRunner().invoke(app, ["kernels", "check", str(tmp_path / task), str(tmp_path / candidate)])
    assert done.exit_code == 1
    assert told in done.stderr


def test_check_names_a_line_that_is_no_python(tmp_path: Path) -> None:
    """Told without any worker."""
    task, bad = written(tmp_path / "t.py", MODEL), written(tmp_path / "k.py", "x = 'not ended")
    done = CliRunner().invoke(app, ["kernels", "check", task, bad])
    assert done.exit_code == 1
    assert "k.py:1: syntax error" in done.stdout


def test_a_folder_is_audited(tmp_path: Path) -> None:
    written(tmp_path / "a" / "one.py", MODEL)
    written(tmp_path / "a" / "one_new.py", module().code)
    written(tmp_path / "two.cpp", SQUARES)
    written(tmp_path / "three.py", "class ModelNew:\n    def forward(self, x):\n        return torch.cuda.Stream()\n")
    written(tmp_path / "four.py", "x = (")
    rows = {row.name: row for row in audit.gather(tmp_path)}
    assert set(rows) == {"a/one_new.py", "two.cpp", "three.py", "four.py"}
    assert {name for name, row in rows.items() if audit.runs_here(row)} == {"a/one_new.py"}
    assert "syntax error" in rows["four.py"].trouble
    done = CliRunner().invoke(app, ["kernels", "audit", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "1 of 4 can run without a GPU" in done.stdout


def test_released_rows_are_audited(tmp_path: Path) -> None:
    base = {"level_id": 1, "task_id": 2, "ref_code": MODEL, "score_default": 2.0}
    rows = [base | {"custom_code": module().code}, base | {"task_id": "3", "custom_code": "None"}]
    path = written(tmp_path / "a100.json", "\n".join(json.dumps(row) for row in rows))
    written(tmp_path / "bench" / "level1" / "2_softmax.py", MODEL)
    done = CliRunner().invoke(app, ["kernels", "audit", path, "--kernelbench", str(tmp_path / "bench")])
    assert done.exit_code == 0, done.output
    assert "2 rows: 1 usable, 1 without code (1 of them with a score), 0 whose code cannot be used" in done.stdout
    assert "1 of 2 references are those of" in done.stdout
    assert "not: 1-3" in done.stdout


def test_nothing_to_audit_says_so(tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["kernels", "audit", str(tmp_path)])
    assert done.exit_code == 1
    assert "nothing to audit; wanted: files .py" in done.stderr
