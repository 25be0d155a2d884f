"""Sampling by any server that speaks OpenAI's chat completions: text in, text out, every call a durable row (`calls.py`).

    with calls.opened(path) as store:
        sampler = ApiSampler(Endpoint("https://host/v1", "model-x", {"max_tokens": 4096}), store, seed=0)
        sampler.sample(problems, 4)

Written against the public reference of `POST /chat/completions`: messages, model and what `parameters` hold go out, one choice
is wanted. A trace has text and no token ids (the server does not tell them), so it serves search, synthesis and supervised
training, not policy gradients.

A call is a function of (seed, problem's id, sample), prompt and parameters: asked again, in this process or a later one, it is
answered from disk. For fresh answers give the problem another id, or a larger n.

Asking again happens here alone: after 408, 409, 429 and 5xx, time-outs, cut or malformed answers; each time after a random wait
(full jitter) of at most twice the last bound, or what Retry-After says, which then holds for every call of this sampler. What the server
calls wrong for good (400, 413, 422) and what was tried long enough is a trace with finish "error". A key that is refused, an address
without the interface, and a round without a single answer are Failed: no call would succeed.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal
from urllib.parse import urlsplit

from postgrad.protocols import Spent
from postgrad.records import Problem, Trace
from postgrad.run import Failed
from postgrad.sample.calls import Account, Call, Calls, Tokens
from postgrad.sample.exchange import PASSING, address, exchange, run, short

USELESS = {301, 302, 303, 307, 308, 401, 402, 403, 404, 405}
"""Statuses after which no call to this endpoint would succeed; the request is not looked at, so nothing is charged."""
STOPPED = {"stop", "end_turn", "eos", "eos_token", "stop_sequence"}
CUT = {"length", "max_tokens"}
MOST_TOKENS = 2**40
"""A larger count is no count."""
TEMPLATE = 32
"""Tokens that a message's role and the template add to its text, at most. A token of text has a byte at least."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Raises ValueError for an address that is none, or parameters that the sampler sets itself."""

    url: str
    """With its version, as in https://host/v1; /chat/completions is added."""
    model: str
    """As the server calls it. Name a snapshot where there are several: the name is part of what makes two calls the same."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Sent as they are: max_tokens or max_completion_tokens, temperature, top_p, ... Whatever is left out is the server's choice."""
    key_variable: str | None = None
    """The environment variable that holds the key; None: the server wants none. The key itself is written nowhere."""
    prompt_price: float = 0.0
    """For a million tokens, in the currency of `Budget.cost`."""
    completion_price: float = 0.0

    def __post_init__(self) -> None:
        address(self.url)
        parts = urlsplit(self.url)
        if "@" in parts.netloc or parts.query or parts.fragment:
            raise ValueError(
                f"the endpoint {parts.scheme}://{parts.hostname}{parts.path} has a name, a password or a query in its address, which "
                "would be written to disk: give the address alone, and a key by key_variable"
            )
        taken = sorted({"model", "messages", "n", "seed", "stream"} & {*self.parameters})
        if taken:
            raise ValueError(
                f"parameters has {', '.join(taken)}, which are the sampler's own (a seed would make all samples one): leave them out"
            )

    @property
    def most_completion(self) -> int | None:
        """Tokens of one answer; None where the server decides."""
        bound = self.parameters.get("max_completion_tokens", self.parameters.get("max_tokens"))
        return None if bound is None else int(bound)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to wait and how often to ask. Every wait ends; times in seconds."""

    attempt: float = 600.0
    """For one attempt, from connecting to the answer's last byte."""
    call: float = 3600.0
    """For all attempts of one call and the waits between them."""
    attempts: int = 8
    wait: float = 1.0
    """Bound of the wait before the second attempt; doubles up to 60."""


@dataclass(frozen=True, slots=True)
class Budget:
    """For one model at one address, over all processes that use the store; None: no bound. Kept in the worst case too: an attempt
    counts by the most that it can cost until the server has told its cost, and for ever if it never does."""

    calls: int | None = None
    """Attempts, also those that failed."""
    tokens: int | None = None
    """Of prompts and answers."""
    cost: float | None = None


