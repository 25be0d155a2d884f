"""The recipe cuda_l1 with real kernels: g++, the sandbox, a clock. Apart from the scripted tests, whose judge stands in the real one's place."""

from __future__ import annotations

import json
from pathlib import Path

from postgrad.kernels.ledger import Ledger
from postgrad.recipes import cuda_l1
from tests import tiny_cuda_l1 as tiny
from tests.kernels.small_tasks import needs_sandbox


@needs_sandbox
def test_two_tasks_with_real_kernels(tmp_path: Path) -> None:
    """Gathering and both archives with g++ and a clock; the model is too small to write any kernel."""
    asked, run = tiny.start(
        tmp_path / "run",
        "data.loops.families=[plane]",
        "data.loops.train=2",
        "data.loops.validation=1",
        "data.loops.test=1",
        "gather.teachers=[novice, expert]",
        "rl.max_steps=2",
        "rl.eval_steps=2",
    )
    cuda_l1.main(asked, run)
    told = run.stages()["gather"]["result"]
    novice, expert = told["samplers"]["novice"], told["samplers"]["expert"]
    checked = {name: one["tries"] - one.get("unchecked", 0) for name, one in told["samplers"].items()}
    assert novice.get("no_answer", 0) == expert.get("no_answer", 0) == 0
    assert all(checked.values()), "some of each could be timed"
    verdicts = Ledger(run.folder / "verdicts.jsonl").verdicts()
    accepted = [one for one in verdicts.values() if one.status == "accepted"]
    assert any((one.speedup or 0) > 1.5 for one in accepted), "loops in the order of memory are far faster"
    assert {reason.name for one in verdicts.values() for reason in one.reasons if one.status == "rejected"}
    summary = json.loads((run.folder / "summary.json").read_text())
    assert all(one["no_answer"] == one["n"] for one in summary["models"].values())
    assert summary["claims"] == [] or summary["claims"][0]["id"] == "self_supervised_over_sft"
