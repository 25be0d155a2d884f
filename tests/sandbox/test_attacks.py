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
        command = [python_of(kind), "-m", "tests.sandbox.attacks", kind, folder, *names]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500, check=False)
    if "PermissionError" in done.stderr or "No space left" in done.stderr:
        pytest.skip(f"no throwaway namespaces here: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found: dict[str, str | None] = json.loads(done.stdout)
    assert "throwaway" not in found, found["throwaway"]
    return found


def python_of(kind: str) -> str:
    """In lockdown, root's program is another user that keeps the host's view: this Python may lie where it cannot go."""
    if (
        kind != "lockdown"
        or os.getuid() != 0
        or all(os.stat(one).st_mode & 0o1 for one in Path(sys.base_prefix).parents)
    ):
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


OPEN_IN_LOCKDOWN = {
    "02 fill the disk",  # each file is bounded, their sum is not
    "02 fill the temporary folder",  # there is none to fill
    "05 shared memory file",
    "03 many files",
    "03 deep folders",
    "11 the host's processes",
    "12 network",  # a Unix socket of a visible name
    "16 a program of root's",  # an ordinary user cannot empty its bounding set, which no new privileges makes idle
}
LOCKDOWN = [name for name in attacks.ATTACKS if name not in OPEN_IN_LOCKDOWN and name[:2] not in ("06", "25")]


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
