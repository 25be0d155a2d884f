"""The page in a real browser: silent, accessible, inert and whole without scripts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fake_run
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page

from postgrad import report

DESKTOP, TELEPHONE = {"width": 1280, "height": 900}, {"width": 360, "height": 740}


@contextmanager
def opened(browser: Browser, path: Path, **options: Any) -> Iterator[Page]:
    """Open a page; on leaving, it must have asked for nothing but itself and complained about nothing."""
    context = browser.new_context(**options)
    context.set_default_timeout(120_000)  # a machine that trains beside the tests can be very slow
    page = context.new_page()
    requests: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: (complaints.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    page.goto(path.as_uri())
    yield page
    page.wait_for_timeout(50)
    context.close()
    assert requests == [path.as_uri()]
    assert complaints == []


def serious(page: Page) -> list[str]:
    found = Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
    return [
        f"{v['id']}: {v['help']}: {v['nodes'][0]['html'][:200]} {v['nodes'][0].get('failureSummary', '')}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


OPEN = "document.querySelectorAll('details').forEach(d => { d.open = true; })"


@pytest.mark.parametrize("size", [DESKTOP, TELEPHONE], ids=["desktop", "telephone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_accessible(browser: Browser, short_run: Path, size: dict[str, int], scheme: str) -> None:
    with opened(browser, short_run / "report.html", viewport=size, color_scheme=scheme) as page:
        page.evaluate(OPEN)
        assert serious(page) == []


@pytest.mark.parametrize("width", [1280, 820, 560, 360, 320])
def test_no_wider_than_the_screen(browser: Browser, run: Path, width: int) -> None:
    with opened(browser, run / "report.html", viewport={"width": width, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.evaluate(OPEN)
        assert page.evaluate("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("kind", ["empty", "unfinished"])
def test_an_unfinished_run_has_a_page(browser: Browser, tmp_path: Path, kind: str) -> None:
    folder = tmp_path / kind
    folder.mkdir()
    if kind == "unfinished":
        fake_run.write_unfinished(folder)
    with opened(browser, report.write(folder), viewport=TELEPHONE) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert serious(page) == []
        text = page.inner_text("body")
    if kind == "empty":
        assert "Nothing is measured yet." in text
    else:
        assert "RL is at step 60 with a reward of" in text
        assert "metrics.jsonl: the last line (361) is torn and was left out." in text


def test_whole_without_scripts(browser: Browser, run: Path) -> None:
    with opened(browser, run / "report.html", viewport=DESKTOP, java_script_enabled=False) as page:
        assert page.locator("[hidden]").count() == 0
        assert page.locator("button").count() == 0
        for i in range(count := page.locator("h2:not(.away)").count()):
            assert page.locator("h2:not(.away)").nth(i).is_visible()
        assert count >= 8
        charts = page.locator("figure svg.chart:not(.narrow svg)")
        assert charts.count() >= 20
        assert all(charts.nth(i).is_visible() for i in range(charts.count()))
        closed = page.locator("details.sample").nth(2)
        assert not closed.locator(".answers").is_visible()
        closed.locator("summary").click()
        assert closed.locator(".answers").is_visible()


def test_scripts_add_a_filter_a_theme_and_readings(browser: Browser, run: Path) -> None:
    with opened(browser, run / "report.html", viewport=DESKTOP, color_scheme="light") as page:
        page.get_by_role("button", name="Last model not correct (1)").click()
        assert page.locator("#samples details.sample:visible").count() == 1
        page.get_by_role("button", name="All (8)").click()
        assert page.locator("#samples details.sample:visible").count() == 8
        page.get_by_role("button", name="Dark").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
        chart = page.locator("svg[aria-labelledby^='c0-0-t']")
        chart.scroll_into_view_if_needed()
        chart.hover()
        reading = page.locator("figure", has=chart).locator(".reading").inner_text()
        assert reading.startswith("at 1")
        assert "training 0." in reading


def test_the_keyboard_reaches_tables_and_samples(browser: Browser, run: Path) -> None:
    with opened(browser, run / "report.html", viewport=DESKTOP) as page:
        seen = set()
        for _ in range(30):
            page.keyboard.press("Tab")
            seen.add(page.evaluate("document.activeElement.tagName + '.' + document.activeElement.className"))
        assert {"A.skip", "SUMMARY.", "DIV.scroll "} <= seen


HOSTILE = (
    '</script><script>window.pwned = 1; alert(1)</script><img src=x onerror="window.pwned=1">'
    "<svg onload=alert(1)>{{7*7}}{% raw %} \x00 \x1b[31mred\x1b]0;title\x07 \ud800 \u202egnp.exe \u2066 '\"`=&lt;"
)


def write_hostile(folder: Path) -> Path:
    """Hostile text wherever a run's folder can hold text."""
    fake_run.write_run(folder, sft_steps=5, rl_steps=5, rows=8, problems=1)
    deep: dict[str, Any] = {
        HOSTILE: HOSTILE,
        "reward_order": {"inverted_share": 0.1, "examples": [HOSTILE, {"a": HOSTILE}]},
    }
    summary = {
        **fake_run.summary(),
        **deep,
        "recipe": HOSTILE,
        "data": {HOSTILE: HOSTILE, "list": [HOSTILE]},
        "claims": [dict.fromkeys(("id", "statement", "op", "n", "measured"), HOSTILE)],
        "comparisons": [{"name": HOSTILE, "statement": HOSTILE, "value": 1, "interval": HOSTILE}],
    }
    summary["models"][HOSTILE] = {"accuracy": {"value": 0.5}, "tokens": {"value": 3}, "pass_at": {HOSTILE: 0.5}}
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    manifest = dict.fromkeys(("recipe", "preset", "created", "commit", "python", "seed"), HOSTILE)
    everything = {**manifest, "packages": {HOSTILE: HOSTILE}, "hardware": {"cpu": HOSTILE, "gpu": HOSTILE}}
    (folder / "manifest.json").write_text(json.dumps(everything), encoding="utf-8")
    (folder / "stages.json").write_text(json.dumps({HOSTILE: {"status": HOSTILE, "seconds": 1}}), encoding="utf-8")
    for name in ("config.yaml", "command.txt"):
        (folder / name).write_bytes(HOSTILE.encode("utf-8", errors="surrogatepass"))
    row = {
        "problem_id": HOSTILE,
        "prompt": HOSTILE,
        "gold": HOSTILE,
        "text": HOSTILE,
        "status": HOSTILE,
        "reason": HOSTILE,
    }
    sample = {**row, "model": "rl", "tokens": [HOSTILE, "x" * 10_000_000], "logprobs": [-3.0, -0.1]}
    fake_run.lines(folder / "evals" / "samples.jsonl", [sample, {**sample, "model": HOSTILE, "logprobs": [HOSTILE]}])
    fake_run.lines(folder / "evals" / "rl.jsonl", [{**row, "labels": {HOSTILE: str(i) + HOSTILE}} for i in range(3)])
    fake_run.lines(folder / "rollouts" / "rl-000005.jsonl", [{**row, "reward": 1.0, "parts": {HOSTILE: 1.0}}])
    fake_run.lines(folder / "events.jsonl", [{"stage": HOSTILE, "step": 1, "level": "alarm", "message": HOSTILE}])
    metrics = [{"stage": s, "step": 1, "loss": 1.0, f"rewards/{HOSTILE}/mean": 1.0} for s in ("rl", HOSTILE)]
    fake_run.lines(folder / "metrics.jsonl", metrics)
    return folder


def test_hostile_text_is_only_text(browser: Browser, tmp_path: Path) -> None:
    path = report.write(write_hostile(tmp_path / "run"))
    assert path.stat().st_size <= 2_000_000
    raw = path.read_text(encoding="utf-8")
    assert not set(raw) & set("\x00\x1b\x07\u202e\u2066")
    with opened(browser, path, viewport=TELEPHONE) as page:
        assert page.evaluate("window.pwned") is None
        assert page.evaluate("document.scripts.length") == 1
        assert (
            page.evaluate("document.querySelectorAll('img, iframe, object, embed, form, svg:not(.chart)').length") == 0
        )
        assert (
            page.evaluate(
                "[...document.querySelectorAll('*')].filter(e => e.hasAttribute('onerror') || e.hasAttribute('onload')).length"
            )
            == 0
        )
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        text = page.locator("article .text").first.inner_text()
        assert "</script><script>window.pwned = 1" in text
        assert "{{7*7}}{% raw %} ␀ ␛[31mred␛]0;title␇ ⟨U+D800⟩ ⟨U+202E⟩gnp.exe" in text
        assert "characters cut …" in text
        assert serious(page) == []
