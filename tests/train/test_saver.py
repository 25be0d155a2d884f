"""Saving beside training: the loop goes on while a thread writes, and nothing that the thread meets is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from postgrad.run import Failed, Preempted
from postgrad.train import checkpoint, optim
from postgrad.train.saver import Saver
from postgrad.train.settings import SftSettings

DEADLINE_S = 60
STATE = {"tokens": 0, "best_step": None, "best_score": None, "source": {}}


class SlowDisk:
    """Writes begin at once and go on when they are let."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.go_on = threading.Semaphore(0), threading.Semaphore(0)
        self.most, self._at_work = 0, 0
        real = checkpoint.write

        def write(*given: Any, **named: Any) -> Path:
            self._at_work += 1
            self.most = max(self.most, self._at_work)
            self.begun.release()
            assert self.go_on.acquire(timeout=DEADLINE_S)
            try:
                return real(*given, **named)
            finally:
                self._at_work -= 1

        monkeypatch.setattr(checkpoint, "write", write)

    def begins(self) -> None:
        assert self.begun.acquire(timeout=DEADLINE_S)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> SlowDisk:
    return SlowDisk(monkeypatch)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("save")] == []


@pytest.fixture
def saver(model: Any, tokenizer: Any, tmp_path: Path) -> Saver:
    optimizer = optim.adamw(model, SftSettings(max_steps=1, learning_rate=1e-3, max_length=8))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return Saver(tmp_path, model, tokenizer, optimizer, keep=2)


def full(*_: Any, **__: Any) -> Path:
    raise Failed("could not write checkpoint: no room")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_saved_is_what_was_there_when_it_was_asked_for(saver: Saver, disk: SlowDisk) -> None:
    before = {name: weight.clone() for name, weight in saver.model.state_dict().items()}
    moments = {index: values["exp_avg"].clone() for index, values in saver.optimizer.state_dict()["state"].items()}
    with saver:
        promised = saver.save(1, STATE)
        disk.begins()
        assert not promised.exists(), "the loop is here while the thread has written nothing yet"
        saver.optimizer.step()
        assert not torch.equal(saver.model.model.norm.weight, before["model.norm.weight"])
        disk.go_on.release()
    assert checkpoint.is_whole(promised)
    saved = type(saver.model).from_pretrained(promised).state_dict()
    assert all(torch.equal(saved[name], weight) for name, weight in before.items())
    state = torch.load(promised / "state" / "optimizer.pt", weights_only=True)["state"]
    assert all(torch.equal(state[index]["exp_avg"], value) for index, value in moments.items())
    assert {float(values["step"]) for values in state.values()} == {1.0}


def test_one_save_is_under_way_at_a_time_and_pruning_follows_each(saver: Saver, disk: SlowDisk, tmp_path: Path) -> None:
    with saver:
        saver.save(1, STATE)
        disk.begins()
        disk.go_on.release(4)
        saver.save(2, STATE | {"best_step": 1, "best_score": 0.0})
        assert (tmp_path / "step-000001").is_dir(), "the second has waited for the first"
        saver.save(3, STATE | {"best_step": 1, "best_score": 0.0})
        saver.save(4, STATE | {"best_step": 1, "best_score": 0.0})
    assert disk.most == 1
    assert names(tmp_path) == ["best", "latest", "step-000001", "step-000003", "step-000004"]
    assert (tmp_path / "latest").read_text() == "step-000004\n"
    assert checkpoint.best(tmp_path).name == "step-000001"


def test_a_save_does_not_change_what_the_one_before_it_writes(saver: Saver, disk: SlowDisk, tmp_path: Path) -> None:
    weight = saver.model.model.norm.weight
    threading.Timer(0.2, disk.go_on.release, [2]).start()
    with saver, torch.no_grad():
        for step in (1, 2):
            weight.fill_(step)
            saver.save(step, STATE)
        weight.fill_(3)
    for step in (1, 2):
        saved = type(saver.model).from_pretrained(tmp_path / f"step-{step:06d}").model.norm.weight
        assert torch.equal(saved, torch.full_like(saved, step))


def test_waiting_is_until_it_is_there(saver: Saver, disk: SlowDisk) -> None:
    with saver:
        promised = saver.save(1, STATE)
        disk.begins()
        threading.Timer(0.1, disk.go_on.release).start()
        saver.wait()
        assert checkpoint.is_whole(promised)


@pytest.mark.parametrize("moment", ["the next save", "a wait", "the end"])
def test_an_error_of_the_thread_is_the_loops(saver: Saver, monkeypatch: pytest.MonkeyPatch, moment: str) -> None:
    monkeypatch.setattr(checkpoint, "write", full)
    came_to = []

    def loop() -> None:
        with saver:
            saver.save(1, STATE)
            came_to.append("after the first")
            if moment == "the next save":
                saver.save(2, STATE)
            elif moment == "a wait":
                saver.wait()
            came_to.append("the end")

    with pytest.raises(Failed, match=r"^could not write checkpoint: no room$"):
        loop()
    assert came_to == ["after the first", "the end"][: 1 + (moment == "the end")]
    saver.wait()  # it is told once


