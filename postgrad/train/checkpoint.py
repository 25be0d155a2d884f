"""Checkpoints: a Hugging Face folder that any tool loads, plus state/ to go on exactly; whole or absent.

    step-000100/            config.json, model.safetensors, tokenizer files: AutoModelForCausalLM.from_pretrained(folder)
                            or, of an adapter, adapter_config.json and adapter_model.safetensors: peft's from_pretrained
        state/optimizer.pt  the optimizer's moments, as they are in memory
        state/trainer.json  step, source state, best score: integers and rows, no generator states (see train/source.py)
        COMMIT.json         size and SHA-256 of every other file

Protocol: write to .tmp-<step>, hash, write COMMIT.json, flush files and folder, rename, flush the parent, then move
`latest`. Pruning renames to .trash-<step> before deleting. So at any moment of death the newest step-* folder
whose COMMIT validates is whole. One that a failing disk damaged later is set aside as broken-step-* on resuming.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from postgrad.ranks import ALONE, Ranks
from postgrad.run import Failed, write_json, write_text
from postgrad.train import adapter, shard


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that a checkpoint keeps of one step, in host memory: later updates do not reach it."""

    step: int
    weights: dict[str, torch.Tensor]
    moments: dict[str, Any]
    """An optimizer's state_dict."""
    trainer: Mapping[str, Any]


def snapshot(
    step: int,
    *,
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    trainer: Mapping[str, Any],
    host: shard.HostMemory,
    ranks: Ranks = ALONE,
) -> Snapshot:
    """Copy what must be saved before the next update changes it; the next snapshot into the same `host` changes the copy.

    `host` comes to hold weights and optimizer state once more; pinned, for a GPU, in blocks of the next power of two.
    `trainer` is kept as it is, so nobody may change it later. Every rank must call this; only rank 0's is whole.
    """
    weights, moments = shard.whole_weights(model, host, ranks), shard.whole_moments(optimizer, host, ranks)
    if model.device.type == "cuda":
        # One wait for all copies.
        torch.cuda.current_stream(model.device).synchronize()
    return Snapshot(step, weights, moments, trainer)


def write(folder: Path, taken: Snapshot, *, model: PreTrainedModel, tokenizer: Any) -> Path:
    """Write `folder/step-<step>`; returns it. Of the model only its configuration is read.

    Raises Failed, with the older checkpoints untouched, where the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".tmp-{taken.step:06d}"
    final = place(folder, taken.step)
    with _disk_errors(temporary, final):
        shutil.rmtree(temporary, ignore_errors=True)
        (temporary / "state").mkdir(parents=True)
        _write_model(temporary, model, tokenizer, taken.weights)
        # Into a file of Python's, whose errors say what the system said.
        with (temporary / "state" / "optimizer.pt").open("wb") as file:
            torch.save(taken.moments, file)
        write_json(temporary / "state" / "trainer.json", {"step": taken.step, **taken.trainer})
        write_json(temporary / "COMMIT.json", {"step": taken.step, "files": _digest(temporary)})
        for path in sorted(temporary.rglob("*")):
            _flush(path)
        _flush(temporary)
        if final.exists():
            _discard(final)
        temporary.rename(final)
        _flush(folder)
        write_text(folder / "latest", final.name + "\n")
    return final


def write_base(folder: Path, model: PreTrainedModel, tokenizer: Any) -> None:
    """A model's folder without a state to go on from. Raises Failed, and leaves no folder, where the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    with _disk_errors(folder, folder):
        _write_model(folder, model, tokenizer, None)


def _write_model(folder: Path, model: PreTrainedModel, tokenizer: Any, weights: dict[str, torch.Tensor] | None) -> None:
    if adapter.is_adapted(model):
        adapter.write(folder, model, weights)
    else:
        model.save_pretrained(folder, state_dict=weights)
    tokenizer.save_pretrained(folder)
    # safetensors makes its files the owner's alone; all others follow the umask.
    mode = (folder / "tokenizer_config.json").stat().st_mode
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


