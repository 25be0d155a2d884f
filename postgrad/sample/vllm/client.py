"""JSON over HTTP with deadlines, and the only place that asks again; what a server's answers must hold to count as answers."""

from __future__ import annotations

import asyncio
import http.client
import json
import math
import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from postgrad.run import Failed
from postgrad.sample.exchange import PASSING, address, exchange, run, short
from postgrad.sample.vllm.server import Server

T = TypeVar("T")

OLDEST = (0, 32)
"""The first release that takes weights from a trainer without vLLM in the form of `weights`."""
CLAMPED = -9999.0
"""The server writes minus infinity as this, since JSON has no infinities."""
OTHER = "is it a vLLM server, and nothing between that changes answers?"
DEV = "weight transfer needs a server with VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config"


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to ask. Every wait ends; times in seconds."""

    start: float = 1800.0
    """Until a server that is still loading its model answers /health."""
    answer: float = 1800.0
    """For one attempt at one completion."""
    control: float = 600.0
    """For one attempt at anything else: a question, or a phase of a weight update."""
    attempts: int = 5
    wait: float = 0.5
    """Before the second attempt; doubles up to 30, less a random half."""


class Passing(Exception):
    """An attempt failed in a way that another one may not: what happened, and what to do if it stays."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Facts:
    """What a server says of itself."""

    model: str
    """The name it is asked by."""
    logprobs_mode: str
    backend: str
    """The way it takes weights."""
    workers: int


class Client:
    """Asks one server. Whatever goes wrong becomes Failed, with the server's address and what was asked for."""

    def __init__(self, server: Server, patience: Patience | None = None) -> None:
        self.server = server
        self.url = server.url.rstrip("/").removesuffix("/v1")
        self.patience = patience or Patience()
        self._address = address(self.url)

    def ask(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        seconds: float | None = None,
        attempts: int | None = None,
        hint: str | None = None,
    ) -> dict[str, Any]:
        """What a control endpoint answers."""
        wait = seconds or self.patience.control
        return run(self.asking(method, path, body, what=path, seconds=wait, read=_object, attempts=attempts, hint=hint))

    def phase(self, path: str, body: Mapping[str, Any]) -> None:
        """One step of an update: once, since a second call after an unknown first could leave half of each."""
        hint = DEV + "; after a failed update restart the server and resume the run"
        self.ask("POST", path, body, attempts=1, hint=hint)

    async def asking(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None,
        *,
        what: str,
        seconds: float,
        read: Callable[[Any], T],
        attempts: int | None = None,
        hint: str | None = None,
    ) -> T:
        """What `read` makes of the answer. `what` is waited for at most `seconds` an attempt; raises Failed."""
        attempts = attempts or self.patience.attempts
        for attempt in range(attempts):
            try:
                return read(await self._answer(method, path, body, seconds, hint))
            except Passing as fault:
                self.server.check()
                if attempt == attempts - 1:
                    tried = "once" if attempts == 1 else f"{attempts} times"
                    hints = "; ".join(filter(None, (fault.hint, hint)))
                    raise Failed(
                        f"{self.url}{path}: asked {tried} for {what}; the last time {fault}: {hints}"
                    ) from fault
                await asyncio.sleep(min(self.patience.wait * 2**attempt, 30) * random.uniform(0.5, 1))
        raise AssertionError("the last attempt returns or raises")

    def facts(self) -> Facts:
        """Wait until the server answers, then let it say what it is. Raises Failed where it cannot be what is needed."""
        run(self._until_healthy())
        version = self.ask("GET", "/version").get("version")
        found = re.match(r"(\d+)\.(\d+)", str(version))
        if not found or (int(found[1]), int(found[2])) < OLDEST:
            raise Failed(
                f"{self.url} is vLLM {version!r}, and {OLDEST[0]}.{OLDEST[1]} is the oldest whose weight transfer is "
                "understood here: upgrade the server, or use rl.sampler=engine"
            )
        listed = self.ask("GET", "/v1/models")
        info = self.ask("GET", "/server_info?config_format=json", hint=DEV)
        workers = self.ask("GET", "/get_world_size", hint=DEV)
        try:
            config = info["vllm_config"]
            transfer = config["weight_transfer_config"]
            return Facts(
                str(listed["data"][0]["id"]),
                str(config["model_config"]["logprobs_mode"]),
                "none" if transfer is None else str(transfer["backend"]),
                int(workers["world_size"]),
            )
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise Failed(f"{self.url} does not say what it is ({type(error).__name__}: {error}): {OTHER}") from error

    async def _until_healthy(self) -> None:
        deadline = time.monotonic() + self.patience.start
        while True:
            left = deadline - time.monotonic()
            try:
                await self._answer("GET", "/health", None, min(max(left, 0.05), 60), None)
                return
            except Passing as fault:
                self.server.check()
                if left <= 0:
                    raise Failed(
                        f"{self.url}: waited {self.patience.start:g} s for /health; the last time {fault}: is the server running "
                        "there, and does its log say that it is loading?"
                    ) from fault
                await asyncio.sleep(min(1.0, max(left, 0), self.patience.wait))

    async def _answer(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float, hint: str | None
    ) -> Any:
        """One attempt: the decoded JSON, None for an empty answer. Raises Passing, or Failed where another is useless."""
        try:
            async with asyncio.timeout(seconds):
                sent = b"" if body is None else json.dumps(body, allow_nan=False).encode()
                answer = await exchange(self._address, method, path, sent)
        except TimeoutError as error:
            raise Passing(f"there was no answer within {seconds:g} s", "lower eval.batch_size if it is busy") from error
        except (OSError, http.client.HTTPException) as error:
            raise Passing(f"{type(error).__name__}: {error}", "is the server running there?") from error
        status, content = answer.status, answer.content
        if status in PASSING or status >= 500:
            raise Passing(f"it answered {status}: {short(content.decode(errors='replace'))}", "its log says more")
        if status >= 300:
            useless = "the request will never be accepted as it is; compare its limits with the server's"
            said = short(content.decode(errors="replace"))
            raise Failed(f"{self.url}{path} answered {status}: {said}: {hint or useless}")
        try:
            return json.loads(content) if content.strip() else None
        except ValueError as error:
            raise Passing(f"the answer is no JSON ({error})", OTHER) from error


