"""A server that speaks vLLM's interface and may be told to misbehave: nothing of what it breaks may pass for a sample."""

from __future__ import annotations

import json
import math
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
import torch

from postgrad import chat
from postgrad.records import Message, Problem
from postgrad.run import Failed
from postgrad.sample import vllm
from postgrad.sample.engine import Sampling
from postgrad.sample.vllm import Patience, VllmServer

Answer = tuple[int, Any]
"""A status and what is sent: an object as JSON, or bytes as they are."""


class Fake(ThreadingHTTPServer):
    """Says tokens that are a function of the request's seed. `rules` answer first, by path; None: the ordinary answer."""

    daemon_threads = True
    request_queue_size = 512

    def __init__(self, eos: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.eos = eos
        self.mode = "processed_logprobs"
        self.version = "0.32.0"
        self.delay = 0.0
        self.rules: dict[str, Callable[[int, dict[str, Any]], Answer | None]] = {}
        self.headers: dict[str, str] = {}
        """Sent with answers that are not 200."""
        self.asked: list[tuple[str, Any]] = []
        self.counts: Counter[str] = Counter()
        self.busy = self.most_busy = 0
        self.lock = threading.Lock()
        self.stopping = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def completions(self) -> list[dict[str, Any]]:
        return [body for path, body in self.asked if path == "/v1/completions" and "allowed_token_ids" not in body]

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
                return 200, {"world_size": 2}
            case "/v1/completions":
                return 200, self.complete(body)
        return 200, b"" if path == "/reset_prefix_cache" else {"message": "done"}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        if "allowed_token_ids" in body:
            (token,) = body["allowed_token_ids"]
            return said(body["prompt"], [token], [0.0 if self.mode == "processed_logprobs" else -5.0], "length")
        rng = random.Random(body["seed"])
        time.sleep(self.delay * rng.random())
        ids = [rng.randrange(20, 60) for _ in range(rng.randint(1, body["max_tokens"] + 2))]
        ids = [*ids, self.eos][: body["max_tokens"]]
        return said(body["prompt"], ids, [-rng.random() for _ in ids], "stop" if ids[-1] == self.eos else "length")


def said(prompt: list[int], ids: list[int], logprobs: list[Any], finish: Any) -> dict[str, Any]:
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
        if status == 0:  # Cut after the headers promised more.
            self.send_response(200)
            self.send_header("Content-Length", str(len(content) + 10))
            self.end_headers()
            self.wfile.write(content)
            return
        sent = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in self.server.headers.items() if status != 200 else ():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def fake(tokenizer: Any) -> Iterator[Fake]:
    with Fake(tokenizer.eos_token_id) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


QUICK = Patience(start=20, answer=20, control=20, update=20, attempts=3, first_wait=0.01, longest_wait=0.05)
"""Tries again at once; its deadlines are for a busy machine and not met."""
HASTY = replace(QUICK, start=0.3, update=0.5)
PROBLEMS = [Problem(f"p{i}", (Message("user", f"{i} + {i} ="),), str(2 * i)) for i in range(5)]


@pytest.fixture
def sampler(fake: Fake, tokenizer: Any) -> Callable[..., VllmServer]:
    def make(patience: Patience = QUICK, transfer: Any = None, stops: Any = (), **settings: Any) -> VllmServer:
        sampling = Sampling(**({"max_tokens": 6, "slots": 4} | settings))
        return VllmServer(
            fake.url, "tiny", tokenizer, sampling, seed=3, transfer=transfer, stops=stops, patience=patience
        )

    return make


# ---- Token in, token out --------------------------------------------------------------------------------------------


def test_traces_come_in_order_with_the_servers_own_tokens(fake: Fake, sampler: Any, tokenizer: Any) -> None:
    fake.delay = 0.02
    traces = sampler().sample(PROBLEMS, 3)
    assert [[trace.problem_id for trace in group] for group in traces] == [[p.id] * 3 for p in PROBLEMS]
    for problem, group in zip(PROBLEMS, traces, strict=True):
        for sample, trace in enumerate(group):
            prompt = chat.prompt_ids(tokenizer, problem.prompt)
            seed = vllm.seed_of(3, 0, problem.id, sample)
            (choice,) = fake.complete({"prompt": prompt, "seed": seed, "max_tokens": 6})["choices"]
            assert list(trace.token_ids) == choice["token_ids"]
            assert list(trace.logprobs) == choice["logprobs"]["token_logprobs"]
            assert trace.finish == choice["finish_reason"]
            assert trace.text == tokenizer.decode([token for token in trace.token_ids if token != fake.eos])
    assert {trace.finish for group in traces for trace in group} == {"stop", "length"}
    assert {tuple(body["prompt"]) for body in fake.completions} == {
        tuple(chat.prompt_ids(tokenizer, problem.prompt)) for problem in PROBLEMS
    }


def test_nothing_is_left_to_the_models_generation_config(fake: Fake, sampler: Any) -> None:
    fake.mode = "raw_logprobs"
    sampler(top_k=7, top_p=0.9, min_p=0.1, max_tokens=4).sample(PROBLEMS[:1], 1)
    (body,) = fake.completions
    assert {name: value for name, value in body.items() if name not in ("prompt", "seed")} == {
        "model": "tiny",
        "n": 1,
        "max_tokens": 4,
        "temperature": 1.0,
        "top_k": 7,
        "top_p": 0.9,
        "min_p": 0.1,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "stop_token_ids": [fake.eos],
        "logprobs": 0,
        "return_token_ids": True,
        "add_special_tokens": False,
        "stream": False,
    }


def test_a_seed_is_a_function_of_seed_step_problem_and_sample() -> None:
    seeds = {vllm.seed_of(a, b, c, d) for a in (0, 1) for b in (0, 1) for c in ("x", "x1") for d in (0, 1, 11)}
    assert len(seeds) == 24
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert vllm.seed_of(0, 1, "p", 2) == vllm.seed_of(0, 1, "p", 2)


def test_no_problem_asks_nothing(fake: Fake, sampler: Any) -> None:
    assert sampler().sample([], 4) == []
    assert sampler().sample(PROBLEMS[:2], 0) == [[], []]
    assert not fake.asked


def test_progress_counts_finished_traces(fake: Fake, sampler: Any) -> None:
    told: list[tuple[int, int]] = []
    server = sampler()
    server.report = lambda done, total: told.append((done, total))
    server.sample(PROBLEMS, 2)
    assert told == [(done, 10) for done in range(1, 11)]


def test_many_requests_are_bounded_by_slots(fake: Fake, sampler: Any) -> None:
    fake.delay = 0.02
    traces = sampler(patience=Patience(), slots=24).sample(PROBLEMS, 40)
    assert sum(len(group) for group in traces) == 200
    assert 4 < fake.most_busy <= 24
    assert len({body["seed"] for body in fake.completions}) == 200


def test_a_long_prompt_names_its_problem(fake: Fake, sampler: Any) -> None:
    with pytest.raises(ValueError, match=r"'p0' has .* tokens, more than max_prompt_length=2"):
        sampler(max_prompt_tokens=2).sample(PROBLEMS, 1)
    assert not fake.asked


def test_a_budget_cuts_a_trace(fake: Fake, sampler: Any) -> None:
    server = sampler(max_tokens=8)
    trace = max(server.sample(PROBLEMS, 4)[0], key=lambda one: len(one.token_ids))
    cut = server.truncate(trace, 2)
    assert (cut.token_ids, cut.logprobs, cut.finish) == (trace.token_ids[:2], trace.logprobs[:2], "length")
    assert server.truncate(trace, 100) is trace


# ---- Trying again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [408, 409, 429, 500, 503])
def test_a_passing_status_is_tried_again_with_the_same_seed(fake: Fake, sampler: Any, status: int) -> None:
    fake.rules["/v1/completions"] = lambda nth, body: (status, b"busy") if nth < 2 else None
    ((trace,),) = sampler().sample(PROBLEMS[:1], 1)
    assert trace.token_ids
    assert len({body["seed"] for body in fake.completions}) == 1
    assert fake.counts["/v1/completions"] == 3


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_a_lasting_status_is_not_tried_again(fake: Fake, sampler: Any, status: int) -> None:
    fake.rules["/v1/completions"] = lambda nth, body: (status, {"message": "no such thing"})
    with pytest.raises(Failed, match=f"/v1/completions answered {status}: .*no such thing.*compare model, key"):
        sampler().sample(PROBLEMS[:1], 1)
    assert fake.counts["/v1/completions"] == 1


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured(fake: Fake, sampler: Any, form: str) -> None:
    fake.headers["Retry-After"] = "1" if form == "seconds" else formatdate(time.time() + 2, usegmt=True)
    fake.rules["/v1/completions"] = lambda nth, body: (429, b"") if nth < 1 else None
    began = time.monotonic()
    sampler(patience=Patience(first_wait=0.01, longest_wait=1.2)).sample(PROBLEMS[:1], 1)
    assert 0.9 < time.monotonic() - began < 3


def test_retry_after_is_bounded(fake: Fake, sampler: Any) -> None:
    fake.headers["Retry-After"] = "86400"
    fake.rules["/v1/completions"] = lambda nth, body: (503, b"loading")
    with pytest.raises(Failed, match=r"asked 3 times for sample 0 of problem 'p0'.*503.*loading"):
        sampler().sample(PROBLEMS[:1], 1)


def test_an_answer_that_does_not_come_has_a_deadline(fake: Fake, sampler: Any) -> None:
    fake.rules["/v1/completions"] = lambda nth, body: (fake.stopping.wait(2), None)[1]
    began = time.monotonic()
    with pytest.raises(Failed, match=r"http://127.*no answer within 0.1 s: raise the deadline"):
        sampler(patience=Patience(answer=0.1, attempts=2, first_wait=0.01)).sample(PROBLEMS, 2)
    assert time.monotonic() - began < 1.9


def test_one_failure_ends_the_waits_of_all(fake: Fake, sampler: Any) -> None:
    fake.rules["/v1/completions"] = lambda nth, body: (400, b"no") if nth == 3 else (fake.stopping.wait(10), None)[1]
    began = time.monotonic()
    server = sampler(patience=Patience(answer=60))
    with pytest.raises(Failed, match="answered 400"):
        server.sample(PROBLEMS, 2)
    assert time.monotonic() - began < 3
    assert fake.counts["/v1/completions"] < 10
    # And nothing of it is left for the next call.
    del fake.rules["/v1/completions"]
    assert server.sample(PROBLEMS, 1)


@pytest.mark.parametrize("kind", ["cut", "short", "html", "list", "empty"])
def test_a_cut_or_foreign_answer_is_tried_again_and_then_fails(fake: Fake, sampler: Any, kind: str) -> None:
    whole = json.dumps(said([1], [20], [-1.0], "length")).encode()
    broken: Answer = {
        "cut": (0, whole[:40]),
        "short": (200, whole[:40]),
        "html": (200, b"<html>"),
        "list": (200, b"[]"),
        "empty": (200, b""),
    }[kind]
    fake.rules["/v1/completions"] = lambda nth, body: broken
    with pytest.raises(Failed, match="asked 3 times"):
        sampler().sample(PROBLEMS[:1], 1)
    fake.rules["/v1/completions"] = lambda nth, body: broken if nth < 5 else None
    assert sampler().sample(PROBLEMS[:1], 1)


def test_no_server_is_said_with_its_address(tokenizer: Any) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{one.getsockname()[1]}"
    server = VllmServer(url, "tiny", tokenizer, Sampling(4), seed=0, patience=HASTY)
    with pytest.raises(
        Failed, match=rf"{url}: waited 0.3 s for /health; .*ConnectionRefusedError.*is the server running"
    ):
        server.sample(PROBLEMS, 1)


def test_a_server_that_is_loading_is_waited_for(fake: Fake, sampler: Any) -> None:
    fake.rules["/health"] = lambda nth, body: (503, b"") if nth < 3 else None
    assert sampler().sample(PROBLEMS[:1], 1)
    assert fake.counts["/health"] == 4


# ---- What is no sample ----------------------------------------------------------------------------------------------

EOS = -100
"""Stands for the end-of-sequence token in the table beneath."""


@pytest.mark.parametrize(
    ("ids", "logprobs", "finish", "message"),
    [
        ([20, EOS], [-1.0], "stop", "2 tokens have the log-probabilities"),
        ([20, EOS], [-1.0] * 3, "stop", "2 tokens have the log-probabilities"),
        ([20, EOS], None, "stop", "2 tokens have the log-probabilities None"),
        (None, [-1.0], "stop", "token_ids are None"),
        (["20"], [-1.0], "stop", "token_ids are"),
        ([True, EOS], [-1.0] * 2, "stop", "token_ids are"),
        ([20, EOS], [-1.0, math.nan], "stop", "log-probability 1 is nan: look for non-finite weights"),
        ([20, EOS], [-math.inf, -1.0], "stop", "log-probability 0 is -inf"),
        ([20, EOS], [None, -1.0], "stop", "log-probability 0 is None"),
        ([20, EOS], [-9999.0, -1.0], "stop", "log-probability 0 is -9999"),
        ([20, EOS], [12.5, -1.0], "stop", "above 0: start it with a --logprobs-mode of logprobs"),
        ([20, 21], [-1.0] * 2, "stop", "name the model's other stop tokens"),
        ([20, 21], [-1.0] * 2, "length", "2 of 6 tokens.*--max-model-len"),
        ([20] * 7, [-1.0] * 7, "length", "7 of 6 tokens"),
        ([20, EOS, 21, 22, 23, 24], [-1.0] * 6, "length", "goes on after a stop token"),
        ([], [], "stop", "0 of 6 tokens"),
        ([20, 21], [-1.0] * 2, "abort", "finish_reason='abort'"),
        ([20, EOS], [-1.0] * 2, None, "finish_reason=None"),
    ],
)
def test_a_broken_trace_never_passes(
    fake: Fake, sampler: Any, ids: Any, logprobs: Any, finish: Any, message: str
) -> None:
    ids = ids and [fake.eos if token == EOS else token for token in ids]
    fake.rules["/v1/completions"] = lambda nth, body: (200, said(body["prompt"], ids, logprobs, finish))
    with pytest.raises(Failed, match=message):
        sampler().sample(PROBLEMS[:1], 1)
    assert fake.counts["/v1/completions"] == 3


def test_missing_ids_and_another_prompt_are_no_sample(fake: Fake, sampler: Any) -> None:
    def without(nth: int, body: dict[str, Any]) -> Answer:
        answer = said(body["prompt"], [fake.eos], [-1.0], "stop")
        del answer["choices"][0]["token_ids"]
        return 200, answer

    fake.rules["/v1/completions"] = without
    with pytest.raises(Failed, match="token ids or log-probabilities are missing"):
        sampler().sample(PROBLEMS[:1], 1)
    fake.rules["/v1/completions"] = lambda nth, body: (200, said([1, 2], [fake.eos], [-1.0], "stop"))
    with pytest.raises(Failed, match="another prompt"):
        sampler().sample(PROBLEMS[:1], 1)


def test_a_stop_token_at_the_last_place_is_a_stop(fake: Fake, sampler: Any) -> None:
    ids = [20] * 5 + [fake.eos]
    fake.rules["/v1/completions"] = lambda nth, body: (200, said(body["prompt"], ids, [-1.0] * 6, "length"))
    assert sampler().sample(PROBLEMS[:1], 1)[0][0].finish == "stop"


def test_other_stop_tokens_end_a_trace_and_leave_the_text(fake: Fake, sampler: Any, tokenizer: Any) -> None:
    fake.rules["/v1/completions"] = lambda nth, body: (200, said(body["prompt"], [30, 21], [-1.0] * 2, "stop"))
    ((trace,),) = sampler(stops=[21]).sample(PROBLEMS[:1], 1)
    assert (trace.token_ids, trace.finish, trace.text) == ((30, 21), "stop", tokenizer.decode([30]))
    assert fake.completions[0]["stop_token_ids"] == sorted([21, fake.eos])


# ---- Which server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["0.25.9", "dev", None])
def test_an_old_or_nameless_version_is_refused(fake: Fake, sampler: Any, version: Any) -> None:
    fake.version = version
    with pytest.raises(Failed, match=r"is vLLM .*0.26 is the oldest"):
        sampler().sample(PROBLEMS, 1)


@pytest.mark.parametrize("version", ["0.26.0", "0.33.1rc2.dev7+g12ab", "1.0.0"])
def test_later_versions_are_accepted(fake: Fake, sampler: Any, version: str) -> None:
    fake.version = version
    assert sampler().sample(PROBLEMS[:1], 1)


def test_another_model_is_refused(fake: Fake, sampler: Any) -> None:
    fake.rules["/v1/models"] = lambda nth, body: (200, {"data": [{"id": "large"}]})
    with pytest.raises(Failed, match=r"serves \['large'\], not 'tiny'"):
        sampler().sample(PROBLEMS, 1)


@pytest.mark.parametrize(
    ("settings", "mode", "accepted"),
    [
        ({}, "raw_logprobs", True),
        ({}, "processed_logprobs", True),
        ({"temperature": 0.0, "top_k": 5}, "raw_logprobs", True),
        ({"temperature": 0.7}, "processed_logprobs", True),
        ({"temperature": 0.7}, "raw_logprobs", False),
        ({"top_p": 0.9}, "raw_logprobs", True),
        ({"top_p": 0.9}, "processed_logprobs", False),
        ({"min_p": 0.1}, "processed_logprobs", False),
    ],
)
def test_log_probabilities_are_of_the_scaled_distribution_before_filters(
    fake: Fake, sampler: Any, settings: dict[str, Any], mode: str, accepted: bool
) -> None:
    fake.mode = mode
    if accepted:
        assert sampler(**settings).sample(PROBLEMS[:1], 1)
    else:
        with pytest.raises(Failed, match=f"returns {mode}.*start it with --logprobs-mode"):
            sampler(**settings).sample(PROBLEMS[:1], 1)
        assert not fake.completions


def test_what_no_mode_gives_is_refused_at_once(sampler: Any) -> None:
    with pytest.raises(ValueError, match="before both temperature and filters, or after both"):
        sampler(temperature=0.7, top_p=0.9)


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://"])
def test_what_is_no_address_is_refused(tokenizer: Any, url: str) -> None:
    with pytest.raises(ValueError, match="no server's address"):
        VllmServer(url, "tiny", tokenizer, Sampling(4), seed=0)


# ---- Weights --------------------------------------------------------------------------------------------------------


class Wire:
    """Carries tensors to a list."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.received: list[torch.Tensor] = []
        self.ready = threading.Event()
        self.ready.set()

    def init_info(self, workers: int) -> dict[str, Any]:
        return {"world_size": 1 + workers, "master_port": 1}

    def join(self) -> None:
        self.calls.append("join")

    def send(self, tensors: Iterator[torch.Tensor]) -> None:
        self.ready.wait(5)
        self.calls.append("send")
        self.received = [tensor.clone() for tensor in tensors]


UPDATE = [
    "/pause?mode=wait",
    "/start_weight_update",
    "/update_weights",
    "/finish_weight_update",
    "/reset_prefix_cache",
    "/resume",
]


def test_an_update_goes_through_its_phases_and_sends_all_weights(fake: Fake, sampler: Any, model: Any) -> None:
    wire = Wire()
    server = sampler(transfer=wire)
    server.follow(model, 7)
    paths = [path for path, _ in fake.asked]
    assert paths == ["/health", "/version", "/v1/models", "/get_world_size", "/init_weight_transfer_engine", *UPDATE]
    bodies = dict(fake.asked)
    assert bodies["/init_weight_transfer_engine"] == {"init_info": {"world_size": 3, "master_port": 1}}
    assert bodies["/finish_weight_update"] == {"weight_version": "7"}
    info = bodies["/update_weights"]["update_info"]
    named = dict(model.named_parameters())
    assert info["names"] == list(named)
    assert set(info["dtype_names"]) == {"float32"}
    for name, shape, tensor in zip(info["names"], info["shapes"], wire.received, strict=True):
        assert shape == list(tensor.shape)
        assert torch.equal(tensor, named[name])
    server.sample(PROBLEMS[:1], 1)
    assert fake.completions[0]["seed"] == vllm.seed_of(3, 7, "p0", 0)
    # The second time the channel is open.
    fake.asked.clear()
    server.follow(model, 8)
    assert [path for path, _ in fake.asked] == UPDATE
    assert wire.calls == ["join", "send", "send"]


def test_names_are_those_of_the_checkpoint(fake: Fake, sampler: Any, model: Any, tmp_path: Any) -> None:
    from safetensors import safe_open

    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert {name for name, _ in vllm.weights(model)} == set(stored.keys())
    assert [name for name, _ in vllm.weights(torch.compile(model, backend="eager"))] == [
        name for name, _ in vllm.weights(model)
    ]


def test_adapters_must_be_merged(fake: Fake, sampler: Any) -> None:
    adapter = torch.nn.Module()
    adapter.lora_A = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="merge adapters"):
        sampler(transfer=Wire()).follow(adapter, 0)
    assert not fake.asked


def test_stop_tokens_of_the_generation_config_are_added(fake: Fake, sampler: Any, model: Any) -> None:
    model.generation_config.eos_token_id = [fake.eos, 21]
    server = sampler(transfer=Wire())
    server.follow(model, 0)
    assert server.stops == {fake.eos, 21}


def test_without_a_transfer_there_is_nothing_to_follow(sampler: Any, model: Any) -> None:
    with pytest.raises(ValueError, match="give VllmServer a transfer"):
        sampler().follow(model, 0)
    with pytest.raises(ValueError, match="follows no model yet"):
        sampler(transfer=Wire()).sample(PROBLEMS, 1)


@pytest.mark.parametrize(
    "path", [path for path in UPDATE if path not in ("/pause?mode=wait", "/resume", "/reset_prefix_cache")]
)
def test_a_failed_phase_is_not_repeated_and_leaves_the_server_paused(
    fake: Fake, sampler: Any, model: Any, path: str
) -> None:
    fake.rules[path] = lambda nth, body: (500, {"error": "out of memory"})
    server = sampler(transfer=Wire())
    with pytest.raises(Failed, match=f"{path}: asked once .*out of memory.*restart the server"):
        server.follow(model, 1)
    assert fake.counts[path] == 1
    assert not fake.counts["/resume"]
    with pytest.raises(ValueError, match="follows no model yet"):
        server.sample(PROBLEMS, 1)


def test_a_cache_that_was_not_emptied_is_a_failure(fake: Fake, sampler: Any, model: Any) -> None:
    fake.rules["/reset_prefix_cache"] = lambda nth, body: (200, {"success": False})
    with pytest.raises(Failed, match="an empty prefix cache; the last time the answer says that it failed"):
        sampler(transfer=Wire()).follow(model, 1)


def test_endpoints_that_are_off_are_explained(fake: Fake, sampler: Any, model: Any) -> None:
    fake.rules["/get_world_size"] = lambda nth, body: (404, {"detail": "Not Found"})
    with pytest.raises(Failed, match=r"answered 404.*VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config"):
        sampler(transfer=Wire()).follow(model, 1)


def test_a_server_that_does_not_take_the_weights_has_a_deadline(fake: Fake, sampler: Any, model: Any) -> None:
    fake.rules["/update_weights"] = lambda nth, body: (fake.stopping.wait(3), None)[1]
    began = time.monotonic()
    with pytest.raises(
        Failed, match=r"/update_weights: (waited 0.5 s for the server's answer|.*no answer within 0.5 s)"
    ):
        sampler(transfer=Wire(), patience=HASTY).follow(model, 1)
    assert time.monotonic() - began < 2.9


def test_weights_that_do_not_leave_have_a_deadline(fake: Fake, sampler: Any, model: Any) -> None:
    wire = Wire()
    wire.ready.clear()
    with pytest.raises(Failed, match=r"/update_weights: waited 0.5 s for our side of the transfer.*NCCL_SOCKET_IFNAME"):
        sampler(transfer=wire, patience=HASTY).follow(model, 1)
    assert not fake.counts["/finish_weight_update"]
    wire.ready.set()


def test_our_own_failure_does_not_wait_for_the_server(fake: Fake, sampler: Any, model: Any) -> None:
    def broken(tensors: Any) -> None:
        raise RuntimeError("NCCL error: remote process exited")

    wire = Wire()
    wire.send = broken  # type: ignore[method-assign]
    fake.rules["/update_weights"] = lambda nth, body: (fake.stopping.wait(3), None)[1]
    began = time.monotonic()
    with pytest.raises(
        Failed, match="our side of the transfer failed: RuntimeError: NCCL error: remote process exited"
    ):
        sampler(transfer=wire, patience=Patience(update=20)).follow(model, 1)
    assert time.monotonic() - began < 2.9
