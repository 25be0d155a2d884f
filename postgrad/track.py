"""Trackers besides metrics.jsonl: TensorBoard, Weights & Biases, Trackio. A tracker never slows or fails a run.

Numbers go through a queue to a thread of their own. Where a tracker raises or falls behind, its rows are dropped and
counted; the run goes on and metrics.jsonl has them all. Install with the extra `track`.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import queue
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, Protocol

Name = Literal["tensorboard", "wandb", "trackio"]


class Tracker(Protocol):
    def log(self, numbers: Mapping[str, float], step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    def __init__(self, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self.writer = importlib.import_module("torch.utils.tensorboard").SummaryWriter(str(folder / "tensorboard"))

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        for name, value in numbers.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        self.writer.close()


class _Hosted:
    """wandb, and trackio, which has the same interface."""

    def __init__(self, module: str, folder: Path, name: str, config: Mapping[str, Any]) -> None:
        self.module: Any = importlib.import_module(module)
        where = {"dir": str(folder)} if module == "wandb" else {}
        self.module.init(project="postgrad", name=name, config=dict(config), **where)

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        # Stages count their steps anew, which these trackers would refuse: let them count rows.
        self.module.log({**numbers, "step": step})

    def close(self) -> None:
        self.module.finish()


class Queued:
    """Any tracker behind a queue; `dropped` rows never reached it."""

    def __init__(self, make: Callable[[], Tracker], *, capacity: int = 10_000, patience_s: float = 10.0) -> None:
        self.make = make
        self.patience_s = patience_s
        self.dropped = 0
        self.failure: Exception | None = None
        """The first thing that went wrong."""
        self._rows: queue.Queue[tuple[Mapping[str, float], int] | None] = queue.Queue(capacity)
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def log(self, numbers: Mapping[str, float], step: int) -> None:
        try:
            self._rows.put_nowait((numbers, step))
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Wait for the rest, but not for ever."""
        with contextlib.suppress(queue.Full):
            self._rows.put(None, timeout=self.patience_s)
        self._thread.join(self.patience_s)
        self.dropped += self._rows.qsize()

    def _work(self) -> None:
        try:
            tracker: Tracker | None = self.make()
        except Exception as error:  # a boundary: whatever a tracker does is its own affair
            self.failure, tracker = error, None
        while (row := self._rows.get()) is not None:
            try:
                if tracker is None:
                    self.dropped += 1
                else:
                    tracker.log(*row)
            except Exception as error:  # the same boundary
                self.failure = self.failure or error
                self.dropped += 1
        if tracker is not None:
            tracker.close()


def start(name: Name, folder: Path, config: Mapping[str, Any]) -> Queued:
    """Raises ValueError where its package is not installed: that is known before any work."""
    if importlib.util.find_spec(name) is None:
        raise ValueError(
            f"report_to names {name}, which is not installed: pip install 'postgrad[track]', or leave it out"
        )
    if name == "tensorboard":
        return Queued(lambda: _TensorBoard(folder, folder.name, config))
    return Queued(lambda: _Hosted(name, folder, folder.name, config))
