"""The flash path of packed attention: on CPU with its two calls replaced by what they are documented to compute, on CUDA itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from postgrad.attention import Packed, long, varlen
from postgrad.attention.long import Stretches
from postgrad.attention.varlen import Part, Varlen
from tests.test_attention import CONFIGS, documents, pair

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel itself runs on CUDA alone")


# ---- What the two calls compute, by the definition --------------------------------------------------------------------


def _scores(query: Tensor, key: Tensor, part: Part, scale: float) -> Tensor:
    """[H, T, T] scaled products, -inf where a query does not see a key."""
    per_key = query.shape[1] // key.shape[1]
    seen_TT = torch.zeros(len(query), len(key), dtype=torch.bool)
    for (q0, q1), (k0, k1) in zip(pairwise(part.cum_q.tolist()), pairwise(part.cum_k.tolist()), strict=True):
        seen = torch.ones(q1 - q0, k1 - k0, dtype=torch.bool)
        assert q1 - q0 <= part.longest_q
        assert k1 - k0 <= part.longest_k
        seen_TT[q0:q1, k0:k1] = seen.tril(k1 - k0 - (q1 - q0)) if part.causal else seen
    scores_HTT = torch.einsum("qhd,khd->hqk", query, key.repeat_interleave(per_key, 1)) * scale
    return scores_HTT.masked_fill(~seen_TT, -torch.inf)


def exact_forward(query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
    assert part.cum_q[-1] == part.cum_k[-1] == len(query), "a place in no sequence has no defined gradient"
    lse_HT = _scores(query, key, part, scale).logsumexp(-1)
    p_HTT = (_scores(query, key, part, scale) - lse_HT[:, :, None]).exp().nan_to_num()
    out = torch.einsum("hqk,khd->qhd", p_HTT, value.repeat_interleave(query.shape[1] // key.shape[1], 1))
    return out, lse_HT.masked_fill(lse_HT == -torch.inf, torch.inf)


def exact_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse_HT: Tensor, part: Part, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    per_key = query.shape[1] // key.shape[1]
    p_HTT = (_scores(query, key, part, scale) - lse_HT[:, :, None]).exp()
    dp_HTT = torch.einsum("qhd,khd->hqk", gradient, value.repeat_interleave(per_key, 1))
    ds_HTT = p_HTT * (dp_HTT - (gradient * out).sum(-1).T[:, :, None]) * scale
    dq = torch.einsum("hqk,khd->qhd", ds_HTT, key.repeat_interleave(per_key, 1))
    dk, dv = torch.einsum("hqk,qhd->khd", ds_HTT, query), torch.einsum("hqk,qhd->khd", p_HTT, gradient)
    return dq, *(x.unflatten(1, (-1, per_key)).sum(2) for x in (dk, dv))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(varlen, "flash_forward", exact_forward)
    monkeypatch.setattr(varlen, "flash_backward", exact_backward)


# ---- Against one dense softmax -----------------------------------------------------------------------------------------


def dense(query: Tensor, key: Tensor, value: Tensor, lengths: Sequence[int], parents: Mapping[int, int]) -> Tensor:
    """Every token over its own past and its document's parent, in one masked softmax."""
    ends = torch.tensor([0, *lengths]).cumsum(0).tolist()
    seen_TT = torch.zeros(ends[-1], ends[-1], dtype=torch.bool)
    for one, (a, b) in enumerate(pairwise(ends)):
        seen_TT[a:b, a:b] = torch.ones(b - a, b - a, dtype=torch.bool).tril()
        if one in parents:
            seen_TT[a:b, ends[parents[one]] : ends[parents[one] + 1]] = True
    per_key = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(per_key, 1) for x in (key, value))
    scores_HTT = torch.einsum("qhd,khd->hqk", query, key) * 0.3
    p_HTT = scores_HTT.masked_fill(~seen_TT.to(query.device), -torch.inf).softmax(-1)
    return torch.einsum("hqk,khd->qhd", p_HTT, value)


def packs(families: Sequence[tuple[int, Sequence[int]]]) -> tuple[list[int], dict[int, int]]:
    lengths: list[int] = []
    parents: dict[int, int] = {}
    for head, children in families:
        parent = len(lengths)
        lengths.append(head)
        for child in children:
            parents[len(lengths)] = parent
            lengths.append(child)
    return lengths, parents


FAMILIES = st.lists(st.tuples(st.integers(1, 7), st.lists(st.integers(1, 7), max_size=4)), min_size=1, max_size=5)


