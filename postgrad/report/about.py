"""How the run went and on what: stages and their time, notices, the reward's order, data counts, machine."""

from __future__ import annotations

from typing import Any

import yaml

from postgrad.report import svg
from postgrad.report.folder import Folder, listing, mapping, number, string
from postgrad.report.text import SPACE, count, duration, percent, visible
from postgrad.report.view import NAMES, Figure, Table, compact, name_of, stage_name, style_of


def stage_rows(folder: Folder) -> list[dict[str, str]]:
    """sft: done, 4 min 12 s; rl: running, step 60 of 150; eval: not started."""
    try:
        config = mapping(yaml.safe_load(folder.config))
    except (yaml.YAMLError, RecursionError, ValueError):
        config = {}
    seconds = mapping(folder.summary.get("seconds"))
    known = [*folder.stages, *(s for s in folder.metrics if s not in folder.stages)]
    expected = [s for s in ("sft", "rl", "eval") if s not in known and config.get(s) is not None]
    rows = []
    for stage in [*known, *expected][:12]:
        entry = mapping(folder.stages.get(stage))
        status = string(entry.get("status")) or ("not started" if stage in expected else "no record")
        detail = []
        steps = [series[-1][0] for series in folder.metrics.get(stage, {}).values()]
        asked = mapping(config.get(stage))
        planned = number(asked.get("stop_step")) or number(asked.get("max_steps"))
        if steps and planned and (status != "done" or max(steps) < planned):
            detail.append(f"step {count(max(steps))} of {count(planned)}")
        elif steps:
            detail.append(f"{count(max(steps))} steps")
        spent = number(entry.get("seconds")) or number(seconds.get(stage))
        if spent is not None:
            detail.append(duration(spent))
        icon = {"done": "✓", "running": "▸"}.get(status, "○")
        rows.append(
            {
                "name": stage_name(stage),
                "status": visible(status, 40),
                "icon": icon,
                "detail": ", ".join(detail),
            }
        )
    return rows


def stage_bars(folder: Folder) -> Figure | None:
    spent = [
        (name, s) for name, entry in folder.stages.items() if (s := number(mapping(entry).get("seconds"))) is not None
    ][:12]
    if not spent:
        return None
    rows = [(stage_name(k), s, style_of(k) if k in NAMES else "s5") for k, s in spent]
    title = "Time of each stage"
    description = "; ".join(f"{label}: {duration(s)}" for label, s, _ in rows) + "."
    chart = svg.bars("time", title, description, rows, lambda v: duration(v))
    return Figure(
        "time", title, "", chart, Table(title, ("Stage", "Time"), [(label, duration(s)) for label, s, _ in rows])
    )


def notices(folder: Folder) -> list[dict[str, str]]:
    """Alarms, then what could not be read, then warnings; equal messages become one with a count."""
    found: dict[tuple[str, str, str], list[float]] = {}
    for event in folder.events:
        level = string(event.get("level"))
        if level not in ("alarm", "warning"):
            continue
        key = (level, string(event.get("stage")), string(event.get("message")))
        steps = found.setdefault(key, [])
        steps.append(number(event.get("step")) or 0)
    told: dict[str, list[dict[str, str]]] = {"alarm": [], "unread": [], "warning": []}
    for (level, stage, message), steps in found.items():
        where = f"step {count(min(steps))}"
        if len(steps) > 1:
            where = f"{len(steps):,} times, steps {count(min(steps))} to {count(max(steps))}"
        if stage:
            where = f"{visible(name_of(stage), 40)}, {where}"
        told[level].append({"level": level, "where": where, "message": visible(message, 400)})
    told["unread"] = [{"level": "unread", "where": "", "message": visible(t, 400)} for t in folder.troubles]
    return [notice for notices in told.values() for notice in notices]


def reward_order(folder: Folder) -> dict[str, Any] | None:
    row = mapping(folder.summary.get("reward_order")) or folder.reward_order
    share, alike = number(row.get("inverted_share")), number(row.get("inverted_share_same_style"))
    if not row or share is None:
        return None
    examples = listing(row.get("examples"))
    lines = [compact(e, 400) for e in examples[:5]]
    return {
        "ok": not (share if alike is None else alike),
        "none": share == 0,
        "share": percent(share, 1 if share == 0 or share >= 0.001 else 3),
        "alike": percent(alike, 1 if not alike or alike >= 0.001 else 3) if alike is not None else "",
        "pairs": count(number(row.get("pairs"))) if row.get("pairs") is not None else "the",
        "examples": lines,
        "more": max(0, len(examples) - 5),
    }


def flatten(value: dict[str, Any], prefix: str = "", depth: int = 4) -> list[tuple[str, str]]:
    """Nested counts as rows: ("selection › kept", "5,588")."""
    rows: list[tuple[str, str]] = []
    for key, item in value.items():
        name = f"{prefix}{key}".replace("_", " ")
        if isinstance(item, dict) and depth:
            rows += flatten(mapping(item), f"{name} › ", depth - 1)
        else:
            known = number(item)
            rows.append((visible(name, 80), compact(item, 300) if known is None else count(known)))
    return rows


def environment(folder: Folder) -> tuple[list[tuple[str, str]], str]:
    m = folder.manifest
    hardware = mapping(m.get("hardware"))
    rows = [
        (label, visible(string(m.get(key)), 200))
        for label, key in (
            ("Recipe", "recipe"),
            ("Preset", "preset"),
            ("Seed", "seed"),
            ("Created", "created"),
            ("Commit", "commit"),
            ("postgrad", "postgrad"),
            ("Python", "python"),
        )
        if m.get(key) is not None
    ]
    rows += [
        (label, f"{visible(string(hardware.get(key)), 200)}{unit}")
        for label, key, unit in (
            ("Processor", "cpu", ""),
            ("Cores", "cores", ""),
            ("Memory", "memory_gib", f"{SPACE}GiB"),
            ("GPU", "gpu", ""),
        )
        if hardware.get(key) is not None
    ]
    if hardware and hardware.get("gpu") is None:
        rows.append(("GPU", "none"))
    packages = ", ".join(f"{k}{SPACE}{string(v)}" for k, v in list(mapping(m.get("packages")).items())[:80])
    return rows, visible(packages, 4000)
