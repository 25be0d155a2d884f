from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from postgrad.report import results_table

CLAIM = {
    "id": "sft_accuracy",
    "statement": "SFT solves | held-out\nproblems",
    "measured": 0.912,
    "interval": [0.893, 0.929],
    "op": ">=",
    "threshold": 0.8,
    "n": 999,
}
RESULT = {
    "recipe": "math_two_stage",
    "preset": "laptop",
    "commit": "0123456789abcdef",
    "hardware": "2 cores",
    "command": "make demo",
    "date": "2026-11-23",
    "seeds": [{"seed": 0, "metrics": {"accuracy": 0.9}}],
    "claims": [
        CLAIM,
        {
            **CLAIM,
            "id": "tokens_drop",
            "statement": "<b>saves</b> tokens",
            "measured": 0.1,
            "interval": [0.05, 0.15],
            "threshold": 0.2,
        },
    ],
}
ROW = {
    "name": "sft-cpu",
    "workload": "packed, 512",
    "unit": "tokens/s",
    "ours": 5200.0,
    "peer": 4000.0,
    "peer_name": "TRL 1.16",
    "ratio": 1.3,
    "limit": 9000.0,
    "fraction_of_limit": 0.578,
    "commit": "abc",
    "hardware": "2 cores",
    "command": "make bench",
}


def put(folder: Path, name: str, content: Any) -> Path:
    (folder / name).write_text(json.dumps(content), encoding="utf-8")
    return folder


def test_claims_then_benchmarks_and_the_claim_not_met_stays(tmp_path: Path) -> None:
    put(tmp_path, "math_two_stage-laptop.json", RESULT)
    table = results_table(
        put(tmp_path, "bench-sft.json", {"rows": [ROW, {**ROW, "peer": None, "peer_name": None, "ratio": None}]})
    )
    lines = table.replace("\u00a0", " ").splitlines()
    assert lines[2] == (
        "| math_two_stage | laptop | SFT solves \\| held-out problems | 91.2 % [89.3, 92.9] | ≥ 80.0 % | ✓ met | 999 | 1 | 0123456789 |"
    )
    assert "&lt;b&gt;saves&lt;/b&gt; tokens | 10.0 % [5.0, 15.0] | ≥ 20.0 % | **✗ not met** |" in lines[3]
    assert (
        lines[7]
        == "| sft-cpu | packed, 512 | 5,200 tokens/s | 4,000 tokens/s (TRL 1.16) | 1.30× | 58 % of 9,000 | 2 cores | abc |"
    )
    assert lines[8].count(" – ") == 2
    assert table.endswith("|\n")


def test_an_empty_folder_has_no_table(tmp_path: Path) -> None:
    assert results_table(tmp_path) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipe": 3}, r"x-y.json: 'recipe' is 3; want str"),
        ({"claims": None}, r"x-y.json: 'claims' is null; want list"),
        ({"claims": [{**CLAIM, "op": ">"}]}, r"x-y.json: claims\[0\]: 'op' is '>'; want '>=' or '<='"),
        (
            {"claims": [{k: v for k, v in CLAIM.items() if k != "n"}]},
            r"claims\[0\]: the key 'n' is missing; it has 'id', ",
        ),
        ({"claims": [{**CLAIM, "measured": float("nan")}]}, r"claims\[0\]: 'measured' is nan; want a finite number"),
        ({"claims": [{**CLAIM, "interval": [1]}]}, r"claims\[0\]: 'interval' is \[1\]; want \[low, high\]"),
        ({"seeds": [1]}, r"seeds\[0\] is not an object"),
    ],
)
def test_a_malformed_result_names_the_file_and_the_key(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        results_table(put(tmp_path, "x-y.json", RESULT | change))


def test_a_malformed_benchmark_names_the_row_and_the_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"bench-a.json: rows\[1\]: 'ours' is \"fast\"; want float or int"):
        results_table(put(tmp_path, "bench-a.json", {"rows": [ROW, {**ROW, "ours": "fast"}]}))


def test_no_json_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "bench-a.json").write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=r"bench-a.json: not JSON: "):
        results_table(tmp_path)


def test_an_interval_that_holds_the_threshold_decides_nothing_unless_the_file_does(tmp_path: Path) -> None:
    claim = {**CLAIM, "interval": [0.7, 0.95]}
    table = results_table(put(tmp_path, "x-y.json", RESULT | {"claims": [claim, {**claim, "met": True}]})).splitlines()
    assert "| ? undecided (the interval holds the threshold) |" in table[2]
    assert "| ✓ met (the interval holds the threshold) |" in table[3]
