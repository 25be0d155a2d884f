"""Supervised rows: what is packed where, in which order, and what is left out or refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postgrad.records import Example, Message
from postgrad.train import source
from postgrad.train.batch import Document, pack, packed_length
from postgrad.train.settings import SftSettings

ROWS = st.lists(st.integers(1, 50), max_size=40)


def settings(**changed: Any) -> SftSettings:
    return SftSettings(**{"max_steps": 1, "learning_rate": 1e-3, "max_length": 64} | changed)


# ---- Best fit -------------------------------------------------------------------------------------------------------


def test_best_fit_by_hand() -> None:
    # 6 and 5 open rows of 10; 4 fills the row of 6, 3 goes where 5 stands, 2 fills it; 1 opens a third.
    assert source.best_fit([3, 6, 1, 5, 4, 2], 10) == [[1, 4], [3, 0, 5], [2]]


@given(lengths=ROWS, spare=st.integers(0, 30))
def test_every_document_stands_in_one_row_and_no_row_overflows(lengths: list[int], spare: int) -> None:
    capacity = max(lengths, default=1) + spare
    rows = source.best_fit(lengths, capacity)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    loads = [sum(lengths[index] for index in row) for row in rows]
    assert all(0 < load <= capacity for load in loads)
    assert all(a + b > capacity for a, b in combinations(loads, 2)), "no two rows would fit into one"


def fewest_rows(lengths: Sequence[int], capacity: int) -> int:
    """By trying every way."""

    def rows_of(rest: Sequence[int], rooms: tuple[int, ...]) -> int:
        if not rest:
            return len(rooms)
        first, *others = rest
        ways = [rows_of(others, (*rooms, capacity - first))]
        for place in {room: place for place, room in enumerate(rooms) if room >= first}.values():
            ways.append(rows_of(others, tuple(sorted((*rooms[:place], rooms[place] - first, *rooms[place + 1 :])))))
        return min(ways)

    return rows_of(lengths, ())


@given(lengths=st.lists(st.integers(1, 20), max_size=6), spare=st.integers(0, 20))
def test_it_needs_at_most_eleven_ninths_of_the_fewest_rows(lengths: list[int], spare: int) -> None:
    capacity = max(lengths, default=1) + spare
    assert len(source.best_fit(lengths, capacity)) <= (11 * fewest_rows(lengths, capacity) + 6) / 9


@given(lengths=ROWS, order=st.randoms(use_true_random=False))
def test_the_number_of_rows_does_not_depend_on_the_order(lengths: list[int], order: Any) -> None:
    shuffled = list(lengths)
    order.shuffle(shuffled)
    assert len(source.best_fit(shuffled, 50)) == len(source.best_fit(lengths, 50))


def test_a_document_longer_than_a_row_is_an_error() -> None:
    assert source.best_fit([10], 10) == [[0]]
    with pytest.raises(ValueError, match="a document of 11 tokens cannot stand in a row of 10"):
        source.best_fit([3, 11], 10)


# ---- Epochs ---------------------------------------------------------------------------------------------------------


def documents(lengths: Sequence[int]) -> list[Document]:
    return [
        Document(str(name), tuple(range(length)), np.array([0] + [1] * (length - 1), np.float32))
        for name, length in enumerate(lengths)
    ]


def names(packed: source.Packed, taken: int) -> list[tuple[str, ...]]:
    return [batch.names for batch in packed.step(None, taken).batches]


LENGTHS = [int(length) for length in np.random.default_rng(0).integers(2, 40, 60)]


def test_in_an_epoch_no_document_comes_twice_and_over_epochs_all_come() -> None:
    asked = settings(per_device_train_batch_size=2, gradient_accumulation_steps=3)
    packed = source.Packed(documents(LENGTHS), asked, seed=0)
    rows = len(source.best_fit(LENGTHS, 64))
    assert packed.steps_per_epoch == rows // 6
    assert rows % 6, "an epoch whose last rows wait for another"
    seen: Counter[str] = Counter()
    for epoch in range(8):
        steps = range(epoch * packed.steps_per_epoch, (epoch + 1) * packed.steps_per_epoch)
        drawn = [name for step in steps for batch in names(packed, step) for name in batch]
        assert len(drawn) == len(set(drawn))
        seen.update(drawn)
    assert set(seen) == {str(name) for name in range(60)}


def test_a_step_has_the_micro_batches_that_were_asked_for_and_counts_their_weights() -> None:
    asked = settings(per_device_train_batch_size=2, gradient_accumulation_steps=3)
    step = source.Packed(documents(LENGTHS), asked, seed=0).step(None, 0)
    assert len(step.batches) == 3
    for batch in step.batches:
        assert sum(batch.lengths) <= 2 * 64
        assert batch.count == sum(length - 1 for length in batch.lengths)
    assert 0 < step.numbers["epoch"] < 1


def test_a_step_is_a_function_of_seed_and_number_alone() -> None:
    made = lambda seed: source.Packed(documents(LENGTHS), settings(per_device_train_batch_size=3), seed=seed)  # noqa: E731
    going = made(0)
    steps = [names(going, taken) for taken in range(3 * going.steps_per_epoch)]
    for taken in (0, 5, going.steps_per_epoch, 3 * going.steps_per_epoch - 1):
        assert names(made(0), taken) == steps[taken]
    first, second = steps[: going.steps_per_epoch], steps[going.steps_per_epoch : 2 * going.steps_per_epoch]
    assert first != second
    assert names(made(1), 0) != steps[0]
    assert going.state() == {}
    going.restore({})
    with pytest.raises(AssertionError):
        going.restore({"position": 3})


def test_too_little_data_for_a_step_says_what_to_lower() -> None:
    with pytest.raises(
        ValueError, match=r"the data fills 1 rows of 64 tokens and one step wants 2 .*lower them or sft.max_length"
    ):
        source.Packed(documents([10, 20]), settings(per_device_train_batch_size=2), seed=0)


# ---- Examples to documents ------------------------------------------------------------------------------------------

ASK = (Message("user", "take 1"),)


def test_a_weight_is_on_the_response_and_on_nothing_else(tokenizer: Any) -> None:
    (document,), dropped = source.supervised(tokenizer, [Example(ASK, "12", weight=0.5, id="a")], settings())
    assert document.name == "a"
    assert document.weights.tolist() == [0.0] * (len(document.ids) - 3) + [0.5] * 3
    assert dropped == 0


def test_an_example_of_weight_0_is_left_out(tokenizer: Any) -> None:
    rows = [Example(ASK, "1", id="kept"), Example(ASK, "9" * 99, weight=0.0, id="weightless")]
    made, dropped = source.supervised(tokenizer, rows, settings())
    assert [document.name for document in made] == ["kept"]
    assert dropped == 0
    with pytest.raises(ValueError, match=r"no example is left to train on: 1 given, 0 longer .* 1 of weight 0"):
        source.supervised(tokenizer, rows[1:], settings())


def test_an_overlong_example_is_an_error_or_is_counted(tokenizer: Any) -> None:
    rows = [Example(ASK, "1", id="short"), Example(ASK, "9" * 99, id="long")]
    with pytest.raises(
        ValueError, match=r"example 'long' has \d+ tokens and a row holds sft.max_length=64: .*overlong=drop"
    ):
        source.supervised(tokenizer, rows, settings())
    made, dropped = source.supervised(tokenizer, rows, settings(overlong="drop"))
    assert [document.name for document in made] == ["short"]
    assert dropped == 1
    with pytest.raises(ValueError, match=r"no example is left to train on: 1 given, 1 longer than sft.max_length=64"):
        source.supervised(tokenizer, rows[1:], settings(overlong="drop"))


# ---- Groups in micro-batches of so many tokens ------------------------------------------------------------------------


def group(name: int, prompt: int, lengths: Sequence[int]) -> list[Document]:
    ids = tuple(range(1000 * name, 1000 * name + prompt))
    return [
        Document(
            f"g{name}",
            (*ids, *range(length)),
            np.r_[np.zeros(prompt), np.ones(length)].astype(np.float32),
            prefix=prompt,
        )
        for length in sorted(lengths)
    ]


GROUPS = st.lists(st.tuples(st.integers(1, 20), st.lists(st.integers(1, 30), min_size=2, max_size=6)), max_size=6)


@given(groups=GROUPS, spare=st.integers(0, 200), ranks=st.integers(1, 4))
def test_filled_micro_batches_hold_each_completion_once_and_no_more_than_they_may(
    groups: list[tuple[int, list[int]]], spare: int, ranks: int
) -> None:
    families = [group(name, prompt, lengths) for name, (prompt, lengths) in enumerate(groups)]
    tokens = max((len(d.ids) for family in families for d in family), default=1) + spare
    rows = source.filled(families, tokens, ranks)
    assert sorted(id(d) for row in rows for d in row) == sorted(id(d) for family in families for d in family)
    assert all(0 < packed_length(row) <= tokens for row in rows)
    assert all(packed_length(row) == len(pack(row, count=1.0).input_ids_T) for row in rows)
    for family in families:
        if packed_length(family) <= tokens:
            (row,) = (row for row in rows if family[0] in row)
            start = row.index(family[0])
            assert row[start : start + len(family)] == family, "a group that fits stays together"


def test_filling_by_hand() -> None:
    families = [group(0, 10, [5, 5, 5]), group(1, 10, [2, 3]), group(2, 10, [30, 40])]
    # With their prompts once: 25, 15, 80. The third alone is too long for 60, and is cut between its two.
    assert sorted(map(packed_length, source.filled(families, 60))) == [40, 40, 50], "best fit alone: 25, 50, 55"
    assert sorted(map(packed_length, source.filled(families, 90))) == [40, 80], "not 80 + 0 and 40 in three"
    assert sorted(map(packed_length, source.filled(families, 200))) == [120]
    assert sorted(map(packed_length, source.filled(families, 200, 2))) == [40, 80], "two ranks have one each"
    assert len(source.filled(families, 200, 9)) == 3, "there are no more groups"


def test_completions_without_weight_take_no_room_in_a_micro_batch() -> None:
    family = group(0, 10, [5, 5])
    idle = Document("g0", family[0].ids, np.zeros(15, np.float32), prefix=10)
    assert source.filled([[idle, *family]], 20) == [[idle, *family]]
    assert len(source.filled([family], 19)) == 2
