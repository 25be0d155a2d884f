"""What the asker tells the launcher, and what comes back: one JSON object a frame, bytes behind it."""

from __future__ import annotations

import json
import socket
from dataclasses import asdict, dataclass
from typing import Any

from postgrad.sandbox import channel

FOLDER = "/job"
"""The program's working folder, where it has a root of its own."""


@dataclass(frozen=True, slots=True)
class Job:
    argv: list[str]
    environment: dict[str, str]
    binds: list[tuple[str, str]]
    """(where it lies on the host without links, where the program sees it), outermost first."""
    links: list[tuple[str, str]]
    """(what it points to, its path)."""
    collect: list[str]
    gpu: int | None
    descriptors: list[int]
    """The numbers that the passed descriptors have in the program."""
    wall_s: float
    cpu_s: float
    memory_bytes: int
    processes: int
    disk_bytes: int
    output_bytes: int
    lockdown: bool
    """Without namespaces: what the program may do is bound, what it sees is the host's. Only where the user asked for it."""
    folder: str
    """The program's working folder, as it sees it."""
    memory_place: str | None
    """The folder for its control group; None: its memory is watched."""


def write(to: socket.socket, head: dict[str, Any], blobs: dict[str, bytes], until: float | None = None) -> None:
    head = {**head, "blobs": [[name, len(blob)] for name, blob in blobs.items()]}
    text = json.dumps(head).encode()
    channel.send(to, b"".join([len(text).to_bytes(8, "little"), text, *blobs.values()]), until)


def read(source: socket.socket, until: float | None = None) -> tuple[dict[str, Any], dict[str, bytes]]:
    frame = channel.receive(source, until)
    at = 8 + int.from_bytes(frame[:8], "little")
    head = json.loads(frame[8:at])
    blobs = {}
    for name, size in head.pop("blobs"):
        blobs[name] = frame[at : at + size]
        at += size
    return head, blobs


def plain(job: Job) -> dict[str, Any]:
    return asdict(job)


def of(head: dict[str, Any]) -> Job:
    pairs = {name: [(a, b) for a, b in head[name]] for name in ("binds", "links")}
    return Job(**{**head, **pairs})
