"""Other projects' evaluators, from folders that the user names, asked about the same texts as ours, each in a sandbox.

    ask(PEERS["KernelBench"], folder, row, "exploit")  ->  what it said

What they are asked: rows whose task is a module of KernelBench's form and whose candidate is Python; both know nothing else. A verdict is a
file that the program writes at its end: one that a candidate ended or that was stopped says nothing, and that is told.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postgrad import sandbox
from postgrad.sandbox import Ended, Limits
from tests.hacks.play import Part
from tests.hacks.row import Row

HERE = Path(__file__).parent
LIMITS = Limits(wall_s=180, cpu_s=30, memory_bytes=6 << 30, disk_bytes=256 << 20)
"""The checks of an honest kernel take some four CPU-seconds, most of them for torch."""


@dataclass(frozen=True, slots=True)
class Peer:
    name: str
    program: str
    wanted: str
    """What the folder must hold."""


PEERS = {
    one.name: one
    for one in (
        Peer("KernelBench", "ask_kernelbench.py", "src/kernelbench/eval.py"),
        Peer("CUDA-L1", "ask_cuda_l1.py", "eval/eval_cuda.py"),
    )
}


def can_be_asked(row: Row, gpu: bool = False) -> bool:
    """About this row, on a machine with or without a GPU."""
    return row.backend == "torch" and row.task.kind == "python" and (row.needs == "cpu" or gpu)


def ask(peer: Peer, folder: Path, row: Row, part: Part, *, gpu: int | None = None) -> dict[str, Any]:
    """{"passed", "speedup", "why", "device"}; passed is None where it came to no verdict.

    Raises ValueError where the folder is no checkout of it, RuntimeError where the sandbox itself failed.
    """
    if not (folder / peer.wanted).is_file():
        raise ValueError(f"{folder}: no {peer.wanted} in it; give a checkout of {peer.name}")
    folder = folder.resolve()
    text, task = (row.exploit, row.task) if part == "exploit" else (row.twin, row.honest_task)
    done = sandbox.run(
        [sys.executable, "-I", peer.program, str(folder)],
        files={
            **{name: (HERE / name).read_bytes() for name in (peer.program, "stand_in.py")},
            "task.py": task.source.encode(),
            "candidate.py": text.encode(),
        },
        read=[folder],
        collect=["said.json"],
        limits=LIMITS,
        gpu=gpu,
        environment={"OMP_NUM_THREADS": "1"},
    )
    if done.ended is Ended.BROKEN:
        raise RuntimeError(f"{row.id}: the sandbox failed: {done.reason}")
    left = done.files.get("said.json")
    if done.ended is not Ended.OK or left is None:
        last = " ".join(done.stderr.decode(errors="replace").strip().splitlines()[-1:])[:200]
        return {"passed": None, "speedup": None, "why": f"its process ended without a verdict ({done.ended}) {last}"}
    said: dict[str, Any] = json.loads(left)
    return said | {"why": said["why"].replace(sys.prefix, "PREFIX")}
