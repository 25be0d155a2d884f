"""Saving beside training: the loop pays for a copy to host memory (`checkpoint.snapshot`); a thread writes, hashes and flushes it.

At most one save is under way, and a second one waits for it, so host memory holds one copy: weights and optimizer state once
more, for as long as the stage lasts. What the thread meets (a full disk) is raised in the loop: by the next `save`, by
`wait`, or when the block ends. So a checkpoint is promised by `save` and there, whole or not at all, after `wait`. Pruning
and the name of the best follow each write, in the same thread.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from transformers import PreTrainedModel

from postgrad.ranks import ALONE, Ranks
from postgrad.run import Failed
from postgrad.train import checkpoint, shard

GRACE_S = 5.0
"""How long a stop at once (a second Ctrl-C) waits for the save under way."""


class Saver:
    """`with Saver(...) as saver:` around the loop. Every rank has one and calls it alike; rank 0's writes."""

    def __init__(
        self,
        folder: Path,
        model: PreTrainedModel,
        tokenizer: Any,
        optimizer: torch.optim.Optimizer,
        keep: int,
        ranks: Ranks = ALONE,
    ) -> None:
        self.folder = folder
        self.model = model
        # Two threads cannot use one: tokenizers' borrowing is checked as it runs.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.optimizer = optimizer
        self.keep = keep
        self.ranks = ranks
        self._host = shard.HostMemory()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def save(self, step: int, trainer: Mapping[str, Any]) -> Path:
        """Promise `folder/step-<step>`, then the pruning of others; returns its place. Raises what the save before met."""
        self.wait()
        taken = checkpoint.snapshot(
            step, model=self.model, optimizer=self.optimizer, trainer=trainer, host=self._host, ranks=self.ranks
        )
        if self.ranks.is_main:
            # A daemon: where a stop at once cannot wait, the process ends and leaves a .tmp folder that counts for nothing.
            self._thread = threading.Thread(target=self._write, args=(taken,), name=f"save {step}", daemon=True)
            self._thread.start()
        return checkpoint.place(self.folder, step)

    def wait(self) -> None:
        """Until what was promised is there, for every rank. Raises what the thread met."""
        self.ranks.first(self._join)

    def __enter__(self) -> Saver:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.wait()
        elif isinstance(error, Exception):
            # Not with the other ranks, which may be lost.
            try:
                self._join()
            except Exception as another:
                raise Failed(f"{error}\nbesides: {another}") from error
        elif self._thread is not None:
            self._thread.join(GRACE_S)

    def _join(self) -> None:
        if self._thread is not None:
            # Ends with the write, as a write in the loop would; a signal's handler can interrupt it.
            self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is not None:
            raise error

    def _write(self, taken: checkpoint.Snapshot) -> None:
        try:
            checkpoint.write(self.folder, taken, model=self.model, tokenizer=self.tokenizer)
            checkpoint.prune(self.folder, self.keep, taken.trainer["best_step"])
        except BaseException as error:  # a boundary: `_join` raises it in the loop
            self._error = error