def test_an_error_of_pruning_is_the_loops_too(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "prune", full)
    with pytest.raises(Failed, match="no room"), saver:
        saver.save(1, STATE)


def stopped_by(error: BaseException, saver: Saver, disk: SlowDisk | None = None) -> None:
    """A loop that ends so while a save is under way."""
    with saver:
        saver.save(1, STATE)
        if disk is not None:
            disk.begins()
        raise error


def test_a_loop_that_fails_finishes_the_save_and_its_own_error_comes_through(
    saver: Saver, disk: SlowDisk, tmp_path: Path
) -> None:
    threading.Timer(0.1, disk.go_on.release).start()
    with pytest.raises(Preempted, match="stopped"):
        stopped_by(Preempted("stopped"), saver, disk)
    assert checkpoint.is_whole(tmp_path / "step-000001")


def test_two_errors_are_both_told(saver: Saver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "write", full)
    with pytest.raises(Failed, match=r"^the loss is nan\nbesides: could not write checkpoint: no room$"):
        stopped_by(Failed("the loss is nan"), saver)


def test_a_stop_at_once_waits_only_so_long(
    saver: Saver, disk: SlowDisk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postgrad.train.saver.GRACE_S", 0.05)
    with pytest.raises(KeyboardInterrupt):
        stopped_by(KeyboardInterrupt(), saver, disk)
    assert not (tmp_path / "step-000001").exists()
    (thread,) = (thread for thread in threading.enumerate() if thread.name == "save 1")
    assert thread.daemon, "the process can end"
    disk.go_on.release()
    thread.join(DEADLINE_S)
    assert checkpoint.is_whole(tmp_path / "step-000001")


# ---- Ends of the process --------------------------------------------------------------------------------------------


def save_twice(folder: Path, model_folder: Path, hang: str) -> None:
    """In a process of its own: a second save that comes to `hang` and no further, and a loop that waits for it."""
    from transformers import AutoTokenizer

    from postgrad.train import model as models

    # Ignored where the tests themselves run in a shell's background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    model = models.load(str(model_folder), dtype=torch.float32, device=torch.device("cpu"))
    optimizer = optim.adamw(model, SftSettings(max_steps=1, learning_rate=1e-3, max_length=8))

    def hangs(*_: Any, **__: Any) -> None:
        (folder / "there").touch()
        time.sleep(DEADLINE_S)

    with Saver(folder, model, AutoTokenizer.from_pretrained(model_folder), optimizer, keep=2) as saver:
        saver.save(1, STATE)
        saver.wait()
        setattr(checkpoint, hang, hangs)
        saver.save(2, STATE)
        saver.wait()


def ended(folder: Path, model_folder: Path, hang: str, by: signal.Signals) -> int:
    """The exit code of `save_twice`, which got this signal where it hung."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["torch", "transformers", "postgrad.train.fit", "postgrad.recipes.math_two_stage"])
    process = context.Process(target=save_twice, args=(folder, model_folder, hang), daemon=True)
    process.start()
    deadline = time.monotonic() + DEADLINE_S
    while not (folder / "there").exists():
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert process.pid is not None
    os.kill(process.pid, by)
    process.join(DEADLINE_S / 2)
    assert process.exitcode is not None, "the thread keeps the process alive"
    return process.exitcode


@pytest.mark.parametrize(
    ("hang", "newest"),
    [("_write_model", 1), ("write_json", 1), ("_digest", 1), ("_flush", 1), ("write_text", 2), ("prune", 2)],
)
def test_a_process_that_is_killed_leaves_whole_checkpoints_and_no_half_one(
    tmp_path: Path, model_folder: Path, hang: str, newest: int
) -> None:
    assert ended(tmp_path, model_folder, hang, signal.SIGKILL) == -signal.SIGKILL
    found, damaged = checkpoint.recover(tmp_path)
    assert found == checkpoint.place(tmp_path, newest)
    assert not damaged
    assert [path.name for path in sorted(tmp_path.glob("*step-*"))] == ["step-000001", "step-000002"][:newest]
    assert not list(tmp_path.glob(".tmp*"))


def test_ctrl_c_ends_a_process_whose_thread_hangs(tmp_path: Path, model_folder: Path) -> None:
    assert ended(tmp_path, model_folder, "_digest", signal.SIGINT) == 1
    assert checkpoint.recover(tmp_path) == (checkpoint.place(tmp_path, 1), [])
