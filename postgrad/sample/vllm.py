"""Sampling by a vLLM server over HTTP: token ids in, token ids and log-probabilities out, weights pushed before each step.

Written against the documented interface of vLLM 0.26 to 0.32: `/v1/completions` with `return_token_ids`
(docs.vllm.ai, "OpenAI-Compatible Server") and native weight transfer ("Weight Transfer", "Async Reinforcement Learning"). The
server lives in an environment of its own:

    VLLM_SERVER_DEV_MODE=1 vllm serve MODEL --weight-transfer-config '{"backend": "nccl"}' \\
        --logprobs-mode processed_logprobs

Which `--logprobs-mode` gives a Trace's log-probabilities, those of the temperature-scaled distribution before top-k, top-p
and min-p? "raw" is before temperature and filters, "processed" after both:

    temperature 1 or 0, no filter   either mode
    another temperature, no filter  processed_logprobs
    temperature 1, a filter         raw_logprobs
    another temperature, a filter   neither: refused

`connect` finds out by asking which mode the server has. Everything that would otherwise come from the model's
generation_config (top-p, repetition penalty, ...) is sent with each request, because the server applies those silently.

Randomness: each trace has its own seed, a function of (seed, step, problem, sample). The server repeats a trace for a seed up
to rounding, which depends on what shares its batch.
"""

from __future__ import annotations

import email.utils
import hashlib
import http.client
import importlib
import json
import math
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar
from urllib.parse import urlsplit

from postgrad import chat
from postgrad.records import Problem, Trace
from postgrad.run import Failed

if TYPE_CHECKING:
    from torch import Tensor

    from postgrad.sample.engine import Sampling

T = TypeVar("T")

OLDEST = (0, 26)
"""The first release whose weight update has the phases start, update and finish that `follow` calls."""
TRANSIENT = {408, 409, 429}
"""Statuses, with all from 500 on, after which the same request may succeed."""
CLAMPED = -9999.0
"""The server writes minus infinity as this, since JSON has no infinities."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to try again. Every wait ends; times in seconds."""

    start: float = 900.0
    """Until a server that is still loading its model answers /health."""
    answer: float = 600.0
    """For one attempt at one completion."""
    control: float = 60.0
    """For one attempt at a short question, such as the version or to resume; pausing waits `answer`."""
    update: float = 600.0
    """For each phase of a weight update, which is never tried twice."""
    attempts: int = 5
    first_wait: float = 0.5
    """Before the second attempt; doubles, with jitter of half, up to `longest_wait`, and is at least what Retry-After asks."""
    longest_wait: float = 30.0
    """Also the most of a Retry-After that is honoured."""


class Transfer(Protocol):
    """The data plane of a weight update; the server's endpoints are the control plane. `Nccl` is one, a test's fake another.

    `join` and `send` run in a thread of their own beside the server's call, since both ends meet inside them.
    """

    def init_info(self, workers: int) -> dict[str, Any]:
        """What the server's workers need to know to join the trainer, as its backend defines it."""
        ...

    def join(self) -> None:
        """Return when all workers have joined."""
        ...

    def send(self, tensors: Iterator[Tensor]) -> None:
        """Send all, in order; return when they have left."""
        ...


class Nccl:
    """Broadcast from this process (rank 0) to the server's workers, each tensor by itself, by vLLM's own communicator.

    vllm must be importable here, and built against the same NCCL as the server. `address` and `port` are of this host, free,
    and reachable from the server's; `device` is a GPU that the server does not use.
    """

    def __init__(self, address: str, port: int, device: int) -> None:
        self.address, self.port, self.device = address, port, device
        self._size = 0
        self._group: Any = None

    def init_info(self, workers: int) -> dict[str, Any]:
        self._size = 1 + workers
        return {
            "master_address": self.address,
            "master_port": self.port,
            "rank_offset": 1,
            "world_size": self._size,
        }

    def join(self) -> None:
        import torch

        try:
            utils = importlib.import_module("vllm.distributed.utils")
            communicators = importlib.import_module("vllm.distributed.device_communicators.pynccl")
        except ImportError as error:
            raise Failed(f"the NCCL transfer needs vllm in the trainer's environment too: {error}") from error
        with torch.cuda.device(self.device):
            meeting = utils.StatelessProcessGroup.create(
                host=self.address, port=self.port, rank=0, world_size=self._size
            )
            self._group = communicators.PyNcclCommunicator(meeting, device=self.device)

    def send(self, tensors: Iterator[Tensor]) -> None:
        import torch

        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            for tensor in tensors:
                self._group.broadcast(tensor.to(f"cuda:{self.device}"), src=0, stream=stream)
            stream.synchronize()


