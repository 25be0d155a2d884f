"""The page of a search: the best kernel and its lineage, scores over evaluations, every code with its tags and reasons, the cost."""

from __future__ import annotations

from collections import Counter
from typing import Any

from postgrad.report import svg
from postgrad.report.folder import interval, listing, mapping, number, string
from postgrad.report.kernels import check, code, timed
from postgrad.report.kernels.blocks import (
    Beside,
    Block,
    Facts,
    Fold,
    Notice,
    Page,
    Section,
    Source,
    Tags,
    Text,
    capped,
    unread,
)
from postgrad.report.kernels.entry import STATUSES, Check, Entry, Glossary, entry, positive, sha256
from postgrad.report.kernels.sources import Search
from postgrad.report.text import count, short, visible
from postgrad.report.view import Figure, Limits, Table, compact

BECAME = {
    "judged": "answers evaluated",
    "repeated": "answers with a known code",
    "no_code": "answers without code",
    "lost": "answers lost by the sampler",
}
MAX_NODES = 24
"""Of the picture of a lineage; its table has all."""


def page(found: Search, glossary: Glossary, signed: Check | None, limits: Limits) -> Page:
    subject, summary = mapping(found.begun.get("subject")), found.summary
    best = _best(found)
    sections = [Section("search", "How it went", _course(found, limits))]
    if finalists := _finalists(summary, limits):
        note = "The largest of many noisy scores is a lucky one, so the fastest were measured again; the second number counts."
        sections.insert(0, Section("finalists", "The fastest, measured again", [finalists], note))
    if best and (line := _lineage(found, best, limits)):
        note = "Each arrow goes from a code to one that was written when it was shown. Dots are the other codes."
        sections.append(Section("lineage", "Where the best one comes from", line, note))
    if best:
        judged = _judged(found, best, glossary, signed)
        sections.append(Section("code", "The best kernel", check.codes(judged, limits)))
        if judged.timing:
            sections.append(timed.section(judged.timing, limits, "As the search timed the best kernel. "))
    sections.append(Section("archive", "Every code", _archive(found, limits)))
    sections.append(Section("made", "How it was made", [_settings(found)]))
    facts = [
        string(subject.get("backend")),
        string(subject.get("environment")),
        string(found.begun.get("sampler")) or string(summary.get("sampler")),
    ]
    task = visible(string(subject.get("task")) or string(summary.get("task")), 120) or "a search"
    told = [visible(one, 120) for one in facts if one]
    return Page(task, _headline(found), "", told, sections, [*_changed(found, signed), *unread(found.troubles)])


def _changed(found: Search, signed: Check | None) -> list[Notice]:
    """Codes whose verdict, or whose text, is not as the grader left it."""
    if signed is None:
        return []
    told = []
    for one in found.codes:
        record = mapping(one.get("record"))
        wanted = mapping(mapping(record.get("verdict")).get("environment")).get("code_sha256")
        if record and (signed(record) or wanted != sha256(string(one.get("code")))):
            told.append(visible(string(one.get("hash"))[:8], 20))
    some = ", ".join(told[:8]) + (", …" if len(told) > 8 else "")
    return (
        [Notice("alarm", f"{len(told):,} codes or their verdicts are not as they were signed.", some)] if told else []
    )


def _headline(found: Search) -> str:
    done = _outcomes(found)["judged"]
    if not found.summary:
        top = max(_scores(found), default=None)
        so_far = (
            f"the fastest so far is {timed.times(top)} the reference, not yet measured again"
            if top
            else "none is accepted so far"
        )
        return f"Not finished: {done:,} evaluations are done; {so_far}."
    best = mapping(found.summary.get("best"))
    if not best:
        return f"Nothing faster than the reference was verified in {done:,} evaluations."
    ends = interval(best.get("interval"))
    between = f" {timed.around(ends)}" if ends else ""
    return f"The best is {timed.times(positive(best.get('speedup')))} the reference{between}, verified, after {done:,} evaluations."


def _outcomes(found: Search) -> Counter[str]:
    return Counter(string(one.get("outcome")) for one in found.attempts)


def _scores(found: Search) -> list[float]:
    return [score for one in found.codes if (score := _score(one)) is not None]


def _score(one: dict[str, Any]) -> float | None:
    return positive(one.get("score")) if one.get("status") == "accepted" else None


def _best(found: Search) -> dict[str, Any] | None:
    """The verified best one; while there is none, the fastest."""
    chosen = string(mapping(found.summary.get("best")).get("hash"))
    for one in found.codes:
        if chosen and one.get("hash") == chosen:
            return one
    ranked = sorted((one for one in found.codes if _score(one)), key=lambda one: -(_score(one) or 0))
    return ranked[0] if ranked and not found.summary else None


def _judged(found: Search, one: dict[str, Any], glossary: Glossary, signed: Check | None) -> Entry:
    beside = {
        "candidate": string(one.get("code")),
        "reference": string(mapping(found.begun.get("subject")).get("reference")),
        "techniques": listing(one.get("tags")),
    }
    return entry({**mapping(one.get("record")), **beside}, glossary, signed)


