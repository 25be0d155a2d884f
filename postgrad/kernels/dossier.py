"""An audit's folder: a signed record for each kernel, written when its verdict is reached, so that an audit goes on where it stopped.

    NAME.jsonl        {"verdict", "signature", "published", "degenerate", "reference", "candidate"}, a line for each kernel of NAME
    admission.jsonl   what the admission of each task found; files that share their tasks share it
    key               what signs the records

A line that was cut off by the end of a process is cut away when the file is read, and its kernel judged again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postgrad.kernels.admit import admit
from postgrad.kernels.audit import Row, runs_here
from postgrad.kernels.environment import environment
from postgrad.kernels.evaluate import Settings, evaluate, static
from postgrad.kernels.reference import Reference, ReferenceFailed
from postgrad.kernels.shrink import with_few_rows
from postgrad.kernels.side import Misbehaved
from postgrad.kernels.signed import run_key, sign
from postgrad.kernels.task import Task
from postgrad.kernels.verdict import Finding, KernelVerdict, Reason, conclude
from postgrad.records import from_json, to_json
from postgrad.sandbox import Limits, WorkerEnded

ADMISSION = Limits(wall_s=240, cpu_s=45, memory_bytes=6 << 30)
"""Of a reference while its task is admitted: a large network on a small machine must not hold up the others."""
MOST_NUMBERS = 1 << 24
"""The grader holds some twenty copies of them in float64."""
SEED = 0


class Dossier:
    """Raises ValueError, with the line, for a file that is none of ours."""

    def __init__(self, folder: Path, name: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path, self._admissions = folder / f"{name}.jsonl", folder / "admission.jsonl"
        self._key = run_key(folder / "key")
        self.records = _read(self.path, "verdict")
        self._admitted = {one["task_sha256"]: one["findings"] for one in _read(self._admissions, "task_sha256")}

    @property
    def judged(self) -> set[str]:
        """Names of the tasks that have a verdict."""
        return {record["verdict"]["task"] for record in self.records}

    def admission(self, task: Task) -> list[Finding]:
        """Why the task is not admitted, asked with few rows and once for all kernels of it; empty where it is."""
        if task.sha256 not in self._admitted:
            found = [json.loads(to_json(one)) for one in admitted(task)]
            self._admitted[task.sha256] = found
            _append(self._admissions, {"task_sha256": task.sha256, "task": task.name, "findings": found})
        return [from_json(Finding, json.dumps(one)) for one in self._admitted[task.sha256]]

    def go_on(self, rows: Sequence[Row], seconds: float, settings: Settings | None) -> int:
        """A verdict for each usable kernel that has none, begun before the time is up; how many are owed one after that.

        `settings`: for those that can run here; None: nothing is run but references.
        """
        until = time.monotonic() + seconds
        judged = self.judged
        todo = [row for row in rows if row.task is not None and not row.trouble and row.name not in judged]
        todo.sort(key=lambda row: row.task is None or row.task.sha256 not in self._admitted)  # first what costs nothing
        for done, row in enumerate(todo):
            if time.monotonic() >= until:
                return len(todo) - done
            assert row.task is not None
            assert row.candidate is not None
            if settings is not None and runs_here(row, gpu=settings.gpu is not None):
                self.add(row, evaluate(row.task, row.candidate, settings))
            else:
                self.add(row, unrun(row, self.admission(row.task)))
        return 0

    def add(self, row: Row, verdict: KernelVerdict) -> None:
        assert row.task is not None
        assert row.candidate is not None
        empty = [one.evidence for one in verdict.findings if one.reason is Reason.TASK_NOT_ADMITTED]
        record = {
            **sign(verdict, self._key),
            "published": {name: value for name, value in row.claimed.items() if value is not None},
            **({"degenerate": empty[0]} if empty else {}),
            "reference": row.task.source,
            "candidate": row.candidate.code,
        }
        _append(self.path, record)
        self.records.append(record)


def admitted(task: Task, limits: Limits = ADMISSION) -> list[Finding]:
    """`admit` of the task with few rows. A reference that fails, or is not done in its time, is UNCHECKED."""
    try:
        with Reference(with_few_rows(task), seed=SEED, limits=limits) as reference:
            specs = reference.specs(reference.cases[-1])
            numbers = sum(math.prod(one.shape) for one in (*specs.inputs, *specs.outputs))
            if numbers > MOST_NUMBERS:
                told = f"{numbers:,} numbers go in and out of its reference; here it is asked about at most {MOST_NUMBERS:,}"
                return [Finding(Reason.NEEDS_GPU, told, "admission")]
            return admit(reference)
    except (ReferenceFailed, Misbehaved) as error:
        return [Finding(Reason.REFERENCE_FAILED, str(error)[:500], "admission")]
    except WorkerEnded as error:  # for a failure of ours: what the reference did is Misbehaved
        return [Finding(Reason.SANDBOX_BROKEN, str(error), "admission")]


def unrun(row: Row, admission: Sequence[Finding]) -> KernelVerdict:
    """What can be said of a kernel that needs a GPU where there is none: what its text gives away, and what its task is worth."""
    assert row.task is not None
    assert row.candidate is not None
    here = Finding(Reason.NEEDS_GPU, "its backend runs on a GPU only, and it was read where there is none")
    findings = (*static(row.candidate, row.task), *admission, here)
    return KernelVerdict(
        task=row.name,
        status=conclude(findings),
        speedup=None,
        interval=None,
        findings=findings,
        timing=None,
        environment=environment(
            task=row.task.source, code=row.candidate.code, seeds={"admission": SEED}, compiler=None
        ),
        labels={"backend": row.candidate.backend},
    )


def _append(path: Path, record: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")


def _read(path: Path, wanted: str) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
    found = []
    for number, line in enumerate(content[:whole].splitlines(), start=1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict) or wanted not in record:
            raise ValueError(f"{path}:{number}: no {wanted}: not a line of an audit; give another --out")
        found.append(record)
    return found
