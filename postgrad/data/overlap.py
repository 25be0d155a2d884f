"""Is the test set in the training set? Three kinds of match, reported apart.

    exact     the normal forms are equal (data/text.py: case, spacing, punctuation forgotten, operators and digits kept)
    ngram     a run of `n` words is shared, with the numbers and signs between them: n = 13 as for GPT-3 (arXiv
              2005.14165, appendix C); 8 finds more and errs more
    template  the normal forms are equal once every number is <n>: the same problem with other numbers

A run found in more than COMMON problems of either side is boilerplate ("put your final answer in a box") and counts
for nothing, after GPT-3 too. Only words make a run long: two generated chains such as "take 7 then +5 then *3" share
parts by chance, so they leak as exact or not at all. Problems made by one generator share templates on purpose: so
`template` is not among LEAKED, and removing it too is a caller's choice:

    clean = apart(train, overlap(train, test), LEAKED | SAME_TEMPLATE)

Known misses: translations, paraphrases, numbers written as words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from postgrad.data.text import masked, prompt_text, tokens
from postgrad.records import Message

COMMON = 10


class Kind(StrEnum):
    EXACT = "exact"
    NGRAM = "ngram"
    TEMPLATE = "template"


LEAKED = frozenset({Kind.EXACT, Kind.NGRAM})
SAME_TEMPLATE = frozenset({Kind.TEMPLATE})


class Prompted(Protocol):
    """A Problem or an Example."""

    @property
    def id(self) -> str: ...
    @property
    def prompt(self) -> tuple[Message, ...]: ...


P = TypeVar("P", bound=Prompted)


@dataclass(frozen=True, slots=True)
class Match:
    kind: Kind
    train: str
    """Id of the training row."""
    test: str
    """Id of the first test problem that it matches so."""
    row: int
    """Place of the training row in what was compared, from 0: ids need not be unique there."""


@dataclass(frozen=True, slots=True)
class Overlap:
    matches: tuple[Match, ...]
    """At most one for each training row and kind."""
    train: int
    """Rows compared."""
    test: int

    def counts(self) -> dict[Kind, int]:
        """Training rows that match, by kind. An exact match of long text counts under all three."""
        found = Counter(match.kind for match in self.matches)
        return {kind: found[kind] for kind in Kind}

    def rows(self, kinds: frozenset[Kind]) -> set[int]:
        """Places of the training rows that match in one of these ways."""
        return {match.row for match in self.matches if match.kind in kinds}


def overlap(train: Sequence[Prompted], test: Sequence[Prompted], n: int = 13) -> Overlap:
    train_words = [tokens(prompt_text(item.prompt)) for item in train]
    test_words = [tokens(prompt_text(item.prompt)) for item in test]
    exact = _first(" ".join(words) for words in test_words)
    template = _first(masked(prompt_text(item.prompt)) for item in test)
    common = _common(train_words, test_words, n)
    grams: dict[str, int] = {}
    for at, words in enumerate(test_words):
        for gram in _telling(words, n, common):
            grams.setdefault(gram, at)

    matches = []
    for row, (item, words) in enumerate(zip(train, train_words, strict=True)):
        found = {
            Kind.EXACT: exact.get(" ".join(words)),
            Kind.NGRAM: min((grams[gram] for gram in _telling(words, n, common) if gram in grams), default=None),
            Kind.TEMPLATE: template.get(masked(prompt_text(item.prompt))),
        }
        matches += [Match(kind, item.id, test[at].id, row) for kind, at in found.items() if at is not None]
    return Overlap(tuple(matches), len(train), len(test))


def apart(train: Sequence[P], found: Overlap, kinds: frozenset[Kind] = LEAKED) -> list[P]:
    """The training rows without those that match in one of these ways."""
    if len(train) != found.train:
        raise ValueError(f"the overlap was measured on {found.train} training rows, these are {len(train)}")
    leaked = found.rows(kinds)
    return [item for row, item in enumerate(train) if row not in leaked]


def _first(texts: Iterator[str]) -> dict[str, int]:
    places: dict[str, int] = {}
    for at, text in enumerate(texts):
        if text:
            places.setdefault(text, at)
    return places


def _grams(words: Sequence[str], n: int) -> list[str]:
    """Runs of `n` words, with the numbers and signs between them."""
    places = [at for at, word in enumerate(words) if word.isalpha()]
    return [" ".join(words[first : last + 1]) for first, last in zip(places, places[n - 1 :], strict=False)]


def _common(train: Sequence[Sequence[str]], test: Sequence[Sequence[str]], n: int) -> set[str]:
    """The test's n-grams that are boilerplate. Those of the training set alone cannot match, so need not be known."""
    in_test = Counter(gram for words in test for gram in set(_grams(words, n)))
    in_train = Counter(gram for words in train for gram in set(_grams(words, n)) if gram in in_test)
    return {gram for gram in in_test if max(in_test[gram], in_train[gram]) > COMMON}


def _telling(words: Sequence[str], n: int, common: set[str]) -> list[str]:
    """The n-grams without a word of boilerplate: one that only ends in it would say as little."""
    grams = _grams(words, n)
    covered = {
        at + offset for at, gram in enumerate(grams) if gram in common for offset in range(n)
    }  # counted in words
    return [gram for at, gram in enumerate(grams) if covered.isdisjoint(range(at, at + n))]
