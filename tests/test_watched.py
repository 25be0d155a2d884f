"""A run under the eyes of a watch: what is told is written and shown, and a stage may end at an alarm and go back."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from postgrad import cli, diagnose, wiring
from postgrad.config import Settings
from postgrad.evals.monitors import Monitors
from postgrad.progress import Progress, silent
from postgrad.records import Alarm
from postgrad.run import Alarmed, Run, read_lines
from tests import tiny


class Asked(Settings):
    seed: int = 7


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run.create(tmp_path / "run", recipe="toy", preset="laptop", config=Asked(), command=["postgrad"])


def noting(shown: list[str]) -> Progress:
    made = silent()
    made.note = shown.append  # type: ignore[method-assign]
    return made


class Eyes:
    """Tells an alarm at loss 9 and a warning at loss 5; both stand as long as it lasts."""

    def __init__(self) -> None:
        self.recalled: list[list[int]] = []
        self.loss = 0.0

    def see(self, stage: str, step: int, numbers: Mapping[str, float]) -> list[Alarm]:
        self.loss = numbers["loss"]
        level: Any = {5.0: "warning", 9.0: "alarm"}.get(self.loss)
        return [Alarm("high loss", level, stage, step, step - 1, f"it is {self.loss:g}", "Lower it")] if level else []

    def recall(self, stage: str, rows: Iterable[Mapping[str, Any]]) -> None:
        self.recalled.append([row["step"] for row in rows if row["stage"] == stage])

    def standing(self, stage: str) -> int:
        return int(self.loss >= 5)


def test_what_watches_a_run_is_written_down_and_shown(run: Run) -> None:
    shown: list[str] = []
    run.progress = noting(shown)
    with run.watched(Eyes()):
        for step, loss in enumerate((1.0, 5.0, 9.0, 1.0), start=1):
            run.log("rl", step, {"loss": loss})
    run.log("rl", 5, {"loss": 9.0})
    rows = read_lines(run.folder / "metrics.jsonl")
    assert [row.get("alarms") for row in rows] == [0, 1, 1, 0, None], "unwatched, nothing is said of alarms"
    assert [(row["stage"], row["step"], row["level"]) for row in read_lines(run.folder / "events.jsonl")] == [
        ("rl", 2, "warning"),
        ("rl", 3, "alarm"),
    ]
    assert shown == [
        "warning: high loss: it is 5, since about step 1. Lower it.",
        "alarm: high loss: it is 9, since about step 2. Lower it.",
    ]


def test_a_watched_run_may_end_at_an_alarm_and_not_at_a_warning(run: Run) -> None:
    with run.watched(Eyes(), ends_at_alarm=True):
        run.log("rl", 1, {"loss": 5.0})
        with pytest.raises(Alarmed, match="high loss: it is 9") as caught:
            run.log("rl", 2, {"loss": 9.0})
    assert caught.value.alarm.since == 1
    assert [row["step"] for row in read_lines(run.folder / "metrics.jsonl")] == [1, 2], "written down before it ended"
    assert read_lines(run.folder / "events.jsonl")[-1]["level"] == "alarm"


def test_a_rewound_run_is_seen_again_as_far_as_it_is_kept(run: Run) -> None:
    eyes = Eyes()
    for stage, step in (("sft", 1), ("rl", 1), ("rl", 2), ("rl", 3)):
        run.log(stage, step, {"loss": 1.0})
    with run.watched(eyes):
        run.rewind("rl", 2)
        run.rewind("eval", 0)
    assert eyes.recalled == [[1, 2], []]


# ---- Going back -----------------------------------------------------------------------------------------------------


def alarm(stage: str, step: int, since: int) -> Alarm:
    return Alarm("made up", "alarm", stage, step, since, "a sign", "Nothing does")


def test_an_alarm_ends_the_stage_and_its_newest_checkpoint_of_before_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def see(self: Monitors, stage: str, step: int, numbers: Mapping[str, float]) -> list[Alarm]:
        return [alarm(stage, step, since=7)] if (stage, step) == ("rl", 8) else []

    monkeypatch.setattr(Monitors, "see", see)
    asked, run = tiny.start(tmp_path / "run", "rl.rollback=true", "rl.save_total_limit=9", "sft.max_steps=6")
    tiny.math_two_stage.main(asked, run)
    assert run.stages()["rl"]["result"] == "checkpoints/rl/step-000006"
    assert [row["step"] for row in read_lines(run.folder / "metrics.jsonl") if row["stage"] == "rl"] == list(
        range(1, 9)
    )
    told = [event["message"] for event in read_lines(run.folder / "events.jsonl") if event["level"] != "info"]
    assert "rl ends here at the alarm of made up; going on from checkpoints/rl/step-000006" in told
    assert (run.folder / "summary.json").is_file(), "the run itself goes on and is measured"


def test_without_a_checkpoint_of_before_the_stage_hands_on_what_it_was_given(run: Run) -> None:
    def fitted() -> Any:
        raise Alarmed(alarm("rl", 8, since=7))

    assert wiring.trained(run, "rl", "checkpoints/sft/step-000006", fitted) == "checkpoints/sft/step-000006"


# ---- Read afterwards ------------------------------------------------------------------------------------------------


def written(folder: Path, rows: Iterable[Any]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_finished_run_tells_what_it_told_live(run: Run) -> None:
    """The same numbers, watched and read back."""
    with run.watched(Monitors()):
        for step in range(1, 41):
            run.log("rl", step, {"status/unchecked": 0.5 if step > 20 else 0.0, "completions/repetition": step / 40})
    stages, alarms = diagnose.diagnose(run.folder)
    assert stages == {"rl": 40}
    assert [(one.name, one.level) for one in alarms] == [("repetition drift", "alarm"), ("unchecked", "warning")]
    assert [event["message"] for event in read_lines(run.folder / "events.jsonl")] == [str(one) for one in alarms]
    assert read_lines(run.folder / "metrics.jsonl")[-1]["alarms"] == 2
    text = diagnose.told(stages, alarms)
    assert text.startswith(
        "rl: 40 steps, 1 alarm, 1 warning\n  alarm, told at step 24: repetition drift\n    seen   repeated"
    )


def test_weights_and_the_number_of_held_out_problems_are_the_runs(run: Run) -> None:
    (run.folder / "config.yaml").write_text("seed: 1\nrl:\n  rewards:\n    format: 0.5\n    length_unit: tokens\n")
    (run.folder / "data").mkdir()
    (run.folder / "data" / "validation.jsonl").write_text("{}\n" * 7)
    assert diagnose._weights(run.folder) == {"format": 0.5}
    assert diagnose._held_out(run.folder) == 7


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "is empty: the run has not taken its first step"),
        (
            [{"stage": "rl", "step": 1}, {"loss": 1.0}],
            "metrics.jsonl:2: no row of metrics, which has a stage and a step",
        ),
        ([[1, 2]], "metrics.jsonl:1: no row of metrics"),
    ],
)
def test_what_is_no_log_of_a_run_is_refused(tmp_path: Path, rows: list[Any], words: str) -> None:
    written(tmp_path / "run", rows)
    with pytest.raises(ValueError, match=words):
        diagnose.diagnose(tmp_path / "run")


def test_what_is_no_run_is_refused_with_what_to_give(tmp_path: Path) -> None:
    written(tmp_path / "run", [{"stage": "rl", "step": 1}])
    with pytest.raises(ValueError, match=f"is a file: give the run's folder, such as {tmp_path / 'run'}"):
        diagnose.diagnose(tmp_path / "run" / "metrics.jsonl")
    with pytest.raises(ValueError, match=r"there is no folder .*none: give the --out"):
        diagnose.diagnose(tmp_path / "none")
    with pytest.raises(ValueError, match=r"has no metrics\.jsonl: either it is no run's folder"):
        diagnose.diagnose(tmp_path)
    (tmp_path / "run" / "metrics.jsonl").write_text('{"stage": "rl", "st\n{}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:1: not JSON"):
        diagnose.diagnose(tmp_path / "run")


def test_the_command_gives_lines_to_programs_and_words_to_people(tmp_path: Path) -> None:
    written(tmp_path / "run", [{"stage": "rl", "step": step, "status/unchecked": 0.5} for step in range(1, 30)])
    done = CliRunner().invoke(cli.app, ["diagnose", str(tmp_path / "run")])
    assert done.exit_code == 0
    (row,) = map(json.loads, done.stdout.splitlines())
    assert set(row) == {"name", "level", "stage", "step", "since", "seen", "help"}
    assert (row["name"], row["since"], row["seen"]) == ("unchecked", 1, "50% of answers could not be checked")
    assert "rl: 29 steps, 1 warning" in done.stderr
    refused = CliRunner().invoke(cli.app, ["diagnose", str(tmp_path)])
    assert (refused.exit_code, refused.stdout) == (2, "")
    assert "has no metrics.jsonl" in refused.stderr
