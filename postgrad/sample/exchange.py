"""One HTTP exchange over one connection: what samplers that ask a server have in common. Deadlines are the caller's.

No library: a request is a few lines of text, `http.client` reads the answer, and nothing is pooled, so nothing goes stale between
two steps of training. Redirects are not followed, so that a key reaches no other host; proxies of the environment are not used.
"""

from __future__ import annotations

import asyncio
import http.client
import io
import ssl
from collections.abc import Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")

PASSING = {408, 409, 429}
"""Statuses, with all from 500 on, after which the same request may succeed."""
MOST_BYTES = 64 * 2**20
"""No answer that is wanted is longer."""


@dataclass(frozen=True, slots=True)
class Address:
    host: str
    port: int
    path: str
    """What stands before every request's own path."""
    tls: ssl.SSLContext | None


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: http.client.HTTPMessage
    content: bytes


def address(url: str) -> Address:
    """Raises ValueError where `url` is no server's address."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{url!r} is no server's address ({error}): give one such as http://localhost:8000") from error
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no server's address: give one such as http://localhost:8000")
    tls = ssl.create_default_context() if parts.scheme == "https" else None
    return Address(parts.hostname, port or (443 if tls else 80), parts.path.rstrip("/"), tls)


async def exchange(
    to: Address, method: str, path: str, content: bytes, headers: Mapping[str, str] | None = None
) -> Answer:
    """Raises OSError where the connection fails, http.client.HTTPException for an answer that is cut or none, or too long."""
    reader, writer = await asyncio.open_connection(to.host, to.port, ssl=to.tls)
    try:
        host = f"[{to.host}]" if ":" in to.host else to.host
        lines = {
            "Host": f"{host}:{to.port}",
            "Connection": "close",
            "Content-Type": "application/json",
            "Content-Length": str(len(content)),
            **(headers or {}),
        }
        head = f"{method} {to.path}{path} HTTP/1.1\r\n" + "".join(f"{name}: {text}\r\n" for name, text in lines.items())
        writer.write(head.encode() + b"\r\n" + content)
        received = bytearray()
        while chunk := await reader.read(2**16):
            received += chunk
            if len(received) > MOST_BYTES:
                raise http.client.HTTPException(f"the answer is longer than {MOST_BYTES} bytes")
    finally:
        writer.close()
    response = http.client.HTTPResponse(_Received(bytes(received)), method=method)  # type: ignore[arg-type]
    response.begin()
    return Answer(response.status, response.headers, response.read())


class _Received:
    """What http.client reads an answer from, in place of a socket."""

    def __init__(self, received: bytes) -> None:
        self.received = received

    def makefile(self, mode: str) -> io.BytesIO:
        return io.BytesIO(self.received)


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    """What it returns or raises; in a thread of its own where the caller's has a loop already, as a notebook's has."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(coroutine)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


def short(value: Any) -> str:
    """For messages."""
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
