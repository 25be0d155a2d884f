"""An audit in pieces: each usable kernel gets a signed verdict where there is no GPU too, and a killed audit goes on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bench import audit_static
from postgrad.kernels import audit, signed
from postgrad.kernels import dossier as dossiers
from postgrad.kernels.audit import Row
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.dossier import Dossier, admitted, unrun
from postgrad.kernels.guard import flags
from postgrad.kernels.reference import Question, Reference
from postgrad.kernels.shrink import with_few_rows
from postgrad.kernels.task import Case, Task, from_text
from postgrad.kernels.verdict import REJECTED, UNCHECKED, Finding, Reason
from postgrad.sandbox import Limits
from tests.kernels.small_tasks import needs_sandbox

TASK = """import torch
import torch.nn as nn


class Model(nn.Module):
    def forward(self, x):
        return RETURN


batch_size = 4096; dim = 8


def get_inputs():
    return [torch.randn(batch_size, dim)]


def get_init_inputs():
    return []
"""
HONEST = "import torch\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return x.cuda().tanh()\n"
STREAM = HONEST.replace("x.cuda()", "torch.cuda.Stream() or x")


def task(text: str = "torch.tanh(x)", name: str = "1-2") -> Task:
    return from_text(name, TASK.replace("RETURN", text))


def row(name: str = "1-2", code: str = HONEST, claimed: float = 2.0, text: str = "torch.tanh(x)") -> Row:
    return Row(name, Candidate(code, "torch", name), task(text, name), "", {"score_default": claimed})


@pytest.fixture
def instantly(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Admission is asked, told of, and not run: a task whose text holds a zero is degenerate."""
    asked = []

    def told(one: Task) -> list[Finding]:
        asked.append(one.name)
        return [Finding(Reason.TASK_NOT_ADMITTED, "the answer 'zero' passes")] if "0 * x" in one.source else []

    monkeypatch.setattr(dossiers, "admitted", told)
    return asked


def test_only_the_batch_of_a_task_shrinks() -> None:
    small = with_few_rows(task()).source
    assert small == task().source.replace("4096", "2")
    already = replace(task(), source=small)
    assert with_few_rows(already) == already


def test_what_needs_a_gpu_is_unchecked_and_what_its_text_gives_away_rejects_it(instantly: list[str]) -> None:
    assert (unrun(row(), []).status, unrun(row(), []).reasons) == (UNCHECKED, (Reason.NEEDS_GPU,))
    stream = unrun(row(code=STREAM), [])
    assert (stream.status, stream.reasons) == (REJECTED, (Reason.T01_SIDE_STREAM, Reason.NEEDS_GPU))


def test_an_audit_stops_in_time_and_goes_on(tmp_path: Path, instantly: list[str]) -> None:
    rows = [row("1-1"), row("1-2"), row("1-3", code=STREAM)]
    assert Dossier(tmp_path, "h100").go_on(rows, 0.0, None) == 3
    first = Dossier(tmp_path, "h100")
    first.add(rows[0], unrun(rows[0], []))
    assert Dossier(tmp_path, "h100").go_on(rows, 60, None) == 0
    again = Dossier(tmp_path, "h100")
    assert [one["verdict"]["task"] for one in again.records] == ["1-1", "1-2", "1-3"]
    key = signed.run_key(tmp_path / "key")
    assert all(signed.changes(one, key) == [] for one in again.records)
    assert again.go_on(rows, 60, None) == 0
    assert len(Dossier(tmp_path, "h100").records) == 3


def test_a_line_that_was_cut_off_is_judged_again(tmp_path: Path, instantly: list[str]) -> None:
    rows = [row("1-1"), row("1-2")]
    Dossier(tmp_path, "h100").go_on(rows, 60, None)
    path = tmp_path / "h100.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    again = Dossier(tmp_path, "h100")
    assert again.judged == {"1-1"}
    again.go_on(rows, 60, None)
    assert Dossier(tmp_path, "h100").judged == {"1-1", "1-2"}


def test_files_that_share_a_task_ask_its_admission_once(tmp_path: Path, instantly: list[str]) -> None:
    Dossier(tmp_path, "h100").go_on([row()], 60, None)
    Dossier(tmp_path, "a100").go_on([row()], 60, None)
    assert instantly == ["1-2"]


def test_another_file_is_no_audit(tmp_path: Path) -> None:
    (tmp_path / "h100.jsonl").write_text('{"score": 1}\n')
    with pytest.raises(ValueError, match=r"h100.jsonl:1: no verdict: not a line of an audit"):
        Dossier(tmp_path, "h100")


def amounts(rows: list[dict[str, str]]) -> dict[str, tuple[str, str]]:
    return {one["speed-ups"]: (one["kernels"], one["geomean"]) for one in rows}


