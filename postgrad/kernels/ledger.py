"""Every verdict of a run, on disk as it is reached: a code that comes again, also after a kill, has the verdict that it had.

    ledger = Ledger(folder / "verdicts.jsonl")
    with KernelVerifier(tasks, parse, heard=ledger.add) as verifier:
        verifier.verdicts.update(ledger.verdicts())

A time is not measured twice alike. So a run that is resumed and samples the same codes gives them the same rewards, and models that write
the same code are compared without noise between them. What is unchecked is kept too, and judged again where it comes again.
"""

from __future__ import annotations

import json
import threading
from pathlib import Path

from postgrad.kernels.candidate import Candidate
from postgrad.kernels.verdict import KernelVerdict
from postgrad.records import Problem, from_json, to_json
from postgrad.run import read_lines


class Ledger:
    """One line for each verdict: {"task", "hash", "verdict"}. One process writes at a time; its threads may."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        if path.is_file() and not (found := path.read_bytes()).endswith(b"\n"):
            # A kill in the middle of a line; what is added would be joined to it.
            path.write_bytes(found[: found.rfind(b"\n") + 1])

    def add(self, problem: Problem, candidate: Candidate, verdict: KernelVerdict) -> None:
        row = {"task": problem.id, "hash": candidate.sha256, "verdict": json.loads(to_json(verdict))}
        with self._writing, self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, allow_nan=False) + "\n")

    def verdicts(self) -> dict[tuple[str, str], KernelVerdict]:
        """By task and the code's hash; of several the last. Empty where nothing was judged yet."""
        if not self.path.is_file():
            return {}
        return {
            (row["task"], row["hash"]): from_json(KernelVerdict, json.dumps(row["verdict"]))
            for row in read_lines(self.path)
        }