@contextlib.contextmanager
def _disk_errors(temporary: Path, final: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if not _is_full_disk(error):
            raise
        free = shutil.disk_usage(final.parent).free / 2**20
        raise Failed(
            f"could not write checkpoint {final}: no room ({free:.0f} MiB free there; {error}). Earlier checkpoints are untouched: "
            "free some space, or lower save_total_limit, and resume"
        ) from error


def _is_full_disk(error: BaseException | None) -> bool:
    """Here or in what led to it: torch raises an error of its own over the system's, safetensors puts its words in a text."""
    if error is None:
        return False
    words = ("No space left", "os error 28", "File too large", "os error 27", "Disk quota")
    return (
        getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        or any(text in str(error) for text in words)
        or _is_full_disk(error.__cause__ or error.__context__)
    )


def place(folder: Path, step: int) -> Path:
    return folder / f"step-{step:06d}"


def latest(folder: Path) -> Path | None:
    """The newest whole checkpoint. Reads only, so it may look at a run that is at work."""
    return next(filter(is_whole, sorted(folder.glob("step-*"), reverse=True)), None)


def newest(folder: Path, step: int) -> Path | None:
    """The newest whole checkpoint of this step or of one before it."""
    earlier = [path for path in folder.glob("step-*") if path <= place(folder, step)]
    return next(filter(is_whole, sorted(earlier, reverse=True)), None)


def recover(folder: Path) -> tuple[Path | None, list[str]]:
    """The newest whole checkpoint to go on from, and the names of newer ones that are damaged.

    Those are set aside as broken-step-*, where they count for nothing; what interrupted saves left is deleted.
    """
    for leftover in [*folder.glob(".tmp-*"), *folder.glob(".trash-*")]:
        shutil.rmtree(leftover, ignore_errors=True)
    newest = latest(folder)
    damaged = [c for c in sorted(folder.glob("step-*")) if newest is None or c > newest]
    for checkpoint in damaged:
        aside = checkpoint.with_name(f"broken-{checkpoint.name}")
        shutil.rmtree(aside, ignore_errors=True)
        checkpoint.rename(aside)
    return newest, [checkpoint.name for checkpoint in damaged]


def is_whole(checkpoint: Path) -> bool:
    """Whether every file that was saved is there to the last bit. Files that were added since do no harm."""
    commit = checkpoint / "COMMIT.json"
    if not commit.is_file():
        return False
    try:
        recorded = dict(json.loads(commit.read_bytes())["files"])
    except (ValueError, KeyError, TypeError):
        return False
    found = _digest(checkpoint)
    return all(found.get(name) == digest for name, digest in recorded.items())


def trainer_state(checkpoint: Path) -> dict[str, Any]:
    """What `snapshot` was given, and its step. A best checkpoint that is gone is no longer the best.

    It was pruned for a better one, and that one was damaged: the next validation names another.
    """
    state: dict[str, Any] = json.loads((checkpoint / "state" / "trainer.json").read_text())
    if state["best_step"] is not None and not place(checkpoint.parent, state["best_step"]).is_dir():
        state["best_step"] = state["best_score"] = None
    return state


def load_optimizer(checkpoint: Path, optimizer: torch.optim.Optimizer) -> None:
    # Mapped, so that ranks which each want a part do not each hold the whole.
    file, mapped = checkpoint / "state" / "optimizer.pt", shard.is_divided(optimizer)
    shard.take_moments(optimizer, torch.load(file, map_location="cpu", weights_only=True, mmap=mapped))


def best(folder: Path) -> Path:
    """The checkpoint with the highest validation score, as the stage left it."""
    name = folder / "best"
    if not name.is_file():
        raise ValueError(f"{folder} has no validated checkpoint: the stage has not come to its first validation")
    return folder / name.read_text().strip()


def prune(folder: Path, keep: int, best_step: int | None) -> None:
    """Keep the newest `keep` and the best, and name the best, if there is one."""
    kept = None if best_step is None else place(folder, best_step)
    for checkpoint in sorted(folder.glob("step-*"))[:-keep]:
        if checkpoint != kept:
            _discard(checkpoint)
    if kept is None:
        (folder / "best").unlink(missing_ok=True)
    else:
        write_text(folder / "best", kept.name + "\n")


def _discard(checkpoint: Path) -> None:
    trash = checkpoint.with_name(f".trash-{checkpoint.name}")
    shutil.rmtree(trash, ignore_errors=True)
    checkpoint.rename(trash)
    shutil.rmtree(trash)


def _digest(checkpoint: Path) -> dict[str, Any]:
    digests = {}
    for path in sorted(checkpoint.rglob("*")):
        if path.is_file() and path.name != "COMMIT.json":
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            digests[str(path.relative_to(checkpoint))] = {"bytes": path.stat().st_size, "sha256": digest}
    return digests


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
