from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import fake_run
import pytest
from playwright.sync_api import Browser, sync_playwright

from postgrad import report

ARGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    names = ("chromium", "chromium-browser", "google-chrome")
    path = os.environ.get("POSTGRAD_CHROMIUM") or next((p for n in names if (p := shutil.which(n))), None)
    if path is None:
        remedy = f"no browser: install one of {', '.join(names)}, or set POSTGRAD_CHROMIUM to its path"
        if os.environ.get("CI") == "true":
            pytest.fail(remedy)
        pytest.skip(remedy)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of real size with its report written."""
    folder = fake_run.write_run(tmp_path_factory.mktemp("runs") / "run")
    report.write(folder)
    return folder


@pytest.fixture(scope="session")
def short_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every section of the page, with fewer rows in its tables: what the accessibility checker can walk in a second."""
    folder = fake_run.write_run(
        tmp_path_factory.mktemp("runs") / "short", sft_steps=30, rl_steps=25, rows=40, problems=3
    )
    report.write(folder)
    return folder
