"""What benches over seeds record: a claim is its weakest seed's, whichever way it points, and gazal_r1's control is paired by problem."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import gazal_r1, seeds


def row(name: str, low: float, high: float, *, op: str = ">=", threshold: float = 0.0) -> dict[str, Any]:
    measured = (low + high) / 2
    return {
        "id": name,
        "statement": "what was claimed",
        "measured": measured,
        "interval": [low, high],
        "op": op,
        "threshold": threshold,
        "n": 10,
        "met": measured >= threshold if op == ">=" else measured <= threshold,
    }


def test_a_claim_is_that_of_its_weakest_seed() -> None:
    runs = [
        [row("gain", 0.02, 0.06), row("alarms", 0, 0, op="<=")],
        [row("gain", -0.05, 0.01), row("alarms", 2, 2, op="<=")],
        [row("gain", 0.1, 0.2), row("alarms", 0, 0, op="<=")],
    ]
    gain, alarms = seeds.weakest(runs)
    assert (gain["interval"], gain["met"]) == ([-0.05, 0.01], False)
    assert (alarms["measured"], alarms["met"]) == (2, False)
    assert gain["statement"] == "what was claimed; the weakest of 3 seeds"


def test_every_seed_must_meet_it_and_measure_it() -> None:
    assert seeds.weakest([[row("a", 0.1, 0.2)], [row("a", 0.2, 0.3)]])[0]["met"]
    assert not seeds.weakest([[row("a", 0.1, 0.2)], []])[0]["met"], "a seed that could not measure it has not met it"
    # The seed with the lowest interval is told of; another that misses the claim decides all the same.
    wide, narrow = row("a", -0.5, 0.7), row("a", -0.3, 0.1)
    assert (wide["met"], narrow["met"]) == (True, False)
    assert not seeds.weakest([[wide], [narrow]])[0]["met"]


def graded(folder: Path, right: dict[str, bool]) -> Path:
    (folder / "evals").mkdir(parents=True)
    rows = [
        {
            "problem_id": name,
            "status": "correct" if good else "wrong",
            "labels": {"slice": "recall" if name.startswith("r") else "multi_step"},
        }
        for name, good in right.items()
    ]
    (folder / "evals" / "sft.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_the_control_is_compared_on_the_same_problems_of_a_slice(tmp_path: Path) -> None:
    main = graded(tmp_path / "main", {"a": True, "b": True, "c": False, "r1": False})
    alone = graded(tmp_path / "alone", {"c": False, "b": False, "a": True, "r1": True})
    assert gazal_r1.gain(main, alone, "multi_step").value == pytest.approx(1 / 3)
    assert gazal_r1.gain(main, alone, "recall").value == -1
    gains = {part: gazal_r1.gain(main, alone, part) for part in gazal_r1.SLICES}
    assert [(one["id"], one["met"]) for one in gazal_r1.claims(main, gains)] == [
        ("B3 multi-step", True),
        ("B3 recall", True),
        ("false alarms", True),
    ]


def test_an_alarm_in_a_main_run_is_a_false_one(tmp_path: Path) -> None:
    main = graded(tmp_path / "main", {"a": True, "r1": True})
    events = [
        {"level": "warning", "message": "slow"},
        {"level": "alarm", "message": "the reward rises, accuracy falls"},
    ]
    (main / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    gains = {part: gazal_r1.gain(main, main, part) for part in gazal_r1.SLICES}
    last = gazal_r1.claims(main, gains)[-1]
    assert (last["measured"], last["met"]) == (1, False)