def completion(answer: Any) -> tuple[dict[str, Any], list[int], list[float]]:
    """The one choice, its token ids and as many log-probabilities, all finite. Raises Passing."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        got = f"{len(choices)} samples" if isinstance(choices, list) else short(answer)
        raise Passing(f"one sample was asked for and {got} came", OTHER)
    (choice,) = choices
    ids, told = choice.get("token_ids"), choice.get("logprobs")
    logprobs = told.get("token_logprobs") if isinstance(told, dict) else None
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise Passing(f"token_ids are {short(ids)}", OTHER)
    if not isinstance(logprobs, list) or len(logprobs) != len(ids):
        raise Passing(f"{len(ids)} tokens have the log-probabilities {short(logprobs)}", OTHER)
    for place, value in enumerate(logprobs):
        if type(value) not in (int, float) or not math.isfinite(value) or value <= CLAMPED:
            raise Passing(f"log-probability {place} is {value}", "look for non-finite weights: loss, grad_norm, dtype")
        if value > 1e-3:
            raise Passing(f"log-probability {place} is {value}, above 0", "give it a --logprobs-mode of logprobs")
    return choice, ids, [float(value) for value in logprobs]


def _object(answer: Any) -> dict[str, Any]:
    """An empty answer is an acknowledgement too; one that says that it failed is not."""
    if answer is None:
        return {}
    if not isinstance(answer, dict):
        raise Passing(f"the answer is {short(answer)}, not an object", OTHER)
    if answer.get("success") is False or answer.get("error"):
        raise Passing(f"the answer says that it failed: {short(answer)}", "the server's log says why")
    return answer
