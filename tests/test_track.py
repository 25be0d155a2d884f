"""Trackers get what metrics.jsonl gets, and whatever they do the run goes on."""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest

from postgrad import track
from postgrad.run import read_lines
from tests import tiny


class Recorder:
    def __init__(self) -> None:
        self.rows: list[tuple[Mapping[str, float], int]] = []
        self.closed = False

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        self.rows.append((numbers, step))

    def close(self) -> None:
        self.closed = True


class Broken(Recorder):
    def log(self, numbers: Mapping[str, float], step: int) -> None:
        if step == 2:
            raise ConnectionError("the server is gone")
        super().log(numbers, step)


def test_every_row_arrives_in_order() -> None:
    tracker = Recorder()
    queued = track.Queued(lambda: tracker)
    for step in range(100):
        queued.log({"loss": step / 2}, step)
    queued.close()
    assert tracker.rows == [({"loss": step / 2}, step) for step in range(100)]
    assert tracker.closed
    assert (queued.dropped, queued.failure) == (0, None)


def test_a_raising_tracker_loses_its_row_and_nothing_else() -> None:
    tracker = Broken()
    queued = track.Queued(lambda: tracker)
    for step in range(5):
        queued.log({"loss": 1.0}, step)
    queued.close()
    assert [step for _, step in tracker.rows] == [0, 1, 3, 4]
    assert queued.dropped == 1
    assert "the server is gone" in str(queued.failure)


def test_a_tracker_that_cannot_start_drops_everything_and_says_why() -> None:
    def make() -> Recorder:
        raise PermissionError("no key")

    queued = track.Queued(make)
    for step in range(3):
        queued.log({"loss": 1.0}, step)
    queued.close()
    assert queued.dropped == 3
    assert "no key" in str(queued.failure)


def test_a_hanging_tracker_delays_the_end_by_no_more_than_its_patience() -> None:
    release = threading.Event()

    class Hanging(Recorder):
        def log(self, numbers: Mapping[str, float], step: int) -> None:
            release.wait()

    queued = track.Queued(Hanging, capacity=2, patience_s=0.05)
    for step in range(10):
        queued.log({"loss": 1.0}, step)
    queued.close()
    release.set()
    assert queued.dropped >= 7


def test_a_missing_package_is_told_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"report_to names wandb, which is not installed.*postgrad\[track\]"):
        track.start("wandb", tmp_path, {})


def test_tensorboard_holds_the_curves_of_a_run(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tensorboard's own imports warn
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        _, run = tiny.start(tmp_path / "run")
        with run.tracked(("tensorboard",), tiny.settings()):
            for step in range(1, 4):
                run.log("sft", step, {"loss": 1 / step})
        events = EventAccumulator(str(run.folder / "tensorboard"))
        events.Reload()
    assert [(event.step, round(event.value, 4)) for event in events.Scalars("sft/loss")] == [
        (1, 1.0),
        (2, 0.5),
        (3, 0.3333),
    ]
    assert [row["loss"] for row in read_lines(run.folder / "metrics.jsonl")] == [1.0, 0.5, 1 / 3]


def test_what_a_tracker_did_not_take_is_told_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postgrad.run.start", lambda name, folder, config: track.Queued(Broken))
    _, run = tiny.start(tmp_path / "run")
    with run.tracked(("wandb",), tiny.settings()):
        for step in range(4):
            run.log("rl", step, {"reward": 1.0})
    event = json.loads((run.folder / "events.jsonl").read_text())
    assert event["level"] == "warning"
    assert "wandb did not take 1 rows: the server is gone" in event["message"]
    assert len(read_lines(run.folder / "metrics.jsonl")) == 4


def test_a_recipe_sends_both_stages_to_the_trackers_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = Recorder()
    monkeypatch.setattr("postgrad.run.start", lambda name, folder, config: track.Queued(lambda: tracker))
    tiny.run(tmp_path / "run", "report_to=[wandb]", "sft.max_steps=3", "rl.max_steps=2")
    stages = {name.partition("/")[0] for numbers, _ in tracker.rows for name in numbers}
    assert stages == {"sft", "rl"}
    assert len(tracker.rows) == len(read_lines(tmp_path / "run" / "metrics.jsonl")) == 5
    assert tracker.closed
