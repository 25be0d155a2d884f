"""What can be wrong with a config: one Fault each, all of them together in a ConfigError."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from postgrad.config.hints import alternatives


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong: where it was written, what is wrong, and what was probably meant."""

    place: str
    """`file.yaml:3`, `override 'a.b=c'`, `environment POSTGRAD__A__B` or "config" where nothing was written."""
    key: str
    """Full dotted key; empty where the fault is not about one key."""
    message: str
    hints: tuple[str, ...] = ()
    """Known keys or values, likeliest first."""
    absence: bool = False
    """Something is missing, rather than wrong."""

    def __str__(self) -> str:
        meant = f"; did you mean {alternatives(self.hints)}?" if self.hints else ""
        return f"{self.place}: {self.message}{meant}"


class ConfigError(ValueError):
    """Everything wrong with a config."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__(tuple(faults))
        self.faults = tuple(faults)

    def __str__(self) -> str:
        if len(self.faults) == 1:
            return str(self.faults[0])
        return "\n".join([f"the config has {len(self.faults)} faults", *(f"  {fault}" for fault in self.faults)])


class RefusedError(Exception):
    """A layer cannot be read; becomes a Fault where its place is known."""
