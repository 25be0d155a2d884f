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
from typing import Any

import pytest

from tests.sandbox import attacks

ROOT = Path(__file__).parents[2]
BITING = [name for name, attack in attacks.ATTACKS.items() if attack.bites]


@functools.cache
def said(kind: str, *names: str, user: int | None = None) -> dict[str, str | None]:
    """{attack: what went wrong}; skips where no namespace is to be had. `user`: whom root becomes first."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        os.chmod(folder, 0o755)
        if user is not None:
            os.chown(folder, user, user)
        command = [
            python_of(others=user is not None or kind == "lockdown"),
            "-m",
            "tests.sandbox.attacks",
            kind,
            folder,
            *names,
        ]
        become: Any = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False, **become)
    if "PermissionError" in done.stderr or "No space left" in done.stderr:
        pytest.skip(f"no throwaway namespaces here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    assert "throwaway" not in found, found["throwaway"]
    return found


def python_of(*, others: bool) -> str:
    """A Python; one that other users can reach, where root's program becomes one of them and keeps the host's view."""
    if not others or os.getuid() != 0 or all(os.stat(one).st_mode & 0o1 for one in Path(sys.base_prefix).parents):
        return sys.executable
    other = "/usr/bin/python3"
    code = "import sys; sys.exit(sys.version_info < (3, 11))"
    if not os.path.exists(other) or subprocess.run([other, "-c", code], check=False).returncode:
        pytest.skip(f"other users cannot reach {sys.base_prefix}, and {other} is missing or too old")
    return other


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


# Open in lockdown: the sum and number of files (02, 03), the host's processes (11), Unix sockets with visible names (12).
LOCKDOWN = [
    name for name in attacks.ATTACKS if name[:2] in ("01", "04", "08", "10", "13", "14", "15", "17", "20", "21")
]


@pytest.mark.parametrize("name", LOCKDOWN)
def test_attack_in_lockdown(name: str) -> None:
    judged(said("lockdown", *LOCKDOWN)[name])


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


@pytest.mark.slow
@pytest.mark.skipif(os.getuid() != 0, reason="then the other tests do this")
def test_attacks_as_an_ordinary_user() -> None:
    wrong = {name: problem for name, problem in said("attacks", user=60_002).items() if problem}
    assert not {name: problem for name, problem in wrong.items() if not problem.startswith("skip: ")}
