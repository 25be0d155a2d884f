"""A micro-batch by hand: what is packed, which positions predict, and what the model says of them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postgrad.train.batch import Document, pack, score


def floats(*values: float) -> np.ndarray[Any, np.dtype[np.float32]]:
    return np.array(values, np.float32)


A = Document("a", (5, 6, 7), floats(0, 1, 2), {"advantages": floats(0, 0.5, -0.5)})
B = Document("b", (8, 9), floats(0, 3), {"advantages": floats(0, 4)})


def test_two_documents_packed_by_hand() -> None:
    batch = pack([A, B], count=6.0)
    assert batch.input_ids_T.tolist() == [5, 6, 7, 8, 9]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 0, 1]
    assert batch.lengths == (3, 2)
    assert batch.names == ("a", "b")
    assert batch.targets_K.tolist() == [6, 7, 9]
    assert batch.predictors_K.tolist() == [0, 1, 3]
    assert batch.document_K.tolist() == [0, 0, 1]
    assert batch.weights_K.tolist() == [1, 2, 3]
    assert batch.streams_K["advantages"].tolist() == [0.5, -0.5, 4]
    assert batch.count == 6.0


def test_a_token_of_weight_0_is_context_only() -> None:
    batch = pack([Document("gap", (1, 2, 3, 4), floats(0, 1, 0, 1))], count=2.0)
    assert batch.targets_K.tolist() == [2, 4]
    assert batch.predictors_K.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("weights", "streams", "message"),
    [
        (floats(0, 1), {}, "'x': 2 weights for 3 tokens"),
        (floats(0, 1, 1), {"advantages": floats(0)}, "'x': 1 advantages for 3 tokens"),
        (floats(1, 1, 1), {}, "'x': its first token has a loss weight, but nothing before it predicts it"),
    ],
)
def test_a_document_that_does_not_fit_itself_is_refused_by_name(weights: Any, streams: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Document("x", (1, 2, 3), weights, streams)


def completion(name: str, prompt: tuple[int, ...], ids: tuple[int, ...], **changes: Any) -> Document:
    weights = floats(*[0] * len(prompt), *[1] * len(ids))
    return Document(
        name, prompt + ids, weights, {"advantages": weights * len(ids)}, **{"prefix": len(prompt), **changes}
    )


def test_a_group_has_its_prompt_once_by_hand() -> None:
    batch = pack(
        [completion("p", (5, 6), (7, 8)), completion("p", (5, 6), (9,)), completion("q", (5,), (4,))], count=4.0
    )
    assert batch.input_ids_T.tolist() == [5, 6, 7, 8, 9, 5, 4]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 2, 0, 1]
    assert batch.lengths == (2, 2, 1, 2)
    assert batch.parents == {1: 0, 2: 0}
    assert batch.names == ("p", "p", "q")
    assert batch.targets_K.tolist() == [7, 8, 9, 4]
    assert batch.predictors_K.tolist() == [1, 2, 1, 5], "both completions begin after the prompt's last token"
    assert batch.document_K.tolist() == [0, 0, 1, 2]
    assert batch.streams_K["advantages"].tolist() == [2, 2, 1, 1]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (completion("p", (5, 6), (7,)), completion("q", (5, 6), (7,))),
        (completion("p", (5, 6), (7,)), completion("p", (5, 9), (7,))),
        (completion("p", (5, 6), (7,), prefix=0), completion("p", (5, 6), (7,), prefix=0)),
        (completion("p", (5, 6), (7,) * 15), completion("p", (5, 6), (8,))),
    ],
    ids=["names differ", "prompts differ", "nothing is said to be shared", "the prompt is a ninth of a completion"],
)
def test_what_is_not_worth_sharing_or_not_the_same_is_not_shared(one: Document, other: Document) -> None:
    batch = pack([one, other], count=2.0)
    assert batch.parents == {}
    assert batch.lengths == (len(one.ids), len(other.ids))


@given(
    groups=st.lists(
        st.tuples(st.integers(1, 12), st.lists(st.integers(1, 20), min_size=1, max_size=4)), min_size=1, max_size=3
    ),
    seed=st.integers(0, 99),
)
# The model's weights are the same for every example: only its gradients change, and they are cleared.
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_sharing_prompts_changes_neither_loss_nor_gradient(model: Any, groups: list[Any], seed: int) -> None:
    rng = np.random.default_rng(seed)

    def some(count: int) -> tuple[int, ...]:
        return tuple(int(token) for token in rng.integers(1, 200, count))

    shared = [
        completion(f"group {place}", prompt, some(size))
        for place, (length, sizes) in enumerate(groups)
        for prompt in [some(length)]
        for size in sizes
    ]
    found = []
    for documents in (shared, [replace(document, prefix=0) for document in shared]):
        batch = pack(documents, count=1.0)
        model.zero_grad()
        logprobs_K = score(model, batch).logprobs_K
        (logprobs_K * batch.streams_K["advantages"]).sum().backward()
        gradients = torch.cat([parameter.grad.flatten() for parameter in model.parameters()])
        found.append((batch.targets_K, batch.document_K, logprobs_K.detach(), gradients))
    model.zero_grad()
    (targets, owners, logprobs, gradient), (plain_targets, plain_owners, plain_logprobs, plain_gradient) = found
    assert torch.equal(targets, plain_targets)
    assert torch.equal(owners, plain_owners)
    assert (logprobs - plain_logprobs).abs().max() < 1e-5
    assert (gradient - plain_gradient).norm() < 1e-5 * plain_gradient.norm()


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_scores_are_the_models_own_at_any_temperature(model: Any, stock: Any, temperature: float) -> None:
    with torch.no_grad():
        scores = score(model, pack([A, B], count=1.0), temperature=temperature)
        logprobs, entropies = [], []
        for document in (A, B):
            logits_TV = stock(input_ids=torch.tensor([document.ids])).logits[0].double() / temperature
            p_TV = logits_TV.softmax(-1)
            for place in range(1, len(document.ids)):
                logprobs.append(float(p_TV[place - 1, document.ids[place]].log()))
                entropies.append(float(-(p_TV[place - 1] * p_TV[place - 1].log()).sum()))
    assert scores.logprobs_K.tolist() == pytest.approx(logprobs, rel=1e-5)
    assert scores.entropy_K.tolist() == pytest.approx(entropies, rel=1e-5)
    assert max(entropies) - min(entropies) > 0.05, "distributions of one shape compare little"


def test_only_trained_tokens_reach_the_head(model: Any) -> None:
    rows = []
    model.lm_head.register_forward_hook(lambda module, inputs, output: rows.append(output.shape[1]))
    score(model, pack([A, B], count=1.0))
    assert rows == [3]