@given(families=FAMILIES, heads=st.sampled_from([(1, 1), (4, 4), (4, 2), (6, 1)]), seed=st.integers(0, 99))
@settings(max_examples=80)
def test_two_parts_are_one_softmax_and_so_are_their_gradients(
    families: list[tuple[int, list[int]]], heads: tuple[int, int], seed: int
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(varlen, "flash_forward", exact_forward)
        patch.setattr(varlen, "flash_backward", exact_backward)
        lengths, parents = packs(families)
        generator = torch.Generator().manual_seed(seed)
        sizes = (heads[0], heads[1], heads[1])
        inputs = [
            (2 * torch.randn(sum(lengths), size, 8, dtype=torch.float64, generator=generator)).requires_grad_()
            for size in sizes
        ]
        weights = torch.randn(sum(lengths), heads[0], 8, dtype=torch.float64, generator=generator)
        found = []
        for out in (Varlen(lengths, CPU, parents)(*inputs, 0.3), dense(*inputs, lengths, parents)):
            found.append((out, *torch.autograd.grad((out * weights).sum(), inputs)))
        for ours, theirs in zip(*found, strict=True):
            assert (ours - theirs).abs().max() < 1e-10


@pytest.mark.usefixtures("exact")
def test_long_documents_stand_alone_and_all_is_one_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(long, "LONG", 6)
    monkeypatch.setattr(long, "MULTIPLE", 4)
    # Long; short; long; a long parent with its children, one of them long; two long ones at the end.
    lengths, parents = packs([(7, []), (3, []), (8, []), (9, [2, 6]), (5, []), (6, []), (11, [])])
    layout = Stretches(lengths, CPU, parents)
    assert layout.sizes == [7, 3, 8, 22, 6, 11]
    assert [call is None for call in layout.calls] == [True, False, True, False, True, True]
    generator = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(sum(lengths), size, 8, dtype=torch.float64, generator=generator).requires_grad_()
        for size in (4, 2, 2)
    ]
    weights = torch.randn(sum(lengths), 4, 8, dtype=torch.float64, generator=generator)
    found = []
    for out in (layout(*inputs, 0.3), dense(*inputs, lengths, parents)):
        found.append((out, *torch.autograd.grad((out * weights).sum(), inputs)))
    for ours, theirs in zip(*found, strict=True):
        assert (ours - theirs).abs().max() < 1e-10


def test_the_parts_of_a_pack_by_hand() -> None:
    layout = Varlen([5, 3, 2, 4, 1, 6], CPU, {1: 0, 2: 0, 5: 4})
    assert layout.own.cum_q.tolist() == [0, 5, 8, 10, 14, 15, 21]
    assert (layout.own.longest_q, layout.own.causal) == (6, True)
    assert layout.above is not None
    # Queries that see none of these keys; keys that none of these queries see; three tokens and two over five.
    assert layout.above.cum_q.tolist() == [0, 5, 5, 10, 15, 15, 21, 21, 21]
    assert layout.above.cum_k.tolist() == [0, 0, 0, 5, 5, 14, 15, 15, 21]
    assert (layout.above.longest_q, layout.above.longest_k, layout.above.causal) == (6, 9, False)
    assert Varlen([1, 1], CPU, {}).own.longest_q == 2, "1 would make the kernel take its path for decoding"
    assert Varlen([1, 1], CPU, {}).above is None


def test_children_elsewhere_than_behind_their_parent_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="directly behind their parent"):
        Varlen([3, 2, 2], CPU, {2: 0})


@pytest.mark.usefixtures("exact")
def test_a_model_gives_the_same_through_either_way(monkeypatch: pytest.MonkeyPatch) -> None:
    _, model = pair(CONFIGS["Qwen3"])
    pieces = documents([9, 3, 20, 7])
    starts = [0, 9, 9, 0]
    found = []
    for flash in (False, True):
        layout = Packed([len(piece) for piece in pieces], CPU, {1: 0, 2: 0})
        if flash:
            layout.flash = Stretches(layout.lengths, CPU, layout.parents)
            monkeypatch.setattr("postgrad.attention.packed.can", lambda query: True)
        model.zero_grad()
        logits_TV = model(
            input_ids=torch.cat(pieces)[None],
            position_ids=torch.cat([torch.arange(a, a + len(p)) for a, p in zip(starts, pieces, strict=True)])[None],
            use_cache=False,
            layout=layout,
        ).logits[0]
        logits_TV.logsumexp(-1).sum().backward()
        found.append((logits_TV.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])))
    (logits, gradient), (flash_logits, flash_gradient) = found
    assert (logits - flash_logits).abs().max() < 1e-4
    assert (gradient - flash_gradient).norm() < 1e-5 * gradient.norm()


