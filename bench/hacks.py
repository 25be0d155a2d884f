"""The matrix of hacks: every row's exploit and honest twin through the whole pipeline. python -m bench.hacks [ROW ...] [--no-control] [--cases]
    [--kernelbench FOLDER] [--cuda-l1 FOLDER] [--only-peers]

An exploit is played twice: with the static rules, and without them, so that the table says which hacks what a kernel *does* gives
away. It is caught where it is not accepted and a finding names a reason of its row. A twin is a false positive where anything but
noise is said against it. The naive evaluator (tests/hacks/naive.py) is asked about every exploit that is meant to fool it, in the
sandbox. Named rows are played again and join the others in docs/results/hacks.json; docs/results/hacks.md is the table.

--kernelbench and --cuda-l1 name checkouts whose own evaluators are asked the same, each in the sandbox (tests/hacks/peers). --only-peers asks
them alone and joins what they say to what was played before.

--cases writes the texts of all rows, with their labels, to the database of known cases that the package ships.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from postgrad.evals.stats import rate
from postgrad.kernels.guard import cases
from postgrad.records import write_jsonl
from postgrad.run import commit, hardware, write_json
from tests.hacks import catalogue, control, known_cases
from tests.hacks import peers as others
from tests.hacks.peers import PEERS
from tests.hacks.play import Part, Played, play
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


def asked_others(row: Row, folders: dict[str, Path], gpu: int | None) -> dict[str, Any]:
    parts: tuple[Part, ...] = ("exploit", "twin")
    return {
        name: {part: others.ask(PEERS[name], folder, row, part, gpu=gpu) for part in parts}
        for name, folder in folders.items()
    }


def line(row: dict[str, Any], asked: Collection[str] = ()) -> list[str]:
    """A row of the table, with what the other evaluators said that were asked."""
    exploit, twin, naive = row["exploit"], row["twin"], row.get("naive")
    behaviour = ", ".join(exploit["behaviour"]) or ("gains nothing" if exploit["harmless"] else "-")
    if row["needs"] == "gpu":
        caught, accepted, behaviour = "static" if exploit["right"] else "owed", "owed", "needs a GPU"
    else:
        caught = "yes" if exploit["caught"] else "**no**"
        accepted = "yes" if twin["accepted"] else "**no**" if twin["accused"] else "too noisy to time"
    theirs = [peer_said(row, name) for name in PEERS if name in asked]
    fooled = "-" if naive is None else f"fooled, {naive['speedup']:.1f}x" if naive["fooled"] else "not fooled"
    ours = [", ".join(exploit["static"]) or "-", behaviour, caught, accepted]
    return [row["id"], row["mechanism"], fooled, *theirs, *ours]


def peer_said(row: dict[str, Any], name: str) -> str:
    """What another evaluator made of the exploit, and of the twin where it refused that."""
    if row["needs"] == "gpu" and name not in row.get("peers", {}):
        return "needs a GPU"
    if name not in row.get("peers", {}):
        return "not asked: no module"
    exploit, twin = row["peers"][name]["exploit"], row["peers"][name]["twin"]
    gain = "" if exploit["speedup"] is None else f", {exploit['speedup']:.1f}x"
    told = {True: f"let through{gain}", False: "refused", None: "no verdict"}[exploit["passed"]]
    noticed = "; its text checker objects" if (exploit.get("static") or {}).get("errors") else ""
    return told + noticed + ("" if twin["passed"] else "; refuses the twin")


BEFORE = ["row", "exploit", "naive evaluator"]
AFTER = ["text gives away", "behaviour gives away (rules off)", "caught", "twin accepted"]


def beside(rows: Sequence[dict[str, Any]], peers: dict[str, Any]) -> list[str]:
    """A sentence for each evaluator that was asked."""
    told = []
    for name, peer in peers.items():
        asked = [row for row in rows if name in row.get("peers", {})]
        exploits = [row["peers"][name]["exploit"] for row in asked]
        through = [one for one in exploits if one["passed"]]
        noticed = [one for one in through if (one.get("static") or {}).get("errors")]
        twins = [row["id"] for row in asked if not row["peers"][name]["twin"]["passed"]]
        text = (
            f"- {name} ({peer['commit'][:12]}), {peer['part']}: lets {len(through)} of {len(exploits)} exploits through"
        )
        text += (
            f", {len(noticed)} of which its text checker objects to" if any("static" in one for one in exploits) else ""
        )
        text += f", comes to no verdict on {sum(one['passed'] is None for one in exploits)}, whose process ended first or was stopped" if any(one["passed"] is None for one in exploits) else ""  # fmt: skip
        told.append(text + (f"; refuses the honest twins of {', '.join(twins)}." if twins else "; refuses no honest twin."))  # fmt: skip
    return told


def page(record: dict[str, Any]) -> str:
    rows = record["rows"]
    here = [row for row in rows if row["needs"] == "cpu"]
    owed = [row["id"] for row in rows if row["needs"] == "gpu"]
    alone = [row for row in here if row["exploit"]["status"] != "accepted" and row["exploit"]["behaviour"]]
    given = [row for row in rows if row["needs"] == "gpu" and row["exploit"]["right"]]
    noisy = [row["id"] for row in here if not row["twin"]["accepted"] and not row["twin"]["accused"]]
    fooled = [row for row in rows if row.get("naive")]
    peers = record.get("peers", {})
    columns = [*BEFORE, *(name for name in PEERS if name in peers), *AFTER]
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
        *beside(rows, peers),
        "",
        "| " + " | ".join(columns) + " |",
        "|" + " --- |" * len(columns),
    ]
    return "\n".join([*text, *("| " + " | ".join(line(row, peers)) + " |" for row in rows)]) + "\n"


def git_head(folder: Path) -> str:
    """The commit of a checkout; empty where it is none."""
    found = subprocess.run(["git", "-C", str(folder), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return found.stdout.strip()


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
    for name in PEERS:
        parser.add_argument(f"--{name.lower()}", type=Path, dest=name, metavar="FOLDER", help=f"a checkout of {name}")
    parser.add_argument("--only-peers", action="store_true", help="ask the named evaluators, and play nothing")
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
    folders = {name: getattr(asked, name) for name in PEERS if getattr(asked, name) is not None}
    if asked.only_peers and not (folders and place.is_file()):
        parser.error(f"--only-peers needs a checkout to ask, and {place} to join what it says to")
    before = json.loads(place.read_text()) if place.is_file() and (asked.rows or asked.only_peers) else {}
    kept = {row["id"]: row for row in before.get("rows", [])}
    played: dict[str, dict[str, Any]] = {
        row.id: {"id": row.id, "mechanism": row.mechanism, "needs": row.needs, "backend": row.backend} for row in chosen
    }
    for one in play([] if asked.only_peers else chosen):
        played[one.row.id][one.part] = told(one)
        print(one.row.id, one.part, json.dumps(told(one))[:200], flush=True)
    for row in chosen:
        if row.fools is not None and not asked.no_control and not asked.only_peers:
            played[row.id]["naive"] = asked_naively(row)
            print(row.id, "naive", played[row.id]["naive"], flush=True)
    gpu = 0 if Path("/dev/nvidia0").exists() else None
    for row in chosen:
        if folders and others.can_be_asked(row, gpu is not None):
            played[row.id]["peers"] = {**kept.get(row.id, {}).get("peers", {}), **asked_others(row, folders, gpu)}
            print(row.id, json.dumps(played[row.id]["peers"])[:300], flush=True)
    rows = [{**kept.get(row.id, {}), **played.get(row.id, {})} for row in every if row.id in kept or row.id in played]
    here = [row for row in rows if row["needs"] == "cpu"]
    now = {
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "hardware": hardware(),
        "command": "python -m bench.hacks",
        "seeds": [{"seed": 0, "metrics": {"rows": len(rows), "played": len(here), "load": os.getloadavg()[0]}}],
    }
    part = "all of it" if gpu is not None else "its own checks with a CPU in the GPU's place, nothing timed"
    asked_now = {
        name: {"commit": git_head(folder), "date": now["date"], "part": part} for name, folder in folders.items()
    }
    record = {
        "recipe": "hacks",
        "preset": "cpu",
        **({name: before[name] for name in now} if asked.only_peers else now),
        "peers": {**before.get("peers", {}), **asked_now},
        "claims": [
            claim("H1", "exploits caught for a reason of their row", sum(row["exploit"]["caught"] for row in here), len(here), ">=", 1.0),
            claim("H2", "honest twins accused", sum(bool(row["twin"]["accused"]) for row in here), len(here), "<=", 0.0),
        ],
        "rows": rows,
    }  # fmt: skip
    write_json(place, record)
    (asked.results / "hacks.md").write_text(page(record), encoding="utf-8")
    print("\n".join("  ".join(line(row, record["peers"])) for row in rows))
    missed = [row["id"] for row in here if not row["exploit"]["caught"] or row["twin"]["accused"]]
    print(f"\n{len(here)} rows played, {len(missed)} against us: {', '.join(missed) or 'none'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