def test_claims_are_told_with_and_without_degenerate_tasks(tmp_path: Path, instantly: list[str]) -> None:
    dossier = Dossier(tmp_path, "h100")
    rows = [row("1-1", claimed=2), row("1-2", claimed=8), row("2-83", claimed=100, text="0 * x")]
    dossier.go_on([*rows, row("1-3", STREAM, 4)], 60, None)
    assert amounts(audit.gains(dossier.records, "h100")) == {
        "published": ("250", "-"),
        "claimed, usable": ("4", f"{(2 * 8 * 100 * 4) ** 0.25:.2f}"),
        "claimed, without degenerate tasks": ("3", "4.00"),
        "claimed, text not rejected": ("3", f"{1600 ** (1 / 3):.2f}"),
        "claimed, both": ("2", "4.00"),
        "measured, usable": ("0", "-"),
        "measured, without degenerate tasks": ("0", "-"),
    }
    assert audit.statuses(dossier.records) == [
        {"status": "unchecked", "decided by": "NEEDS_GPU", "kernels": 2},
        {"status": "unchecked", "decided by": "TASK_NOT_ADMITTED", "kernels": 1},
        {"status": "rejected", "decided by": "T01_SIDE_STREAM", "kernels": 1},
    ]


def test_only_accepted_kernels_are_survivors() -> None:
    def record(name: str, status: str, speedup: float | None) -> dict[str, Any]:
        return {"verdict": {"task": name, "status": status, "speedup": speedup}, "published": {}}

    told = amounts(audit.gains([record("1", "accepted", 3.0), record("2", "suspicious", 9.0)], "mine"))
    assert told["measured, usable"] == ("1", "3.00")
    assert "published" not in told


def test_the_page_of_the_released_kernels_has_counts_and_no_code(tmp_path: Path, instantly: list[str]) -> None:
    files, bench = tmp_path / "files", tmp_path / "v0" / "level2"
    files.mkdir()
    bench.mkdir(parents=True)
    rows = [
        {"level_id": 2, "task_id": 1, "custom_code": HONEST, "score_default": 3.0},
        {"level_id": 2, "task_id": 2, "custom_code": STREAM, "score_default": "5"},
        {"level_id": 2, "task_id": 3, "custom_code": "None", "score_default": 9},
    ]
    for one, text in zip(rows, ("torch.tanh(x)", "0 * x", "x"), strict=True):
        one["ref_code"] = TASK.replace("RETURN", text)
        (bench / f"{one['task_id']}_one.py").write_text(str(one["ref_code"]))
    for name in ("a100", "h100"):
        (files / f"{name}.json").write_text("\n".join(json.dumps(one) for one in rows))
    audit_static.main(
        [str(files), "--kernelbench", str(tmp_path / "v0"), "--out", str(tmp_path), "--results", str(tmp_path)]
    )
    page = (tmp_path / "audit-static.md").read_text()
    assert "| h100 | 3 | 2 | 1 | 1 | 0 | 3 |" in page
    assert "| h100 | 2 | 1 | 1 | 2 | 1 | 0 | 0 |" in page
    assert "Degenerate by that: 2-2." in page
    assert "| h100 | claimed, usable | 2 | 4.00 | 4.00 | 3.87 |" in page
    assert "| stream_without_join | reject | 1 | 1 |" in page
    assert "forward" not in page.replace("that forward never calls", "")
    assert sorted(instantly) == ["2-1", "2-2"]


@needs_sandbox
def test_a_degenerate_reference_is_found_without_a_gpu() -> None:
    assert admitted(task()) == []
    assert {one.reason for one in admitted(task("0 * x"))} == {Reason.TASK_NOT_ADMITTED}


@needs_sandbox
def test_a_reference_that_fails_or_is_too_slow_is_unchecked() -> None:
    assert [one.reason for one in admitted(task("x @ x"))] == [Reason.REFERENCE_FAILED]
    slow = admitted(task("[torch.tanh(x) for _ in range(10**9)][0]"), Limits(wall_s=8, cpu_s=8, memory_bytes=2 << 30))
    assert [(one.reason, one.status) for one in slow] == [(Reason.REFERENCE_FAILED, UNCHECKED)]


def test_a_text_without_any_token_has_no_flags() -> None:
    """`load_inline(cpp_sources="")`, as released kernels have it."""
    assert flags.scan("", "cpp") == []
    code = 'from torch.utils.cpp_extension import load_inline\nmade = load_inline("k", cpp_sources="")\n'
    assert [flag.rule.name for flag in flags.scan(code, "torch")] == ["decoy"]


def test_records_are_json_lines(tmp_path: Path, instantly: list[str]) -> None:
    Dossier(tmp_path, "h100").go_on([row()], 60, None)
    (line,) = (tmp_path / "h100.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["published"] == {"score_default": 2.0}
    assert record["candidate"] == HONEST


@needs_sandbox
def test_admission_asks_no_more_than_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every answer without work is told from work by the first question, and by the second where the answer is another question's."""
    asked: list[int] = []
    ask = Reference.question

    def counted(self: Reference, case: Case, name: str, index: int) -> Question:
        asked.append(index)
        return ask(self, case, name, index)

    monkeypatch.setattr(Reference, "question", counted)
    assert admitted(task("torch.tanh(x.sum(dim=1))")) == []
    assert asked == [0, 1]
    asked.clear()
    assert admitted(task("0 * x")) != []
    assert len(asked) > 10