# ---- How it went


def _course(found: Search, limits: Limits) -> list[Block]:
    blocks: list[Block] = [figure for figure in (_curve(found, limits),) if figure]
    statuses = Counter(string(one.get("status")) for one in found.codes)
    left = [(BECAME.get(name, visible(name, 40)), count(n)) for name, n in _outcomes(found).most_common(12)]
    left += [(f"distinct codes {name}", count(statuses[name])) for name in STATUSES if statuses[name]]
    cost = [(visible(name.replace("_", " "), 60), short(number(value), 4)) for name, value in _cost(found)]
    if not cost:
        cost = [("the sampler", "keeps no account")]
    return [*blocks, Beside([Facts("Answers", left), Facts("Cost", cost)])]


def _cost(found: Search) -> list[tuple[str, Any]]:
    spent = list(mapping(found.summary.get("cost")).items())[:20]
    done = _outcomes(found)["judged"]
    return [*spent, *([("evaluations", done)] if spent else [])]


def _curve(found: Search, limits: Limits) -> Figure | None:
    """Every accepted score in the order of evaluations, and the best so far."""
    at = {_place(one): one for one in found.codes}
    evaluated, scores = 0, []
    for attempt in found.attempts:
        evaluated += attempt.get("outcome") == "judged"
        one = at.get(_place(attempt))
        if one and attempt.get("outcome") == "judged" and (score := _score(one)) is not None:
            scores.append((float(evaluated), score))
    if not scores:
        return None
    steps: list[tuple[float, float]] = []
    gains = []
    for x, score in scores:
        if not steps or score > steps[-1][1]:
            steps += [(x, steps[-1][1]), (x, score)] if steps else [(x, score)]
            gains.append((count(x), timed.times(score)))
    steps.append((float(evaluated), steps[-1][1]))
    title = "Speed-up over evaluations"
    told = f"{len(scores):,} of {evaluated:,} evaluated codes were accepted; the best went from {gains[0][1]} to {gains[-1][1]}."

    def chart(key: str, width: float) -> Any:
        cloud, line = svg.Series("accepted code", scores, "s0"), svg.Series("best so far", steps, "s1")
        axes = svg.Axis("evaluations", floor=0), svg.Axis("times as fast")
        return svg.cloud_chart(key, title, told, [cloud], [line], *axes, rules=(1.0,), width=width, height=270)

    table = capped(Table("Best so far", ("Evaluations", "Best"), gains), limits.rows, "improvements")
    note = told + " By the search's own verdicts, before the fastest were measured again."
    return Figure("curve", title, note, chart("curve", 760), table, chart("curve-narrow", 340))


def _finalists(summary: dict[str, Any], limits: Limits) -> Table | None:
    rows = [
        (
            visible(string(one.get("hash"))[:8], 20),
            timed.times(positive(one.get("searched"))),
            timed.times(positive(one.get("speedup"))),
            timed.around(interval(one.get("interval"))) or "–",
            visible(string(one.get("status")), 20),
            visible(", ".join(map(string, listing(one.get("reasons")))), 200),
        )
        for one in map(mapping, listing(summary.get("finalists")))
    ]
    columns = ("Code", "In the search", "Again", "Interval", "Status", "Reasons")
    return capped(Table("Finalists", columns, rows, words=(4, 5)), limits.rows, "finalists") if rows else None


# ---- Lineage


def _place(one: dict[str, Any]) -> tuple[Any, Any, Any]:
    return one.get("step"), one.get("draw"), one.get("sample")


def _lineage(found: Search, best: dict[str, Any], limits: Limits) -> list[Block]:
    codes = {string(one.get("hash")): one for one in found.codes}
    shown = {_place(one): [string(parent) for parent in listing(one.get("parents"))] for one in found.attempts}
    waiting, line = [string(best.get("hash"))], {}
    while waiting:
        name = waiting.pop()
        one = codes.get(name)
        if one is not None and name not in line:
            line[name] = shown.get(_place(one), [])
            waiting += line[name]
    order = sorted(line, key=lambda name: (number(codes[name].get("step")) or 0, number(codes[name].get("draw")) or 0))
    rows = [
        (
            name[:8],
            count(number(codes[name].get("step"))),
            timed.times(_score(codes[name])),
            ", ".join(parent[:8] if parent in codes else "reference" for parent in line[name]) or "nothing",
            _tags(codes[name]),
        )
        for name in order
    ]
    columns = ("Code", "Round", "Speed-up", "Written when shown", "Techniques")
    table = Table(
        "Lineage, code by code", columns, [tuple(visible(cell, 200) for cell in row) for row in rows], words=(3, 4)
    )
    return [*_picture(found, order[-MAX_NODES:], line, codes), capped(table, limits.rows, "codes")]


