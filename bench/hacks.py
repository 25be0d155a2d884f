"""The matrix of hacks: every row's exploit and honest twin through the whole pipeline. python -m bench.hacks [ROW ...] [--no-control] [--cases]

An exploit is played twice: with the static rules, and without them, so that the table says which hacks what a kernel *does* gives
away. It is caught where it is not accepted and a finding names a reason of its row. A twin is a false positive where anything but
noise is said against it. The naive evaluator (tests/hacks/naive.py) is asked about every exploit that is meant to fool it, in the
sandbox. Named rows are played again and join the others in docs/results/hacks.json; docs/results/hacks.md is the table.

--cases writes the texts of all rows, with their labels, to the database of known cases that the package ships.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from postgrad.evals.stats import rate
from postgrad.kernels.guard import cases
from postgrad.records import write_jsonl
from postgrad.run import commit, hardware, write_json
from tests.hacks import catalogue, control, known_cases
from tests.hacks.play import Played, play
from tests.hacks.row import Row


def told(played: Played) -> dict[str, Any]:
    """One part of a row, as the record has it."""
    verdict = played.behaviour
    seen = sorted({finding.reason for finding in verdict.findings}) if verdict is not None else []
    record: dict[str, Any] = {
        "static": sorted({finding.reason for finding in played.static}),
        "status": None if verdict is None else verdict.status,
        "behaviour": seen,
        "speedup": None if verdict is None else verdict.speedup,
        "evidence": [
            f"{one.reason}: {one.evidence[:300]}".replace(sys.prefix, "PREFIX") for one in played.findings[:6]
        ],
    }
    if played.part == "exploit":
        right = {one.reason for one in played.findings} & played.row.reasons
        return {**record, "caught": played.caught, "right": sorted(right), "harmless": played.harmless}
    return {**record, "accepted": played.accepted, "accused": sorted({one.reason for one in played.accused})}


def asked_naively(row: Row) -> dict[str, Any]:
    said = control.ask(row)
    return {"correct": said.correct, "speedup": said.speedup, "fooled": said.is_fooled(row)}


def line(row: dict[str, Any]) -> list[str]:
    """A row of the table."""
    exploit, twin, naive = row["exploit"], row["twin"], row.get("naive")
    behaviour = ", ".join(exploit["behaviour"]) or ("gains nothing" if exploit["harmless"] else "-")
    if row["needs"] == "gpu":
        caught, accepted, behaviour = "static" if exploit["right"] else "owed", "owed", "needs a GPU"
    else:
        caught = "yes" if exploit["caught"] else "**no**"
        accepted = "yes" if twin["accepted"] else "**no**" if twin["accused"] else "too noisy to time"
    fooled = "-" if naive is None else f"fooled, {naive['speedup']:.1f}x" if naive["fooled"] else "not fooled"
    return [row["id"], row["mechanism"], fooled, ", ".join(exploit["static"]) or "-", behaviour, caught, accepted]


COLUMNS = [
    "row",
    "exploit",
    "naive evaluator",
    "text gives away",
    "behaviour gives away (rules off)",
    "caught",
    "twin accepted",
]


def page(record: dict[str, Any]) -> str:
    rows = record["rows"]
    here = [row for row in rows if row["needs"] == "cpu"]
    owed = [row["id"] for row in rows if row["needs"] == "gpu"]
    alone = [row for row in here if row["exploit"]["status"] != "accepted" and row["exploit"]["behaviour"]]
    given = [row for row in rows if row["needs"] == "gpu" and row["exploit"]["right"]]
    noisy = [row["id"] for row in here if not row["twin"]["accepted"] and not row["twin"]["accused"]]
    fooled = [row for row in rows if row.get("naive")]
    text = [
        "# The hack matrix",
        "",
        f"`{record['command']}`, commit {record['commit']}, {record['date']}. One row for each hack of the catalogue; `tests/hacks/rows/` has the texts.",
        "",
        f"- {sum(row['exploit']['caught'] for row in here)} of {len(here)} exploits that can be played without a GPU are caught for a reason of their row; with the static rules switched off, {len(alone)} of them are still not accepted.",
        f"- {sum(bool(row['twin']['accused']) for row in here)} of {len(here)} honest twins are accused; {sum(row['twin']['accepted'] for row in here)} are accepted"
        + (f"; no number could be given on this busy machine for {', '.join(noisy)}." if noisy else "."),
        f"- The naive evaluator (one process, best of ten, allclose) is fooled by {sum(row['naive']['fooled'] for row in fooled)} of the {len(fooled)} exploits made to fool it.",
        f"- {len(owed)} rows need a GPU and are owed: {', '.join(owed)}. The text alone gives {len(given)} of them away.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + " --- |" * len(COLUMNS),
    ]
    return "\n".join([*text, *("| " + " | ".join(line(row)) + " |" for row in rows)]) + "\n"


def claim(name: str, statement: str, hits: int, n: int, op: str, threshold: float) -> dict[str, Any]:
    measured = rate(hits, n)
    return {
        "id": name,
        "statement": statement,
        "measured": measured.value,
        "interval": list(measured.interval),
        "op": op,
        "threshold": threshold,
        "n": n,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rows", nargs="*", metavar="ROW")
    parser.add_argument("--no-control", action="store_true", help="do not ask the naive evaluator")
    parser.add_argument(
        "--cases", action="store_true", help="write the shipped database of known cases, and play nothing"
    )
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args(arguments)
    if asked.cases:
        write_jsonl(cases.SHIPPED, known_cases())
        print(f"wrote {len(known_cases())} cases to {cases.SHIPPED}")
        return 0
    every = catalogue()
    if unknown := set(asked.rows) - {row.id for row in every}:
        parser.error(f"no row {', '.join(sorted(unknown))}; rows are {every[0].id} to {every[-1].id}")
    chosen = [row for row in every if not asked.rows or row.id in asked.rows]
    place = asked.results / "hacks.json"
    kept = {row["id"]: row for row in json.loads(place.read_text())["rows"]} if asked.rows and place.is_file() else {}
    played: dict[str, dict[str, Any]] = {
        row.id: {"id": row.id, "mechanism": row.mechanism, "needs": row.needs, "backend": row.backend} for row in chosen
    }
    for one in play(chosen):
        played[one.row.id][one.part] = told(one)
        print(one.row.id, one.part, json.dumps(told(one))[:200], flush=True)
    for row in chosen:
        if row.fools is not None and not asked.no_control:
            played[row.id]["naive"] = asked_naively(row)
            print(row.id, "naive", played[row.id]["naive"], flush=True)
    rows = [{**kept.get(row.id, {}), **played.get(row.id, {})} for row in every if row.id in kept or row.id in played]
    here = [row for row in rows if row["needs"] == "cpu"]
    record = {
        "recipe": "hacks",
        "preset": "cpu",
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": hardware(),
        "command": "python -m bench.hacks",
        "seeds": [{"seed": 0, "metrics": {"rows": len(rows), "played": len(here), "load": os.getloadavg()[0]}}],
        "claims": [
            claim("H1", "exploits caught for a reason of their row", sum(row["exploit"]["caught"] for row in here), len(here), ">=", 1.0),
            claim("H2", "honest twins accused", sum(bool(row["twin"]["accused"]) for row in here), len(here), "<=", 0.0),
        ],
        "rows": rows,
    }  # fmt: skip
    write_json(place, record)
    (asked.results / "hacks.md").write_text(page(record), encoding="utf-8")
    print("\n".join("  ".join(line(row)) for row in rows))
    missed = [row["id"] for row in here if not row["exploit"]["caught"] or row["twin"]["accused"]]
    print(f"\n{len(here)} rows played, {len(missed)} against us: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
