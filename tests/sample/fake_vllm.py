"""A server that speaks vLLM's interface over real HTTP, follows weights, and may be told to misbehave."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from postgrad.sample.vllm.client import Client, Patience
from postgrad.sample.vllm.weights import described

Answer = tuple[int, Any]
"""A status and what is sent: an object as JSON, or bytes as they are."""
QUICK = Patience(start=20, answer=20, control=20, attempts=3, wait=0.01)
"""Asks again at once; its deadlines are for a busy machine and not met."""
INIT, PAUSE, RESUME = "/init_weight_transfer_engine", "/pause?mode=wait", "/resume"
PHASES = ["/start_weight_update", "/update_weights", "/finish_weight_update"]
UPDATE = [PAUSE, *PHASES, RESUME]


class Fake(ThreadingHTTPServer):
    """Says tokens that are a function of the request's seed, or what `says` makes of a request and the weights it was sent.

    `rules` answer first, by path; None: the ordinary answer.
    """

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, eos: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.eos = eos
        self.mode = "processed_logprobs"
        self.backend: str | None = "ipc"
        self.version = "0.33.0"
        self.delay = 0.0
        self.rules: dict[str, Callable[[int, dict[str, Any]], Answer | None]] = {}
        self.says: Callable[[dict[str, Any]], tuple[list[int], list[float]]] = self.by_seed
        self.asked: list[tuple[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.weights: dict[str, torch.Tensor] = {}
        """As last sent."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]

    @property
    def completions(self) -> list[dict[str, Any]]:
        return [body for path, body in self.asked if path == "/v1/completions"]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that gave up is no news."""

    def answer(self, path: str, body: Any) -> Answer:
        with self.lock:
            self.asked.append((path, body))
            nth = self.counts[path]
            self.counts[path] += 1
        if path in self.rules and (told := self.rules[path](nth, body)) is not None:
            return told
        match path:
            case "/health":
                return 200, b""
            case "/version":
                return 200, {"version": self.version}
            case "/v1/models":
                return 200, {"data": [{"id": "tiny"}]}
            case "/get_world_size":
                return 200, {"world_size": 1}
            case "/server_info?config_format=json":
                transfer = None if self.backend is None else {"backend": self.backend}
                config = {"model_config": {"logprobs_mode": self.mode}, "weight_transfer_config": transfer}
                return 200, {"vllm_config": config}
            case "/v1/completions":
                return 200, self.complete(body)
        return 200, {"message": "done"}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        ids, logprobs = self.says(body)
        return said(body["prompt"], ids, logprobs, "stop" if ids[-1] == self.eos else "length")

    def by_seed(self, body: dict[str, Any]) -> tuple[list[int], list[float]]:
        rng = random.Random(body["seed"])
        time.sleep(self.delay * rng.random())
        ids = [rng.randrange(20, 60) for _ in range(rng.randint(1, body["max_tokens"] + 2))]
        ids = [*ids, self.eos][: body["max_tokens"]]
        return ids, [-rng.random() for _ in ids]


class Wire:
    """A way for weights on a CPU: the server's folder of tensors is filled by hand while it is told of them."""

    def __init__(self, fake: Fake) -> None:
        self.fake = fake

    def join(self, client: Client, workers: int, device: torch.device) -> None:
        client.phase(INIT, {"init_info": {"packed": False}})

    def send(self, client: Client, named: Mapping[str, torch.Tensor]) -> None:
        self.fake.weights = {name: tensor.clone() for name, tensor in named.items()}
        client.phase("/update_weights", {"update_info": described(named)})


def said(prompt: list[int], ids: Any, logprobs: Any, finish: Any) -> dict[str, Any]:
    choice = {
        "index": 0,
        "text": "never to be tokenised",
        "token_ids": ids,
        "prompt_token_ids": prompt,
        "logprobs": {"token_logprobs": logprobs},
        "finish_reason": finish,
    }
    return {"choices": [choice]}


class _Handler(BaseHTTPRequestHandler):
    server: Fake
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.reply(None)

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self.reply(json.loads(self.rfile.read(length)) if length else None)

    def reply(self, body: Any) -> None:
        with self.server.lock:
            self.server.busy += 1
            self.server.most_busy = max(self.server.most_busy, self.server.busy)
        try:
            status, content = self.server.answer(self.path, body)
        finally:
            with self.server.lock:
                self.server.busy -= 1
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        cut = status == 0  # The headers promise more.
        self.send_response(status or 200)
        self.send_header("Content-Length", str(len(sent) + 10 * cut))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def running(eos: int) -> Iterator[Fake]:
    with Fake(eos) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.stopping.set()
            server.shutdown()
            thread.join()
