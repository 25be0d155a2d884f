"""What the page says, and what it does with damaged, missing and far too large pieces."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import fake_run
import pytest

from postgrad import report
from postgrad.report import measured, samples, template, training
from postgrad.report.about import notices as notices_of
from postgrad.report.evaluation import wilson
from postgrad.report.folder import read


def headline(folder: Path) -> str:
    found = read(folder, max_problems=1)
    return measured.headline(found, measured.models_of(found)).replace("\u00a0", " ")


def test_the_headline_comes_from_the_facts(run: Path) -> None:
    wanted = "SFT reached 91.2 % [89.3, 92.9]; GRPO then cut tokens by 48 % at +1.0 points [−0.8, 2.8] of accuracy."
    assert headline(run) == wanted


@pytest.mark.parametrize(
    ("models", "wanted"),
    [
        (("sft",), "SFT reached 91.2 % [89.3, 92.9]."),
        (
            ("base", "rl"),
            "The base model reached 0.4 %; GRPO then cut tokens by 68 % at +91.8 points [−0.8, 2.8] of accuracy.",
        ),
        (("base",), "Base reached 0.4 %."),
        ((), "Nothing is measured yet."),
    ],
)
def test_a_headline_without_all_models(tmp_path: Path, models: tuple[str, ...], wanted: str) -> None:
    summary = fake_run.summary()
    summary["models"] = {m: summary["models"][m] for m in models}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert headline(tmp_path) == wanted


def test_more_tokens_are_not_called_a_cut(tmp_path: Path) -> None:
    summary = fake_run.summary()
    summary["models"]["rl"]["tokens"]["value"] = 200
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    assert "GRPO then raised tokens by 40 %" in headline(tmp_path)


def test_alarms_come_first_and_equal_ones_are_counted(run: Path) -> None:
    notices = notices_of(read(run, max_problems=1))
    assert [n["level"] for n in notices] == ["alarm", "warning"]
    assert notices[1]["where"] == "RL, 3 times, steps 40 to 120"


def test_a_claim_that_is_not_met_stays(run: Path) -> None:
    claims = measured.claims(read(run, max_problems=1))
    assert [c.verdict for c in claims] == ["met", "met", "met", "not met"]
    assert claims[3].note == "the interval holds the threshold"
    assert claims[2].threshold.replace("\u00a0", " ") == "≥ −2.0 points"


def test_the_policy_names_the_script_and_no_address_is_outside(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-" in html
    without_names = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"(?:https?:)?//[a-z0-9-]+\.[a-z]", without_names)


def test_every_chart_has_a_title_a_description_and_its_numbers(run: Path) -> None:
    html = (run / "report.html").read_text(encoding="utf-8")
    charts = re.findall(r"<svg class=\"chart\" role=\"img\".*?</svg>", html, flags=re.S)
    assert len(charts) > 20
    assert all(re.search(r"<title id=.+?</title><desc id=.+?</desc>", c) for c in charts)
    figures = re.findall(r"<figure.*?</figure>", html, flags=re.S)
    assert figures
    assert all("<table>" in f for f in figures)
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


def test_nothing_is_left_half_written(run: Path) -> None:
    before = sorted(p.name for p in run.iterdir())
    assert report.write(run) == run / "report.html"
    assert sorted(p.name for p in run.iterdir()) == before
    first = (run / "report.html").read_bytes()
    report.write(run)
    assert (run / "report.html").read_bytes() == first


def test_no_folder_is_said_plainly(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere: no such folder; give the folder of a run"):
        report.write(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["manifest.json", "stages.json", "summary.json", "metrics.jsonl", "events.jsonl", "config.yaml"]
)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"[]",
        b'{"a": [',
        b"\xff\xfe\x00",
        b"[" * 5000,
        b'{"data":' * 900 + b"1" + b"}" * 900,
        b'{"models": 3, "claims": {"x": 1}, "step": "a"}\n' * 2,
    ],
)
def test_a_damaged_file_is_reported_and_the_rest_is_shown(tmp_path: Path, name: str, content: bytes) -> None:
    fake_run.write_run(tmp_path, sft_steps=3, rl_steps=3, rows=4, problems=1)
    (tmp_path / name).write_bytes(content)
    html = report.write(tmp_path).read_text(encoding="utf-8")
    assert "Answers side by side" in html
    if content in (b"\xff\xfe\x00", b'{"a": [') and name != "config.yaml":
        assert f"{name}" in html.split("</section>")[0]


def test_each_file_alone_makes_a_page(tmp_path: Path) -> None:
    whole = fake_run.write_run(tmp_path / "whole", sft_steps=3, rl_steps=3, rows=4, problems=1)
    for i, path in enumerate(p for p in whole.rglob("*") if p.is_file()):
        copy = tmp_path / str(i) / path.relative_to(whole)
        copy.parent.mkdir(parents=True)
        copy.write_bytes(path.read_bytes())
        assert report.write(tmp_path / str(i)).stat().st_size > 1000


def test_values_that_are_no_numbers_are_counted_not_drawn(tmp_path: Path) -> None:
    lines = [
        f'{{"stage": "sft", "step": {i}, "loss": {v}}}'
        for i, v in enumerate(("1.0", "NaN", "Infinity", "1e999", "0.5"))
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = read(tmp_path, max_problems=1)
    assert folder.metrics["sft"]["loss"] == [(0, 1.0), (4, 0.5)]
    assert folder.troubles == ["3 values of loss (sft) are not finite and not drawn."]
    report.write(tmp_path)


def test_a_step_run_again_counts_once_and_the_later_value_holds(tmp_path: Path) -> None:
    fake_run.lines(
        tmp_path / "metrics.jsonl", [{"stage": "sft", "step": s, "loss": v} for s, v in ((1, 3.0), (2, 2.0), (1, 9.0))]
    )
    assert read(tmp_path, max_problems=1).metrics["sft"]["loss"] == [(1, 9.0), (2, 2.0)]


def test_a_large_run_stays_small(tmp_path: Path) -> None:
    fake_run.write_run(tmp_path, sft_steps=6000, rl_steps=3000, rows=2000, problems=60)
    rng = random.Random(0)
    words = [f" {rng.randrange(10**6)}" for _ in range(4000)]
    rows = [
        {
            "problem_id": f"p{i}",
            "prompt": "q" * 9000,
            "gold": "1",
            "model": m,
            "status": "wrong",
            "tokens": words,
            "logprobs": [-rng.expovariate(0.3) for _ in words],
        }
        for i in range(30)
        for m in ("base", "sft", "rl")
    ]
    fake_run.lines(tmp_path / "evals" / "samples.jsonl", rows)
    summary = fake_run.summary()
    summary["claims"] *= 500
    summary["data"] = {f"key {i}": "v" * 500 for i in range(5000)}
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (tmp_path / "config.yaml").write_text("key: <&>\n" * 100_000, encoding="utf-8")
    events = [{"stage": "rl", "step": i, "level": "warning", "message": f"{i} " + "w" * 900} for i in range(5000)]
    fake_run.lines(tmp_path / "events.jsonl", events)
    path = report.write(tmp_path)
    assert path.stat().st_size <= 2_000_000
    html = path.read_text(encoding="utf-8")
    assert "400 of 6,000 points are drawn" in html
    assert "of 30 problems in evals/samples.jsonl" in html
    assert "characters cut" in html
    assert "And 4977 more; all are in events.jsonl." in html


def test_the_worst_page_that_can_be_told_is_small(tmp_path: Path) -> None:
    """Every list longer and every text worse than a run makes them: quotes grow fivefold when they are escaped."""
    bad = '"' * 5000
    metrics = [
        {"stage": f"{bad}{stage}", "step": step, **{name: step % 7 / 8 + i for i, name in enumerate(names)}}
        for names in [
            [m for curve in training.CURVES for m, _ in curve.metrics] + [f"rewards/{bad}{i}/mean" for i in range(9)]
        ]
        for stage in range(7)
        for step in range(600)
    ]
    fake_run.lines(tmp_path / "metrics.jsonl", metrics)
    summary: dict[str, Any] = {
        "claims": [{"id": bad, "statement": bad, "op": bad}] * 99,
        "comparisons": [{"name": bad, "statement": bad}] * 99,
        "models": {f"{i}{bad}": {"accuracy": {"value": 0.5}, "tokens": {"value": i}} for i in range(99)},
        "data": {f"{bad}{i}": bad for i in range(999)},
        "reward_order": {"inverted_share": 1, "examples": [bad] * 99},
    }
    (tmp_path / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (tmp_path / "config.yaml").write_text(bad * 99, encoding="utf-8")
    sample = {"problem_id": bad, "prompt": bad, "gold": bad, "tokens": ['"'] * 9000, "logprobs": [-9.0] * 9000}
    fake_run.lines(tmp_path / "evals" / "samples.jsonl", [{**sample, "model": f"{m}{bad}"} for m in range(9)])
    assert report.write(tmp_path).stat().st_size <= template.MAX_BYTES


def test_tokens_without_their_probabilities_are_shown_plain() -> None:
    pieces, cut = samples.pieces({"tokens": ["a", "b"], "logprobs": [-1.0]}, 100)
    assert [(p.text, p.level) for p in pieces] == [("ab", 0)]
    assert cut == "1 log-probabilities for 2 tokens, so none is shown"


def test_tokens_are_marked_by_probability_and_cut_with_a_count() -> None:
    sample = {"tokens": ["a", "b", "c", "d", "eeee", "f"], "logprobs": [-0.01, -0.2, -1.0, -3.0, -9.0, 0.0]}
    pieces, cut = samples.pieces(sample, 8)
    assert [(p.text, p.level) for p in pieces] == [("a", 0), ("b", 1), ("c", 2), ("d", 3), ("eeee", 4)]
    assert pieces[1].hint == "p = 0.82"
    assert cut == "1 tokens (1 characters) cut here"


def test_wilson_as_by_hand() -> None:
    # n = 10, 8 hits, z = 1.96: centre 0.7168, half width 0.2265 (Newcombe 1998, method 3)
    low, high = wilson(8, 10)
    assert (round(low, 3), round(high, 3)) == (0.490, 0.943)
