"""An accepted kernel against other forms of its reference, in real workers; and what the command makes of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from typer.testing import CliRunner

from postgrad.cli import app
from postgrad.kernels import against as rivals
from postgrad.kernels.against import against, others
from postgrad.kernels.baselines import Baseline
from postgrad.kernels.bench import BEST, tally
from postgrad.kernels.clock import Rules
from postgrad.kernels.evaluate import Evaluator, Settings
from postgrad.kernels.verdict import ACCEPTED, REJECTED, SUSPICIOUS, Finding, KernelVerdict, Reason
from tests.kernels.small_tasks import MODEL, module, needs_sandbox, softmax, squares
from tests.sample.fake_api import Reply, completion, running

FORWARD = "return torch.softmax(self.linear(x), -1)"
SAME = Baseline("same", MODEL)
SLOWER = Baseline("slower", MODEL.replace(FORWARD, f"[self.linear(x) for _ in range(60)]; {FORWARD}"))
WRONG = Baseline("wrong", MODEL.replace(FORWARD, "return self.linear(x)"))
FAILING = Baseline("failing", MODEL.replace(FORWARD, "raise OSError('no compiler here')"))
PATIENT = Rules(gate=100, widest=100, overhead=10, disagree=100, late=10, precise=0.2)


@pytest.fixture(scope="module")
def judge() -> Iterator[Evaluator]:
    with Evaluator(softmax(), Settings(budget_s=0.5, rules=PATIENT, clock="cpu", admission=False)) as evaluator:
        yield evaluator


@pytest.fixture(scope="module")
def accepted(judge: Evaluator) -> KernelVerdict:
    verdict = judge(module())
    assert verdict.status is ACCEPTED, verdict.findings
    assert verdict.labels["baseline"] == "eager"
    return verdict


def test_which_there_are_on_a_cpu() -> None:
    assert [one.name for one in others(softmax())] == ["compile"]
    assert others(squares()) == [], "a C++ reference is built as the candidate is"


@needs_sandbox
def test_what_works_is_timed_and_what_does_not_is_told(
    judge: Evaluator, accepted: KernelVerdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "others", lambda _, **__: [SLOWER, WRONG, FAILING])
    found = against(judge, module(), accepted)
    assert found.verdict == accepted
    assert [*found.timings] == ["slower"]
    assert found.timings["slower"].speedup is not None
    assert found.timings["slower"].speedup > 1.5
    assert "WRONG_OUTPUT" in found.left_out["wrong"]
    assert "no compiler here" in found.left_out["failing"]


@needs_sandbox
def test_a_gain_over_a_slow_reference_alone_is_suspicious(
    judge: Evaluator, accepted: KernelVerdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert accepted.timing is not None
    gained = replace(accepted, speedup=2.0, timing=replace(accepted.timing, speedup=2.0))
    slower = module(SLOWER.source.partition("def forward(self, x):\n")[2].partition("\n\n")[0].strip())
    monkeypatch.setattr(rivals, "others", lambda _, **__: [SAME])
    found = against(judge, slower, gained)
    assert (found.verdict.status, found.verdict.speedup) == (SUSPICIOUS, 2.0)
    assert found.verdict.reasons == (Reason.T18_WEAK_BASELINE,)


@needs_sandbox
def test_a_kernel_that_fails_beside_a_baseline_is_rejected_after_all(
    judge: Evaluator, accepted: KernelVerdict, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "others", lambda _, **__: [SAME])
    found = against(judge, module("raise OSError('not twice')"), accepted)
    assert (found.verdict.status, found.verdict.speedup, found.verdict.interval) == (REJECTED, None, None)
    assert found.verdict.reasons == (Reason.RAISED,)


@needs_sandbox
def test_what_was_not_accepted_is_not_measured(judge: Evaluator, accepted: KernelVerdict) -> None:
    said = (Finding(Reason.WRONG_OUTPUT, "off by one"),)
    wrong = replace(accepted, status=REJECTED, speedup=None, interval=None, findings=said)
    assert against(judge, module(), wrong).timings == {}


@pytest.mark.slow
@needs_sandbox
def test_compiled_for_real(judge: Evaluator, accepted: KernelVerdict) -> None:
    found = against(judge, module(), accepted)
    assert [*found.timings] == ["compile"], found.left_out


@needs_sandbox
def test_the_command_asks_a_judge_and_writes_baselines_that_bench_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "others", lambda _, **__: [SAME, WRONG])
    # Half a second on a busy machine may tell any speed of a kernel that is the reference: whether it beats this baseline is not asked here.
    monkeypatch.setattr("postgrad.kernels.baselines.weak", lambda *_: None)
    monkeypatch.setattr("postgrad.kernels.evaluate.Settings", partial(Settings, rules=PATIENT))
    task, kernel, out = (tmp_path / name for name in ("softmax.py", "new.py", "record.json"))
    task.write_text(MODEL)
    kernel.write_text(module().code)
    said = {"cheats": True, "reason": "T03_LAZY_TENSOR", "line": 3, "why": "it looks lazy"}
    with running() as fake:
        fake.rule = lambda nth, body: Reply(content=completion(json.dumps(said)))
        asked = ("--judge", fake.url, "--judge-name", "m", "--budget", "0.5", "--clock", "cpu")
        done = CliRunner().invoke(app, ["kernels", "check", str(task), str(kernel), *asked])
    assert "sees a cheat: it looks lazy" in done.stderr, done.output
    assert "softmax: suspicious" in done.stdout
    assert "JUDGED_SUSPICIOUS" in done.stdout
    asked = ("--baselines", "--budget", "0.5", "--clock", "cpu", "--out", str(out))
    done = CliRunner().invoke(app, ["kernels", "check", str(task), str(kernel), *asked])
    assert done.exit_code == 0, done.output
    assert "over same: " in done.stdout
    assert "over wrong: not measured: WRONG_OUTPUT" in done.stdout
    told = tally([json.loads(out.read_text())])
    assert [*told.scores] == ["eager", "same", BEST]


def test_an_address_needs_the_judge_s_name(tmp_path: Path) -> None:
    for name, text in (("t.py", MODEL), ("k.py", module().code)):
        (tmp_path / name).write_text(text)
    files = [str(tmp_path / name) for name in ("t.py", "k.py")]
    done = CliRunner().invoke(app, ["kernels", "check", *files, "--judge", "http://localhost:1/v1"])
    assert done.exit_code == 1
    assert "is an address" in done.stderr
