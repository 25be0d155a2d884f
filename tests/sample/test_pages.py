"""Paged sampling: the same traces as from slots, through shared prefixes, chunks, preemption and cancellation; and no page is lost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from postgrad.attention.paged import PAGE
from postgrad.sample.engine import Engine, Sampling
from postgrad.sample.pages import Pages
from postgrad.sample.request import Finished, Request

PROMPTS = [
    tuple(int(x) for x in np.random.default_rng(length).integers(0, 255, length))
    for length in (1, 2, 63, 64, 65, 66, 130, 200)
]


def requests(count: int, *, seed: int = 0, most: int = 90, every: int = 60, **settings: Any) -> list[Request]:
    rng = np.random.default_rng(seed)
    return [
        Request(
            PROMPTS[int(rng.integers(len(PROMPTS)))],
            int(rng.integers(1, most)),
            seed=(seed, index),
            stop_token_ids=frozenset(range(0, 255, every)),
            **settings,
        )
        for index in range(count)
    ]


def engine(
    tokenizer: Any,
    model: Any,
    *,
    rows: int = 16,
    pages: int | None = None,
    made: list[Pages] | None = None,
    **kind: Any,
) -> Engine:
    def make(model: Any, rows: int, expected: Sequence[Request]) -> Pages:
        cache = Pages(model, rows, expected, pages=pages)
        cache.steps, cache.pass_tokens = kind.get("steps", 8), kind.get("pass_tokens", 1 << 20)
        if made is not None:
            made.append(cache)
        return cache

    sampler = Engine(tokenizer, Sampling(max_tokens=1, slots=rows), seed=0, make_cache=make)
    sampler.follow(model, 0)
    return sampler


def slots(tokenizer: Any, model: Any, wanted: Sequence[Request]) -> list[Finished]:
    sampler = Engine(tokenizer, Sampling(max_tokens=1, slots=16), seed=0)
    sampler.follow(model, 0)
    return sampler.run(wanted)


def same(ours: Sequence[Finished], others: Sequence[Finished]) -> None:
    assert [(one.number, one.token_ids, one.finish) for one in ours] == [
        (one.number, one.token_ids, one.finish) for one in others
    ]
    for a, b in zip(ours, others, strict=True):
        for name in ("logprobs", "sampled_logprobs", "raw_logprobs"):
            assert getattr(a, name) == pytest.approx(getattr(b, name), abs=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("pass_tokens", [50, 1 << 20], ids=["in chunks", "at once"])
def test_pages_sample_what_slots_sample(model: Any, tokenizer: Any, steps: int, pass_tokens: int) -> None:
    wanted = requests(40)
    made: list[Pages] = []
    same(
        engine(tokenizer, model, steps=steps, pass_tokens=pass_tokens, made=made).run(wanted),
        slots(tokenizer, model, wanted),
    )
    assert len(made[0].free) == made[0].pages - 1


def test_rows_may_each_have_their_own_rule(model: Any, tokenizer: Any) -> None:
    rules: list[dict[str, Any]] = [
        {},
        {"temperature": 0.0},
        {"temperature": 0.6, "top_p": 0.9},
        {"top_k": 5},
        {"temperature": 1.4, "min_p": 0.1},
    ]
    wanted = [request for rule in rules for request in requests(4, **rule)]
    alone = [slots(tokenizer, model, wanted[start : start + 4]) for start in range(0, 20, 4)]
    together = engine(tokenizer, model).run(wanted)
    for index, one in enumerate(together):
        other = alone[index // 4][index % 4]
        assert one.token_ids == other.token_ids
        assert one.sampled_logprobs == pytest.approx(other.sampled_logprobs, abs=1e-4)


def test_a_group_holds_its_prompt_once(model: Any, tokenizer: Any) -> None:
    made: list[Pages] = []
    sampler = engine(tokenizer, model, made=made)
    group = [Request(PROMPTS[-1], 8, seed=(index,)) for index in range(6)]
    with sampler.serve(group) as scheduler:
        for request in group:
            scheduler.add(request)
        while scheduler.waiting:
            scheduler.step()
        full, tail = divmod(len(PROMPTS[-1]) - 1, PAGE)
        assert tail
        assert made[0].pages - 1 - len(made[0].free) == full + 1 + 6, "the prompt, its last page, and one page each"


@pytest.mark.parametrize("pages", [10, 14, 20])
def test_without_room_the_youngest_steps_back_and_goes_on_with_the_same_tokens(
    model: Any, tokenizer: Any, pages: int
) -> None:
    wanted = requests(30, most=200)
    made: list[Pages] = []
    sampler = engine(tokenizer, model, pages=pages, made=made)
    with sampler.serve(wanted) as scheduler:
        for request in wanted:
            scheduler.add(request)
        finished = []
        while not scheduler.idle:
            finished += scheduler.step()
    assert scheduler.preempted > 0
    same(sorted(finished, key=lambda one: one.number), slots(tokenizer, model, wanted))
    assert len(made[0].free) == pages - 1


def test_a_request_that_could_never_run_is_refused(model: Any, tokenizer: Any) -> None:
    with pytest.raises(
        ValueError, match=r"a request of 290 tokens, its max_tokens included, does not fit: the cache holds 256"
    ):
        engine(tokenizer, model, pages=6).run([Request(PROMPTS[-1], 90)])


def test_soak_nothing_is_lost_and_no_page_leaks(model: Any, tokenizer: Any) -> None:
    """2,000 requests that come while others run, with random lengths, stops, rules, cancellations, and a cache too small for them."""
    rng = np.random.default_rng(7)
    wanted = requests(2000, seed=3, most=100, every=200)
    made: list[Pages] = []
    sampler = engine(tokenizer, model, rows=48, pages=30, made=made)
    finished: dict[int, Finished] = {}
    cancelled: set[int] = set()
    with sampler.serve(wanted) as scheduler:
        added = 0
        while added < len(wanted) or not scheduler.idle:
            for request in wanted[added : added + int(rng.integers(0, 120))]:
                assert scheduler.add(request) == added
                added += 1
            if added and rng.random() < 0.3:
                victim = int(rng.integers(added))
                cancelled.add(victim)
                scheduler.cancel(victim)
            for one in scheduler.step():
                assert one.number not in finished
                finished[one.number] = one
    assert sorted(finished) == list(range(len(wanted)))
    assert scheduler.preempted > 5
    assert len(made[0].free) == 29
    assert sorted(made[0].free) == list(range(1, 30))
    assert not scheduler._prefixes
    over = {number for number, one in finished.items() if one.finish == "cancelled"}
    assert over
    assert over <= cancelled
    for number, one in finished.items():
        request = wanted[number]
        assert len(one.logprobs) == len(one.sampled_logprobs) == len(one.raw_logprobs) == len(one.token_ids)
        if one.finish == "length":
            assert len(one.token_ids) == request.max_tokens
        if one.finish == "stop":
            assert one.token_ids[-1] in request.stop_token_ids
    # Chance does not depend on company: a few of them again, alone.
    some = [number for number in sorted(finished) if number not in over][::97]
    for number in some:
        assert slots(tokenizer, model, [wanted[number]])[0].token_ids == finished[number].token_ids


def test_a_stop_string_ends_with_the_token_that_completes_it(model: Any, tokenizer: Any) -> None:
    (free,) = engine(tokenizer, model).run([Request(PROMPTS[3], 60, seed=(1,))])
    letters = [tokenizer.decode([token]) for token in free.token_ids]
    place = next(at for at in range(5, 59) if (letters[at] + letters[at + 1]).isascii())
    stop = letters[place] + letters[place + 1]
    request = Request(PROMPTS[3], 60, seed=(1,), stop_strings=(stop,))
    for sampler in (engine(tokenizer, model), Engine(tokenizer, Sampling(max_tokens=1), seed=0)):
        sampler.follow(model, 0)
        (cut,) = sampler.run([request])
        assert cut.finish == "stop"
        assert cut.token_ids == free.token_ids[: place + 2]
        assert stop in sampler._decode_text(cut.token_ids)
        assert stop not in sampler._decode_text(cut.token_ids[:-1])
