"""Attention of a whole pack in one or two calls of the flash kernel that torch carries: no padding, no copies, memory linear in T.

    (a) every piece over itself, causal
    (b) the children of a parent, which stand directly behind it, over the parent's keys, without a mask
    merged:  lse = log(exp lse_a + exp lse_b),  out = exp(lse_a - lse) out_a + exp(lse_b - lse) out_b

The kernel's backward pass needs of the forward pass only `out` and `lse`, from which it recomputes p = exp(s - lse). Given the MERGED two,
each part's p are those of the whole softmax, so the parts' gradients add up to the exact ones (as in ring attention, arXiv 2310.01889).

FlashAttention-2 (arXiv 2307.08691) with lengths of its own for each sequence: `cum_seq_q`, `cum_seq_k`. Departure from peers: no flash
package, and the prompt of a group is neither repeated nor masked: its completions are ONE sequence of queries against its keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor


def can(query: Tensor) -> bool:
    """Whether the kernel computes this: half precision on Ampere or newer, heads of a multiple of 8 up to 256."""
    half = query.is_cuda and query.dtype in (torch.bfloat16, torch.float16)
    width = query.shape[-1]
    return half and width % 8 == 0 and width <= 256 and torch.cuda.get_device_capability(query.device) >= (8, 0)


@dataclass(frozen=True, slots=True)
class Part:
    """One call: sequence i is queries `cum_q[i]` to `cum_q[i + 1]` over keys `cum_k[i]` to `cum_k[i + 1]`; either may be empty."""

    cum_q: Tensor
    """[S + 1] int32. All T queries and all T keys are in some sequence: what is in none would have no defined output or gradient."""
    cum_k: Tensor
    longest_q: int
    longest_k: int
    causal: bool


class Varlen:
    """The calls for documents of these lengths; built once for a micro-batch, so that no layer waits for the device."""

    def __init__(self, lengths: Sequence[int], device: torch.device, parents: Mapping[int, int]) -> None:
        ends = list(accumulate(lengths, initial=0))
        own = _numbers(ends, device)
        self.own = Part(own, own, _bound(lengths), _bound(lengths), True)
        self.above: Part | None = None
        if not parents:
            return
        cum_q, cum_k = [0], [0]
        for child, parent in sorted(parents.items()):
            assert parent == child - 1 or parents.get(child - 1) == parent, (
                "children stand directly behind their parent"
            )
            if parent == child - 1:
                # Queries before the children see no keys here, and keys before the parent's are seen by no query.
                cum_q += [ends[child], ends[child], ends[child + 1]]
                cum_k += [cum_k[-1], ends[parent], ends[parent + 1]]
            else:
                cum_q[-1] = ends[child + 1]
        cum_q += [ends[-1], ends[-1]]
        cum_k += [cum_k[-1], ends[-1]]
        longest_q, longest_k = (_bound([b - a for a, b in pairwise(cum)]) for cum in (cum_q, cum_k))
        self.above = Part(_numbers(cum_q, device), _numbers(cum_k, device), longest_q, longest_k, False)

    def __call__(self, query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor, scale: float) -> Tensor:
        """[T, H, d]; H query heads, K key heads, H a multiple of K."""
        out_THd: Tensor = _Attention.apply(query_THd, key_TKd, value_TKd, self, scale)  # type: ignore[no-untyped-call]
        return out_THd


def _numbers(values: list[int], device: torch.device) -> Tensor:
    # From pinned memory the copy does not wait for what the device is doing.
    cuda = device.type == "cuda"
    return torch.tensor(values, dtype=torch.int32, pin_memory=cuda).to(device, non_blocking=cuda)


def _bound(lengths: Sequence[int]) -> int:
    # At 1 the kernel takes a path for decoding that wants exactly one query of every sequence; larger bounds are allowed.
    return max(2, *lengths)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, layout: Varlen, scale: float) -> Tensor:
        out, lse_HT = flash_forward(query, key, value, layout.own, scale)
        if layout.above is not None:
            out, lse_HT = merge(out, lse_HT, *flash_forward(query, key, value, layout.above, scale))
        ctx.save_for_backward(query, key, value, out, lse_HT)
        ctx.layout, ctx.scale = layout, scale
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse_HT = ctx.saved_tensors
        layout: Varlen = ctx.layout
        found = flash_backward(gradients[0], query, key, value, out, lse_HT, layout.own, ctx.scale)
        if layout.above is not None:
            more = flash_backward(gradients[0], query, key, value, out, lse_HT, layout.above, ctx.scale)
            for one, other in zip(found, more, strict=True):
                one += other
        return *found, None, None


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Two attentions [T, H, d] over different keys, with their [H, T] log-sum-exps, as the one over both."""
    # Where a query sees no key the kernel writes 0 and +inf.
    lse_b = lse_b.masked_fill(lse_b == torch.inf, -torch.inf)
    share_TH1 = torch.sigmoid(lse_b - lse_a).T[:, :, None]
    wide = torch.promote_types(out_a.dtype, torch.float32)
    return torch.lerp(out_a.to(wide), out_b.to(wide), share_TH1).to(out_a.dtype), torch.logaddexp(lse_a, lse_b)


# The two calls below have the same form in torch 2.11 and 2.13 (which adds optional arguments behind these). `torch.nn.attention.varlen` wraps
# the same kernels, but takes fewer key heads only from 2.13 on and gives no backward pass of its own.


def flash_forward(query: Tensor, key: Tensor, value: Tensor, part: Part, scale: float) -> tuple[Tensor, Tensor]:
    """Output [T, H, d] and float32 log-sum-exp [H, T]: 0 and +inf where a query sees no key."""
    out, lse_HT, *_ = torch.ops.aten._flash_attention_forward(
        query, key, value, part.cum_q, part.cum_k, part.longest_q, part.longest_k, 0.0, part.causal, False, scale=scale
    )
    return out, lse_HT


def flash_backward(
    gradient: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse_HT: Tensor, part: Part, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of query, key and value, where p = exp(scale * q k - lse) for the part's pairs."""
    # The dropout's random state, which is not read without dropout.
    unread = torch.empty(2, dtype=torch.uint64, device=query.device)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten._flash_attention_backward(
        gradient, query, key, value, out, lse_HT, part.cum_q, part.cum_k, part.longest_q, part.longest_k,
        0.0, part.causal, unread, unread, scale=scale,
    )  # fmt: skip
    return found
