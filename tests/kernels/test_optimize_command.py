"""`postgrad kernels optimize` against a real server that speaks the interface, with real workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from postgrad.cli import app
from tests.sample.fake_api import Reply, completion, running

TASK = """
import torch

class Model(torch.nn.Module):
    def forward(self, x):
        total = torch.zeros_like(x)
        for _ in range(20):
            total = total + x
        return total

def get_inputs():
    return [torch.randn(64, 257)]

def get_init_inputs():
    return []
"""
BETTER = "import torch\n\nclass ModelNew(torch.nn.Module):\n    def forward(self, x):\n        return 20 * x\n"
WRONG = BETTER.replace("20 * x", "21 * x")


def invoke(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["kernels", "optimize", *arguments], catch_exceptions=False)


@pytest.fixture
def task(tmp_path: Path) -> Path:
    path = tmp_path / "task.py"
    path.write_text(TASK)
    return path


def test_a_search_leaves_its_archive_its_summary_and_its_page(task: Path, tmp_path: Path) -> None:
    out = tmp_path / "found"
    with running() as fake:
        fake.rule = lambda nth, body: Reply(
            content=completion(f"## Code Implementation\n```python\n{BETTER if nth % 2 else WRONG}```")
        )
        asked = (
            "--model",
            fake.url,
            "--name",
            "m",
            "--out",
            str(out),
            "--budget",
            "2",
            "--seconds",
            "0.5",
            "--clock",
            "cpu",
        )
        done = invoke(str(task), *asked)
        assert done.exit_code == 0, done.output
        sent = len(fake.asked)
        again = invoke(str(task), *asked)
        assert again.exit_code == 0, again.output
        assert len(fake.asked) == sent, "a finished search asks nothing"
    summary = json.loads((out / "summary.json").read_text())
    assert summary["evaluations"] == 2
    assert summary["statuses"].get("rejected", 0) >= 1, "20 is not 21"
    assert summary["cost"]["answers"] == sent
    assert "2 verdicts on" in done.output
    assert "21 * x" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--model", "http://127.0.0.1:9/v1"), "name the model that it serves with --name"),
        (("--model", "no/such/folder/here", "--name", "m"), "--name and --key-variable are for an address"),
        (("--model", "no/such/folder/here"), "no such folder"),
        (("--model", "http://127.0.0.1:9/v1", "--name", "m", "--strategy", "best"), "wanted one of buckets, islands"),
    ],
)
def test_what_cannot_be_used_is_said(task: Path, tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    done = invoke(str(task), "--out", str(tmp_path / "out"), *arguments)
    assert done.exit_code == 1, done.output
    assert said in " ".join(done.output.split())


def test_a_task_that_is_none_is_said(tmp_path: Path) -> None:
    done = invoke(
        str(tmp_path / "none.py"), "--model", "http://127.0.0.1:9/v1", "--name", "m", "--out", str(tmp_path / "out")
    )
    assert done.exit_code == 1
    assert "no such file" in done.output
