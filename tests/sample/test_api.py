"""The endpoint's sampler against a real server that may be told to misbehave: nothing is lost, paid for twice, or waited for without end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from fake_api import Fake, Reply, completion, running
from hypothesis import given
from hypothesis import strategies as st

from postgrad.protocols import Spent
from postgrad.records import Message, Problem
from postgrad.run import Failed
from postgrad.sample import calls
from postgrad.sample.api import ApiSampler, Budget, Endpoint, Missed, Patience, read
from postgrad.sample.calls import Calls

PROBLEMS = [
    Problem(f"p{i}", (Message("system", "Be brief."), Message("user", f"{i} + {i} =")), str(2 * i)) for i in range(4)
]
QUICK = Patience(attempt=20, call=60, attempts=4, wait=0.01)
"""Asks again at once; its deadlines are for a busy machine and not met."""
KEY = "sk-never-to-be-seen-1234567890"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with running() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Calls]:
    with calls.opened(tmp_path / "calls.sqlite") as opened:
        yield opened


@pytest.fixture
def sampler(fake: Fake, store: Calls) -> Callable[..., ApiSampler]:
    def make(seed: int = 0, patience: Patience = QUICK, **options: Any) -> ApiSampler:
        endpoint = {"max_tokens": 20} | options.pop("parameters", {})
        own = {
            name: options.pop(name) for name in ("key_variable", "prompt_price", "completion_price") if name in options
        }
        return ApiSampler(Endpoint(fake.url, "m-2026", endpoint, **own), store, seed=seed, patience=patience, **options)

    return make


def first(nth: int, reply: Reply) -> Callable[[int, Any], Reply | None]:
    """The first `nth` requests are answered so."""
    return lambda at, body: reply if at < nth else None


# ---- What is asked and what comes -----------------------------------------------------------------------------------


def test_traces_come_in_order_with_the_servers_text(fake: Fake, sampler: Any) -> None:
    fake.rule = lambda nth, body: Reply(content=completion(f"re: {body['messages'][1]['content']}"))
    groups = sampler().sample(PROBLEMS, 3)
    assert [[(one.problem_id, one.text, one.finish) for one in group] for group in groups] == [
        [(problem.id, f"re: {problem.prompt[1].content}", "stop")] * 3 for problem in PROBLEMS
    ]
    assert {(one.token_ids, one.logprobs) for group in groups for one in group} == {((), ())}


def test_the_request_is_messages_model_and_parameters(fake: Fake, sampler: Any) -> None:
    sampler(parameters={"temperature": 0.7, "top_p": 0.9}).sample(PROBLEMS[:1], 1)
    assert fake.asked == [
        {
            "model": "m-2026",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "0 + 0 ="}],
            "max_tokens": 20,
            "temperature": 0.7,
            "top_p": 0.9,
        }
    ]
    assert "Authorization" not in fake.headers[0]


@pytest.mark.parametrize(
    ("answer", "text", "finish"),
    [
        (completion("cut", "length"), "cut", "length"),
        (completion("cut", "max_tokens"), "cut", "length"),
        (completion(None, "length"), "", "length"),
        (completion("done", "end_turn"), "done", "stop"),
        (completion(None, "stop", refusal="I will not."), "I will not.", "stop"),
        (completion("", "stop"), "", "stop"),
        (completion("withheld", "content_filter"), "withheld", "error"),
        (completion("?", None), "?", "error"),
    ],
)
def test_how_an_answer_ended_is_told(fake: Fake, sampler: Any, answer: Any, text: str, finish: str) -> None:
    fake.rule = lambda nth, body: Reply(content=answer)
    ((trace,),) = sampler().sample(PROBLEMS[:1], 1)
    assert (trace.text, trace.finish) == (text, finish)
    assert len(fake.asked) == 1, "it is paid for, so it is not asked again"


def test_no_problem_asks_nothing(fake: Fake, sampler: Any) -> None:
    assert sampler().sample([], 3) == []
    assert sampler().sample(PROBLEMS[:2], 0) == [[], []]
    assert not fake.asked


def test_a_real_chunked_answer_is_read(store: Calls) -> None:
    """As servers send it that do not know its length yet."""
    body = json.dumps(completion("whole")).encode()
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
            connection.sendall(head + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (body[:7], body[7:])))
            connection.sendall(b"0\r\n\r\n")

    thread = threading.Thread(target=serve)
    thread.start()
    with listener:
        endpoint = Endpoint(f"http://127.0.0.1:{listener.getsockname()[1]}", "m")
        ((trace,),) = ApiSampler(endpoint, store, seed=0, patience=QUICK).sample(PROBLEMS[:1], 1)
    thread.join()
    assert trace.text == "whole"


# ---- Never lost, never twice ----------------------------------------------------------------------------------------


def test_what_was_answered_is_never_asked_again(fake: Fake, sampler: Any) -> None:
    before = sampler().sample(PROBLEMS, 2)
    assert len(fake.asked) == 8
    assert sampler().sample(PROBLEMS, 2) == before
    assert sampler().sample(PROBLEMS[1:2], 1) == [before[1][:1]]
    assert len(fake.asked) == 8


@pytest.mark.parametrize("change", ["seed", "id", "prompt", "parameters", "n"])
def test_another_call_is_asked(fake: Fake, sampler: Any, change: str) -> None:
    sampler().sample(PROBLEMS[:1], 1)
    (problem,) = PROBLEMS[:1]
    match change:
        case "seed":
            sampler(seed=1).sample([problem], 1)
        case "id":
            sampler().sample([Problem("p0/2", problem.prompt, None)], 1)
        case "prompt":
            sampler().sample([Problem("p0", problem.prompt[1:], None)], 1)
        case "parameters":
            sampler(parameters={"temperature": 0.5}).sample([problem], 1)
        case "n":
            sampler().sample([problem], 2)
    assert len(fake.asked) == 2


def test_one_call_wanted_twice_at_once_is_sent_once(fake: Fake, sampler: Any) -> None:
    fake.delay = 0.05
    one, other = sampler().sample([PROBLEMS[0], PROBLEMS[0]], 1)
    assert one == other
    assert len(fake.asked) == 1


PROGRAM = """
import sys
from pathlib import Path
from postgrad.records import Message, Problem
from postgrad.sample import calls
from postgrad.sample.api import ApiSampler, Endpoint
with calls.opened(Path(sys.argv[1])) as store:
    sampler = ApiSampler(Endpoint(sys.argv[2], "m", {"max_tokens": 20}), store, seed=0, concurrency=3)
    problems = [Problem(f"p{i}", (Message("user", str(i)),), None) for i in range(30)]
    for group in sampler.sample(problems, 1):
        print(group[0].text)
