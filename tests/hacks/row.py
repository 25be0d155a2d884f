"""A row of the catalogue of reward hacks: the exploit that must not be accepted, the honest twin that must be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from postgrad.kernels.verdict import Reason
from tests.hacks.tasks import Text


@dataclass(frozen=True, slots=True)
class Row:
    id: str
    mechanism: str
    """One sentence."""
    task: Text
    exploit: str
    twin: str
    backend: Literal["torch", "triton", "cuda", "cpp"] = "torch"
    twin_task: Text | None = None
    """None: the exploit's."""
    flags: tuple[Reason, ...] = ()
    """Reasons that the static rules must give for the exploit; empty where the text alone gives nothing away."""
    fools: Literal["correct", "faster"] | None = None
    """What a naive evaluator says of the exploit: correct, or correct and at least 1.5 times as fast. None: it has no say
    (the exploit is for the process, not for the numbers, or it needs a GPU)."""
    needs: Literal["cpu", "gpu"] = "cpu"

    @property
    def reasons(self) -> frozenset[Reason]:
        """Those by which the exploit may be caught: the row's, and those of its static flags."""
        return frozenset({*Reason.of_row(self.id), *self.flags})

    @property
    def honest_task(self) -> Text:
        return self.task if self.twin_task is None else self.twin_task