def _picture(
    found: Search, order: list[str], line: dict[str, list[str]], codes: dict[str, dict[str, Any]]
) -> list[Block]:
    names = ["", *order]
    nodes = [svg.Point("reference", 0, 1, style="s5")]
    for name in order:
        score = _score(codes[name])
        nodes.append(svg.Point(timed.times(score), number(codes[name].get("step")) or 0, score or 1, style="s1"))
    nodes[-1] = svg.Point(nodes[-1].name, nodes[-1].x, nodes[-1].y, style="s0")
    edges = [
        (names.index(parent) if parent in names else 0, at)
        for at, name in enumerate(names)
        for parent in line.get(name, ())
        if parent in names or parent not in codes
    ]
    rest = [(number(one.get("step")) or 0.0, score) for one in found.codes if (score := _score(one)) is not None]
    title = "Lineage of the best"
    told = f"{len(order)} codes over {nodes[-1].x:.0f} rounds, from the reference to {nodes[-1].name}; the table below has each."

    def chart(key: str, width: float) -> Any:
        axes = svg.Axis("round", floor=0), svg.Axis("times as fast")
        return svg.graph(key, title, told, nodes, edges, rest, *axes, width=width, height=340)

    table = Table(
        "Codes of the picture",
        ("Code", "Speed-up"),
        [(n[:8] or "reference", p.name) for n, p in zip(names, nodes, strict=True)],
    )
    return [Figure("lineage-picture", title, told, chart("lineage-wide", 760), table, chart("lineage-narrow", 340))]


def _tags(one: dict[str, Any]) -> str:
    return visible(", ".join(string(tag).replace("_", " ") for tag in listing(one.get("tags"))[:12]), 200)


# ---- Every code


def _archive(found: Search, limits: Limits) -> list[Block]:
    if not found.codes:
        return [Text("No code has been evaluated yet.")]
    ranked = sorted(found.codes, key=lambda one: (-(_score(one) or 0), str(_place(one))))
    rows = [
        (
            visible(string(one.get("hash"))[:8], 20),
            count(number(one.get("step"))),
            timed.times(_score(one)),
            visible(string(one.get("status")), 20),
            visible(string(one.get("reason")), 200) or "–",
            _tags(one) or "–",
        )
        for one in ranked[: limits.rows]
    ]
    left = len(ranked) - len(rows)
    note = f"Fastest first.{f' {left:,} of {len(ranked):,} codes are left out here.' if left else ''}"
    columns = ("Code", "Round", "Speed-up", "Status", "Reasons", "Techniques")
    blocks: list[Block] = [
        Table("Archive", columns, rows, note, (3, 4, 5)),
        Beside([_reasons(found), _techniques(found)]),
    ]
    return blocks + [_one(found, one, limits) for one in ranked[: limits.problems]]


def _one(found: Search, one: dict[str, Any], limits: Limits) -> Fold:
    status = string(one.get("status"))
    reference, text = string(mapping(found.begun.get("subject")).get("reference")), string(one.get("code"))
    few = limits.characters // 4
    inside: list[Block] = (
        [Tags("Techniques", [visible(string(tag).replace("_", " "), 40) for tag in tags])]
        if (tags := listing(one.get("tags"))[:12])
        else []
    )
    if reason := string(one.get("reason")):
        inside.append(Text(visible(reason, 400)))
    if reference:
        inside.append(code.diff(reference, text, few, f"{string(one.get('hash'))[:8]} against the reference"))
    else:
        inside.append(Source("The code", "\n".join(code.lines(text, few)[0])))
    title = f"{string(one.get('hash'))[:8]}, round {count(number(one.get('step')))}, {timed.times(_score(one))}"
    return Fold(visible(title, 80), status if status in STATUSES else "unchecked", inside)


def _reasons(found: Search) -> Table:
    told: Counter[str] = Counter()
    for one in found.codes:
        told.update(set(filter(None, string(one.get("reason")).split("; "))))
    rows = [(visible(reason, 60), count(n)) for reason, n in told.most_common(20)]
    return Table("Why codes were not accepted", ("Reason", "Codes"), rows or [("none", "0")])


def _techniques(found: Search) -> Table:
    scores: dict[str, list[float]] = {}
    used: Counter[str] = Counter()
    for one in found.codes:
        for tag in set(map(string, listing(one.get("tags")))):
            used[tag] += 1
            if (score := _score(one)) is not None:
                scores.setdefault(tag, []).append(score)
    rows = [
        (
            visible(tag.replace("_", " "), 40),
            count(n),
            count(len(scores.get(tag, []))),
            timed.times(max(scores.get(tag, []), default=None)),
        )
        for tag, n in used.most_common(20)
    ]
    note = "Tags are read off the text: they say what it is written with, not what helped."
    return Table("Techniques", ("Technique", "Codes", "Accepted", "Fastest"), rows or [("none", "0", "0", "–")], note)


def _settings(found: Search) -> Facts:
    asked = mapping(found.summary.get("settings")) or mapping(found.begun.get("settings"))
    rows = [(visible(name.replace("_", " "), 40), compact(value, 100)) for name, value in list(asked.items())[:30]]
    if ended := string(found.summary.get("ended")):
        rows.insert(0, ("ended because", visible(ended, 200)))
    return Facts("", rows or [("settings", "search.json is not there")])
