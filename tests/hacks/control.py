"""Asks the naive evaluator about an exploit, inside the sandbox: what a row is worth, if it fools nobody."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from postgrad import sandbox
from postgrad.sandbox import Ended, Limits
from tests.hacks.row import Row

PROGRAM = Path(__file__).with_name("naive.py").read_bytes()
LIMITS = Limits(wall_s=120, cpu_s=120, memory_bytes=4 << 30)
FASTER = 1.5


@dataclass(frozen=True, slots=True)
class Said:
    """What the naive evaluator said."""

    correct: bool
    speedup: float | None
    """None where it gave none."""
    note: str = ""

    def is_fooled(self, row: Row) -> bool:
        """It says what the exploit wants it to say."""
        faster = self.speedup is not None and self.speedup >= FASTER
        return self.correct and (faster or row.fools == "correct")


def ask(row: Row) -> Said:
    """Raises RuntimeError where the sandbox itself failed."""
    done = sandbox.run(
        [sys.executable, "-I", "naive.py", "task.py", "candidate.py"],
        files={"naive.py": PROGRAM, "task.py": row.task.source.encode(), "candidate.py": row.exploit.encode()},
        limits=LIMITS,
        environment={"OMP_NUM_THREADS": "1"},
    )
    if done.ended is Ended.BROKEN:
        raise RuntimeError(f"{row.id}: the sandbox failed: {done.reason}")
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    if done.ended is not Ended.OK or not lines:
        return Said(False, None, f"{done.ended}: {done.stderr.decode(errors='replace')[-300:]}")
    told = json.loads(lines[-1])
    return Said(bool(told["correct"]), float(told["speedup"]))