class VllmServer:
    """A PolicySampler, like `Engine`. With a `transfer` its server follows the model; without, it samples what is served.

    At most `sampling.slots` requests are in flight. Failures of the server raise `Failed`, after the retries of `Patience`; so
    does a trace that the server gave up (finish_reason "abort", "error"), which says nothing about the model.
    """

    def __init__(
        self,
        url: str,
        model: str,
        tokenizer: Any,
        sampling: Sampling,
        *,
        seed: int,
        transfer: Transfer | None = None,
        stops: Sequence[int] = (),
        key: str | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`url` as in http://host:8000, `model` the name it is served by, `stops` tokens that end a trace beside the tokenizer's.

        Raises ValueError where no mode of the server gives the log-probabilities of these settings.
        """
        if tokenizer.eos_token_id is None:
            raise ValueError(f"the tokenizer of {tokenizer.name_or_path!r} has no eos_token: sampling could never stop")
        filtered = sampling.top_p < 1 or sampling.top_k > 0 or sampling.min_p > 0
        if filtered and sampling.temperature not in (0, 1):
            raise ValueError(
                f"temperature {sampling.temperature} with top_p={sampling.top_p}, top_k={sampling.top_k}, min_p={sampling.min_p}: "
                "vLLM returns log-probabilities before both temperature and filters, or after both, and training needs those "
                "between; set temperature=1, or top_p=1, top_k=0 and min_p=0"
            )
        self.wanted: str | None = None
        """The --logprobs-mode that these settings need; None: either."""
        if sampling.temperature not in (0, 1):
            self.wanted = "processed_logprobs"
        elif filtered and sampling.temperature:
            self.wanted = "raw_logprobs"
        self.model = model
        self.tokenizer = tokenizer
        self.sampling = sampling
        self.seed = seed
        self.step = 0
        self.transfer = transfer
        self.patience = patience or Patience()
        self.stops: set[int] = {tokenizer.eos_token_id, *stops}
        """Tokens that end a trace; `follow` adds what the model's generation config names."""
        self.report: Callable[[int, int], object] = _ignore
        """Told how many of how many traces are finished; the caller may replace it to show progress."""
        self._http = _Http(url, key, self.patience)
        self._connected = self._joined = self._followed = False

    # ---- Sampling ---------------------------------------------------------------------------------------------------

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        """Raises Failed where a trace cannot be had, ValueError for a prompt that is too long."""
        if self.transfer is not None and not self._followed:
            raise ValueError(f"{self._http.url} follows no model yet: call follow(model, step) first")
        prompts = [self._prompt(problem) for problem in problems]
        wanted = [(place, sample) for place in range(len(problems)) for sample in range(n)]
        if not wanted:
            return [[] for _ in problems]
        self.connect()
        traces: dict[tuple[int, int], Trace] = {}
        pool = ThreadPoolExecutor(min(self.sampling.slots, len(wanted)), thread_name_prefix="vllm")
        try:
            futures = {
                pool.submit(self._complete, problems[place], prompts[place], sample): (place, sample)
                for place, sample in wanted
            }
            for done, future in enumerate(as_completed(futures), start=1):
                traces[futures[future]] = future.result()
                self.report(done, len(wanted))
        finally:
            # After a failure or Ctrl-C nobody wants the other answers: free their threads now.
            if len(traces) < len(wanted):
                self._http.abandon()
            pool.shutdown(cancel_futures=True)
            self._http.abandoned.clear()
        return [[traces[place, sample] for sample in range(n)] for place in range(len(problems))]

    def truncate(self, trace: Trace, tokens: int) -> Trace:
        """The trace as it would have been under a budget of `tokens`: same tokens, cut."""
        if len(trace.token_ids) <= tokens:
            return trace
        ids = trace.token_ids[:tokens]
        return replace(trace, token_ids=ids, logprobs=trace.logprobs[:tokens], text=self._text(ids), finish="length")

    def _prompt(self, problem: Problem) -> list[int]:
        prompt = chat.prompt_ids(self.tokenizer, problem.prompt)
        if len(prompt) > self.sampling.max_prompt_tokens:
            raise ValueError(
                f"the prompt of problem {problem.id!r} has {len(prompt)} tokens, more than max_prompt_length="
                f"{self.sampling.max_prompt_tokens}: raise the limit or leave the problem out"
            )
        return prompt

    def _complete(self, problem: Problem, prompt: list[int], sample: int) -> Trace:
        return self._http.ask(
            "POST",
            "/v1/completions",
            self._request(prompt, seed_of(self.seed, self.step, problem.id, sample)),
            what=f"sample {sample} of problem {problem.id!r}",
            seconds=self.patience.answer,
            read=lambda answer: self._trace(answer, problem, prompt),
        )

    def _request(self, prompt: list[int], seed: int) -> dict[str, Any]:
        return {
            "model": self.model,
            "prompt": prompt,
            "n": 1,
            "seed": seed,
            "max_tokens": self.sampling.max_tokens,
            "temperature": self.sampling.temperature,
            "top_p": self.sampling.top_p,
            "top_k": self.sampling.top_k,
            "min_p": self.sampling.min_p,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "stop_token_ids": sorted(self.stops),
            "logprobs": 0,
            "return_token_ids": True,
            "add_special_tokens": False,
            "stream": False,
        }

    def _trace(self, answer: Any, problem: Problem, prompt: list[int]) -> Trace:
        """The server's answer as a Trace, or _Passing: nothing that is not exactly a sample comes through."""
        choice, ids, logprobs = _choice(answer)
        if choice.get("prompt_token_ids", prompt) != prompt:
            raise _Passing("the server sampled from another prompt than it was given", "is a proxy changing requests?")
        reason = choice.get("finish_reason")
        if reason not in ("stop", "length"):
            raise _Passing(f"the trace ended with finish_reason={reason!r}", "the server gave it up: its log says why")
        if any(token in self.stops for token in ids[:-1]):
            raise _Passing("the trace goes on after a stop token", "is the server running with ignore_eos?")
        finish: Literal["stop", "length"] = "stop" if ids and ids[-1] in self.stops else "length"
        if finish == "length" and len(ids) != self.sampling.max_tokens:
            raise _Passing(
                f"the trace has {len(ids)} of {self.sampling.max_tokens} tokens, its last one is "
                f"{ids[-1] if ids else None}, and it ended with finish_reason={reason!r}",
                "give the server's --max-model-len room for prompt and max_tokens"
                if reason == "length"
                else "name the model's other stop tokens in `stops`",
            )
        return Trace(problem.id, self._text(ids), tuple(ids), tuple(logprobs), finish)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(
            [token for token in ids if token not in self.stops], skip_special_tokens=False
        )
        return text

    # ---- The server's own facts -------------------------------------------------------------------------------------

    def connect(self) -> None:
        """Wait for the server, then check its version, its model and its kind of log-probabilities. Once; raises Failed."""
        if self._connected:
            return
        self._http.until_healthy()
        answer = self._control("GET", "/version", "its version")
        found = re.match(r"(\d+)\.(\d+)", str(answer.get("version")))
        if not found or (int(found[1]), int(found[2])) < OLDEST:
            raise Failed(
                f"{self._http.url} is vLLM {answer.get('version')!r}, and {OLDEST[0]}.{OLDEST[1]} is the oldest whose weight "
                "transfer is understood here: upgrade the server, or sample in process"
            )
        served = self._http.ask(
            "GET", "/v1/models", None, what="the models it serves", seconds=self.patience.control, read=_model_names
        )
        if self.model not in served:
            raise Failed(f"{self._http.url} serves {served}, not {self.model!r}: give one of these as the model's name")
        if self.wanted is not None and (mode := self._mode()) != self.wanted:
            raise Failed(
                f"{self._http.url} returns {mode}, and temperature={self.sampling.temperature}, top_p={self.sampling.top_p}, "
                f"top_k={self.sampling.top_k}, min_p={self.sampling.min_p} need {self.wanted}: start it with "
                f"--logprobs-mode {self.wanted}"
            )
        self._connected = True

    def _mode(self) -> str:
        """Ask for one token where only that token is allowed, for two tokens.

        After the filter both have probability 1; before it they share at most 1, so one has at most a half.
        """
        eos = self.tokenizer.eos_token_id
        lowest = min(self._forced(eos, token) for token in (eos, 1 if eos == 0 else 0))
        return "processed_logprobs" if lowest > -0.1 else "raw_logprobs"

    def _forced(self, prompt: int, token: int) -> float:
        """The log-probability of `token` after `prompt` where no other token is allowed."""
        plain = {"max_tokens": 1, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
        request = self._request([prompt], 0) | plain | {"allowed_token_ids": [token]}
        return self._http.ask(
            "POST",
            "/v1/completions",
            request,
            what="a token that shows its --logprobs-mode",
            seconds=self.patience.answer,
            read=lambda answer: _only(token, answer),
        )

    def _control(self, method: str, path: str, what: str, seconds: float | None = None) -> dict[str, Any]:
        """A question that may be asked twice."""
        return self._http.ask(
            method, path, None, what=what, seconds=seconds or self.patience.control, read=_object, hint=_HINTS.get(path)
        )

    # ---- Weights ----------------------------------------------------------------------------------------------------

    def follow(self, model: Any, step: int) -> None:
        """Give the server these weights and return when it has acknowledged all of them.

        Raises Failed where a phase fails or passes its deadline; the server is then left paused, because nobody knows which
        weights it has. Raises ValueError where there is no `transfer`, or the model has adapters that are not merged.
        """
        if self.transfer is None:
            raise ValueError(f"{self._http.url} cannot follow a model: give VllmServer a transfer, such as Nccl(...)")
        named = weights(model)
        self.connect()
        self._followed = False
        if not self._joined:
            self._join(self.transfer)
        # In-flight requests of others end on the old weights.
        self._control("POST", "/pause?mode=wait", "a pause, with all requests finished", self.patience.answer)
        self._phase("/start_weight_update", None)
        listed = {
            "names": [name for name, _ in named],
            "dtype_names": [str(tensor.dtype).removeprefix("torch.") for _, tensor in named],
            "shapes": [list(tensor.shape) for _, tensor in named],
        }
        transfer = self.transfer
        self._meet("/update_weights", {"update_info": listed}, lambda: transfer.send(_whole(t for _, t in named)))
        self._phase("/finish_weight_update", {"weight_version": str(step)})
        # Keys and values of the old weights would otherwise serve the prompts that come again.
        self._control("POST", "/reset_prefix_cache", "an empty prefix cache")
        self._control("POST", "/resume", "it to resume")
        named_stops = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        others = named_stops if isinstance(named_stops, list) else [named_stops]
        self.stops |= {token for token in others if token is not None}
        self.step = step
        self._followed = True

    def _join(self, transfer: Transfer) -> None:
        answer = self._control("GET", "/get_world_size", "the number of its workers")
        workers = answer.get("world_size")
        if type(workers) is not int or workers < 1:
            raise Failed(
                f"{self._http.url}/get_world_size answers {answer}, not a number of workers: is it vLLM itself?"
            )
        self._meet("/init_weight_transfer_engine", {"init_info": transfer.init_info(workers)}, transfer.join)
        self._joined = True

    def _phase(self, path: str, body: Mapping[str, Any] | None) -> None:
        """One step of an update: once, since a second call after an unknown first could leave half of each."""
        self._http.ask(
            "POST",
            path,
            body,
            what=f"{path} to be acknowledged",
            seconds=self.patience.update,
            attempts=1,
            read=_object,
            hint=_DEV + "; after a failed update restart the server and resume the run",
        )

    def _meet(self, path: str, body: Mapping[str, Any], work: Callable[[], None]) -> None:
        """The server's call and our side of it, at once. The first failure of either ends the wait for the other."""
        failures: list[Exception] = []
        ended = {"the server's answer": threading.Event(), "our side of the transfer": threading.Event()}
        any_end = threading.Semaphore(0)

        def run(job: Callable[[], None], end: threading.Event) -> None:
            try:
                job()
            except Exception as error:  # Boundary: it is raised again in the caller's thread.
                failures.append(error)
            finally:
                end.set()
                any_end.release()

        jobs = (lambda: self._phase(path, body), work)
        for job, end in zip(jobs, ended.values(), strict=True):
            # Daemons: a collective whose other side is gone cannot be interrupted, and must not keep the process.
            threading.Thread(target=run, args=(job, end), name=f"vllm{path}", daemon=True).start()
        deadline = time.monotonic() + self.patience.update
        for _ in jobs:
            arrived = any_end.acquire(timeout=max(deadline - time.monotonic(), 0))
            if failures:
                cause = failures[0]
                raise (
                    cause
                    if isinstance(cause, Failed)
                    else Failed(
                        f"{self._http.url}{path}: our side of the transfer failed: {type(cause).__name__}: {cause}"
                    )
                ) from cause
            if not arrived:
                missing = " and ".join(name for name, end in ended.items() if not end.is_set())
                raise Failed(
                    f"{self._http.url}{path}: waited {self.patience.update:g} s for {missing}: see the server's log, and that both "
                    "sides reach each other (address, port, NCCL_SOCKET_IFNAME); restart the server before resuming the run"
                )


def seed_of(seed: int, step: int, problem_id: str, sample: int) -> int:
    """63 bits that depend on all four and on nothing else."""
    name = json.dumps([seed, step, problem_id, sample]).encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:8], "little") >> 1


