"""A run that is killed at any moment and resumed ends with the same bits as one that was not."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from postgrad import config
from postgrad.recipes import math_two_stage
from postgrad.run import Run, read_lines
from tests import tiny

# Several updates on one rollout and a KL, so that kills fall between groups in flight as well.
HARDER = ("rl.num_iterations=2", "rl.beta=0.02")
DEADLINE_S = 240


def go_on(folder: str) -> None:
    """In a process of its own: what `postgrad resume` does."""
    import torch

    torch.set_num_threads(1)
    opened = Run.open(Path(folder))
    layers = [config.Text(opened.config_text, "config.yaml")]
    math_two_stage.main(config.load(math_two_stage.Config, layers).settings, opened)


def child(folder: Path) -> Any:
    # A fork server that has imported torch once starts each of the dozen processes in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "postgrad.train.fit", "postgrad.recipes.math_two_stage"])
    process = context.Process(target=go_on, args=(str(folder),), daemon=True)
    process.start()
    return process


def logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(read_lines(path)) if path.is_file() else 0


def kill_when(folder: Path, steps: int, delay_s: float) -> None:
    process = child(folder)
    deadline = time.monotonic() + DEADLINE_S
    while logged(folder) < steps:
        assert process.is_alive(), f"the run ended before step {steps}"
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay_s)
    os.kill(process.pid, signal.SIGKILL)
    process.join(10)
    assert process.exitcode == -signal.SIGKILL


def weights(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.glob("checkpoints/*/step-*/model.safetensors"))
    }


def steps(folder: Path) -> list[dict[str, Any]]:
    clocks = ("time", "step_time")
    return [
        {name: value for name, value in row.items() if name not in clocks}
        for row in read_lines(folder / "metrics.jsonl")
    ]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_ten_kills_in_both_stages_change_no_bit(tmp_path: Path, dtype: str) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        tiny.start(folder, *HARDER, f"model.dtype={dtype}")
    process = child(whole)
    process.join(DEADLINE_S)
    assert process.exitcode == 0

    rng = random.Random(0)
    moments = sorted(rng.sample(range(1, 24), 5)) + sorted(rng.sample(range(25, 36), 5))
    for moment in moments:
        kill_when(killed, moment, rng.uniform(0, 0.1))
    process = child(killed)
    process.join(DEADLINE_S)
    assert process.exitcode == 0

    assert len(weights(whole)) >= 4
    assert weights(killed) == weights(whole)
    assert steps(killed) == steps(whole)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (whole, killed)]
    for summary in summaries:
        del summary["seconds"]
    assert summaries[0] == summaries[1]
    samples = [(folder / "evals" / "rl.jsonl").read_text() for folder in (whole, killed)]
    assert samples[0] == samples[1]
