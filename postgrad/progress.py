"""What a long step shows while it runs: a live status on a terminal, plain lines in logs, or nothing."""

from __future__ import annotations

import os
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import IO, Protocol

Clock = Callable[[], float]


class Progress(Protocol):
    """One stage at a time: start, then update and note, then finish. To finish twice or before a start is harmless."""

    def start(self, stage: str, total: int, unit: str) -> None:
        """Begin a stage of `total` units, such as 200 times "step". Ends the stage before it."""

    def update(self, step: int, **numbers: float) -> None:
        """`step` units are done, counted from the stage's beginning also in a resumed run; numbers are its latest."""

    def note(self, message: str) -> None:
        """A line that stays."""

    def finish(self) -> None:
        """The stage is over, whether or not it got to its end."""


@contextmanager
def shown(progress: Progress, stage: str, total: int, unit: str) -> Iterator[Progress]:
    """A stage that finishes however its body ends, so that a terminal is left as it was."""
    progress.start(stage, total, unit)
    try:
        yield progress
    finally:
        progress.finish()


def auto(stream: IO[str] | None = None, environment: Mapping[str, str] | None = None) -> Progress:
    """A live status where a person watches a capable terminal; plain lines in CI, under NO_COLOR and in files."""
    stream = sys.stderr if stream is None else stream
    environment = os.environ if environment is None else environment
    plain = environment.get("CI") or environment.get("NO_COLOR") or environment.get("TERM") == "dumb"
    return plain_progress(stream) if plain or not stream.isatty() else rich_progress(stream)


def silent() -> Progress:
    """Shows nothing."""
    return _Silent()


def plain_progress(stream: IO[str] | None = None, *, interval: float = 10.0, clock: Clock = time.monotonic) -> Progress:
    """A line at the first update, at most one each `interval` seconds after it, and one at the end."""
    return _Plain(sys.stderr if stream is None else stream, interval, clock)


def rich_progress(stream: IO[str] | None = None) -> Progress:
    """A bar, rate, time left and the latest numbers, redrawn in place; notes scroll above it."""
    return _Rich(sys.stderr if stream is None else stream)


class Pace:
    """Units a second over the latest updates, so that a slow first step or a resumed run does not bend the forecast."""

    def __init__(self, clock: Clock, window: int = 30) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque(maxlen=window)

    def see(self, step: int) -> None:
        self._seen.append((self._clock(), step))

    def rate(self) -> float | None:
        """None until two updates have told it."""
        if len(self._seen) < 2:
            return None
        (began, first), (now, last) = self._seen[0], self._seen[-1]
        return (last - first) / (now - began) if now > began and last > first else None

    def left(self, remaining: int) -> float | None:
        """Seconds to go; None where the rate is not known."""
        rate = self.rate()
        return None if rate is None else max(0, remaining) / rate


def duration(seconds: float) -> str:
    """9 s, 4:05, 2:03:07."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours}:{minutes:02}:{whole % 60:02}"
    return f"{minutes}:{whole % 60:02}" if minutes else f"{whole} s"


def _plural(unit: str) -> str:
    return f"{unit.removesuffix('s')}s"


def _numbers(numbers: Mapping[str, float]) -> str:
    return "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())


def _speed(rate: float | None, unit: str) -> str:
    if rate is None:
        return ""
    return f"{rate:.3g} {unit}/s" if rate >= 1 else f"{1 / rate:.3g} s/{unit.removesuffix('s')}"


class _Silent:
    def start(self, stage: str, total: int, unit: str) -> None:
        pass

    def update(self, step: int, **numbers: float) -> None:
        pass

    def note(self, message: str) -> None:
        pass

    def finish(self) -> None:
        pass


class _Plain:
    def __init__(self, stream: IO[str], interval: float, clock: Clock) -> None:
        self._stream, self._interval, self._clock = stream, interval, clock
        self._running = False

    def start(self, stage: str, total: int, unit: str) -> None:
        self.finish()
        self._stage, self._total, self._unit = stage, total, _plural(unit)
        self._pace = Pace(self._clock)
        self._began = self._clock()
        self._said: float | None = None
        self._latest: tuple[int, Mapping[str, float]] = (0, {})
        self._unsaid = False
        self._running = True
        self._print(f"{stage}: {total} {self._unit}")

    def update(self, step: int, **numbers: float) -> None:
        self._pace.see(step)
        self._latest, self._unsaid = (step, numbers), True
        now = self._clock()
        if self._said is None or now - self._said >= self._interval:
            self._said = now
            self._say()

    def note(self, message: str) -> None:
        self._print(message)

    def finish(self) -> None:
        if not self._running:
            return
        self._running = False
        if self._unsaid:
            self._say()
        step = self._latest[0]
        reached = "done" if step >= self._total else f"stopped at {step} of {self._total} {self._unit}"
        self._print(f"{self._stage}: {reached} after {duration(self._clock() - self._began)}")

    def _say(self) -> None:
        self._unsaid = False
        step, numbers = self._latest
        left = self._pace.left(self._total - step)
        parts = [
            f"{self._stage}: {step}/{self._total} {self._unit}",
            f"{step / self._total:.0%}" if self._total else "",
            _speed(self._pace.rate(), self._unit),
            f"{duration(left)} left" if left is not None and step < self._total else "",
            _numbers(numbers),
        ]
        self._print("  ".join(part for part in parts if part))

    def _print(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class _Rich:
    def __init__(self, stream: IO[str]) -> None:
        from rich.console import Console

        self._console = Console(file=stream, highlight=False)
        self._finish: Callable[[], None] | None = None

    def start(self, stage: str, total: int, unit: str) -> None:
        from rich import progress as rich

        self.finish()
        unit = _plural(unit)
        columns = (
            rich.TextColumn("[bold]{task.description}"),
            rich.BarColumn(),
            rich.TextColumn("{task.completed:.0f}/{task.total:.0f} {task.fields[unit]}"),
            rich.TextColumn("[dim]{task.fields[pace]}"),
            rich.TextColumn("{task.fields[numbers]}", markup=False),
        )
        live = rich.Progress(*columns, console=self._console, expand=False)
        task = live.add_task(stage, total=total, unit=unit, pace="", numbers="")
        pace, began = Pace(time.monotonic), time.monotonic()

        def draw(step: int, numbers: Mapping[str, float]) -> None:
            pace.see(step)
            left = pace.left(total - step)
            ahead = "" if left is None else f"{_speed(pace.rate(), unit)}, {duration(left)} left"
            live.update(task, completed=step, pace=ahead, numbers=_numbers(numbers))

        def end() -> None:
            live.update(task, pace=duration(time.monotonic() - began))
            live.stop()

        live.start()
        self._draw, self._finish = draw, end

    def update(self, step: int, **numbers: float) -> None:
        self._draw(step, numbers)

    def note(self, message: str) -> None:
        self._console.print(message, markup=False)

    def finish(self) -> None:
        end, self._finish = self._finish, None
        if end is not None:
            end()
