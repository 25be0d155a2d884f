"""Reasons cover the catalogue, a verdict cannot contradict itself, and a record tells what was changed in it."""

from __future__ import annotations

import copy
import json
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.kernels import signed
from postgrad.kernels.environment import environment
from postgrad.kernels.verdict import Environment, Finding, KernelStatus, KernelVerdict, Reason, Timing, conclude
from postgrad.records import from_json, to_json

ROWS = [
    f"{part}{number:02}" for part, last in (("T", 22), ("C", 14), ("S", 23), ("F", 16)) for number in range(1, last + 1)
]
KEY = bytes(range(32))

WHERE = Environment({"cpu": "one"}, "g++ 12", {"torch": "2"}, {"inputs": 7}, "ab", "cd", "2026-11-23T17:00:00Z", None)
TIMED = Timing(
    reference_s=(0.2, 0.2),
    candidate_s=(0.1, 0.1),
    reference_first=(True, False),
    warm_up_s=((0.3, 0.2),),
    overhead_s=(0.001,),
    reference_cpu_s=(0.2, 0.2),
    candidate_cpu_s=(0.1, 0.1),
    reference_between_s=(0.0, 0.0),
    candidate_between_s=(0.0, 0.0),
    bucket_means=(2.0, 2.0),
    ratio=2.0,
    interval=(1.9, 2.1),
    speedup=2.0,
    variance=0.0,
    stopped="budget",
    clock="wall",
    cache="warm",
    budget_s=1.0,
    spent_s=0.7,
    rules={"level": 0.99},
)
ACCEPTED = KernelVerdict("softmax", KernelStatus.ACCEPTED, 2.0, (1.9, 2.1), (), TIMED, WHERE)
FLAGGED = replace(
    ACCEPTED,
    status=KernelStatus.SUSPICIOUS,
    findings=(
        Finding(Reason.T17_TIMES_ITSELF, "calls perf_counter", "line 3"),
        Finding(Reason.F04_LIBRARY_CALL, "at::mm"),
    ),
)


def test_the_catalogue_has_75_rows_and_each_a_reason_of_its_own() -> None:
    assert len(ROWS) == 75
    for row in ROWS:
        assert Reason.of_row(row)[0].startswith(f"{row}_"), row
    assert {row for reason in Reason for row in reason.rows} == set(ROWS)
    with pytest.raises(ValueError, match="T23"):
        Reason.of_row("T23")


def test_a_reason_is_named_as_its_value_and_says_what_it_means() -> None:
    for reason in Reason:
        assert reason.name == reason.value
        assert reason.meaning
        assert len(set(reason.rows)) == len(reason.rows)
    assert Reason.T03_LAZY_TENSOR.rows == ("T03", "T04", "S15")
    assert (
        Reason.T03_LAZY_TENSOR.__doc__ == "T03, T04, S15: the output is no plain tensor that already holds its values"
    )
    assert Reason("T03_LAZY_TENSOR") is Reason.T03_LAZY_TENSOR


def test_the_worst_finding_decides() -> None:
    wrong = Finding(Reason.WRONG_OUTPUT, "1 != 2")
    ours = Finding(Reason.SANDBOX_BROKEN, "no namespace")
    odd = Finding(Reason.F04_LIBRARY_CALL, "at::mm")
    assert conclude([]) is KernelStatus.ACCEPTED
    assert conclude([odd]) is KernelStatus.SUSPICIOUS
    assert conclude([odd, ours]) is KernelStatus.UNCHECKED
    assert conclude([ours, wrong, odd]) is KernelStatus.REJECTED
    assert (
        conclude([Finding(Reason.F04_LIBRARY_CALL, "not allowed here", means=KernelStatus.REJECTED)])
        is KernelStatus.REJECTED
    )
    with pytest.raises(ValueError, match="speaks against"):
        Finding(Reason.WRONG_OUTPUT, "", means=KernelStatus.ACCEPTED)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"status": KernelStatus.REJECTED}, "the findings say accepted"),
        ({"speedup": None}, "accepted without"),
        ({"findings": (Finding(Reason.WRONG_OUTPUT, ""),)}, "the findings say rejected"),
        ({"findings": (Finding(Reason.WRONG_OUTPUT, ""),), "status": KernelStatus.REJECTED}, "never a number"),
        ({"findings": (Finding(Reason.T20_UNSTABLE, ""),), "status": KernelStatus.UNCHECKED}, "never a number"),
    ],
)
def test_a_verdict_cannot_contradict_itself(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(ACCEPTED, **change)


@pytest.mark.parametrize("verdict", [ACCEPTED, FLAGGED, replace(ACCEPTED, timing=replace(TIMED, again=TIMED))])
def test_a_record_comes_back_as_it_was(verdict: KernelVerdict) -> None:
    assert from_json(KernelVerdict, to_json(verdict)) == verdict
    record = json.loads(json.dumps(signed.sign(verdict, KEY)))
    assert signed.changes(record, KEY) == []
    assert signed.opened(record, KEY) == verdict


# ---- What was changed -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (lambda v: v.update(speedup=3.0), ["speedup: changed"]),
        (lambda v: v["timing"]["candidate_s"].__setitem__(1, 0.05), ["timing.candidate_s: changed"]),
        (lambda v: v["findings"][0].update(evidence=""), ["findings[0].evidence: changed"]),
        (lambda v: v["environment"]["seeds"].update(inputs=8), ["environment.seeds.inputs: changed"]),
        (lambda v: v["environment"]["seeds"].update(extra=8), ["environment.seeds.extra: added"]),
        (lambda v: v["environment"].pop("load"), ["environment.load: taken away"]),
        (lambda v: v.update(task="gelu", status="accepted"), ["task: changed", "status: changed"]),
        (
            lambda v: v["findings"].pop(),
            [f"findings[1].{name}: taken away" for name in ("reason", "evidence", "where", "means")],
        ),
    ],
)
def test_a_change_is_named(edit: Any, told: list[str]) -> None:
    record = signed.sign(FLAGGED, KEY)
    edit(record["verdict"])
    assert sorted(signed.changes(record, KEY)) == sorted(told)
    with pytest.raises(ValueError, match=r"not as it was signed: .*" + told[0].split("[")[0].split(":")[0]):
        signed.opened(record, KEY)