# ---- The kernel itself -------------------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("heads", [(16, 8), (4, 4), (8, 1)], ids=str)
@pytest.mark.parametrize(
    "families",
    [
        [(700, []), (1, []), (129, [])],
        [(300, [64, 1, 257]), (5, []), (40, [3])],
        [(1, [1]), (1, [])],
        [(1, []), (1, [])],
    ],
    ids=["alone", "families", "single tokens", "all of one token"],
)
def test_the_kernel_is_the_dense_softmax(families: Any, heads: tuple[int, int], dtype: torch.dtype) -> None:
    cuda = torch.device("cuda")
    lengths, parents = packs(families)
    generator = torch.Generator(cuda).manual_seed(0)
    inputs = [
        torch.randn(sum(lengths), size, 128, dtype=dtype, device=cuda, generator=generator).requires_grad_()
        for size in (heads[0], heads[1], heads[1])
    ]
    weights = torch.randn_like(inputs[0])
    wide = [x.detach().double().requires_grad_() for x in inputs]
    out = Varlen(lengths, cuda, parents)(*inputs, 0.3)
    expected = dense(*wide, lengths, parents)
    found = (out, *torch.autograd.grad((out * weights).sum(), inputs))
    exact = (expected, *torch.autograd.grad((expected * weights).sum(), wide))
    # Gradients of queries and keys are differences: with one key they are 0, and what is left is the rounding of their terms.
    terms = exact[-1].norm()
    for ours, theirs in zip(found, exact, strict=True):
        assert (ours - theirs).norm() < 0.02 * theirs.norm() + 0.005 * terms


@needs_gpu
def test_long_documents_on_a_gpu_are_the_flash_kernels() -> None:
    cuda = torch.device("cuda")
    lengths = [300, long.LONG + 5, 200]
    generator = torch.Generator(cuda).manual_seed(0)
    inputs = [
        torch.randn(sum(lengths), size, 128, dtype=torch.bfloat16, device=cuda, generator=generator).requires_grad_()
        for size in (8, 4, 4)
    ]
    weights = torch.randn_like(inputs[0])
    found = []
    for call in (Stretches(lengths, cuda, {}), Varlen(lengths, cuda, {})):
        out = call(*inputs, 0.1)
        found.append((out, *torch.autograd.grad((out * weights).sum(), inputs)))
    for ours, theirs in zip(*found, strict=True):
        assert (ours.float() - theirs.float()).norm() < 0.02 * theirs.float().norm()


@needs_gpu
def test_the_kernel_is_the_grouped_way_in_a_model() -> None:
    _, model = pair(CONFIGS["Qwen3"])
    model = copy.deepcopy(model).to("cuda", torch.bfloat16)
    cuda = torch.device("cuda")
    pieces = [piece.to(cuda) for piece in documents([90, 30, 200, 70])]
    starts = [0, 90, 90, 0]
    found = []
    for flash in (True, False):
        layout = Packed([len(piece) for piece in pieces], cuda, {1: 0, 2: 0})
        assert layout.flash is not None
        layout.flash = layout.flash if flash else None
        positions = [torch.arange(a, a + len(p), device=cuda) for a, p in zip(starts, pieces, strict=True)]
        logits = model(
            input_ids=torch.cat(pieces)[None], position_ids=torch.cat(positions)[None], use_cache=False, layout=layout
        ).logits
        found.append(logits.float())
    assert (found[0] - found[1]).norm() < 0.05 * found[1].norm()


# ---- In compiled layers -------------------------------------------------------------------------------------------------


# torch looks there itself while it compiles, and hides the warning where warnings are no errors.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_layers_give_the_same_and_are_compiled_once_for_all_layers_and_lengths() -> None:
    _, plain = pair(CONFIGS["Qwen3"])
    compiled = copy.deepcopy(plain)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for layer in compiled.model.layers:
        layer.compile(dynamic=True, backend="aot_eager")

    def gradient(model: Any, lengths: list[int]) -> tuple[Tensor, Tensor]:
        model.zero_grad()
        logits_TV = model(
            input_ids=torch.cat(documents(lengths))[None],
            position_ids=torch.cat([torch.arange(length) for length in lengths])[None],
            use_cache=False,
            layout=Packed(lengths, CPU),
        ).logits[0]
        total = logits_TV.logsumexp(-1).sum()
        total.backward()
        return total.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])

    batches = [[7, 9], [5, 6, 30], [40], [3, 3, 3, 3, 17]]
    for model in (plain, compiled):
        model.train()
    with torch._dynamo.config.patch(error_on_recompile=True):
        for lengths in batches:
            loss, found = gradient(compiled, lengths)
            plain_loss, expected = gradient(plain, lengths)
            assert (loss - plain_loss).abs() < 1e-5 * plain_loss.abs()
            assert (found - expected).norm() < 1e-5 * expected.norm()
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 2, "something was compiled"
    torch._dynamo.reset()
