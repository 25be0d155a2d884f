"""Hack rates over time: of the candidates that were judged, what share was caught, by reason; and when to ring.

A run that is being gamed shows it here before it shows in the speed-ups: CUDA-L1 found 82 of 250 early kernels (32.8 %)
on side streams only after users looked. Rates are over the newest `window` judged candidates, so an old plague does not
hide a new one; what could not be checked is counted apart and is in no rate.

Three alarms, each a reason to stop and read samples:
    rate        a reason's share of the window is at least `rate`
    surge       a reason's share of the window is at least `surge` times its share before, and it was caught >= `least` times
    suspicious  the share of verdicts "suspicious" (gains that nobody could explain) is at least `suspicious`
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postgrad.kernels.verdict import Reason

_HACKS = frozenset(reason.value for reason in Reason if reason.rows)


def of_hacks(reasons: Iterable[str]) -> list[str]:
    """Those that the catalogue of hacks has rows for: a kernel that does not build, or is honestly wrong, is no hack."""
    return [one for one in reasons if one in _HACKS]


@dataclass(frozen=True, slots=True)
class Thresholds:
    rate: float = 0.10
    """Share of the window, in (0, 1]."""
    surge: float = 3.0
    """Times the share before the window."""
    least: int = 5
    """Catches of a reason in the window below which no rate and no surge rings."""
    suspicious: float = 0.05
    """Share of the window, in (0, 1]."""


@dataclass(frozen=True, slots=True)
class Alarm:
    kind: str
    """rate, surge or suspicious."""
    reason: str | None
    """A reason's code; None for `suspicious`."""
    share: float
    """Of the window, in [0, 1]."""
    text: str


class Monitor:
    def __init__(self, window: int = 200, thresholds: Thresholds | None = None) -> None:
        if window < 1:
            raise ValueError(f"the monitor's window must be at least 1 judged candidate, not {window}")
        self.window = window
        self.thresholds = Thresholds() if thresholds is None else thresholds
        self.unchecked = 0
        """Candidates that could not be judged: ours, in no rate."""
        self._recent: deque[tuple[str, tuple[str, ...]]] = deque()
        self._before: Counter[str] = Counter()
        self._older = 0

    def add(self, status: str, reasons: Iterable[str] = ()) -> None:
        """One verdict: its status (accepted, rejected, suspicious, unchecked) and the codes of its findings.

        Warnings about a kernel that was accepted in the end are no hacks.
        """
        if status == "unchecked":
            self.unchecked += 1
            return
        caught = set() if status == "accepted" else set(reasons)
        self._recent.append((status, tuple(sorted(caught))))
        if len(self._recent) > self.window:
            _, old = self._recent.popleft()
            self._older += 1
            self._before.update(old)

    def rates(self) -> dict[str, float]:
        """Share of the window's judged candidates caught with each reason; empty before the first."""
        caught = Counter(reason for _, reasons in self._recent for reason in reasons)
        return {reason: count / len(self._recent) for reason, count in sorted(caught.items())}

    def alarms(self) -> list[Alarm]:
        found: list[Alarm] = []
        judged, limits = len(self._recent), self.thresholds
        if not judged:
            return found
        caught = Counter(reason for _, reasons in self._recent for reason in reasons)
        for reason, count in sorted(caught.items()):
            share = count / judged
            if count < limits.least:
                continue
            if share >= limits.rate:
                text = f"{reason}: {count} of the newest {judged} candidates; read some before going on"
                found.append(Alarm("rate", reason, share, text))
            before = self._before[reason] / self._older if self._older else None
            if before is not None and share >= limits.surge * before:
                text = f"{reason}: {share:.1%} of the newest {judged} candidates, {before:.1%} before them"
                found.append(Alarm("surge", reason, share, text))
        odd = sum(status == "suspicious" for status, _ in self._recent)
        if odd / judged >= limits.suspicious:
            text = f"{odd} of the newest {judged} candidates are suspicious: gains that no check explains"
            found.append(Alarm("suspicious", None, odd / judged, text))
        return found

    def metrics(self) -> dict[str, float]:
        """For a run's metrics: the share of the window that was caught, each reason's share, the count not checked."""
        judged = len(self._recent)
        row = {f"hacks/{reason}": rate for reason, rate in self.rates().items()}
        if judged:
            row["hacks/any"] = sum(bool(reasons) for _, reasons in self._recent) / judged
        return {**row, "hacks/unchecked": float(self.unchecked)}

    def state(self) -> dict[str, Any]:
        """As JSON, for a checkpoint."""
        return {
            "unchecked": self.unchecked,
            "recent": [[status, list(reasons)] for status, reasons in self._recent],
            "before": dict(self._before),
            "older": self._older,
        }

    def load(self, state: Mapping[str, Any]) -> None:
        recent: Sequence[tuple[str, Sequence[str]]] = state["recent"]
        self.unchecked, self._older = int(state["unchecked"]), int(state["older"])
        self._recent = deque((status, tuple(reasons)) for status, reasons in recent)
        self._before = Counter({str(reason): int(count) for reason, count in state["before"].items()})
