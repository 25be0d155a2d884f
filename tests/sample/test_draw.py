"""Drawing one token: the filters against a brute-force reading of their definitions, and the law of large numbers."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scipy.stats import chisquare

from postgrad.sample import draw as drawing
from postgrad.sample.request import Request


def sampling(**settings: Any) -> Request:
    return Request((0,), 1, **settings)


def draw(logits_BV: torch.Tensor, uniforms_B: torch.Tensor, request: Request) -> tuple[torch.Tensor, torch.Tensor]:
    drawn = drawing.draw(logits_BV, uniforms_B, drawing.rule([request] * len(logits_BV), logits_BV.device))
    return drawn.ids, drawn.logprobs


def expected(logits: list[float], *, temperature: float, top_k: int, top_p: float, min_p: float) -> tuple[Any, float]:
    """The filtered distribution in float64, and how near its nearest decision was: by the definitions, token by token."""
    p = np.exp(np.array(logits, np.float64) / temperature)
    p /= p.sum()
    ranked = sorted(range(len(p)), key=lambda token: (-p[token], token))
    kept = ranked[:top_k] if top_k else ranked
    total = sum(p[token] for token in kept)
    nearest = math.inf
    nucleus, before = [], 0.0
    for token in kept:
        nearest = min(nearest, abs(before - top_p * total)) if top_p < 1 and before else nearest
        if before < top_p * total:
            nucleus.append(token)
        before += p[token]
    nearest = min([nearest, *(abs(p[token] - min_p * p[ranked[0]]) for token in nucleus if min_p)])
    nucleus = [token for token in nucleus if p[token] >= min_p * p[ranked[0]]]
    filtered = np.zeros_like(p)
    filtered[nucleus] = p[nucleus]
    return filtered / filtered.sum(), nearest


SPREAD = st.sampled_from([1, 50, 131])
"""The same tokens with impossible ones between them: one block of the vocabulary, or several."""


def spread(logits: list[float], every: int) -> list[float]:
    return [value for logit in logits for value in (logit, *[-math.inf] * (every - 1))]


@given(
    logits=st.lists(st.floats(-6, 6, width=16), min_size=2, max_size=9),
    temperature=st.sampled_from([0.5, 0.7, 1.0, 1.5]),
    top_k=st.integers(0, 10),
    top_p=st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]),
    min_p=st.sampled_from([0.0, 0.02, 0.3, 0.9]),
    every=SPREAD,
)
def test_every_kept_token_has_its_interval_and_no_other_has_any(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float, every: int
) -> None:
    # Two that float32 may not tell apart have no order there.
    values = sorted(set(logits))
    assume(all(b - a > 1e-5 for a, b in pairwise(values)))
    logits = spread(logits, every)
    p, nearest = expected(logits, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    # Float32 may decide otherwise where float64 hardly decides.
    assume(nearest > 1e-6)
    edges = np.concatenate([[0], p.cumsum()])
    kept = [token for token in range(len(p)) if p[token] > 1e-5]
    uniforms = [
        u
        for token in kept
        for u in (edges[token] + 1e-6, (edges[token] + edges[token + 1]) / 2, edges[token + 1] - 1e-6)
    ]
    uniforms = [min(max(u, 0.0), np.nextafter(1, 0)) for u in uniforms]
    ids, logprobs = draw(
        torch.tensor([logits] * len(uniforms)),
        torch.tensor(uniforms, dtype=torch.float64),
        sampling(temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p),
    )
    assert ids.tolist() == [token for token in kept for _ in range(3)]
    unfiltered, _ = expected(logits, temperature=temperature, top_k=0, top_p=1.0, min_p=0.0)
    assert logprobs.tolist() == pytest.approx([math.log(unfiltered[token]) for token in ids.tolist()], abs=1e-5)


def drawn(logits: list[float], n: int, every: int, **settings: Any) -> np.ndarray[Any, Any]:
    uniforms = torch.from_numpy(np.random.default_rng(0).random(n))
    ids, _ = draw(torch.tensor([spread(logits, every)]).expand(n, -1), uniforms, sampling(**settings))
    assert not (ids % every).any(), "an impossible token was drawn"
    return np.bincount(ids.numpy() // every, minlength=len(logits))


P = [0.4, 0.05, 0.25, 0.02, 0.2, 0.08]
LOGITS = [math.log(p) + 3 for p in P]


@pytest.mark.parametrize("every", [1, 131])
@pytest.mark.parametrize(
    ("settings", "law"),
    [
        ({}, P),
        ({"temperature": 0.5}, [p * p for p in P]),
        ({"top_k": 3}, [0.4, 0, 0.25, 0, 0.2, 0]),
        ({"top_p": 0.7}, [0.4, 0, 0.25, 0, 0.2, 0]),
        ({"min_p": 0.15}, [0.4, 0, 0.25, 0, 0.2, 0.08]),
        ({"top_k": 4, "top_p": 0.75, "min_p": 0.6}, [0.4, 0, 0.25, 0, 0, 0]),
    ],
)
def test_frequencies_are_the_laws(settings: dict[str, Any], law: list[float], every: int) -> None:
    counts = drawn(LOGITS, 20_000, every, **settings)
    p = np.array(law) / sum(law)
    assert counts[p == 0].sum() == 0
    assert chisquare(counts[p > 0], 20_000 * p[p > 0]).pvalue > 0.001
    # The test has the power to see a law that is wrong by two in a hundred.
    bent = np.where(p > 0, p, 0)
    bent[0] += 0.02
    bent[2] -= 0.02
    assert chisquare(counts[p > 0], 20_000 * bent[p > 0]).pvalue < 0.001


@example(impossible=[True, False], uniform=0.0, every=1, settings={})
@example(impossible=[True, False], uniform=0.0, every=131, settings={})
@example(impossible=[False, True], uniform=float(np.nextafter(1, 0)), every=131, settings={})
@given(
    impossible=st.lists(st.booleans(), min_size=2, max_size=20).filter(lambda row: not all(row)),
    uniform=st.sampled_from([0.0, 1e-300, 0.5, 1 - 2**-24, float(np.nextafter(1, 0))])
    | st.floats(0, 1, exclude_max=True),
    every=SPREAD,
    settings=st.fixed_dictionaries(
        {"top_p": st.sampled_from([1.0, 0.9]), "top_k": st.integers(0, 3), "min_p": st.sampled_from([0.0, 0.5])}
    ),
)
def test_a_token_of_probability_0_is_never_drawn(
    impossible: list[bool], uniform: float, every: int, settings: dict[str, Any]
) -> None:
    logits = spread([-math.inf if no else 1e-3 * (place % 3) for place, no in enumerate(impossible)], every)
    ids, logprobs = draw(torch.tensor([logits]), torch.tensor([uniform], dtype=torch.float64), sampling(**settings))
    assert logits[int(ids[0])] > -math.inf
    assert logprobs[0].isfinite()


def test_over_a_wide_vocabulary_the_edges_between_blocks_are_where_they_belong() -> None:
    """Every token of 1,000 equal ones has a thousandth, also the first and last of a block and of a block cut short."""
    middles = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    ids, logprobs = draw(torch.zeros(1000, 1000), middles, sampling())
    assert ids.tolist() == list(range(1000))
    assert logprobs.tolist() == pytest.approx([-math.log(1000)] * 1000)


def test_the_largest_uniform_falls_into_the_last_possible_token_however_sums_are_rounded() -> None:
    logits = torch.full((400, 300), -math.inf)
    logits[:, :100] = torch.randn(400, 100, generator=torch.Generator().manual_seed(0))
    largest = torch.full((400,), float(np.nextafter(1, 0)), dtype=torch.float64)
    ids, _ = draw(logits, largest, sampling())
    assert ids.tolist() == [99] * 400


def test_greedy_takes_the_likeliest_and_reports_temperature_1() -> None:
    ids, logprobs = draw(torch.tensor([LOGITS]), torch.tensor([0.99], dtype=torch.float64), sampling(temperature=0))
    assert ids.tolist() == [0]
    assert logprobs.tolist() == pytest.approx([math.log(0.4)])
