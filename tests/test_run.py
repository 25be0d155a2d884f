"""A run's folder: what it refuses, what it keeps, and what a kill at any moment leaves of it."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from postgrad import run as runs
from postgrad.config import Settings
from postgrad.run import Failed, Preempted, Run, read_lines, write_text


class Asked(Settings):
    seed: int = 7
    rate: float = 1e-4


def create(out: Path, asked: Asked | None = None) -> Run:
    command = ["postgrad", "run", "toy", "--out", str(out)]
    return Run.create(out, recipe="toy", preset="laptop", config=asked or Asked(), command=command)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return create(tmp_path / "run")


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# Create and open


def test_a_new_folder_says_what_was_asked_and_where_it_ran(tmp_path: Path) -> None:
    out = tmp_path / "my runs" / "one"
    made = create(out)
    assert sorted(path.name for path in out.iterdir()) == ["command.txt", "config.yaml", "manifest.json"]
    assert made.config_text == "seed: 7\nrate: 0.0001\n"
    assert (out / "command.txt").read_text() == f"postgrad run toy --out '{out}'\n", "as a shell reads it back"
    manifest = json.loads((out / "manifest.json").read_text())
    assert (manifest["recipe"], manifest["preset"], manifest["seed"]) == ("toy", "laptop", 7)
    assert set(manifest) == {
        "recipe", "preset", "created", "commit", "postgrad", "python", "packages", "hardware", "seed",
    }  # fmt: skip
    assert set(manifest["packages"]) == set(runs.PACKAGES)
    assert manifest["hardware"]["cores"] == os.cpu_count()


def test_an_empty_folder_will_do_and_a_full_one_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    create(tmp_path / "empty")
    before = contents(tmp_path / "empty")
    with pytest.raises(
        ValueError, match=r"empty already exists and is not empty: continue it with `postgrad resume .*empty`"
    ):
        create(tmp_path / "empty", Asked(seed=8))
    assert contents(tmp_path / "empty") == before
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    with pytest.raises(ValueError, match=r"other already exists and is not empty: choose another --out"):
        create(tmp_path / "other")
    with pytest.raises(ValueError, match=r"thesis.tex already exists and is not empty: choose another --out"):
        create(tmp_path / "other" / "thesis.tex")
    assert contents(tmp_path / "other") == {"thesis.tex": b"mine"}


def test_open_gives_the_same_run_and_refuses_what_is_none(tmp_path: Path, run: Run) -> None:
    opened = Run.open(run.folder)
    assert (opened.recipe, opened.preset, opened.config_text) == (run.recipe, run.preset, run.config_text)
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=r"is not a run's folder \(it has no manifest.json\): give the --out"):
            Run.open(folder)


# Stages


def test_a_finished_stage_is_not_run_again(run: Run) -> None:
    calls: list[int] = []

    def work(asked: Asked, count: int) -> dict[str, int]:
        calls.append(count)
        return {"made": count}

    assert run.stage("data", work, Asked(), 3) == {"made": 3}
    assert Run.open(run.folder).stage("data", work, Asked(), 3) == {"made": 3}
    assert calls == [3]
    known = run.stages()["data"]
    assert (known["status"], known["result"]) == ("done", {"made": 3})
    assert known["seconds"] >= 0


def test_a_stage_with_other_arguments_is_refused_by_name(run: Run) -> None:
    run.stage("sft", lambda asked, run: "checkpoint", Asked(), run)
    with pytest.raises(Failed, match=r"stage 'sft' of .*run was run with other arguments: start a new run"):
        run.stage("sft", lambda asked, run: "checkpoint", Asked(rate=2e-4), run)
    assert run.stage("sft", lambda asked, run: "other", Asked(), Run.open(run.folder)) == "checkpoint", "a run is a run"


def test_a_stage_that_was_cut_short_runs_again_and_its_seconds_add_up(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(runs.time, "monotonic", lambda: float(next(clock)))

    def cut(asked: Asked) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run.stage("rl", cut, Asked())
    left = {name: run.stages()["rl"][name] for name in ("status", "seconds", "result")}
    assert left == {"status": "running", "seconds": 10, "result": None}
    with pytest.raises(Failed, match="stage 'rl'"):
        run.stage("rl", cut, Asked(seed=8))
    assert run.stage("rl", lambda asked: "done", Asked()) == "done"
    assert run.stages()["rl"]["seconds"] == 20


def test_what_setting_up_told_is_told_once_however_often_it_is_cut_short(run: Run) -> None:
    def cut(name: str) -> None:
        run.event(name, 0, "warning", "3 rows left out")
        run.event(name, 5, "info", "half-way")
        raise KeyboardInterrupt

    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run.stage("sft", cut, "sft")
    run.event("rl", 0, "info", "another stage's")
    told = [(row["stage"], row["step"]) for row in read_lines(run.folder / "events.jsonl")]
    assert told.count(("sft", 0)) == 1
    assert told.count(("sft", 5)) == 3, "steps are rewound to the checkpoint, not to the start"


def test_a_run_that_is_asked_to_stop_begins_no_stage(run: Run) -> None:
    run.stage("data", lambda: "done")
    run.stop_requested = "SIGTERM"
    assert run.stage("data", lambda: "again") == "done"
    with pytest.raises(Preempted, match="stopped by SIGTERM before sft"):
        run.stage("sft", lambda: "done")
    assert "sft" not in run.stages()


def test_a_second_process_is_refused_and_a_dead_one_is_not_in_the_way(run: Run) -> None:
    code = (
        "import sys, time; from pathlib import Path; from postgrad.run import Run\n"
        "Run.open(Path(sys.argv[1])).stage('sft', lambda: (print('at work', flush=True), time.sleep(600)))"
    )
    command = [sys.executable, "-c", code, str(run.folder)]
    with subprocess.Popen(command, cwd=Path(__file__).parent.parent, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "at work\n"
        with pytest.raises(Failed, match=r"another process is at work on .*run: wait for its end, or stop it first"):
            run.stage("sft", lambda: "done")
        first.kill()
    assert run.stage("sft", lambda: "done") == "done"


def test_a_full_disk_hides_no_other_error(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object) -> None:
        monkeypatch.setattr(runs.os, "fsync", _no_room)
        raise Failed("no room for the checkpoint")

    with pytest.raises(Failed, match="no room for the checkpoint"):
        run.stage("sft", fill)
    monkeypatch.undo()
    assert Run.open(run.folder).stages()["sft"]["status"] == "running"


def _no_room(_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Logs


def test_logs_are_lines_and_broken_numbers_are_named(run: Run) -> None:
    run.log("sft", 1, {"loss": 2.5, "grad_norm": 1})
    run.event("sft", 1, "alarm", "loss rises → look")
    for broken in (float("nan"), float("inf")):
        with pytest.raises(Failed, match=rf"rl, step 4: eval_loss is {broken}"):
            run.log("rl", 4, {"loss": 1.0, "eval_loss": broken})
    (row,) = read_lines(run.folder / "metrics.jsonl")
    assert row.pop("time") >= 0
    assert row == {"stage": "sft", "step": 1, "loss": 2.5, "grad_norm": 1}
    assert read_lines(run.folder / "events.jsonl") == [
        {"stage": "sft", "step": 1, "level": "alarm", "message": "loss rises → look"}
    ]


def test_a_torn_last_line_is_left_out_and_a_broken_one_before_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    for torn in ("", "{", '{"step": 3', '{"step": 3}', "\ud83d"):
        path.write_bytes(b'{"step": 1}\n{"step": 2}\n' + torn.encode("utf-8", "surrogatepass")[:2])
        assert read_lines(path) == [{"step": 1}, {"step": 2}]
    path.write_text('{"text": "a\u2028b\x85c"}\n')
    assert read_lines(path) == [{"text": "a\u2028b\x85c"}], "only a line feed ends a line"
    path.write_text('{"step": 1}\n{"st{"step": 2}\n{"step": 3}\n')
    with pytest.raises(ValueError, match=r"metrics.jsonl:2: not JSON: "):
        read_lines(path)


def test_rewinding_forgets_what_came_after_the_checkpoint(run: Run) -> None:
    for stage in ("sft", "rl"):
        for step in range(1, 5):
            run.log(stage, step, {"loss": step})
            run.event(stage, step, "info", f"step {step}")
            run.write_rows(f"rollouts/{stage}-{step:06d}.jsonl", [{"step": step}])
    with (run.folder / "metrics.jsonl").open("a") as log:
        log.write('{"stage": "rl", "st')
    run.rewind("rl", 2)
    steps = {"sft": [1, 2, 3, 4], "rl": [1, 2]}
    for name in ("metrics.jsonl", "events.jsonl"):
        rows = read_lines(run.folder / name)
        assert {stage: [row["step"] for row in rows if row["stage"] == stage] for stage in steps} == steps
    assert sorted(path.name for path in (run.folder / "rollouts").iterdir()) == [
        f"{stage}-{step:06d}.jsonl" for stage, kept in sorted(steps.items()) for step in kept
    ]
    run.log("rl", 3, {"loss": 0.5})
    assert read_lines(run.folder / "metrics.jsonl")[-1]["loss"] == 0.5, (
        "the torn line is gone, so the next one is whole"
    )
    run.rewind("rl", 0)
    assert {row["stage"] for row in read_lines(run.folder / "metrics.jsonl")} == {"sft"}


def test_rewinding_a_new_run_is_nothing(run: Run) -> None:
    before = contents(run.folder)
    run.rewind("sft", 0)
    assert contents(run.folder) == before


# Files


def test_rows_and_json_refuse_what_is_not_json_and_leave_the_old_file(run: Run) -> None:
    run.write_rows("rollouts/rl-000001.jsonl", [{"text": "é\n", "reward": None}])
    run.write_json("deep/er/order.json", {"share": 0.5})
    before = contents(run.folder)
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_rows("rollouts/rl-000001.jsonl", [{"reward": 1.0}, {"reward": float("nan")}])
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("deep/er/order.json", {"share": float("inf")})
    assert contents(run.folder) == before
    assert read_lines(run.folder / "rollouts" / "rl-000001.jsonl") == [{"text": "é\n", "reward": None}]


@pytest.mark.parametrize(
    "write", [lambda run: run.write_json("a.json", 2), lambda run: write_text(run.folder / "a.json", "2")]
)
def test_a_full_disk_leaves_the_old_file_and_is_named(
    run: Run, monkeypatch: pytest.MonkeyPatch, write: Callable[[Run], None]
) -> None:
    run.write_json("a.json", 1)
    monkeypatch.setattr(runs.os, "fsync", _no_room)
    with pytest.raises(
        Failed, match=r"could not write .*a.json: No space left on device. What was written before is untouched"
    ):
        write(run)
    monkeypatch.undo()
    assert (run.folder / "a.json").read_text() == "1\n"
    write(run)
    assert (run.folder / "a.json").read_text().strip() == "2", "what the failed write left is in nobody's way"


def test_a_log_without_room_is_named(run: Run) -> None:
    (run.folder / "metrics.jsonl").symlink_to("/dev/full")
    with pytest.raises(Failed, match=r"could not write .*metrics.jsonl: No space left on device"):
        run.log("sft", 1, {"loss": 1.0})


def test_a_kill_in_the_middle_of_writing_leaves_the_old_file_or_the_new_one(run: Run) -> None:
    path = run.folder / "stages.json"
    code = (
        "import sys, itertools; from pathlib import Path; from postgrad.run import write_text\n"
        "for n in itertools.count(): write_text(Path(sys.argv[1]), str(n % 10) * 100_000)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], cwd=Path(__file__).parent.parent) as writer:
        while not path.is_file():
            assert writer.poll() is None
        for _ in range(200):
            text = path.read_text()
            assert (len(text), len(set(text))) == (100_000, 1)
        writer.kill()
    text = path.read_text()
    assert (len(text), len(set(text))) == (100_000, 1)
