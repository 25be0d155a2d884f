"""Checkpoints: whole or absent, loadable by any tool, and never the reason that an older one is lost."""

from __future__ import annotations

import contextlib
import json
import os
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from postgrad.run import Failed
from postgrad.train import checkpoint, fit, optim, shard
from postgrad.train.settings import SftSettings
from tests.conftest import nudge


@pytest.fixture
def optimizer(model: Any) -> torch.optim.Optimizer:
    """With moments, as after a step."""
    made = optim.adamw(model, SftSettings(max_steps=1, learning_rate=1e-3, max_length=8))
    model(input_ids=torch.tensor([[1, 2]]), layout=_causal()).logits.sum().backward()
    made.step()
    made.zero_grad()
    return made


def _causal() -> Any:
    from postgrad.attention import Packed

    return Packed([2], torch.device("cpu"))


@pytest.fixture
def save(model: Any, tokenizer: Any, optimizer: torch.optim.Optimizer, tmp_path: Path) -> Any:
    def save(step: int, **trainer: Any) -> Path:
        state = {"tokens": 10 * step, "best_step": None, "best_score": None, "source": {}} | trainer
        taken = checkpoint.snapshot(step, model=model, optimizer=optimizer, trainer=state, host=shard.HostMemory())
        return checkpoint.write(tmp_path, taken, model=model, tokenizer=tokenizer)

    return save


def steps(folder: Path) -> list[int]:
    return sorted(int(path.name.removeprefix("step-")) for path in folder.glob("step-*"))


