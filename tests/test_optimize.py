"""Search driven by a real HTTP endpoint that misbehaves, killed and resumed: the parts that a recipe wires."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.sample.fake_api import Reply, completion, running

PROGRAM = """
import re, sys
from pathlib import Path
from postgrad.kernels.search import Settings, Subject, optimize
from postgrad.kernels.task import Task
from postgrad.kernels.verdict import Environment, Finding, KernelStatus, KernelVerdict, Reason
from postgrad.sample import calls
from postgrad.sample.api import ApiSampler, Endpoint, Patience

def evaluate(candidate, *, best):
    where = Environment({}, None, {}, {}, "", "", "2026-01-01T00:00:00Z", None)
    found = re.fullmatch(r"speed ([\\d.]+);", candidate.code)
    if found is None:
        return KernelVerdict("t", KernelStatus.REJECTED, None, None, (Finding(Reason.BUILD_FAILED, "no"),), None, where)
    return KernelVerdict("t", KernelStatus.ACCEPTED, float(found[1]), None, (), None, where)

folder = Path(sys.argv[1])
with calls.opened(folder / "calls.sqlite") as store:
    patience = Patience(attempt=0.4, call=60, attempts=10, wait=0.01)
    sampler = ApiSampler(Endpoint(sys.argv[2], "m", {"max_tokens": 500}), store, seed=0, patience=patience, concurrency=2)
    optimize(
        Subject(Task("t", "int reference;"), "cpp", "here"), sampler, evaluate, Settings(evaluations=18, answers=24), folder,
        confirm=evaluate, named="m", spent=sampler.spent,
        seeds=[f"speed {1 + at / 10};" for at in range(1, 5)],
    )
"""


def writes(body: dict[str, Any]) -> dict[str, Any]:
    """A function of the request, so that two searches can be compared."""
    prompt = body["messages"][0]["content"]
    shown = max([1.0, *map(float, re.findall(r"speed ([\d.]+);", prompt))])
    digits = int(hashlib.sha256(prompt.encode()).hexdigest()[:4], 16) % 100
    code = f"speed {shown + 0.1 + digits / 1000:.3f};" if digits % 7 else "does not build"
    return completion(f"## Code Implementation\n```cpp\n{code}\n```" if digits % 11 else "I would rather talk.")


def unreliable(nth: int, body: dict[str, Any]) -> Reply:
    return {
        1: Reply(429, b"slow down", {"Retry-After": "0.05"}),
        3: Reply(content=b'{"choices": [{"mess'),
        4: Reply(drop=True),
        6: Reply(content=completion("never seen"), delay=0.6),
        8: Reply(503, b"busy"),
        10: Reply(content=completion("cut"), cut=5),
    }.get(nth % 12, Reply(content=writes(body), delay=0.02))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The summary of a search that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    with running() as fake:
        fake.rule = lambda nth, body: Reply(content=writes(body))
        subprocess.run([sys.executable, "-c", PROGRAM, str(folder), fake.url], check=True, timeout=60)
    summary: dict[str, Any] = json.loads((folder / "summary.json").read_text())
    return summary


def test_a_search_by_an_unreliable_endpoint_killed_twice_finds_what_an_undisturbed_one_finds(
    tmp_path: Path, whole: dict[str, Any]
) -> None:
    with running() as fake:
        fake.rule = unreliable
        command = [sys.executable, "-c", PROGRAM, str(tmp_path), fake.url]
        for target in (5, 13):
            process = subprocess.Popen(command)
            while len(fake.asked) < target:
                assert process.poll() is None
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        subprocess.run(command, check=True, timeout=120)
        asked = len(fake.asked)
        subprocess.run(command, check=True, timeout=60)
        assert len(fake.asked) == asked, "a finished search asks nothing"
    found = json.loads((tmp_path / "summary.json").read_text())
    cost, undisturbed = found.pop("cost"), whole["cost"]
    assert found == {name: value for name, value in whole.items() if name != "cost"}
    assert (cost["answers"], cost["prompt_tokens"]) == (undisturbed["answers"], undisturbed["prompt_tokens"])
    assert cost["attempts"] > undisturbed["attempts"] == undisturbed["answers"]
    assert cost["open_attempts"] > 0
    assert found["best"]["speedup"] > 1.5, "better than the seeds"
    assert (tmp_path / "best.cpp").is_file()
