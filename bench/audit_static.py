"""What can be said of CUDA-L1's released kernels without a GPU. python -m bench.audit_static FOLDER --kernelbench FOLDER --out FOLDER [--minutes 10]

FOLDER holds its files of JSON lines (optimized_cuda_code/*.json), --kernelbench is a checkout of KernelBench's branch v0, --out keeps the signed verdicts
and is continued. Writes docs/results/audit-static.md: counts and names of findings, none of the code.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postgrad.kernels import audit, released
from postgrad.kernels.dossier import Dossier
from postgrad.kernels.task import kernel_bench_folder
from postgrad.kernels.verdict import Reason
from postgrad.run import commit


def table(rows: Sequence[Mapping[str, object]]) -> list[str]:
    names = list(rows[0])
    lines = ["| " + " | ".join(names) + " |", "|" + " --- |" * len(names)]
    return [*lines, *("| " + " | ".join(str(row[name]) for name in names) + " |" for row in rows), ""]


def usable(path: Path, references: Path) -> dict[str, object]:
    """What a file holds."""
    rows = list(released.read(path))
    told = released.count(rows)
    foreign = released.foreign_references(rows, kernel_bench_folder(references))
    return {
        "file": path.stem,
        "rows": told.rows,
        "usable": told.usable,
        "without code": told.without_code,
        "of them with a score": told.claims_without_code,
        "no Python, or no ModelNew": told.unusable,
        "references that are v0's": told.rows - len(foreign),
    }


def judged(path: Path, records: Sequence[Mapping[str, Any]], owed: int) -> dict[str, object]:
    """What became of them."""
    statuses = Counter(record["verdict"]["status"] for record in records)
    found = Counter(one["reason"] for record in records for one in record["verdict"]["findings"] if one["where"] == "admission")  # fmt: skip
    asked = len(records) - found[Reason.NEEDS_GPU] - found[Reason.REFERENCE_FAILED]
    return {
        "file": path.stem,
        "verdicts": len(records),
        "rejected by the text": statuses["rejected"],
        "unchecked, needs a GPU": statuses["unchecked"],
        "tasks asked for admission": asked,
        "degenerate": sum("degenerate" in record for record in records),
        "too large, too slow or failing here": len(records) - asked,
        "owed": owed,
    }


def rules(rows: Mapping[str, Sequence[audit.Row]]) -> list[dict[str, object]]:
    """Kernels of each file in which a static rule finds something, most first."""
    found = {
        name: {(one["rule"], one["tier"], one["meaning"]): one["kernels"] for one in audit.counts(some)}
        for name, some in rows.items()
    }
    every = {
        key: sum(int(str(counts.get(key, 0))) for counts in found.values()) for some in found.values() for key in some
    }
    return [
        {"rule": rule, "tier": tier, **{name: found[name].get((rule, tier, meaning), 0) for name in found}, "meaning": meaning}
        for rule, tier, meaning in sorted(every, key=lambda key: (-every[key], key))
    ]  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kernelbench", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--results", type=Path, default=Path("docs/results"))
    asked = parser.parse_args(arguments)
    until = time.monotonic() + 60 * asked.minutes
    paths = sorted(asked.folder.glob("*.json"))
    rows = {path.stem: audit.gather(path) for path in paths}
    held, became, gains = [], [], []
    for place, path in enumerate(paths):
        dossier = Dossier(asked.out, path.stem)
        share = (until - time.monotonic()) / (len(paths) - place)
        owed = dossier.go_on(rows[path.stem], share, None)
        held.append(usable(path, asked.kernelbench))
        became.append(judged(path, dossier.records, owed))
        gains += [
            {"file": path.stem, **row} for row in audit.gains(dossier.records, path.stem) if row["kernels"] != "0"
        ]
        print(became[-1], flush=True)
    degenerate = sorted(
        {record["verdict"]["task"] for path in paths for record in Dossier(asked.out, path.stem).records if "degenerate" in record},
        key=lambda name: [int(part) for part in name.split("-")],
    )  # fmt: skip
    page = [
        "# CUDA-L1's released kernels, read without a GPU",
        "",
        f"`python -m bench.audit_static optimized_cuda_code --kernelbench v0 --out audit`, commit {commit()}, {time.strftime('%Y-%m-%d', time.gmtime())}. "
        "One file at a time: `postgrad kernels audit a100.json --kernelbench v0 --out audit --minutes 10`.",
        "",
        "No kernel was run and no speed-up measured. A verdict is `rejected` where a rule of the tier reject finds something in the text, else `unchecked` "
        "with NEEDS_GPU; on a GPU it would be judged by what it does, and a rule such as `fallback` says nothing of its speed. Speed-ups below are the files' claims over eager.",
        "",
        *table(held),
        "The reference of each task was run on the CPU with two rows in its batch, and asked whether answers without work pass (`kernels/admit.py`). "
        f"Degenerate by that: {', '.join(degenerate) or 'none'}.",
        "",
        *table(became),
        "Claims, over sets of these kernels. Published: over all 250 tasks, as the paper has it.",
        "",
        *table(gains),
        "Kernels in which a static rule finds something. `reject`: no honest kernel does it; `suspect`: somebody must look; `warn`: no finding.",
        "",
        *table(rules(rows)),
    ]
    (asked.results / "audit-static.md").write_text("\n".join(page).rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