def test_what_was_saved_is_what_is_loaded(
    save: Any, model: Any, optimizer: torch.optim.Optimizer, model_folder: Path
) -> None:
    save(5)
    saved = save(7, best_step=5, best_score=-0.25, source={"position": 3})
    assert checkpoint.trainer_state(saved) == {
        "step": 7,
        "tokens": 70,
        "best_step": 5,
        "best_score": -0.25,
        "source": {"position": 3},
    }
    from postgrad.train import model as models

    other = nudge(models.load(str(model_folder), dtype=torch.float32, device=torch.device("cpu")))
    fit.load_weights(other, saved)
    for (name, a), (_, b) in zip(other.named_parameters(), model.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    fresh = optim.adamw(other, SftSettings(max_steps=1, learning_rate=5e-4, max_length=8))
    checkpoint.load_optimizer(saved, fresh)
    moments = list(optimizer.state_dict()["state"].values())
    assert len(moments) == len(list(model.parameters()))
    for a, b in zip(fresh.state_dict()["state"].values(), moments, strict=True):
        assert torch.equal(a["exp_avg"], b["exp_avg"])
        assert torch.equal(a["exp_avg_sq"], b["exp_avg_sq"])
        assert a["step"] == b["step"] == 1


def test_any_tool_loads_the_folder(save: Any, model: Any, tokenizer: Any) -> None:
    saved = save(1)
    loaded, words = AutoModelForCausalLM.from_pretrained(saved), AutoTokenizer.from_pretrained(saved)
    ids = words("take 1 (1)+2 mod 10")["input_ids"]
    assert ids == tokenizer("take 1 (1)+2 mod 10")["input_ids"]
    assert words.chat_template == tokenizer.chat_template
    with torch.no_grad():
        theirs = loaded(input_ids=torch.tensor([ids])).logits
        from postgrad.attention import Packed

        ours = model(input_ids=torch.tensor([ids]), layout=Packed([len(ids)], torch.device("cpu"))).logits
    assert torch.allclose(theirs, ours, atol=2e-5)
    assert "postgrad" not in (saved / "config.json").read_text()


def test_the_newest_is_named_and_found(save: Any, tmp_path: Path) -> None:
    assert checkpoint.latest(tmp_path) is None
    assert checkpoint.latest(tmp_path / "nowhere") is None
    save(1)
    newest = save(10)
    assert (tmp_path / "latest").read_text() == "step-000010\n"
    assert checkpoint.latest(tmp_path) == newest
    assert checkpoint.recover(tmp_path) == (newest, [])


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    match how:
        case "one bit":
            path.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        case "cut short":
            path.write_bytes(content[: len(content) // 2])
        case "emptied":
            path.write_bytes(b"")
        case "gone":
            path.unlink()


@pytest.mark.parametrize("how", ["one bit", "cut short", "emptied", "gone"])
@pytest.mark.parametrize(
    "name", ["model.safetensors", "state/optimizer.pt", "state/trainer.json", "tokenizer.json", "COMMIT.json"]
)
def test_a_damaged_one_is_not_whole_and_the_one_before_it_is_taken(
    save: Any, tmp_path: Path, name: str, how: str
) -> None:
    older, newer = save(1), save(2)
    assert checkpoint.is_whole(newer)
    damage(newer / name, how)
    assert not checkpoint.is_whole(newer)
    assert checkpoint.latest(tmp_path) == older
    assert checkpoint.recover(tmp_path) == (older, ["step-000002"])
    assert steps(tmp_path) == [1]
    assert (tmp_path / "broken-step-000002").is_dir(), "set aside, not deleted"
    assert checkpoint.is_whole(save(2))


@pytest.mark.parametrize("text", ["[]", "{}", "3", '{"files": 3}', "\xff"])
def test_a_commit_that_says_something_else_is_no_commit(save: Any, text: str) -> None:
    saved = save(1)
    (saved / "COMMIT.json").write_text(text, encoding="latin-1")
    assert not checkpoint.is_whole(saved)


def test_a_file_that_was_added_does_no_harm(save: Any) -> None:
    saved = save(1)
    (saved / "README.md").write_text("mine")
    assert checkpoint.is_whole(saved)


def test_what_a_killed_save_left_is_cleaned_away_on_resuming_and_not_by_looking(save: Any, tmp_path: Path) -> None:
    saved = save(1)
    for name in (".tmp-000002", ".trash-step-000000"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "model.safetensors").write_bytes(b"half")
    assert checkpoint.latest(tmp_path) == saved
    assert (tmp_path / ".tmp-000002").exists(), "another process may be writing it"
    assert checkpoint.recover(tmp_path) == (saved, [])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000001"]


def test_saving_a_step_again_replaces_it(save: Any, tmp_path: Path) -> None:
    save(1)
    again = save(1, tokens=99)
    assert checkpoint.trainer_state(again)["tokens"] == 99
    assert checkpoint.is_whole(again)
    assert steps(tmp_path) == [1]


@pytest.mark.parametrize(
    ("keep", "best", "kept"),
    [(1, None, [5]), (2, None, [4, 5]), (2, 2, [2, 4, 5]), (2, 5, [4, 5]), (9, 1, [1, 2, 3, 4, 5])],
)
def test_pruning_keeps_the_newest_and_the_best(
    save: Any, tmp_path: Path, keep: int, best: int | None, kept: list[int]
) -> None:
    for step in range(1, 6):
        save(step)
    checkpoint.prune(tmp_path, keep, best)
    assert steps(tmp_path) == kept
    assert not list(tmp_path.glob(".*"))
    if best is None:
        with pytest.raises(ValueError, match="has no validated checkpoint: the stage has not come to its first"):
            checkpoint.best(tmp_path)
    else:
        assert checkpoint.best(tmp_path) == tmp_path / f"step-{best:06d}"


@contextlib.contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The kernel refuses the write as it would on a full disk; Python ignores the signal that comes with it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("share", [0.75, 0.999])
@pytest.mark.parametrize("name", ["tokenizer.json", "model.safetensors", "state/optimizer.pt", "state/trainer.json"])
def test_a_full_disk_fails_with_what_to_do_and_leaves_the_older_ones_whole(
    save: Any, tmp_path: Path, name: str, share: float
) -> None:
    first = save(1)
    size = (first / name).stat().st_size
    filler = "x" * (2 * (first / "state/optimizer.pt").stat().st_size) if name == "state/trainer.json" else ""
    with (
        no_file_longer_than(int(share * (size + len(filler)))),
        pytest.raises(
            Failed,
            match=r"could not write checkpoint .*step-000002: no room .*Earlier checkpoints are untouched: free some space",
        ),
    ):
        save(2, source={"filler": filler})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000001"]
    assert checkpoint.latest(tmp_path) == first
    assert (tmp_path / "latest").read_text() == "step-000001\n"
    assert checkpoint.is_whole(save(2)), "with room again"


def test_an_error_that_is_not_the_disks_stays_itself(save: Any, tmp_path: Path) -> None:
    first = save(1)
    with pytest.raises(ValueError, match="not JSON compliant"):
        save(2, best_score=float("nan"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step-000001"]
    assert checkpoint.latest(tmp_path) == first


def test_files_have_the_mode_that_the_umask_gives(save: Any) -> None:
    before = os.umask(0o027)
    try:
        saved = save(1)
    finally:
        os.umask(before)
    assert {oct(path.stat().st_mode & 0o777) for path in saved.rglob("*") if path.is_file()} == {"0o640"}


def test_a_best_one_that_is_gone_is_no_longer_the_best(save: Any, tmp_path: Path) -> None:
    save(1)
    save(2, best_step=1, best_score=0.5)
    newer = save(3, best_step=3, best_score=0.6)
    checkpoint.prune(tmp_path, 2, 3)
    damage(newer / "model.safetensors", "gone")
    found, _ = checkpoint.recover(tmp_path)
    assert found is not None
    assert found.name == "step-000002"
    state = checkpoint.trainer_state(found)
    assert (state["best_step"], state["best_score"]) == (None, None)
    checkpoint.prune(tmp_path, 2, None)
    with pytest.raises(ValueError, match="has no validated checkpoint"):
        checkpoint.best(tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_a_disk_too_full_for_the_base_model_is_told_of_and_leaves_nothing(
    save: Any, model: Any, tokenizer: Any, tmp_path: Path, name: str
) -> None:
    size = (save(1) / name).stat().st_size
    base = tmp_path / "run" / "base"
    with (
        no_file_longer_than(size // 2),
        pytest.raises(
            Failed, match=r"could not write checkpoint .*run/base: no room \(\d+ MiB free there; .*free some space"
        ),
    ):
        checkpoint.write_base(base, model, tokenizer)
    assert not base.exists()
    checkpoint.write_base(base, model, tokenizer)
    assert AutoModelForCausalLM.from_pretrained(base)


def test_the_commit_lists_every_file_with_its_size(save: Any) -> None:
    saved = save(3)
    commit = json.loads((saved / "COMMIT.json").read_text())
    assert commit["step"] == 3
    files = {str(path.relative_to(saved)) for path in saved.rglob("*") if path.is_file()}
    assert set(commit["files"]) == files - {"COMMIT.json"}
    assert {"model.safetensors", "config.json", "tokenizer.json", "state/optimizer.pt", "state/trainer.json"} < files
    for name, entry in commit["files"].items():
        assert entry["bytes"] == (saved / name).stat().st_size
