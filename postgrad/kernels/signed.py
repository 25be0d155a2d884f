"""Verdicts that tell what was changed in them: canonical JSON and HMAC-SHA256 (RFC 2104) with a key of the run.

    whole = HMAC(key, canonical(verdict));  mark of a field = HMAC(key, whole + path + canonical(value))

The whole says that something was changed, the marks say what: a value that was edited, added or taken away, by its path. A mark holds
for one verdict only, because the whole is part of it. Canonical: keys sorted, no spaces, shortest floats, UTF-8, no NaN.
Whoever holds the key can sign anything, so it stays with the grader: it is in no worker's memory, files or environment.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from postgrad.kernels.verdict import KernelVerdict
from postgrad.records import from_json, to_json

ALGORITHM = "HMAC-SHA256"


def canonical(value: Any) -> bytes:
    """Raises ValueError for NaN and infinities."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def run_key(path: Path) -> bytes:
    """The run's 32 secret bytes, made where `path` is not there yet; readable by its owner alone."""
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        key = path.read_bytes()
        if len(key) != 32:
            raise ValueError(
                f"{path} holds {len(key)} bytes, a key has 32: give the key of the run, or another path"
            ) from None
        return key
    with os.fdopen(handle, "wb") as file:
        key = secrets.token_bytes(32)
        file.write(key)
        file.flush()
        os.fsync(file.fileno())
    return key


def sign(verdict: KernelVerdict, key: bytes) -> dict[str, Any]:
    """{"verdict": ..., "signature": {"algorithm", "whole", "fields": {path: mark}}}; JSON."""
    content = json.loads(to_json(verdict))
    whole = _mark(key, canonical(content))
    return {
        "verdict": content,
        "signature": {"algorithm": ALGORITHM, "whole": whole, "fields": _marks(content, whole, key)},
    }


def changes(record: Mapping[str, Any], key: bytes) -> list[str]:
    """What is not as it was signed, in words that name each path; empty where all is. Any JSON object may be given."""
    content, signature = record.get("verdict"), record.get("signature")
    if content is None or not isinstance(signature, Mapping):
        return ["the record has no verdict or no signature"]
    whole, fields = signature.get("whole"), signature.get("fields")
    if signature.get("algorithm") != ALGORITHM or not isinstance(whole, str) or not isinstance(fields, Mapping):
        return [f"the signature is not of the form that {ALGORITHM} records have"]
    now = _marks(content, whole, key)
    told = [f"{path}: changed" for path, mark in now.items() if path in fields and not _same(fields[path], mark)]
    told += [f"{path}: added" for path in now if path not in fields]
    told += [f"{path}: taken away" for path in fields if path not in now]
    if len(told) >= len(now) and set(now) == set(fields):
        return ["the signature is another key's, or was changed"]
    if not told and not _same(whole, _mark(key, canonical(content))):
        return ["the signature of the whole was changed"]
    return told


def opened(record: Mapping[str, Any], key: bytes) -> KernelVerdict:
    """The verdict of a record. Raises ValueError that names what was changed."""
    told = changes(record, key)
    if told:
        raise ValueError(f"the record is not as it was signed: {'; '.join(told[:10])}")
    return from_json(KernelVerdict, canonical(record["verdict"]))


def _marks(content: Any, whole: str, key: bytes) -> dict[str, str]:
    return {path: _mark(key, canonical([whole, path, value])) for path, value in _leaves(content, "")}


def _leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Paths such as findings[0].evidence. A list of plain values is one leaf: a thousand times are one thing."""
    if isinstance(value, dict) and value:
        for name, part in value.items():
            yield from _leaves(part, f"{path}.{name}" if path else name)
    elif isinstance(value, list) and any(isinstance(part, dict) for part in value):
        for index, part in enumerate(value):
            yield from _leaves(part, f"{path}[{index}]")
    else:
        yield path, value


def _mark(key: bytes, content: bytes) -> str:
    return hmac.digest(key, content, "sha256").hex()


def _same(one: Any, other: str) -> bool:
    return isinstance(one, str) and hmac.compare_digest(one.encode(), other.encode())
