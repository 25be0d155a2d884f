"""A pack on CUDA: each long document by the kernel that torch chooses for one causal sequence, what stands between them by varlen.py.

On Hopper torch chooses cuDNN's, which took 8.5 ms where the flash kernel of varlen.py took 12.8 (16,384 tokens, 16 heads of 128; LOG.md).
cuDNN plans a kernel for each length anew, so a document is filled up to a multiple of MULTIPLE: what is behind a causal sequence is
seen by nothing in it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from postgrad.attention.varlen import Varlen

LONG = 8192
"""Tokens from which on a document without relatives stands alone: filling up costs it an eighth at most."""
MULTIPLE = 1024


class Stretches:
    """The pack cut into stretches, one call for each; built once for a micro-batch."""

    def __init__(self, lengths: Sequence[int], device: torch.device, parents: Mapping[int, int]) -> None:
        related = {*parents, *parents.values()}
        self.sizes: list[int] = []
        self.calls: list[Varlen | None] = []
        """None: one long document."""
        begin = 0
        for document in range(len(lengths) + 1):
            long = document < len(lengths) and lengths[document] >= LONG and document not in related
            if (long or document == len(lengths)) and begin < document:
                here = {a - begin: b - begin for a, b in parents.items() if begin <= a < document}
                self.sizes.append(sum(lengths[begin:document]))
                self.calls.append(Varlen(lengths[begin:document], device, here))
            if long:
                self.sizes.append(lengths[document])
                self.calls.append(None)
                begin = document + 1

    def __call__(self, query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor, scale: float) -> Tensor:
        """[T, H, d]; H query heads, K key heads, H a multiple of K."""
        found = [
            alone(q, k, v, scale) if call is None else call(q, k, v, scale)
            for call, q, k, v in zip(
                self.calls,
                query_THd.split(self.sizes),
                key_TKd.split(self.sizes),
                value_TKd.split(self.sizes),
                strict=True,
            )
        ]
        return found[0] if len(found) == 1 else torch.cat(found)


def alone(query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor, scale: float) -> Tensor:
    """One document over its own past."""
    length = len(query_THd)
    filled = (0, 0, 0, 0, 0, -length % MULTIPLE)
    q, k, v = (F.pad(x, filled).transpose(0, 1)[None] for x in (query_THd, key_TKd, value_TKd))
    out_1HLd = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return out_1HLd[0].transpose(0, 1)[:length]
