"""A server that speaks OpenAI's chat completions over real HTTP, counts what it answers, and may be told to misbehave."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Reply:
    """One answer; `content` bytes go out as they are, anything else as JSON."""

    status: int = 200
    content: Any = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    cut: int = 0
    """So many bytes of the promised length are never sent."""
    drop: bool = False
    """The connection is reset without an answer."""
    delay: float = 0.0
    """Seconds before it is sent."""


def completion(text: Any, finish: Any = "stop", usage: Any = "counted", **message: Any) -> dict[str, Any]:
    counted = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    answer = {
        "id": "c",
        "object": "chat.completion",
        "choices": [
            {"index": 0, "message": {"role": "assistant", "content": text, **message}, "finish_reason": finish}
        ],
    }
    return answer if usage is None else {**answer, "usage": counted if usage == "counted" else usage}


class Fake(ThreadingHTTPServer):
    """Answers every request with a text of its own number, or what `rule` says for the n-th request; None: the ordinary answer."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.delay = delay
        self.rule: Callable[[int, dict[str, Any]], Reply | None] = lambda nth, body: None
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""

    def answer(self, path: str, body: dict[str, Any], headers: dict[str, str]) -> Reply:
        with self.lock:
            nth = len(self.asked)
            self.asked.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
        if path != "/v1/chat/completions":
            return Reply(404, {"error": {"message": f"no such path {path}"}})
        told = self.rule(nth, body)
        if told is not None:
            return told
        asked = hashlib.sha256(json.dumps(body["messages"]).encode()).hexdigest()[:6]
        return Reply(content=completion(f"answer {nth} to {asked}"), delay=self.delay)


class _Handler(BaseHTTPRequestHandler):
    server: Fake
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            told = self.server.answer(self.path, body, dict(self.headers))
            time.sleep(told.delay)
        finally:
            with self.server.lock:
                self.server.busy -= 1
        if told.drop:
            # Linger of zero: a reset, not an end.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            return
        sent = told.content if isinstance(told.content, bytes) else json.dumps(told.content).encode()
        self.send_response(told.status)
        for name, value in told.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent[: len(sent) - told.cut])

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running(delay: float = 0.0) -> Iterator[Fake]:
    with Fake(delay) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
