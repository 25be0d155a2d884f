"""Which request runs when: continuous batching with preemption and cancellation. Counts only; the cache holds keys and calls the model.

A request's prompt but for its last token is its `Prefix`: computed once for all requests that have the same, and kept until the last of
them ends. A running sequence's newest token is not in the cache yet; decoding computes it and draws the next. So a sequence that enters
starts with the last token of its prompt, and tokens are drawn in one place only.

When the cache is full, prefixes that nobody runs on are dropped, then the youngest sequence steps back into the queue: what it sampled
becomes its prefix, and it goes on with the same tokens and the same stream of chance.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from postgrad.sample.request import Finish, Finished, Request

Floats = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(slots=True, eq=False)
class Prefix:
    ids: tuple[int, ...]
    computed: int = 0
    """How many of its tokens are in the cache."""
    users: int = 0
    """Requests that wait for it or run on it."""
    running: int = 0
    place: Any = None
    """The cache's own."""

    @property
    def ready(self) -> bool:
        return self.computed == len(self.ids)


@dataclass(slots=True, eq=False)
class Running:
    """A request on its way, also while it waits."""

    number: int
    request: Request
    prefix: Prefix
    uniforms: Floats
    ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    sampled_logprobs: list[float] = field(default_factory=list)
    raw_logprobs: list[float] = field(default_factory=list)
    finish: Finish | None = None
    place: Any = None
    """The cache's own."""

    @property
    def cached(self) -> int:
        """Tokens whose keys are in the cache while it runs: all but the newest."""
        return len(self.request.prompt_ids) + len(self.ids) - 1

    @property
    def newest(self) -> int:
        return self.ids[-1] if self.ids else self.request.prompt_ids[-1]

    @property
    def left(self) -> int:
        return self.request.max_tokens - len(self.ids)

    def finished(self) -> Finished:
        assert self.finish is not None
        return Finished(
            self.number,
            tuple(self.ids),
            tuple(self.logprobs),
            tuple(self.sampled_logprobs),
            tuple(self.raw_logprobs),
            self.finish,
        )


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a pass of decoding drew: [B][steps] each, plain numbers."""

    ids: list[list[int]]
    logprobs: list[list[float]]
    sampled_logprobs: list[list[float]]
    raw_logprobs: list[list[float]]


T = TypeVar("T", Prefix, Running)


class Cache(Protocol):
    rows: int
    """Sequences decoded at once, at most."""
    pass_tokens: int
    """Tokens of prompts computed in one pass, at most."""
    steps: int
    """Tokens that one call of `decode` draws for each sequence."""

    def fits(self, request: Request) -> str | None:
        """None, or why this request could never run."""
        ...

    def hold(self, prefix: Prefix) -> bool:
        """Make room for a prefix's keys; False: there is none now."""
        ...

    def prefill(self, parts: Sequence[tuple[Prefix, int, int]]) -> None:
        """Compute tokens [start, stop) of each prefix; those before are computed."""
        ...

    def drop(self, prefix: Prefix) -> None: ...

    def enter(self, one: Running) -> bool:
        """Give a sequence its place, behind its ready prefix; False: there is none now."""
        ...

    def grow(self, one: Running) -> bool:
        """Room for what the next `decode` will write; False: there is none now."""
        ...

    def decode(self, running: Sequence[Running]) -> Tokens: ...

    def leave(self, one: Running) -> None: ...