def weights(model: Any) -> list[tuple[str, Any]]:
    """Parameters by the names of the model's checkpoint, which are what the server loads; a tied head comes once."""
    named = []
    for name, tensor in model.named_parameters():
        if name.startswith("base_model.model.") or "lora_" in name:
            raise ValueError(
                f"the model has the adapter parameter {name!r}: merge adapters before the server follows it"
            )
        named.append((name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", ""), tensor))
    return named


def _whole(tensors: Iterator[Any]) -> Iterator[Any]:
    """Contiguous and unsharded, one at a time."""
    for tensor in tensors:
        yield (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach().contiguous()


def _ignore(done: int, total: int) -> None:
    pass


# ---- Reading answers ------------------------------------------------------------------------------------------------

_DEV = 'weight transfer needs VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config \'{"backend": "nccl"}\''
_HINTS = dict.fromkeys(("/get_world_size", "/pause?mode=wait", "/reset_prefix_cache", "/resume"), _DEV)
_OTHER = "is it a vLLM server, and nothing between that changes answers?"


def _object(answer: Any) -> dict[str, Any]:
    """An empty answer is an acknowledgement too; one that says that it failed is not."""
    if answer is None:
        return {}
    if not isinstance(answer, dict):
        raise _Passing(f"the answer is {_short(answer)}, not an object", _OTHER)
    if answer.get("success") is False or answer.get("error"):
        raise _Passing(f"the answer says that it failed: {_short(answer)}", "the server's log says why")
    return answer


def _model_names(answer: Any) -> list[str]:
    try:
        return [str(model["id"]) for model in answer["data"]]
    except (TypeError, KeyError) as error:
        raise _Passing(f"the answer lists no models: {_short(answer)}", _OTHER) from error


def _only(token: int, answer: Any) -> float:
    _, ids, logprobs = _choice(answer)
    if ids != [token]:
        raise _Passing(f"only token {token} was allowed and {ids} came back", _OTHER)
    return logprobs[0]


def _choice(answer: Any) -> tuple[dict[str, Any], list[int], list[float]]:
    """The one choice, its token ids and as many log-probabilities, all finite."""
    try:
        (choice,) = answer["choices"]
        ids, logprobs = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    except (TypeError, KeyError, ValueError) as error:
        raise _Passing(f"token ids or log-probabilities are missing: {_short(answer)}", _OTHER) from error
    if not isinstance(ids, list) or not all(type(token) is int and token >= 0 for token in ids):
        raise _Passing(f"token_ids are {_short(ids)}", _OTHER)
    if not isinstance(logprobs, list) or len(logprobs) != len(ids):
        raise _Passing(f"{len(ids)} tokens have the log-probabilities {_short(logprobs)}", _OTHER)
    for place, value in enumerate(logprobs):
        number = type(value) in (int, float)
        if not number or not math.isfinite(value) or value <= CLAMPED:
            raise _Passing(f"log-probability {place} is {value}", "look for non-finite weights: loss, grad_norm, dtype")
        if value > 1e-3:
            raise _Passing(
                f"log-probability {place} is {value}, above 0", "start it with a --logprobs-mode of logprobs"
            )
    return choice, ids, [float(value) for value in logprobs]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:200]}..."


# ---- HTTP -----------------------------------------------------------------------------------------------------------


class _Passing(Exception):
    """An attempt failed in a way that another one may not: what happened, what to do if it stays, when to come back."""

    def __init__(self, what: str, hint: str, after: float | None = None) -> None:
        super().__init__(what)
        self.hint = hint
        self.after = after
        """Seconds that the server asks us to wait."""


class _Http:
    """JSON over HTTP with deadlines, and the only place that tries again. One connection for each attempt: beside the
    seconds of a completion a connection costs nothing, and none goes stale during a training step."""

    def __init__(self, url: str, key: str | None, patience: Patience) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no server's address: give one such as http://localhost:8000")
        self.url = url.rstrip("/").removesuffix("/v1")
        self._class = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        self._host, self._port, self._path = parts.hostname, parts.port, urlsplit(self.url).path
        self._headers = {"Content-Type": "application/json", "Connection": "close"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"
        self.patience = patience
        self.abandoned = threading.Event()
        """Set: nobody waits any more."""
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()

    def abandon(self) -> None:
        """End all waits of other threads now."""
        with self._lock:
            self.abandoned.set()
            for one in self._sockets:
                with suppress(OSError):  # It may have ended by itself.
                    one.shutdown(socket.SHUT_RDWR)

    def ask(
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
                return read(self._answer(method, path, body, seconds, hint))
            except _Passing as fault:
                if attempt == attempts - 1 or self.abandoned.is_set():
                    tried = "once" if attempts == 1 else f"{attempt + 1} times"
                    raise Failed(
                        f"{self.url}{path}: asked {tried} for {what}; the last time {fault}: "
                        + "; ".join(filter(None, (fault.hint, hint)))
                    ) from fault
                self.abandoned.wait(self._wait(attempt, fault))
        raise AssertionError("the last attempt returns or raises")

    def until_healthy(self) -> None:
        """Wait until a server that is starting answers; raises Failed after `patience.start`."""
        deadline = time.monotonic() + self.patience.start
        while True:
            left = deadline - time.monotonic()
            try:
                self._answer("GET", "/health", None, min(max(left, 0.05), self.patience.control), None)
                return
            except _Passing as fault:
                if left <= 0:
                    raise Failed(
                        f"{self.url}: waited {self.patience.start:g} s for /health; the last time {fault}: is the server running "
                        "there, and does its log say that it is loading? patience.start is how long to wait"
                    ) from fault
                self.abandoned.wait(min(1.0, max(left, 0), self.patience.longest_wait))

    def _wait(self, attempt: int, fault: _Passing) -> float:
        backoff: float = self.patience.first_wait * 2**attempt * random.uniform(0.5, 1)
        asked = 0.0 if fault.after is None else fault.after * random.uniform(1, 1.1)
        return min(max(backoff, asked), self.patience.longest_wait)

    def _answer(self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float, hint: str | None) -> Any:
        """One attempt: the decoded JSON, None for an empty answer. Raises _Passing, or Failed where another is useless."""
        try:
            status, headers, content = self._exchange(method, path, body, seconds)
        except TimeoutError as error:
            raise _Passing(
                f"there was no answer within {seconds:g} s", "raise the deadline in Patience, or lower sampling.slots"
            ) from error
        except (OSError, http.client.HTTPException) as error:
            raise _Passing(f"{type(error).__name__}: {error}", "is the server running there?") from error
        if status in TRANSIENT or status >= 500:
            raise _Passing(
                f"it answered {status}: {_short(content.decode(errors='replace'))}",
                "lower sampling.slots if it is busy; its log says more",
                _retry_after(headers.get("Retry-After")),
            )
        if status >= 300:
            raise Failed(
                f"{self.url}{path} answered {status}: {_short(content.decode(errors='replace'))}: "
                + (
                    hint
                    or "the request will never be accepted as it is; compare model, key and limits with the server's"
                )
            )
        if not content.strip():
            return None
        try:
            return json.loads(content)
        except ValueError as error:
            raise _Passing(f"the answer is no JSON ({error})", _OTHER) from error

    def _exchange(
        self, method: str, path: str, body: Mapping[str, Any] | None, seconds: float
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        deadline = time.monotonic() + seconds
        with closing(self._class(self._host, self._port, timeout=seconds)) as connection:
            connection.connect()
            wire: socket.socket = connection.sock
            with self._lock:
                if self.abandoned.is_set():
                    raise ConnectionAbortedError("nobody waits for this any more")
                self._sockets.add(wire)
            try:
                wire.settimeout(_left(deadline))
                content = None if body is None else json.dumps(body, allow_nan=False)
                connection.request(method, f"{self._path}{path}", content, self._headers)
                wire.settimeout(_left(deadline))
                with connection.getresponse() as response:
                    parts = []
                    while not response.isclosed():
                        wire.settimeout(_left(deadline))
                        parts.append(response.read1(1 << 16))
                        if not parts[-1]:
                            break
                    if response.length:
                        raise http.client.IncompleteRead(b"".join(parts), response.length)
                    return response.status, response.headers, b"".join(parts)
            finally:
                with self._lock:
                    self._sockets.discard(wire)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header, which holds seconds or a date; None where it says nothing."""
    if value is None:
        return None
    if re.fullmatch(r"\d+(\.\d+)?", value.strip()):
        return float(value)
    try:
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    except ValueError:
        return None
