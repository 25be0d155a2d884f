"""Progress: what a log gets, what a terminal gets, and forecasts that can be believed."""

from __future__ import annotations

import io
import subprocess
import sys

import pytest

from postgrad.progress import Pace, Progress, auto, duration, plain_progress, rich_progress, shown, silent


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_plain_lines_come_at_an_interval_and_at_the_end() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = plain_progress(stream, interval=10, clock=clock)
    progress.start("sft", 40, "steps")
    for step in range(1, 41):
        clock.now += 1
        progress.update(step, loss=1 / step, learning_rate=1e-4)
    progress.finish()
    assert stream.getvalue().splitlines() == [
        "sft: 40 steps",
        "sft: 1/40 steps  2%  loss 1  learning_rate 0.0001",
        "sft: 11/40 steps  28%  1 steps/s  29 s left  loss 0.09091  learning_rate 0.0001",
        "sft: 21/40 steps  52%  1 steps/s  19 s left  loss 0.04762  learning_rate 0.0001",
        "sft: 31/40 steps  78%  1 steps/s  9 s left  loss 0.03226  learning_rate 0.0001",
        "sft: 40/40 steps  100%  1 steps/s  loss 0.025  learning_rate 0.0001",
        "sft: done after 40 s",
    ]


def test_a_stage_that_stops_early_says_where() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = plain_progress(stream, clock=clock)

    def interrupted() -> None:
        with shown(progress, "rl", 10, "steps") as rl:
            rl.update(3, reward=0.5)
            clock.now += 65
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert stream.getvalue().splitlines()[-1] == "rl: stopped at 3 of 10 steps after 1:05"


def test_a_new_stage_ends_the_one_before_and_finish_is_harmless() -> None:
    stream = io.StringIO()
    progress = plain_progress(stream, clock=Clock())
    progress.finish()
    progress.start("a", 1, "steps")
    progress.update(1)
    progress.start("b", 1, "steps")
    progress.finish()
    progress.finish()
    assert stream.getvalue().splitlines() == [
        "a: 1 steps",
        "a: 1/1 steps  100%",
        "a: done after 0 s",
        "b: 1 steps",
        "b: stopped at 0 of 1 steps after 0 s",
    ]


def test_a_resumed_run_forecasts_from_its_own_pace() -> None:
    clock = Clock()
    pace = Pace(clock)
    assert pace.rate() is None
    pace.see(500)  # the first update of a run that resumed at 499
    assert pace.left(500) is None
    clock.now += 2
    pace.see(501)
    assert (pace.rate(), pace.left(499)) == (0.5, 998.0)


def test_a_slow_start_is_forgotten() -> None:
    clock = Clock()
    pace = Pace(clock, window=5)
    clock.now += 600
    for step in range(1, 11):
        clock.now += 1
        pace.see(step)
    assert pace.rate() == 1.0


def test_a_clock_that_stands_still_gives_no_rate() -> None:
    pace = Pace(Clock())
    pace.see(1)
    pace.see(2)
    assert pace.rate() is None


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0 s"), (59.4, "59 s"), (59.6, "1:00"), (245, "4:05"), (7387, "2:03:07")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_slow_units_are_given_in_seconds_each() -> None:
    clock, stream = Clock(), io.StringIO()
    progress = plain_progress(stream, interval=1, clock=clock)
    progress.start("rl", 10, "steps")
    for step in (1, 2):
        clock.now += 4
        progress.update(step)
    assert "4 s/step  32 s left" in stream.getvalue()


def test_numbers_that_are_not_finite_are_shown_as_they_are() -> None:
    stream = io.StringIO()
    progress = plain_progress(stream)
    progress.start("sft", 2, "steps")
    progress.update(1, loss=float("nan"))
    assert "loss nan" in stream.getvalue()


def test_rich_draws_and_keeps_notes() -> None:
    stream = Terminal()
    progress = rich_progress(stream)
    progress.start("sft", 3, "steps")
    progress.note("warning: [not markup] 5 examples left out")
    for step in (1, 2, 3):
        progress.update(step, loss=0.5)
    progress.finish()
    progress.finish()
    drawn = stream.getvalue()
    assert "[not markup] 5 examples left out" in drawn
    assert "3/3 steps" in drawn
    assert "loss 0.5" in drawn
    assert drawn.count("\x1b[?25l") == drawn.count("\x1b[?25h") == 1, "the cursor is given back"


@pytest.mark.parametrize(
    ("stream", "environment", "kind"),
    [
        (Terminal(), {"TERM": "xterm"}, "_Rich"),
        (Terminal(), {"TERM": "dumb"}, "_Plain"),
        (Terminal(), {"CI": "true"}, "_Plain"),
        (Terminal(), {"NO_COLOR": "1"}, "_Plain"),
        (io.StringIO(), {"TERM": "xterm"}, "_Plain"),
    ],
)
def test_auto_picks_by_who_watches(stream: io.StringIO, environment: dict[str, str], kind: str) -> None:
    assert type(auto(stream, environment)).__name__ == kind


def test_silent_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    progress: Progress = silent()
    with shown(progress, "sft", 1, "steps"):
        progress.update(1, loss=1.0)
        progress.note("unheard")
    assert capsys.readouterr() == ("", "")


def test_progress_imports_neither_torch_nor_rich() -> None:
    code = "import sys, postgrad.progress; print({'torch', 'rich'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
