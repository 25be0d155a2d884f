"""What models' code tried elsewhere, tried here: each ends as it must, leaves nothing, and the next job works.

All of it happens in throwaway namespaces (see attacks.py), never beside this process.
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.sandbox import attacks

ROOT = Path(__file__).parents[2]
BITING = [name for name, attack in attacks.ATTACKS.items() if attack.bites]


@functools.cache
def said(kind: str, *names: str) -> dict[str, str | None]:
    """{attack: what went wrong}; skips where no namespace is to be had."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        command = [sys.executable, "-m", "tests.sandbox.attacks", kind, folder, *names]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    if "PermissionError" in done.stderr or "No space left" in done.stderr:
        pytest.skip(f"no throwaway namespaces here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    assert "throwaway" not in found, found["throwaway"]
    return found


def judged(problem: str | None) -> None:
    if problem is not None and problem.startswith("skip: "):
        pytest.skip(problem.removeprefix("skip: "))
    assert problem is None, problem


@pytest.mark.parametrize("name", attacks.ATTACKS)
def test_attack(name: str) -> None:
    judged(said("attacks")[name])


@pytest.mark.parametrize(
    "name", ["04 allocate", "04 allocate by children", "05 memory file", "06 endless loop of children"]
)
def test_attack_where_memory_is_watched_and_not_counted(name: str) -> None:
    judged(
        said("watched", "04 allocate", "04 allocate by children", "05 memory file", "06 endless loop of children")[name]
    )


@pytest.mark.parametrize("name", BITING)
def test_the_probe_does_its_harm_without_a_sandbox(name: str) -> None:
    judged(said("unprotected", *BITING)[name])


def test_the_control_arm_refuses_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 0)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: pytest.fail("it ran"))
    with pytest.raises(PermissionError, match="does not run as root"):
        attacks.control(attacks.ATTACKS["10 secrets"], attacks.Scene(tmp_path, "", 0, "", ""))


def test_sixty_hostile_candidates_in_a_row() -> None:
    (problem,) = said("row", "60").values()
    judged(problem)


@pytest.mark.slow
def test_a_thousand_hostile_candidates_in_a_row() -> None:
    (problem,) = said("row", "1000").values()
    judged(problem)
