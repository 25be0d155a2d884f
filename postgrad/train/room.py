"""Micro-batches that the device has room for: one that has none is cut in two, and the step begins again.

A step's loss is a sum over its documents by a count that is known beforehand, so cutting its micro-batches changes loss and
gradient by rounding alone. What did not fit once is not tried again: later steps start with micro-batches as small.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from postgrad.ranks import Ranks
from postgrad.run import Failed
from postgrad.train.batch import Batch, halves


class Room:
    def __init__(self, tell: Callable[[str], object]) -> None:
        """`tell` is called with what a person should know."""
        self.tell = tell
        self.tokens: int | None = None
        """A micro-batch of more is cut, down to one document; None: nothing was too large so far."""

    def cut(self, batches: Sequence[Batch]) -> list[Batch]:
        return [part for batch in batches for part in self._cut(batch)]

    def _cut(self, batch: Batch) -> list[Batch]:
        if self.tokens is None or len(batch.input_ids_T) <= self.tokens or len(batch.documents) == 1:
            return [batch]
        return self.cut(halves(batch))

    def shrink(self, batch: Batch, step: int, ranks: Ranks) -> None:
        """After this one did not fit. Raises Failed where it is one document, and with several ranks."""
        tokens = len(batch.input_ids_T)
        if ranks.size > 1:
            raise Failed(
                f"step {step}: rank {ranks.rank} has no memory for a micro-batch of {tokens} tokens, and a step that {ranks.size} ranks "
                "are in cannot begin again. Lower per_device_train_batch_size (or set max_tokens_per_micro_batch), or set "
                "gradient_checkpointing=true, and resume from the last checkpoint"
            )
        if len(batch.documents) == 1:
            raise Failed(
                f"step {step}: the device has no memory for {batch.names[0]!r} alone, {tokens} tokens. Lower max_length or "
                "max_completion_length, or set gradient_checkpointing=true or dtype=bfloat16, and resume from the last checkpoint"
            )
        self.tokens = max(len(half.input_ids_T) for half in halves(batch))
        self.tell(
            f"step {step}: the device has no memory for a micro-batch of {tokens} tokens; from now on they have at most {self.tokens}, "
            "or one document. Loss and gradient stay the same; a lower per_device_train_batch_size saves the attempt"
        )
