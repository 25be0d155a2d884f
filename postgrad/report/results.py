"""docs/results/*.json -> markdown tables for the README. A claim that is not met stays, and is shown as not met."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TypeVar

from postgrad.report.folder import number
from postgrad.report.measured import decide, quantity
from postgrad.report.text import short, visible

_CLAIM_KEYS = ("id", "statement", "measured", "interval", "op", "threshold", "n")
_ROW_KEYS = (
    "name",
    "workload",
    "unit",
    "ours",
    "peer",
    "peer_name",
    "ratio",
    "limit",
    "fraction_of_limit",
    "commit",
    "hardware",
    "command",
)
_OPTIONAL = ("peer", "peer_name", "ratio", "limit", "fraction_of_limit")
"""Keys of a benchmark's row that may be null: not every workload has a peer or a known limit."""

_VERDICTS = {"met": "✓ met", "not met": "**✗ not met**", "undecided": "? undecided"}

T = TypeVar("T")


def _get(owner: dict[str, Any], key: str, kind: type[T] | tuple[type[T], ...], where: str) -> T:
    if key not in owner:
        raise ValueError(f"{where}: the key {key!r} is missing; it has {', '.join(map(repr, owner)) or 'no keys'}")
    value = owner[key]
    if isinstance(value, bool) or not isinstance(value, kind):
        wanted = " or ".join(k.__name__ for k in kind) if isinstance(kind, tuple) else kind.__name__
        raise ValueError(f"{where}: {key!r} is {json.dumps(value, default=str)[:80]}; want {wanted}")
    return value


def _number(owner: dict[str, Any], key: str, where: str) -> float:
    value = number(owner.get(key))
    if value is None:
        _get(owner, key, (float, int), where)
        raise ValueError(f"{where}: {key!r} is {owner[key]}; want a finite number")
    return value


def _cell(text: str) -> str:
    """One cell of a markdown table: on one line, no column ended early, nothing taken for HTML."""
    flat = " ".join(visible(text, 600).split())
    for sign, shown in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "\\|")):
        flat = flat.replace(sign, shown)
    return flat


def _table(columns: list[str], rows: list[list[str]], right: set[int]) -> str:
    rule = ["---:" if i in right else "---" for i in range(len(columns))]
    lines = [columns, rule, *([_cell(c) for c in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _claims(path: Path, content: dict[str, Any]) -> list[list[str]]:
    recipe, preset = _get(content, "recipe", str, str(path)), _get(content, "preset", str, str(path))
    for key in ("commit", "hardware", "command", "date"):
        if key != "hardware" or not isinstance(content.get(key), dict):
            _get(content, key, str, str(path))
    seeds = _get(content, "seeds", list, str(path))
    for i, seed in enumerate(seeds):
        if not isinstance(seed, dict) or not isinstance(seed.get("metrics"), dict) or "seed" not in seed:
            raise ValueError(f"{path}: seeds[{i}] is not an object with 'seed' and 'metrics'")
    rows = []
    for i, claim in enumerate(_get(content, "claims", list, str(path))):
        where = f"{path}: claims[{i}]"
        if not isinstance(claim, dict):
            raise ValueError(f"{where} is not an object; want the keys {', '.join(_CLAIM_KEYS)}")
        name, statement = _get(claim, "id", str, where), _get(claim, "statement", str, where)
        measured, threshold, n = (
            _number(claim, "measured", where),
            _number(claim, "threshold", where),
            _number(claim, "n", where),
        )
        ends = [number(v) for v in _get(claim, "interval", list, where)]
        if len(ends) != 2 or ends[0] is None or ends[1] is None or ends[0] > ends[1]:
            raise ValueError(f"{where}: 'interval' is {claim['interval']}; want [low, high]")
        op = _get(claim, "op", str, where)
        if op not in (">=", "<="):
            raise ValueError(f"{where}: 'op' is {op!r}; want '>=' or '<='")
        interval = (ends[0], ends[1])
        value, around = quantity(name, measured, interval, threshold)
        wanted, _ = quantity(name, threshold, interval, measured)
        decided, note = decide(claim.get("met"), measured, interval, op, threshold)
        verdict = _VERDICTS[decided] + (f" ({note})" if note else "")
        rows.append(
            [
                recipe,
                preset,
                statement,
                f"{value} {around}",
                f"{'≥' if op == '>=' else '≤'} {wanted}",
                verdict,
                f"{n:,.0f}",
                f"{len(seeds)}",
                content["commit"][:10],
            ]
        )
    return rows


def _bench(path: Path, content: dict[str, Any]) -> list[list[str]]:
    rows = []
    for i, row in enumerate(_get(content, "rows", list, str(path))):
        where = f"{path}: rows[{i}]"
        if not isinstance(row, dict):
            raise ValueError(f"{where} is not an object; want the keys {', '.join(_ROW_KEYS)}")
        given = {k: row[k] for k in row if not (k in _OPTIONAL and row[k] is None)}
        for key in _ROW_KEYS:
            if key in _OPTIONAL and key in row and row[key] is None:
                continue
            if key in ("ours", "peer", "ratio", "limit", "fraction_of_limit"):
                _number(given, key, where)
            elif key != "hardware" or not isinstance(given.get(key), dict):
                _get(given, key, str, where)
        fraction = number(row["fraction_of_limit"])
        unit = row["unit"]
        hardware = row["hardware"]
        rows.append(
            [
                row["name"],
                row["workload"],
                f"{short(number(row['ours']))} {unit}",
                f"{short(number(row['peer']))} {unit} ({row['peer_name'] or 'peer'})"
                if row["peer"] is not None
                else "–",
                f"{row['ratio']:.2f}×" if row["ratio"] is not None else "–",
                f"{100 * fraction:.0f} % of {short(number(row['limit']))}" if fraction is not None else "–",
                hardware
                if isinstance(hardware, str)
                else ", ".join(str(v) for v in hardware.values() if v is not None),
                row["commit"][:10],
            ]
        )
    return rows


def results_table(folder: Path) -> str:
    """Markdown of every result in `folder`: claims of the recipes first, then benchmarks; "" where there is none.

    A file that is not as described in docs/architecture.md raises a ValueError that names the file and the key.
    """
    claims: list[list[str]] = []
    benches: list[list[str]] = []
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}: not JSON: {error}") from error
        if not isinstance(content, dict):
            raise ValueError(f"{path}: want an object, got {type(content).__name__}")
        if path.name.startswith("bench-"):
            benches += _bench(path, content)
        else:
            claims += _claims(path, content)
    parts = []
    if claims:
        columns = ["Recipe", "Preset", "Claim", "Measured [95 %]", "Threshold", "Verdict", "n", "Seeds", "Commit"]
        parts.append(_table(columns, claims, {3, 4, 6, 7}))
    if benches:
        columns = [
            "Benchmark",
            "Workload",
            "Ours",
            "Peer",
            "Ratio (above 1: ours ahead)",
            "Share of the limit",
            "Hardware",
            "Commit",
        ]
        parts.append(_table(columns, benches, {2, 3, 4, 5}))
    return "\n\n".join(parts) + ("\n" if parts else "")
