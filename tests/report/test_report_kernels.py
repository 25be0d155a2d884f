"""Pages about kernels: what they say of records of every kind, damaged and hostile ones, and how they behave in a browser."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import fake_kernels as fake
import pytest
from playwright.sync_api import Browser
from test_report_browser import DESKTOP, HOSTILE, OPEN, TELEPHONE, opened, serious
from typer.testing import CliRunner

from postgrad import cli, pages
from postgrad.kernels import archive, search, signed
from postgrad.kernels.bench import BEST, tally
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.glossary import glossary
from postgrad.kernels.task import Task
from postgrad.kernels.verdict import KernelStatus, KernelVerdict, Reason
from postgrad.records import Problem, Trace, from_json
from postgrad.report import kernels as report
from postgrad.report import svg
from postgrad.report.kernels import code, many, scores, sources
from postgrad.report.kernels import search as search_page
from postgrad.report.kernels.entry import entry
from postgrad.report.template import MAX_BYTES
from postgrad.report.view import Figure, Table

TEXT = re.compile(r"<style>.*?</style>|<script>.*?</script>|<[^>]+>", re.S)


def said(html: str) -> str:
    """What a reader sees, on one line."""
    text = TEXT.sub(" ", html).replace("\u00a0", " ").replace("&#39;", "'").replace("&amp;", "&")
    return " ".join(text.split())


def headline(html: str) -> str:
    found = re.search(r"<h1>(.*?)</h1>", html, re.S)
    assert found
    return said(found[1])


# ---- One verdict


def test_a_record_is_what_the_grader_writes() -> None:
    """The fake would prove nothing if it had another form than the real thing."""
    for status in ("accepted", "suspicious", "unchecked", "rejected"):
        verdict = from_json(KernelVerdict, json.dumps(fake.verdict(status)))
        assert json.loads(json.dumps(fake.verdict(status))) == signed.sign(verdict, b"k" * 32)["verdict"]


@pytest.mark.parametrize(
    ("status", "wanted"),
    [
        ("accepted", "Accepted: right, and 1.84× the reference [1.81, 1.87]."),
        (
            "suspicious",
            "Suspicious: 1.84× the reference [1.81, 1.87], to be looked at again (it reads a clock while it is called).",
        ),
        ("rejected", "Rejected: the same address with new values gave the old output, and 1 more reason."),
        (
            "unchecked",
            "Unchecked, so it has no speed-up: the rounds vary too much to give a number.",
        ),
    ],
)
def test_the_verdict_in_one_line(status: str, wanted: str) -> None:
    assert headline(report.check_page(fake.record(status), glossary())) == wanted


def test_a_slower_kernel_is_called_slower() -> None:
    page = report.check_page(fake.record(speedup=0.8, interval=[0.78, 0.82]), glossary())
    assert headline(page) == "Accepted: right, and 0.80× the reference [0.78, 0.82] (slower)."


def test_a_finding_has_its_meaning_its_evidence_and_advice() -> None:
    text = said(report.check_page(fake.record("rejected"), glossary()))
    assert (
        "C02_STALE_ADDRESS catalogue C02, C01, C05, T10 The same address with new values gave the old output." in text
    )
    assert "the output of seed 2 is that of seed 1: largest difference 0.0 (input 0, seed 2)" in text
    assert "What to do: Compute from the values that are there now." in text


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_is_explained(reason: Reason) -> None:
    told = glossary()[reason.value]
    assert told["meaning"]
    assert told["advice"].endswith(".")
    record = fake.record("rejected", findings=[fake.finding(reason.value, means="rejected")])
    text = said(report.check_page(record, glossary()))
    assert said(told["meaning"]) in text


def test_a_reason_of_another_version_is_shown_by_its_name() -> None:
    text = said(report.check_page(fake.record("rejected", findings=[fake.finding("X99_NEW")]), glossary()))
    assert "X99_NEW This reason is not in the list of this version." in text


@pytest.mark.parametrize("status", ["rejected", "unchecked"])
def test_a_failure_is_never_a_number_whatever_the_file_says(status: str) -> None:
    record = fake.record(status, speedup=98.76, interval=[97.53, 99.87], timing=None)
    record["baselines"] = {"eager": {"speedup": 98.76}}
    text = said(report.check_page(record, glossary()))
    assert "98.76" not in text
    assert "97.53" not in text


def test_the_deciding_reason_is_one_as_bad_as_the_verdict() -> None:
    findings = [fake.finding("T17_TIMES_ITSELF"), fake.finding("C05_STALE_RESULT"), fake.finding("S05_PARTIAL_WORK")]
    assert entry(fake.record("rejected", findings=findings), glossary(), None).deciding == "C05_STALE_RESULT"


def test_the_second_clock_of_a_gpu_is_called_by_its_name() -> None:
    page = report.check_page(fake.record(timing={**fake.timing(), "second": "events"}), glossary())
    assert "Events a call" in page
    assert "CPU a call" not in page


def test_timing_shows_rounds_buckets_and_both_clocks() -> None:
    html = report.check_page(fake.record(), glossary())
    text = said(html)
    assert "160 rounds in 16 buckets; median of the buckets' means 1.84×, interval" in text
    assert "Reference 160 1.2 ms" in text
    assert "Rounds ended because the interval was narrow enough" in text
    chart = re.search(r'<svg[^>]*aria-labelledby="ratios-t.*?</svg>', html, re.S)
    assert chart
    assert chart[0].count('class="mark"') == 160 + 16 + 2  # rounds, buckets, and the two of the legend


def test_rounds_far_off_are_counted_not_drawn() -> None:
    timing = fake.timing()
    timing["candidate_s"] = [one / 50 if i % 40 == 0 else one for i, one in enumerate(timing["candidate_s"])]
    assert "4 rounds lie outside the plot." in said(report.check_page(fake.record(timing=timing), glossary()))


def test_ratios_are_of_the_clock_that_counts() -> None:
    timing = {**fake.timing(), "clock": "cpu", "reference_cpu_s": [4.0, 6.0], "candidate_cpu_s": [2.0, 2.0]}
    found = entry(fake.record(timing=timing), glossary(), None).timing
    assert found
    assert found.ratios == [2.0, 3.0]


def test_a_second_measurement_stands_beside_the_first() -> None:
    text = said(report.check_page(fake.record(timing={**fake.timing(), "again": fake.timing(1.79)}), glossary()))
    assert re.search(r"First 1\.84× .* Second, other workers 1\.79×", text)


def test_the_hardest_baseline_is_the_one_with_the_smallest_gain() -> None:
    found = entry(fake.record(), glossary(), None)
    assert found.hardest
    assert found.hardest.name == "reduce-overhead"
    assert "reduce-overhead (the hardest to beat)" in said(report.check_page(fake.record(), glossary()))


def test_where_a_baseline_failed_the_hardest_is_not_known() -> None:
    record = fake.record()
    record["baselines"]["compile"] = {**fake.timing(), "speedup": None}
    assert entry(record, glossary(), None).hardest is None
    assert "A baseline gave no number, so which one is hardest to beat is not known." in said(
        report.check_page(record, glossary())
    )


def test_the_share_of_the_bound_by_hand() -> None:
    record = fake.record(timing={**fake.timing(), "candidate_s": [4e-4, 5e-4, 9e-4]})
    record["roofline"] = {"bound_s": 2e-4}
    assert "Share of that bound reached 40.0 %" in said(report.check_page(record, glossary()))


# ---- Signatures and code


KEY = b"k" * 32


def real(**other: Any) -> dict[str, Any]:
    return {**fake.record(), **signed.sign(from_json(KernelVerdict, json.dumps(fake.verdict(**other))), KEY)}


def check(record: Any) -> list[str]:
    return signed.changes(record, KEY)


def test_a_signature_that_holds() -> None:
    text = said(report.check_page(real(), glossary(), signed=check))
    assert "signature verified" in text
    assert "Alarm" not in text


def test_what_was_changed_is_an_alarm_that_names_it() -> None:
    record = real()
    record["verdict"]["speedup"] = 18.4
    text = said(report.check_page(record, glossary(), signed=check))
    assert "Alarm The record is not as it was signed: speedup: changed." in text


def test_without_a_key_nothing_is_claimed() -> None:
    assert "nothing is known of whether it was changed" in said(report.check_page(real(), glossary()))
    record = fake.record()
    del record["signature"]
    assert "Warning Not signed: nothing shows that a grader wrote this record." in said(
        report.check_page(record, glossary(), signed=check)
    )


def test_other_code_than_was_judged_is_an_alarm() -> None:
    record = fake.record()
    assert "the code shown is the code that was judged" in said(report.check_page(record, glossary()))
    record["candidate"] += "# harmless\n"
    assert "Alarm The code shown is not the code that was judged" in said(report.check_page(record, glossary()))


def test_a_diff_by_hand() -> None:
    made = code.diff("a\nb\nc\nd\ne\nf\n", "a\nb\nc\nD\ne\nf\n", 1000)
    assert [(line.sign, line.old, line.new, line.text) for line in made.lines] == [
        (" ", "1", "1", "a"),
        (" ", "2", "2", "b"),
        (" ", "3", "3", "c"),
        ("-", "4", "", "d"),
        ("+", "", "4", "D"),
        (" ", "5", "5", "e"),
        (" ", "6", "6", "f"),
        (" ", "7", "7", ""),
    ]
    assert made.note == "1 lines added, 1 taken away."
    assert code.diff("a", "a", 1000).note == "The two texts are the same."


def test_a_diff_of_huge_texts_is_short_and_says_so() -> None:
    made = code.diff("x\n" * 1_000_000, "y" * 10_000_000, 40_000)
    assert len(made.lines) <= 2 * code.MAX_LINES
    assert "The kernel: 9,960,000 of 10,000,000 characters are left out." in made.note
    assert max(len(line.text) for line in made.lines) < 500


# ---- Many


def test_the_tally_by_hand() -> None:
    """Three tasks: 2x over eager and 1.5x over compile; 4x and 0.5x, degenerate; rejected."""

    def one(task: str, gain: float, compiled: float) -> dict[str, Any]:
        record = fake.record(task=task, speedup=gain, interval=None, timing={**fake.timing(), "speedup": gain})
        record["baselines"] = {"compile": {**fake.timing(), "speedup": compiled}}
        return record

    failed = {**fake.record("rejected", "c"), "baselines": {}}
    told = tally([one("a", 2, 1.5), {**one("b", 4, 0.5), "degenerate": "constant"}, failed])
    assert list(told.scores) == ["eager", "compile", BEST]
    assert told.left_out == []

    def geomean(name: str, kind: str) -> float:
        value = told.scores[name][kind].geomean
        assert value
        return value.value

    assert geomean("eager", "all") == pytest.approx(8**0.5)
    assert geomean("compile", "all") == pytest.approx(0.75**0.5)
    assert geomean(BEST, "all") == pytest.approx(0.75**0.5)
    assert geomean("eager", "without_degenerate") == pytest.approx(2)
    fast = {p: value.value for p, value in told.scores[BEST]["all"].fast.items() if value}
    assert fast == pytest.approx({"0": 2 / 3, "0.5": 1 / 3, "0.8": 1 / 3, "1": 1 / 3, "1.5": 0, "2": 0})


def test_a_baseline_without_a_number_is_unchecked_not_a_loss() -> None:
    record = fake.record()
    record["baselines"]["compile"] = {**fake.timing(), "speedup": None}
    told = tally([record])
    assert told.scores["compile"]["all"].counts == {"accepted": 0, "suspicious": 0, "unchecked": 1, "rejected": 0}
    assert told.scores[BEST]["all"].counts["unchecked"] == 1
    assert told.scores["eager"]["all"].counts["accepted"] == 1


def test_what_cannot_be_read_is_left_out_and_told() -> None:
    told = tally([fake.record(), fake.record(), {"verdict": {"task": 3}}])
    assert told.left_out[0] == "record 2: another kernel of softmax_matmul; the first one counts"
    assert told.left_out[1].startswith("record 3: ")
    assert told.scores["eager"]["all"].counts["accepted"] == 1


def audited(records: list[dict[str, Any]]) -> str:
    told = tally(records)
    shown = {name: {k: json.loads(pages.to_json(v)) for k, v in kinds.items()} for name, kinds in told.scores.items()}
    return report.audit_page(records, shown, glossary(), troubles=told.left_out)


def test_an_audit_counts_groups_and_compares() -> None:
    records = fake.audit(40)
    text = said(audited(records))
    counts = {s: sum(r["verdict"]["status"] == s for r in records) for s in ("accepted", "rejected", "unchecked")}
    assert text.count(f"{counts['accepted']} of 40 kernels are accepted; geometric mean") == 1
    assert f"✗ rejected C02_STALE_ADDRESS: {counts['rejected']}" in text
    assert f"✓ accepted nothing was found: {counts['accepted']}" in text
    assert f"C02_STALE_ADDRESS {counts['rejected']} {counts['rejected']} The same address" in text
    assert f"S05_PARTIAL_WORK {counts['rejected']} 0 A part" in text
    for row in (
        "eager, all tasks",
        "eager, without degenerate tasks",
        "the best baseline, all tasks",
        "As published: score_default 40",
    ):
        assert row in text


def test_published_figures_by_hand() -> None:
    table = scores.means({}, {"claims": [1.0, 1.0, 8.0]}, many.Limits(1, 1, 10))
    assert table.rows == [("As published: claims", "3", "3.33×", "1.00×", "2.00×", "33\u00a0%")]


def test_an_audit_of_thousands_stays_small_and_says_what_is_left_out() -> None:
    records = [{**one, "candidate": "x" * 5000} for one in fake.audit(60)] * 50
    for i, one in enumerate(records):
        one["verdict"] = {**one["verdict"], "task": f"task {i}", "timing": None}
    html = report.audit_page(records, {}, glossary())
    assert len(html.encode()) <= MAX_BYTES
    assert re.search(r"[\d,]+ of 3,000 kernels are left out here\.", said(html))


def test_nothing_at_all_is_still_a_page() -> None:
    for html in (
        report.check_page({}, {}),
        report.audit_page([], {}, {}),
        report.bench_page([], {}, {}),
    ):
        assert "<h1>" in html


# ---- A search


def test_a_finished_search(tmp_path: Path) -> None:
    folder = fake.write_search(tmp_path)
    best = json.loads((folder / "summary.json").read_text())["best"]
    html = report.search_page(folder, glossary())
    text = said(html)
    assert headline(html).startswith(f"The best is {best['speedup']:.2f}× the reference [")
    assert f"{best['hash'][:8]} {best['searched']:.2f}× {best['speedup']:.2f}×" in text
    assert "tokens 1,234,567" in text
    assert "Lineage of the best" in text
    assert "operation fusion" in text


def test_a_lineage_by_hand(tmp_path: Path) -> None:
    """reference -> a -> c, with b unseen by c: the page tells a and c, and who was shown to whom."""
    found = sources.Search(tmp_path)
    for step, name, parents, score in (
        (1, "a" * 64, ["ref"], 1.2),
        (1, "b" * 64, ["ref"], 1.3),
        (2, "c" * 64, ["a" * 64], 1.9),
    ):
        place = {"step": step, "draw": ord(name[0]), "sample": 0}
        found.attempts.append({**place, "parents": parents, "outcome": "judged", "hash": name})
        found.codes.append({**place, "hash": name, "status": "accepted", "score": score, "code": "", "tags": []})
    (figure, table) = search_page._lineage(found, found.codes[2], many.Limits(3, 100, 10))
    assert isinstance(table, Table)
    assert [row[:4] for row in table.rows] == [
        ("aaaaaaaa", "1", "1.20×", "reference"),
        ("cccccccc", "2", "1.90×", "aaaaaaaa"),
    ]
    assert isinstance(figure, Figure)
    assert str(figure.svg).count('class="head"') == 2


def test_a_code_of_the_archive_that_was_changed_is_an_alarm(tmp_path: Path) -> None:
    fake.write_search(tmp_path)
    with closing(sqlite3.connect(tmp_path / "archive.sqlite")) as database:
        assert "Alarm" not in said(report.search_page(tmp_path, glossary(), signed=lambda _: []))
        (name,) = database.execute("SELECT hash FROM code ORDER BY step, draw LIMIT 1").fetchone()
        database.execute("UPDATE code SET code = code || '#' WHERE hash = ?", (name,))
        database.commit()
    text = said(report.search_page(tmp_path, glossary(), signed=lambda _: []))
    assert f"Alarm 1 codes or their verdicts are not as they were signed. ({name[:8]})" in text


def test_a_search_in_its_middle_says_so(tmp_path: Path) -> None:
    page = headline(report.search_page(fake.write_search(tmp_path, rounds=3, finished=False), glossary()))
    assert re.fullmatch(
        r"Not finished: \d+ evaluations are done; the fastest so far is .* not yet measured again\.", page
    )


@pytest.mark.parametrize("name", ["archive.sqlite", "search.json", "summary.json"])
@pytest.mark.parametrize(
    "content", [b"", b"null", b"\xff\xfe\x00", b"[" * 5000, b'{"best": 3, "settings": [1], "cost": "x"}']
)
def test_a_damaged_search_is_told(tmp_path: Path, name: str, content: bytes) -> None:
    fake.write_search(tmp_path, rounds=2)
    (tmp_path / name).write_bytes(content)
    text = said(report.search_page(tmp_path, glossary()))
    if name == "archive.sqlite":
        assert "archive.sqlite could not be read" in text


class Author:
    """Answers every prompt with a code of its own."""

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        shell = "## Performance Analysis\nslow\n## Algorithm Design\nfast\n## Code Implementation\n```cpp\n{}\n```"
        codes = [f"int main_{problem.id.replace('/', '_')};" for problem in problems]
        return [[Trace(p.id, shell.format(c), (), (), "stop")] for p, c in zip(problems, codes, strict=True)]


def test_the_folder_of_a_real_search(tmp_path: Path) -> None:
    found: list[float] = []

    def evaluate(candidate: Candidate, *, best: float | None) -> KernelVerdict:
        found.append(1.1 + 0.1 * len(found))
        told = fake.verdict(speedup=found[-1], interval=None, environment=fake.environment(candidate.code))
        return from_json(KernelVerdict, json.dumps({**told, "task": "softmax"}))

    subject = search.Subject(Task("softmax", "int reference;"), "cpp", "one machine")
    settings = search.Settings(evaluations=6, answers=9)
    done = search.optimize(subject, Author(), evaluate, settings, tmp_path, confirm=evaluate, named="model-x")
    assert done.best
    assert pages.is_kernels(tmp_path)
    page = pages.kernel_page(tmp_path)
    text = said(page.read_text(encoding="utf-8"))
    assert f"The best is {done.best.speedup:.2f}× the reference, verified, after 6 evaluations." in text
    assert "Alarm" not in text  # every record is as the search's own key signed it
    assert "− int reference;" in text
    assert all(one.hash[:8] in text for one in done.lineage)
    (tmp_path / "key").write_bytes(b"k" * 32)
    pages.kernel_page(tmp_path)
    assert "Alarm 6 codes or their verdicts are not as they were signed." in said(page.read_text(encoding="utf-8"))


def test_a_real_archive_is_read(tmp_path: Path) -> None:
    place, code_ = (
        archive.Place(1, 0, 0),
        archive.Scored("int x;", "cpp", KernelStatus.ACCEPTED, 1.5, tags=("warp_level",)),
    )
    with archive.opened(tmp_path / "archive.sqlite") as codes:
        codes.add(archive.Attempt("t", "e", place, "model-x", archive.Outcome.JUDGED, ("ref",), code_.hash), code_)
        text = said(report.search_page(tmp_path, glossary()))
    assert "the fastest so far is 1.50× the reference" in text
    assert f"{code_.hash[:8]} 1 1.50× accepted – warp level" in text


# ---- Files and commands


def test_a_page_for_what_lies_there(tmp_path: Path) -> None:
    key = signed.run_key(tmp_path / "key")
    one = tmp_path / "one.json"
    one.write_text(
        json.dumps({**fake.record(), **signed.sign(from_json(KernelVerdict, json.dumps(fake.verdict())), key)})
    )
    assert pages.kernel_page(one) == tmp_path / "one.html"
    assert "signature verified" in (tmp_path / "one.html").read_text(encoding="utf-8")
    many_ = tmp_path / "many"
    many_.mkdir()
    (many_ / "rows.jsonl").write_text(
        "\n".join(json.dumps(row) for row in fake.audit(6)) + '\n{"torn', encoding="utf-8"
    )
    page = pages.kernel_page(many_).read_text(encoding="utf-8")
    assert "Audit of many" in page
    assert "rows.jsonl, line 7 is no JSON and was left out." in said(page)
    assert pages.kernel_page(fake.write_search(tmp_path / "search")) == tmp_path / "search" / "report.html"


def test_nothing_to_show_is_an_error_that_says_what_was_wanted(tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"a": 1}')
    assert not pages.is_kernels(tmp_path)
    with pytest.raises(ValueError, match="no record of a kernel in it; wanted: JSON with a 'verdict'"):
        pages.kernel_page(tmp_path)
    with pytest.raises(ValueError, match="no such file or folder"):
        pages.bench_page(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="give the key of the run"):
        pages.kernel_page(fake.write_search(tmp_path / "search"), tmp_path / "nowhere")


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(cli.app, [*arguments])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_commands(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, fake.audit(8))), encoding="utf-8")
    told = invoke("kernels", "bench", str(tmp_path))
    assert "against" in told
    assert "the best" in told
    assert (tmp_path / "report.html").read_text(encoding="utf-8").count("Benchmark of") >= 1
    assert invoke("report", str(tmp_path)).strip() == str(tmp_path / "report.html")
    assert "Audit of" in (tmp_path / "report.html").read_text(encoding="utf-8")
    assert CliRunner().invoke(cli.app, ["report", str(tmp_path / "nowhere")]).exit_code == 2


# ---- Hostile text, and a browser


def hostile(value: Any) -> Any:
    """Every text in it, keys too, with the attack after it."""
    if isinstance(value, dict):
        return {f"{k}": hostile(v) for k, v in value.items()} | (
            {HOSTILE: HOSTILE} if value and "verdict" not in value else {}
        )
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return value + HOSTILE if isinstance(value, str) else value


def attacked(status: str) -> dict[str, Any]:
    record: dict[str, Any] = hostile(fake.record(status))
    record["verdict"]["status"] = status
    record["candidate"] = HOSTILE + "\n" + "x" * 10_000_000 + "\n" + "\u202e" * 1000
    record["published"] = {HOSTILE: 2.0}
    record["degenerate"] = HOSTILE
    return record


MADE: dict[str, Callable[[Path], str]] = {
    "accepted": lambda _: report.check_page(fake.record(), glossary(), signed=lambda _: []),
    "suspicious": lambda _: report.check_page(
        fake.record("suspicious"), glossary(), signed=lambda _: ["speedup: changed"]
    ),
    "rejected": lambda _: report.check_page(fake.record("rejected"), glossary()),
    "unchecked": lambda _: report.check_page(fake.record("unchecked"), glossary()),
    "search": lambda folder: report.search_page(fake.write_search(folder / "s", rounds=5), glossary()),
    "audit": lambda _: audited(fake.audit(16)),
    "bench": lambda _: report.bench_page(fake.audit(16), fake_scores(), glossary()),
}
ATTACKED: dict[str, Callable[[Path], str]] = {
    "check": lambda _: report.check_page(attacked("suspicious"), {}, signed=lambda _: [HOSTILE], troubles=[HOSTILE]),
    "search": lambda folder: report.search_page(
        fake.write_search(folder / "s", rounds=3, text=HOSTILE.replace("\ud800", "")), {}
    ),
    "audit": lambda _: report.audit_page(
        [attacked(s) for s in ("accepted", "accepted", "rejected")],
        {HOSTILE: fake_scores()[BEST]},
        {},
        title=HOSTILE,
        troubles=[HOSTILE],
    ),
    "bench": lambda _: report.bench_page(
        [attacked("accepted")], {HOSTILE: fake_scores()[BEST]}, {}, title=HOSTILE, signed=lambda _: [HOSTILE]
    ),
}


def fake_scores() -> dict[str, Any]:
    told = tally(fake.audit(16))
    return {name: {k: json.loads(pages.to_json(v)) for k, v in kinds.items()} for name, kinds in told.scores.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A page by its name, made once."""
    folder = tmp_path_factory.mktemp("kernels")

    def write(name: str) -> Path:
        path = folder / f"{name}.html"
        if not path.exists():
            path.write_text(MADE[name](folder), encoding="utf-8")
        return path

    return write


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize(("size", "scheme"), [(DESKTOP, "light"), (TELEPHONE, "dark")], ids=["desktop", "telephone"])
def test_accessible(
    browser: Browser, made: Callable[[str], Path], name: str, size: dict[str, int], scheme: str
) -> None:
    with opened(browser, made(name), viewport=size, color_scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        page.evaluate(OPEN)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert serious(page) == []


@pytest.mark.parametrize("name", MADE)
def test_whole_without_scripts(browser: Browser, made: Callable[[str], Path], name: str) -> None:
    with opened(browser, made(name), viewport=DESKTOP, java_script_enabled=False) as page:
        assert page.locator("button").count() == 0
        heads = page.locator("h2:not(.away)")
        assert heads.count() >= 3
        assert all(heads.nth(i).is_visible() for i in range(heads.count()))
        charts = page.locator("figure svg.chart:not(.narrow svg)")
        assert all(charts.nth(i).is_visible() for i in range(charts.count()))
        html = page.content()
    ids = re.findall(r' id="([^"]+)"', html)
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", ATTACKED)
def test_hostile_text_is_only_text(browser: Browser, tmp_path: Path, name: str) -> None:
    html = ATTACKED[name](tmp_path)
    assert len(html.encode()) <= MAX_BYTES
    assert not set(html) & set("\x00\x1b\x07\u202e\u2066")
    path = tmp_path / "page.html"
    path.write_text(html, encoding="utf-8")
    with opened(browser, path, viewport=TELEPHONE) as page:
        page.evaluate(OPEN)
        assert page.evaluate("window.pwned") is None
        assert page.evaluate("document.scripts.length") == 1
        assert (
            page.evaluate("document.querySelectorAll('img, iframe, object, embed, form, svg:not(.chart)').length") == 0
        )
        loud = "[...document.querySelectorAll('*')].filter(e => e.hasAttribute('onerror') || e.hasAttribute('onload')).length"
        assert page.evaluate(loud) == 0
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert "</script><script>window.pwned = 1" in page.inner_text("body")
        assert serious(page) == []


def test_a_wide_range_of_ratios_has_an_axis() -> None:
    rng = random.Random(0)
    dots = [(rng.uniform(0.7, 5), rng.uniform(0.7, 5)) for _ in range(20)]
    axes = svg.Axis("x", log=True), svg.Axis("y", log=True)
    made = str(svg.cloud_chart("k", "t", "d", [svg.Series("s", dots)], [], *axes))
    assert all(f">{mark}<" in made for mark in ("0.5", "1", "2", "5"))