class Missed(Exception):
    """One attempt got no answer that can be used."""

    def __init__(self, what: str, *, charged: bool, lasting: bool = False, wait: float | None = None) -> None:
        super().__init__(what)
        self.charged = charged
        """It may have been charged, for all that we know."""
        self.lasting = lasting
        """This call will never be answered."""
        self.wait = wait
        """Seconds that the server asks us to wait."""


@dataclass(frozen=True, slots=True)
class Said:
    """What a server's answer holds."""

    text: str
    finish: Literal["stop", "length", "error"]
    """"error": the server withheld or broke off the answer for a reason of its own."""
    used: Tokens | None
    """None where the server does not count."""


class ApiSampler:
    """A Sampler. At most `concurrency` calls are on the way, and `requests_per_minute` begin in a minute (None: no limit).
    Threads that sample at the same time wait for each other: give problems together.

    Raises ValueError where the key's variable is not set, or where a budget of tokens or cost has no longest answer to count with.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        calls: Calls,
        *,
        seed: int,
        patience: Patience = Patience(),
        budget: Budget = Budget(),
        concurrency: int = 8,
        requests_per_minute: float | None = None,
    ) -> None:
        if endpoint.most_completion is None and (budget.tokens is not None or budget.cost is not None):
            raise ValueError(
                "a budget of tokens or cost needs the longest answer: give max_tokens or max_completion_tokens in parameters"
            )
        if budget.cost is not None and not endpoint.prompt_price + endpoint.completion_price > 0:
            raise ValueError(f"a budget of cost {budget.cost} needs prices: give prompt_price and completion_price")
        self.endpoint = endpoint
        self.calls = calls
        self.seed = seed
        self.patience = patience
        self.budget = budget
        self.concurrency = concurrency
        self._interval = 0.0 if requests_per_minute is None else 60 / requests_per_minute
        self._address = address(endpoint.url)
        self._key = _key(endpoint.key_variable)
        self._turn = threading.Lock()
        self._next = 0.0
        """Monotonic time before which no request begins: the rate, and what Retry-After said."""

    def sample(self, problems: Sequence[Problem], n: int) -> list[list[Trace]]:
        """Raises Spent, with the traces that were had, where the budget allows no further call; Failed where no call would succeed."""
        wanted = [self._call(problem, sample) for problem in problems for sample in range(n)]
        batch = _Batch(self, wanted)
        with self._turn:
            said = run(batch.all())
        if batch.fault is not None:
            raise batch.fault
        if wanted and batch.gave_up and not batch.answered:
            raise Failed(
                f"{self.endpoint.url} answered none of {batch.gave_up} calls; the last one: {batch.gave_up_last}. Is the server "
                "well, and does it take these parameters? What was answered before is kept"
            )
        rows = [[said[call.key] for call in wanted[at * n : (at + 1) * n]] for at in range(len(problems))]
        groups = [
            [Trace(problem.id, one.text, (), (), one.finish) for one in row if one is not None]
            for problem, row in zip(problems, rows, strict=True)
        ]
        if batch.spent is not None:
            raise Spent(batch.spent, groups)
        return groups

    def account(self) -> Account:
        return self.calls.account(self.endpoint.url, self.endpoint.model)

    def spent(self) -> dict[str, float]:
        """Attempts, answers, tokens and cost so far, as the server counted them; `open_*` is the most that uncounted attempts can add."""
        account = self.account()
        return {
            "attempts": account.attempts,
            "answers": account.answers,
            "failed": account.failed,
            "prompt_tokens": account.known.prompt,
            "completion_tokens": account.known.completion,
            "cost": self.cost(account.known),
            "open_attempts": account.open_attempts,
            "open_tokens": account.open.prompt + account.open.completion,
            "open_cost": self.cost(account.open),
        }

    def cost(self, tokens: Tokens) -> float:
        priced = tokens.prompt * self.endpoint.prompt_price + tokens.completion * self.endpoint.completion_price
        return priced / 1e6

    def most(self, call: Call) -> Tokens:
        """That one attempt can cost."""
        text = sum(len(message["content"].encode()) + TEMPLATE for message in call.request["messages"])
        return Tokens(text, self.endpoint.most_completion or 0)

    def over(self, most: Tokens) -> str | None:
        """Which bound one more attempt could break; None where it cannot."""
        account, budget = self.account(), self.budget
        tokens = sum((*_both(account.known), *_both(account.open), *_both(most)))
        cost = self.cost(account.known) + self.cost(account.open) + self.cost(most)
        if budget.calls is not None and account.attempts >= budget.calls:
            return f"all {budget.calls} calls of the budget are made"
        if budget.tokens is not None and tokens > budget.tokens:
            return f"another call may need more than the budget of {budget.tokens} tokens"
        if budget.cost is not None and cost > budget.cost:
            return f"another call may cost more than the budget of {budget.cost:g}"
        return None

    async def attempt(self, call: Call, seconds: float) -> tuple[str, Said]:
        """One exchange: the answer as it came (without the key, should it hold that), and what it says. Raises Missed, or Failed."""
        sent = json.dumps(call.request, allow_nan=False).encode()
        headers = {} if self._key is None else {"Authorization": f"Bearer {self._key}"}
        try:
            async with asyncio.timeout(seconds):
                answer = await exchange(self._address, "POST", "/chat/completions", sent, headers)
        except TimeoutError as error:
            raise Missed(f"no answer within {seconds:g} s", charged=True) from error
        except ConnectionRefusedError as error:
            raise Missed("nobody listens there", charged=False) from error
        except (OSError, http.client.HTTPException) as error:
            raise Missed(self._without_key(f"{type(error).__name__}: {error}"), charged=True) from error
        text = self._without_key(answer.content.decode(errors="replace"))
        if answer.status in USELESS:
            raise Failed(
                f"{self.endpoint.url}/chat/completions answered {answer.status}: {short(text)}: look at url, model, the account and "
                f"the key in {self.endpoint.key_variable or 'no variable (key_variable is not set)'}"
            )
        if answer.status in PASSING or answer.status >= 500:
            wait = _retry_after(answer.headers.get("Retry-After"))
            refused = answer.status in (429, 503)
            raise Missed(f"it answered {answer.status}: {short(text)}", charged=not refused, wait=wait)
        if answer.status != 200:
            raise Missed(f"it answered {answer.status}: {short(text)}", charged=False, lasting=True)
        return text, read(text)

    async def turn(self, deadline: float) -> bool:
        """Wait until another request may begin; False, at once, where that is after the deadline (of the monotonic clock)."""
        while (wait := self._next - time.monotonic()) > 0:
            if self._next > deadline:
                return False
            await asyncio.sleep(wait)
        self._next = time.monotonic() + self._interval
        return True

    def hold(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)

    def _call(self, problem: Problem, sample: int) -> Call:
        request = {
            "model": self.endpoint.model,
            "messages": [{"role": message.role, "content": message.content} for message in problem.prompt],
            **self.endpoint.parameters,
        }
        return Call(self.endpoint.url, self.endpoint.model, problem.id, sample, self.seed, request)

    def _without_key(self, text: str) -> str:
        """Servers quote a key that they refuse."""
        return text if self._key is None else text.replace(self._key, "[key]")


class _Batch:
    """The calls of one `sample`, each asked once however often it is wanted."""

    def __init__(self, sampler: ApiSampler, wanted: Sequence[Call]) -> None:
        self.sampler = sampler
        self.wanted = {call.key: call for call in wanted}
        self.slots = asyncio.Semaphore(sampler.concurrency)
        self.settled = asyncio.Condition()
        self.on_the_way = 0
        self.answered = 0
        self.gave_up = 0
        self.gave_up_last = ""
        self.spent: str | None = None
        """Why the budget allows no further attempt."""
        self.fault: Failed | None = None
        """Why no call would succeed. Either stops what is not on the way yet, and lets that come home: it is paid for."""

    async def all(self) -> dict[str, Said | None]:
        tasks = {key: asyncio.create_task(self._one(call)) for key, call in self.wanted.items()}
        # Not a TaskGroup: a failure of one must not cut off the others' answers, which are paid for.
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        return {key: task.result() for key, task in tasks.items()}

    async def _one(self, call: Call) -> Said | None:
        """None where it was not asked."""
        known = self.sampler.calls.answer(call)
        if known is not None:
            self.answered += 1
            return read(known)
        async with self.slots:
            return await self._asked(call)

    async def _asked(self, call: Call) -> Said | None:
        sampler, patience = self.sampler, self.sampler.patience
        most = sampler.most(call)
        deadline = time.monotonic() + patience.call
        for attempt in range(patience.attempts):
            if not await sampler.turn(deadline):
                return self._given_up(call, f"the server asks to wait for more than the {patience.call:g} s of a call")
            if not await self._allowed(most):
                return None
            sampler.calls.begin(call, most)
            self.on_the_way += 1
            try:
                seconds = min(patience.attempt, max(deadline - time.monotonic(), 0.001))
                text, said = await sampler.attempt(call, seconds)
            except Missed as missed:
                sampler.calls.missed(call, str(missed), most, charged=missed.charged)
                if missed.wait is not None:
                    sampler.hold(missed.wait)
                wait = random.uniform(0, min(patience.wait * 2**attempt, 60))
                late = time.monotonic() + wait + (missed.wait or 0) > deadline
                if missed.lasting or late or attempt == patience.attempts - 1:
                    return self._given_up(call, f"{missed} (attempt {attempt + 1})")
            except Failed as fault:
                sampler.calls.missed(call, str(fault), most, charged=False)
                self.fault = fault
                return None
            else:
                sampler.calls.done(call, text, said.used, most)
                self.answered += 1
                return said
            finally:
                self.on_the_way -= 1
                async with self.settled:
                    self.settled.notify_all()
            await asyncio.sleep(wait)
        raise AssertionError("the last attempt returns")

    async def _allowed(self, most: Tokens) -> bool:
        """Whether another attempt may be sent; waits for those on the way where their true cost may leave room for it."""
        over = None

        def decided() -> bool:
            nonlocal over
            over = self.sampler.over(most)
            return not (over and self.on_the_way) or self.stopped

        async with self.settled:
            await self.settled.wait_for(decided)
        if over is not None and not self.stopped:
            self.spent = over
        return not self.stopped

    @property
    def stopped(self) -> bool:
        return self.spent is not None or self.fault is not None

    def _given_up(self, call: Call, why: str) -> Said:
        self.sampler.calls.give_up(call, why)
        self.gave_up += 1
        self.gave_up_last = why
        return Said("", "error", None)


def read(text: str) -> Said:
    """A chat completion's one choice. Raises Missed, as perhaps charged, where it is none."""
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Missed(f"the answer is no JSON ({error})", charged=True) from error
    if not isinstance(answer, dict):
        raise Missed(f"the answer is {short(answer)}, not an object", charged=True)
    if answer.get("error"):
        raise Missed(f"the answer says that it failed: {short(answer['error'])}", charged=True)
    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        raise Missed(f"one choice was asked for and {short(choices)} came", charged=True)
    message, reason = choices[0].get("message"), choices[0].get("finish_reason")
    if not isinstance(message, dict) or "content" not in message or not isinstance(message["content"], str | None):
        raise Missed(f"the message is {short(message)}, without a text", charged=True)
    # A refusal is an answer too. Null: nothing was said, say because thinking used up all tokens.
    content = message["content"] if message["content"] is not None else message.get("refusal")
    said = content if isinstance(content, str) else ""
    finish: Literal["stop", "length", "error"] = "error"
    if isinstance(reason, str):
        finish = "stop" if reason in STOPPED else "length" if reason in CUT else "error"
    # JSON can hold half of a surrogate pair, which is no text: nothing could store or print it.
    return Said(said.encode(errors="replace").decode(), finish, _usage(answer.get("usage")))


def _usage(told: Any) -> Tokens | None:
    if not isinstance(told, dict):
        return None
    prompt, completion = told.get("prompt_tokens"), told.get("completion_tokens")
    if type(prompt) is not int or type(completion) is not int:
        return None
    if not (0 <= prompt < MOST_TOKENS and 0 <= completion < MOST_TOKENS):
        return None
    return Tokens(prompt, completion)


def _retry_after(told: str | None) -> float | None:
    """Seconds, from a number or a date; None where there is neither."""
    if told is None:
        return None
    try:
        return max(float(told), 0.0)
    except ValueError:
        pass
    try:
        return max((parsedate_to_datetime(told) - datetime.now(UTC)).total_seconds(), 0.0)
    except (TypeError, ValueError):
        return None


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(f"the environment variable {variable} is not set: put the endpoint's key there")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError(f"what {variable} holds is no key: wanted printable ASCII without spaces")
    return key


def _both(tokens: Tokens) -> tuple[int, int]:
    return (tokens.prompt, tokens.completion)
