"""The page of one verdict: what was found, on what evidence, what to do, every number of the clock, and the code."""

from __future__ import annotations

from collections.abc import Sequence

from postgrad.report.folder import number, string
from postgrad.report.kernels import code, timed
from postgrad.report.kernels.blocks import (
    Beside,
    Block,
    Facts,
    Findings,
    Notice,
    Page,
    Reasoned,
    Section,
    Source,
    Tags,
    Text,
)
from postgrad.report.kernels.entry import Entry, Finding, Glossary
from postgrad.report.text import visible
from postgrad.report.view import Limits

SIGNED = {
    "as signed": "As it was signed: every field has the mark that this run's key gives it.",
    "changed": "Not as it was signed.",
    "not verified": "Signed; the run's key is not here, so nothing is known of whether it was changed.",
    "not signed": "Not signed: nothing shows that a grader wrote this record.",
}


def headline(entry: Entry, glossary: Glossary) -> str:
    speed = f"{timed.times(entry.speedup)} the reference" + (
        f" {timed.around(entry.interval)}" if entry.interval else ""
    )
    why = _because(entry, glossary)
    match entry.status:
        case "accepted":
            slower = entry.speedup is not None and entry.speedup < 1
            return f"Accepted: right, and {speed}{' (slower)' if slower else ''}."
        case "suspicious":
            return f"Suspicious: {speed if entry.speedup else 'no speed-up is given'}, to be looked at again ({why})."
        case "rejected":
            return f"Rejected: {why}."
        case _:
            return f"Unchecked, so it has no speed-up: {why}."


def _because(entry: Entry, glossary: Glossary) -> str:
    """The deciding reason in words, and how many there are beside it."""
    if not entry.findings:
        return "no reason is given"
    meaning = glossary.get(entry.deciding, {}).get("meaning", "").rstrip(".")
    told = f"{meaning[:1].lower()}{meaning[1:]}" or visible(entry.deciding, 60)
    more = len({finding.reason for finding in entry.findings} - {entry.deciding})
    return told + (f", and {more} more reason{'s' * (more > 1)}" if more else "")


def explained(finding: Finding, glossary: Glossary) -> Reasoned:
    known = glossary.get(finding.reason, {})
    return Reasoned(
        finding.status,
        visible(finding.reason, 60),
        known.get("meaning", "") or "This reason is not in the list of this version.",
        visible(finding.evidence, 1500),
        visible(finding.where, 200),
        known.get("advice", ""),
        known.get("rows", ""),
    )


def findings(entry: Entry, glossary: Glossary, limits: Limits) -> list[Block]:
    if not entry.findings:
        return [Text("Nothing was found against it." if entry.status == "accepted" else "The record names no finding.")]
    most = max(3, limits.rows // 10)
    return [Findings([explained(one, glossary) for one in entry.findings[:most]], max(0, len(entry.findings) - most))]


def codes(entry: Entry, limits: Limits) -> list[Block]:
    """What is known of the text of a kernel and of the reference."""
    blocks: list[Block] = []
    if entry.techniques:
        blocks.append(Tags("Techniques", [visible(one.replace("_", " "), 40) for one in entry.techniques[:20]]))
    if entry.reference and entry.candidate:
        blocks.append(code.diff(entry.reference, entry.candidate, limits.characters))
    for title, text in (("The kernel", entry.candidate), ("The reference", entry.reference)):
        if text:
            blocks.append(Source(f"{title}, {len(text):,} characters", _source(text, limits)))
    return blocks


def _source(text: str, limits: Limits) -> str:
    shown, note = code.lines(text, limits.characters)
    return "\n".join([*([f"({note.strip()})"] if note else []), *shown])


def page(entry: Entry, glossary: Glossary, troubles: Sequence[str], limits: Limits) -> Page:
    made = string(entry.environment.get("created"))
    hardware = entry.environment.get("hardware")
    told = hardware if isinstance(hardware, dict) else {}
    facts = [
        visible(made, 40)[:16].replace("T", " "),
        visible(string(entry.labels.get("backend")), 40),
        visible(string(told.get("gpu")) or string(told.get("cpu")), 80),
        {"as signed": "signature verified", "changed": "signature broken"}.get(
            entry.signature.state, f"signature {entry.signature.state}".replace("signature not signed", "not signed")
        ),
    ]
    sections = [Section("findings", "What was found", findings(entry, glossary, limits))]
    if entry.timing:
        sections.append(timed.section(entry.timing, limits))
    if beside := [*timed.baselines(entry, limits), *timed.roofline(entry)]:
        sections.append(Section("beside", "What it must beat", beside))
    if text := codes(entry, limits):
        sections.append(Section("code", "The code", text))
    return Page(
        visible(entry.task, 120) or "a kernel",
        headline(entry, glossary),
        entry.status,
        [one for one in facts if one],
        [*sections, Section("record", "The record", record(entry))],
        [*notices(entry), *[Notice("unread", visible(one, 400)) for one in troubles[:12]]],
    )


def notices(entry: Entry) -> list[Notice]:
    found = []
    if entry.signature.state == "changed":
        told = "; ".join(visible(one, 120) for one in entry.signature.told[:10])
        found.append(Notice("alarm", f"The record is not as it was signed: {told}."))
    if entry.code_as_judged is False:
        found.append(Notice("alarm", "The code shown is not the code that was judged: its hash is not the record's."))
    if entry.signature.state == "not signed":
        found.append(Notice("warning", SIGNED["not signed"]))
    load = number(entry.environment.get("load"))
    cores = entry.environment.get("hardware")
    have = number(cores.get("cores")) if isinstance(cores, dict) else None
    if load is not None and have is not None and load > have:
        found.append(Notice("warning", f"The machine was busy: {load:.1f} processes wanted its {have:.0f} cores."))
    return found


def record(entry: Entry) -> list[Block]:
    judged = {True: "the code shown is the code that was judged", False: "the code shown is another", None: ""}
    rows = [("Signature", SIGNED[entry.signature.state]), ("Code", judged[entry.code_as_judged])]
    if entry.degenerate:
        rows.append(("The task", visible(entry.degenerate, 200)))
    rows += [
        (visible(name, 40), visible(value, 200))
        for name, value in list(entry.labels.items())[:20]
        if name != "techniques"
    ]
    where = timed.environment(entry.environment)
    left = Facts("Signature and labels", [(name, value) for name, value in rows if value])
    return [Beside([left, Facts("Environment", where)])] if where else [left]