class Scheduler:
    def __init__(self, cache: Cache, text: Callable[[Sequence[int]], str]) -> None:
        self.cache = cache
        self.text = text
        """Tokens to text: what stop strings are looked for in."""
        self.waiting: deque[Running] = deque()
        self.running: list[Running] = []
        """In the order in which they entered."""
        self.preempted = 0
        """How often a sequence had to step back."""
        self._prefixes: dict[tuple[int, ...], Prefix] = {}
        self._cancelled: set[int] = set()
        self._added = 0
        self._crowded = False
        """A sequence stepped back and none has ended since: who entered now would soon step back too."""

    @property
    def idle(self) -> bool:
        return not self.waiting and not self.running

    def add(self, request: Request) -> int:
        """Returns the request's number. Raises ValueError where it could never run."""
        reason = self.cache.fits(request)
        if reason is not None:
            raise ValueError(reason)
        number = self._added
        self._added += 1
        uniforms = np.random.default_rng(list(request.seed)).random(request.max_tokens)
        prefix = self._prefix(request.prompt_ids[:-1])
        self.waiting.append(Running(number, request, prefix, uniforms))
        return number

    def cancel(self, number: int) -> None:
        """The request finishes, with what it has, at the next step. One that is finished stays so."""
        self._cancelled.add(number)

    def step(self) -> list[Finished]:
        """Let waiting sequences in, or draw the next tokens of the running ones; returns who finished."""
        over = self._cancel()
        entered = self._admit()
        if self.running and not entered:
            over += self._decode()
        return over

    # ---- Entering -----------------------------------------------------------------------------------------------------

    def _admit(self) -> bool:
        """Whether anything was computed for waiting sequences."""
        if self._crowded and self.running:
            return False
        free = self.cache.rows - len(self.running)
        # In strides: a pass over few prompts costs as much reading of weights as a pass over many.
        if not self.waiting or free < min(max(1, self.cache.rows // 4), len(self.waiting)):
            return False
        worked = False
        while self.waiting and len(self.running) < self.cache.rows:
            one = self.waiting[0]
            if not one.prefix.ready:
                if worked or not self._prefill():
                    break
                worked = True
            elif self._room(self.cache.enter, one):
                self.waiting.popleft()
                one.prefix.running += 1
                self.running.append(one)
            else:
                break
        assert self.running or worked, "a request that fits finds room in an empty cache"
        return worked

    def _prefill(self) -> bool:
        """One pass over the prefixes that the first waiting sequences need."""
        left, free = self.cache.pass_tokens, self.cache.rows - len(self.running)
        parts: list[tuple[Prefix, int, int]] = []
        for one in list(self.waiting)[:free]:
            prefix = one.prefix
            if prefix.ready or any(part[0] is prefix for part in parts):
                continue
            # Only the first may drop others' prefixes for itself: it is who must go on.
            found = prefix.place is not None or (
                self.cache.hold(prefix) if parts else self._room(self.cache.hold, prefix)
            )
            if not found or not left:
                break
            stop = min(len(prefix.ids), prefix.computed + left)
            parts.append((prefix, prefix.computed, stop))
            left -= stop - prefix.computed
        if parts:
            self.cache.prefill(parts)
            for prefix, _, stop in parts:
                prefix.computed = stop
        return bool(parts)

    def _room(self, ask: Callable[[T], bool], of: T) -> bool:
        """Ask for room; where there is none, drop prefixes that nobody runs on, and ask again."""
        needed = of if isinstance(of, Prefix) else of.prefix
        if ask(of):
            return True
        for prefix in list(self._prefixes.values()):
            if prefix.ids and prefix.place is not None and not prefix.running and prefix is not needed:
                self._drop(prefix)
                if ask(of):
                    return True
        return False

    def _prefix(self, ids: tuple[int, ...]) -> Prefix:
        prefix = self._prefixes.setdefault(ids, Prefix(ids))
        prefix.users += 1
        if not ids:
            prefix.place = ()
        return prefix

    def _drop(self, prefix: Prefix) -> None:
        if prefix.ids:
            self.cache.drop(prefix)
            prefix.place, prefix.computed = None, 0

    def _release(self, prefix: Prefix) -> None:
        prefix.users -= 1
        if not prefix.users:
            if prefix.place is not None:
                self._drop(prefix)
            del self._prefixes[prefix.ids]

    # ---- Running ------------------------------------------------------------------------------------------------------

    def _decode(self) -> list[Finished]:
        # The eldest first, so that room is taken from the youngest.
        for one in list(self.running):
            while one in self.running and not self._room(self.cache.grow, one):
                self._step_back(self.running[-1])
        tokens = self.cache.decode(self.running)
        rows = zip(tokens.ids, tokens.logprobs, tokens.sampled_logprobs, tokens.raw_logprobs, strict=True)
        for one, (ids, logprobs, sampled, raw) in zip(self.running, rows, strict=True):
            count = self._take(one, ids[: one.left])
            one.logprobs += logprobs[:count]
            one.sampled_logprobs += sampled[:count]
            one.raw_logprobs += raw[:count]
        over = [one for one in self.running if one.finish is not None]
        for one in over:
            self._leave(one)
            self._release(one.prefix)
        self._crowded &= not over
        return [one.finished() for one in over]

    def _take(self, one: Running, ids: list[int]) -> int:
        """Append tokens up to the one that ends the sequence; returns how many."""
        request = one.request
        if not request.stop_strings and request.stop_token_ids.isdisjoint(ids):
            one.ids += ids
        else:
            for token in ids:
                one.ids.append(token)
                if token in request.stop_token_ids or self._completes(one):
                    one.finish = "stop"
                    break
        if one.finish is None and not one.left:
            one.finish = "length"
        return len(one.ids) - len(one.logprobs)

    def _completes(self, one: Running) -> bool:
        """Whether the newest token completed a stop string."""
        if not one.request.stop_strings:
            return False
        # A character is at most four tokens of one byte each; the newest token may end inside the text after the string.
        window = 4 * max(map(len, one.request.stop_strings)) + 4
        text = self.text(one.ids[-window:])
        return any(stop in text for stop in one.request.stop_strings)

    def _leave(self, one: Running) -> None:
        self.cache.leave(one)
        one.place = None
        one.prefix.running -= 1
        self.running.remove(one)

    def _step_back(self, one: Running) -> None:
        self._leave(one)
        self.preempted += 1
        self._crowded = True
        whole = (*one.request.prompt_ids, *one.ids)[:-1]
        if whole != one.prefix.ids:
            self._release(one.prefix)
            one.prefix = self._prefix(whole)
        self.waiting.appendleft(one)

    def _cancel(self) -> list[Finished]:
        if not self._cancelled:
            return []
        over = [one for one in [*self.running, *self.waiting] if one.number in self._cancelled]
        self._cancelled.clear()
        for one in over:
            if one.place is None:
                self.waiting.remove(one)
            else:
                self._leave(one)
            one.finish = "cancelled"
            self._crowded = False
            self._release(one.prefix)
        return [one.finished() for one in over]