"""


def test_a_kill_costs_at_most_what_was_on_the_way(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    with running(delay=0.03) as fake:
        command = [sys.executable, "-c", PROGRAM, str(path), fake.url]
        for target in (5, 14):
            process = subprocess.Popen(command)
            while len(fake.asked) < target:
                assert process.poll() is None
                time.sleep(0.002)
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
        texts = done.stdout.splitlines()
        assert len({*texts}) == 30
        # Two kills, three on the way at each.
        assert 30 <= len(fake.asked) <= 36
        asked = len(fake.asked)
        assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == done.stdout
        assert len(fake.asked) == asked
        with calls.opened(path) as store:
            account = store.account(fake.url, "m")
    assert (account.attempts >= asked, account.answers) == (True, 30)
    # What the killed processes had sent is accounted for by its bound; what was answered, by the server's count.
    assert account.known.prompt + account.known.completion == 30 * 15
    assert account.open_attempts == account.attempts - 30
    assert account.open.completion == account.open_attempts * 20


def test_a_second_process_is_refused(tmp_path: Path, store: Calls) -> None:
    with pytest.raises(Failed, match="another process is at work"), calls.opened(tmp_path / "calls.sqlite"):
        pass


# ---- Asking again ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        *(Reply(status, b"busy") for status in (408, 409, 429, 500, 502, 503, 504)),
        Reply(content=b"{not json"),
        Reply(content=b""),
        Reply(content=b"[]"),
        Reply(content={"error": {"message": "overloaded"}}),
        Reply(content={"choices": []}),
        Reply(content={"choices": [{}, {}]}),
        Reply(content={"choices": [{"message": {"role": "assistant"}, "finish_reason": "stop"}]}),
        Reply(content=completion([{"type": "text", "text": "parts"}])),
        Reply(content=completion(7)),
        Reply(content=completion("cut on the way"), cut=10),
        Reply(drop=True),
    ],
    ids=lambda reply: f"{reply.status}{'-cut' * bool(reply.cut)}{'-drop' * reply.drop}-{str(reply.content)[:25]}",
)
def test_what_may_pass_is_asked_again(fake: Fake, sampler: Any, reply: Reply) -> None:
    fake.rule = first(2, reply)
    ((trace,),) = sampler().sample(PROBLEMS[:1], 1)
    assert (trace.text[:8], trace.finish) == ("answer 2", "stop")
    spent = sampler().spent()
    assert (spent["attempts"], spent["answers"], spent["failed"]) == (3, 1, 0)
    refused = reply.status in (429, 503)
    assert spent["open_attempts"] == (0 if refused else 2), "what may have been charged is accounted for"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["content", "refusal", "x"]), inner, max_size=2)
    ),
    max_leaves=4,
)


@given(JSON, JSON, JSON, JSON)
def test_whatever_an_answer_holds_it_is_read_or_missed(message: Any, reason: Any, usage: Any, refusal: Any) -> None:
    for inner in (message, {"content": message}, {"content": None, "refusal": refusal}):
        for counts in (usage, {"prompt_tokens": usage, "completion_tokens": 3}):
            answer = {"choices": [{"message": inner, "finish_reason": reason}], "usage": counts}
            try:
                said = read(json.dumps(answer))
            except Missed:
                continue
            said.text.encode()
            assert said.finish in ("stop", "length", "error")
            assert said.used is None or 0 <= said.used.prompt < 2**63


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "NaN", "null", '"text"', "\x00"])
def test_what_is_no_object_is_missed(text: str) -> None:
    with pytest.raises(Missed, match="the answer is"):
        read(text)


def test_half_a_surrogate_is_no_text(fake: Fake, sampler: Any) -> None:
    fake.rule = lambda nth, body: Reply(content=completion("a\ud800b"))
    ((trace,),) = sampler().sample(PROBLEMS[:1], 1)
    assert trace.text == "a?b"


def test_threads_that_sample_at_once_wait_for_each_other(fake: Fake, sampler: Any) -> None:
    fake.delay = 0.01
    asked = sampler(concurrency=2)
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda problem: asked.sample([problem], 3), PROBLEMS))
    assert [group[0].problem_id for (group,) in got] == ["p0", "p1", "p2", "p3"]
    assert fake.most_busy <= 2
    assert len(fake.asked) == 12


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_request_that_is_wrong_for_good_is_asked_once_and_is_no_answer(fake: Fake, sampler: Any, status: int) -> None:
    fake.rule = lambda nth, body: Reply(status, b"too long") if body["messages"][1]["content"] == "0 + 0 =" else None
    (bad,), (good,) = sampler().sample(PROBLEMS[:2], 1)
    assert (bad.finish, bad.text, good.finish) == ("error", "", "stop")
    assert len(fake.asked) == 2
    assert sampler().spent()["failed"] == 1
    # It is no cached answer: the next process may have a better server.
    fake.rule = lambda nth, body: None
    assert sampler().sample(PROBLEMS[:1], 1)[0][0].finish == "stop"
    assert sampler().spent()["failed"] == 0


@pytest.mark.parametrize("status", [301, 401, 402, 403, 404])
def test_where_no_call_would_succeed_the_rest_is_not_asked(fake: Fake, sampler: Any, status: int) -> None:
    fake.rule = lambda nth, body: Reply(status, b"no", {"Location": "http://elsewhere.example/"})
    with pytest.raises(Failed, match=rf"answered {status}.*look at url, model, the account and the key"):
        sampler(concurrency=1).sample(PROBLEMS, 5)
    assert len(fake.asked) == 1


def test_answers_on_the_way_come_home_before_a_failure_is_told(fake: Fake, sampler: Any) -> None:
    """They are paid for."""
    fake.rule = lambda nth, body: (
        Reply(401, b"no")
        if body["messages"][1]["content"] == "3 + 3 ="
        else Reply(content=completion("late"), delay=0.2)
    )
    with pytest.raises(Failed, match="401"):
        sampler().sample(PROBLEMS, 1)
    assert sampler().spent()["answers"] == 3
    asked = len(fake.asked)
    assert [one.text for (one,) in sampler().sample(PROBLEMS[:3], 1)] == ["late"] * 3
    assert len(fake.asked) == asked


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after_is_honoured_by_every_call(fake: Fake, sampler: Any, form: str) -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    fake.rule = first(1, Reply(429, b"slow down", {"Retry-After": "1" if form == "seconds" else until}))
    sampler(concurrency=1).sample(PROBLEMS, 1)
    gaps = [after - before for before, after in pairwise(fake.times)]
    # A date has whole seconds.
    assert gaps[0] >= 0.95 if form == "seconds" else gaps[0] >= 0.5
    assert len(fake.asked) == 5


def test_a_retry_after_beyond_patience_is_not_waited_for(fake: Fake, sampler: Any) -> None:
    fake.rule = lambda nth, body: Reply(429, b"tomorrow", {"Retry-After": "86400"})
    before = time.monotonic()
    with pytest.raises(Failed, match=r"answered none of 8 calls.*(tomorrow|asks to wait)"):
        sampler(concurrency=2).sample(PROBLEMS, 2)
    assert time.monotonic() - before < 20
    assert len(fake.asked) <= 2


def test_an_unreadable_retry_after_is_no_reason_to_fail(fake: Fake, sampler: Any) -> None:
    fake.rule = first(1, Reply(429, b"", {"Retry-After": "soon"}))
    assert sampler().sample(PROBLEMS[:1], 1)[0][0].finish == "stop"


def test_a_server_that_never_answers_is_given_up_in_time(fake: Fake, sampler: Any) -> None:
    fake.rule = lambda nth, body: Reply(content=completion("too late"), delay=1.5)
    before = time.monotonic()
    with pytest.raises(Failed, match=r"answered none of 1 calls; the last one: no answer within 0.2 s \(attempt 2\)"):
        sampler(patience=Patience(attempt=0.2, call=60, attempts=2, wait=0.01)).sample(PROBLEMS[:1], 1)
    assert time.monotonic() - before < 10
    assert sampler().spent()["open_attempts"] == 2


def test_a_call_ends_with_its_own_deadline(fake: Fake, sampler: Any) -> None:
    fake.rule = lambda nth, body: Reply(500, b"broken")
    # The last attempt gets what is left of the half second, which can be too little to hear the answer.
    with pytest.raises(Failed, match=r"answered 500|no answer within"):
        sampler(patience=Patience(attempt=5, call=0.5, attempts=10_000, wait=0.05)).sample(PROBLEMS[:1], 1)
    assert 1 < len(fake.asked) < 1000


def test_nobody_listening_is_told(store: Calls) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    sampler = ApiSampler(Endpoint(f"http://127.0.0.1:{port}/v1", "m"), store, seed=0, patience=QUICK)
    with pytest.raises(Failed, match=r"answered none of 2 calls.*nobody listens there \(attempt 4\)"):
        sampler.sample(PROBLEMS[:2], 1)


def test_one_lost_call_among_answers_is_an_error_of_its_own(fake: Fake, sampler: Any) -> None:
    fake.rule = lambda nth, body: Reply(drop=True) if body["messages"][1]["content"] == "2 + 2 =" else None
    traces = [one for (one,) in sampler().sample(PROBLEMS, 1)]
    assert [one.finish for one in traces] == ["stop", "stop", "error", "stop"]


# ---- Limits and budgets ---------------------------------------------------------------------------------------------


def test_concurrency_is_bounded(fake: Fake, sampler: Any) -> None:
    fake.delay = 0.02
    sampler(concurrency=3).sample(PROBLEMS, 5)
    assert 2 <= fake.most_busy <= 3


def test_requests_keep_their_rate(fake: Fake, sampler: Any) -> None:
    sampler(requests_per_minute=1200).sample(PROBLEMS, 2)
    assert fake.times[-1] - fake.times[0] >= 7 * 0.05 * 0.9


def test_tokens_and_cost_are_the_servers_counts(fake: Fake, sampler: Any) -> None:
    asked = sampler(prompt_price=2.0, completion_price=10.0)
    asked.sample(PROBLEMS, 2)
    assert asked.spent() == {
        "attempts": 8,
        "answers": 8,
        "failed": 0,
        "prompt_tokens": 80,
        "completion_tokens": 40,
        "cost": pytest.approx((80 * 2 + 40 * 10) / 1e6),
        "open_attempts": 0,
        "open_tokens": 0,
        "open_cost": 0.0,
    }


@pytest.mark.parametrize(
    "usage", [None, {}, {"prompt_tokens": "10", "completion_tokens": 5}, {"prompt_tokens": -1, "completion_tokens": 5}]
)
def test_an_answer_without_a_count_costs_its_bound(fake: Fake, sampler: Any, usage: Any) -> None:
    fake.rule = lambda nth, body: Reply(content=completion("x", usage=usage))
    asked = sampler()
    asked.sample(PROBLEMS[:1], 1)
    spent = asked.spent()
    assert (spent["answers"], spent["prompt_tokens"], spent["completion_tokens"]) == (1, 0, 0)
    # "Be brief." and "0 + 0 =", 32 for each message's frame, and max_tokens.
    assert spent["open_tokens"] == 9 + 7 + 2 * 32 + 20


@pytest.mark.parametrize(
    ("budget", "answers"),
    [
        (Budget(calls=5), 5),
        # A call is bounded by 80 + 20 tokens and costs 15: the sixth may bring 75 to 175.
        (Budget(tokens=174), 5),
        (Budget(tokens=175), 6),
        # The bound costs 80 * 2 + 20 * 10 = 360 millionths, a call 70.
        (Budget(cost=709e-6), 5),
        (Budget(cost=710e-6), 6),
    ],
)
def test_a_budget_ends_cleanly_and_goes_on_when_it_grows(
    fake: Fake, sampler: Any, budget: Budget, answers: int
) -> None:
    prices = {"prompt_price": 2.0, "completion_price": 10.0}
    with pytest.raises(Spent, match="budget") as caught:
        sampler(budget=budget, concurrency=3, **prices).sample(PROBLEMS, 2)
    assert sum(len(group) for group in caught.value.traces) == answers
    assert len(caught.value.traces) == 4
    assert len(fake.asked) == answers
    groups = sampler(budget=Budget(calls=8), **prices).sample(PROBLEMS, 2)
    assert len(fake.asked) == 8
    for had, group in zip(caught.value.traces, groups, strict=True):
        assert {*had} <= {*group}


def test_failed_attempts_use_up_a_budget_too(fake: Fake, sampler: Any) -> None:
    fake.rule = lambda nth, body: Reply(500, b"broken")
    with pytest.raises(Spent, match="all 2 calls"):
        sampler(budget=Budget(calls=2)).sample(PROBLEMS[:1], 1)
    assert len(fake.asked) == 2


def test_answers_on_disk_need_no_budget(fake: Fake, sampler: Any) -> None:
    before = sampler().sample(PROBLEMS, 1)
    assert sampler(budget=Budget(calls=0)).sample(PROBLEMS, 1) == before


# ---- The key, and what is refused -----------------------------------------------------------------------------------


def test_the_key_is_sent_and_written_nowhere(
    fake: Fake, sampler: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOME_KEY", KEY)
    echo = f"Incorrect API key provided: {KEY}"
    fake.rule = lambda nth, body: [
        Reply(500, echo.encode()),
        Reply(content=completion(f"{KEY}?")),
        Reply(401, {"error": echo}),
    ][nth]
    asked = sampler(key_variable="SOME_KEY")
    ((trace,),) = asked.sample(PROBLEMS[:1], 1)
    assert trace.text == "[key]?"
    with pytest.raises(Failed, match=r"SOME_KEY") as caught:
        asked.sample(PROBLEMS[1:2], 1)
    assert [headers["Authorization"] for headers in fake.headers] == [f"Bearer {KEY}"] * 3
    assert KEY not in f"{caught.value} {caught.value.__cause__} {asked} {asked.endpoint}"
    for path in tmp_path.iterdir():
        assert KEY.encode() not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("value", "why"),
    [(None, "is not set"), (" ", "is not set"), ("a b", "no key"), ("a\r\nHost: x", "no key"), ("clé", "no key")],
)
def test_what_is_no_key_is_refused(sampler: Any, monkeypatch: pytest.MonkeyPatch, value: str | None, why: str) -> None:
    monkeypatch.delenv("SOME_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("SOME_KEY", value)
    with pytest.raises(ValueError, match=rf"SOME_KEY.*{why}"):
        sampler(key_variable="SOME_KEY")


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        "https://name:word@host/v1",
        "https://host/v1?key=1",
    ],
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        Endpoint(url, "m")
    with pytest.raises(ValueError, match="address") as caught:
        Endpoint(url, "m")
    assert "word" not in str(caught.value).replace("password", "")


@pytest.mark.parametrize("name", ["model", "messages", "n", "seed", "stream"])
def test_the_samplers_own_parameters_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"parameters has {name}"):
        Endpoint("http://host/v1", "m", {name: 1})


def test_a_budget_that_cannot_be_kept_is_refused(store: Calls) -> None:
    with pytest.raises(ValueError, match="needs the longest answer"):
        ApiSampler(Endpoint("http://host/v1", "m"), store, seed=0, budget=Budget(tokens=10))
    with pytest.raises(ValueError, match="needs prices"):
        ApiSampler(Endpoint("http://host/v1", "m", {"max_tokens": 5}), store, seed=0, budget=Budget(cost=1.0))