def test_another_key_another_record_and_an_edited_signature_are_told() -> None:
    record = signed.sign(FLAGGED, KEY)
    assert "another key's" in signed.changes(record, bytes(32))[0]
    other = signed.sign(replace(FLAGGED, speedup=9.0), KEY)
    assert signed.changes({**record, "signature": other["signature"]}, KEY) == ["speedup: changed"]
    # A genuine mark of another record of the same key does not fit here.
    mixed = copy.deepcopy(record)
    mixed["verdict"]["speedup"] = 9.0
    mixed["signature"]["fields"]["speedup"] = other["signature"]["fields"]["speedup"]
    assert signed.changes(mixed, KEY) == ["speedup: changed"]
    # Neither does deleting the value together with its mark.
    gone = copy.deepcopy(record)
    del gone["verdict"]["environment"]["load"], gone["signature"]["fields"]["environment.load"]
    assert signed.changes(gone, KEY) == ["the signature of the whole was changed"]


@pytest.mark.parametrize(
    "record",
    [
        {},
        {"verdict": {}, "signature": 3},
        {"verdict": {"a": 1}, "signature": {"algorithm": "none", "whole": "", "fields": {}}},
        {"verdict": {"a": 1}, "signature": {"algorithm": "HMAC-SHA256", "whole": None, "fields": {}}},
        {"verdict": {"a": 1}, "signature": {"algorithm": "HMAC-SHA256", "whole": "", "fields": {}}},
        {"verdict": {"a": 1}, "signature": {"algorithm": "HMAC-SHA256", "whole": "", "fields": {"a": 1}}},
        {"verdict": {}, "signature": {"algorithm": "HMAC-SHA256", "whole": "", "fields": {}}},
    ],
)
def test_what_is_no_signed_record_never_passes(record: dict[str, Any]) -> None:
    assert signed.changes(record, KEY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(JSON)
def test_canonical_is_one_text_for_one_value(value: Any) -> None:
    text = signed.canonical(value)
    assert signed.canonical(json.loads(text)) == text


def test_canonical_by_hand() -> None:
    assert signed.canonical({"b": [1, 2.5, None], "a": "é"}) == '{"a":"é","b":[1,2.5,null]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        signed.canonical(float("nan"))


def test_the_key_is_made_once_and_is_its_owners(tmp_path: Path) -> None:
    path = tmp_path / "key"
    key = signed.run_key(path)
    assert len(key) == 32
    assert signed.run_key(path) == key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert signed.run_key(tmp_path / "other") != key
    path.write_bytes(b"short")
    with pytest.raises(ValueError, match="holds 5 bytes"):
        signed.run_key(path)


def test_the_environment_names_what_was_run() -> None:
    here = environment(task="the task", code="abc", seeds={"inputs": 3}, compiler=None)
    assert here.code_sha256 == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert here.task_sha256 != here.code_sha256
    assert {"postgrad", "python", "torch", "system"} <= set(here.versions)
    assert "cpu" in here.hardware
    json.dumps(json.loads(to_json(here)), allow_nan=False)
