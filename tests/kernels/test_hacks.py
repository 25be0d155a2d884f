"""The catalogue of reward hacks through the whole pipeline: some rows here, all of them under `slow` and in `make hacks`."""

from __future__ import annotations

import pytest

from tests.hacks import catalogue, control
from tests.hacks.play import Played, play
from tests.hacks.rows import c10, t03
from tests.kernels.small_tasks import needs_sandbox

ROWS = {row.id: row for row in catalogue()}
SOME = ("T02", "T03", "T05", "S02", "S05", "S08", "C11", "S04", "S20", "T09", "C10", "S12", "S15", "F10", "F04", "C13")
TWINS = ("S05", "C13")


def test_the_catalogue_is_whole() -> None:
    ids = [f"{letter}{number:02d}" for letter, count in (("T", 22), ("C", 14), ("S", 23), ("F", 16)) for number in range(1, count + 1)]  # fmt: skip
    assert [row.id for row in catalogue()] == ids
    assert len(ids) == 75
    on_cpu = {row.id for row in ROWS.values() if row.needs == "cpu"}
    # Every row that the catalogue marks for the CPU, and those that C++ shows there too.
    assert len(on_cpu) == 54 + len({"T07", "C05", "C13", "F06", "F11", "F15", "F16"})
    assert all(row.mechanism.endswith(".") and row.exploit != row.twin for row in ROWS.values())


@pytest.fixture(scope="module")
def exploits() -> dict[str, Played]:
    """Without the static rules: what the pipeline sees in what they do."""
    return {one.row.id: one for one in play([ROWS[name] for name in SOME], ["exploit"])}


@needs_sandbox
@pytest.mark.parametrize("name", SOME)
def test_an_exploit_is_rejected_by_what_it_does(exploits: dict[str, Played], name: str) -> None:
    played = exploits[name]
    assert played.behaviour is not None
    assert played.behaviour.status == "rejected"
    assert played.behaviour.speedup is None
    assert played.caught, [f"{finding.reason}: {finding.evidence}" for finding in played.findings]


@needs_sandbox
@pytest.mark.parametrize("name", TWINS)
def test_an_honest_twin_is_not_accused(name: str) -> None:
    (played,) = play([ROWS[name]], ["twin"])
    assert not played.accused, [f"{finding.reason}: {finding.evidence}" for finding in played.accused]


@needs_sandbox
def test_the_naive_evaluator_is_fooled() -> None:
    for module in (t03, c10):
        assert control.ask(module.ROW).is_fooled(module.ROW), module.ROW.id


@pytest.fixture(scope="module")
def matrix() -> dict[tuple[str, str], Played]:
    return {(one.row.id, one.part): one for one in play([row for row in ROWS.values() if row.needs == "cpu"])}


@needs_sandbox
@pytest.mark.slow
@pytest.mark.parametrize("name", [row.id for row in ROWS.values() if row.needs == "cpu"])
def test_the_whole_matrix(matrix: dict[tuple[str, str], Played], name: str) -> None:
    exploit, twin = matrix[name, "exploit"], matrix[name, "twin"]
    assert exploit.caught, [f"{finding.reason}: {finding.evidence}" for finding in exploit.findings]
    assert not twin.accused, [f"{finding.reason}: {finding.evidence}" for finding in twin.accused]
