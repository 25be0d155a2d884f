"""Documents back to back in one row: each token sees its own document's past and, where the document continues another, that one.

On CUDA in half precision one or two calls of a flash kernel do all (varlen.py) but long documents (long.py). Elsewhere documents are grouped
by length and each group is one causal SDPA call. Departure from peers: no block mask of size T x T, so the cost is the documents' own, on any device.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from postgrad.attention.long import Stretches
from postgrad.attention.varlen import can


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the attention kernel over D documents, padded to L queries and M keys."""

    queries: Tensor
    """[D * L] places of the queries in the pack."""
    keys: Tensor
    """[D * M] places of the keys."""
    documents: int
    mask_D1LM: Tensor | None
    """None: causal, and the keys are the queries'."""


class Packed:
    """Documents of these lengths stand back to back; built once for a micro-batch and shared by all layers.

    `parents` names, for a document that continues another, which one: it sees the whole of its parent besides its own past. So the
    prompt of a group of completions stands in the pack once. Children stand directly behind their parent.
    """

    def __init__(self, lengths: Sequence[int], device: torch.device, parents: Mapping[int, int] | None = None) -> None:
        assert lengths, "an empty pack"
        assert min(lengths) > 0, "an empty document in a pack"
        self.lengths, self.device, self.parents = lengths, device, parents or {}
        self.above = [lengths[self.parents[d]] if d in self.parents else 0 for d in range(len(lengths))]
        self.longest = max(map(operator.add, lengths, self.above))
        self.flash = Stretches(lengths, device, self.parents) if device.type == "cuda" else None

    @functools.cached_property
    def grouped(self) -> Grouped:
        return Grouped(self.lengths, self.above, self.device, self.parents)

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        query, key, value = (x[0].transpose(0, 1) for x in (query_1HTd, key_1KTd, value_1KTd))
        if torch.is_autocast_enabled(query.device.type):
            # Autocast does this for SDPA and knows no other attention: norms and rotations may have left float32.
            query, key, value = (x.to(torch.get_autocast_dtype(x.device.type)) for x in (query, key, value))
        call = self.flash if self.flash is not None and can(query) else self.grouped
        return call(query, key, value, scale).transpose(0, 1)[None]


class Grouped:
    """One SDPA call for documents of about one length."""

    def __init__(
        self, lengths: Sequence[int], above: Sequence[int], device: torch.device, parents: Mapping[int, int]
    ) -> None:
        starts_D = torch.tensor([0, *lengths]).cumsum(0)[:-1]
        lengths_D = torch.tensor(lengths)
        # Lengths within a quarter of a power of two share a call: at most 19 % of it is padding.
        groups: dict[tuple[int, int], list[int]] = {}
        for document, length in enumerate(lengths):
            sizes = math.ceil(4 * math.log2(length)), math.ceil(4 * math.log2(1 + above[document]))
            groups.setdefault(sizes, []).append(document)
        back_T = torch.empty(sum(lengths), dtype=torch.long)
        offset = 0
        self.calls: list[_Call] = []
        for _, members in sorted(groups.items()):
            own_DL, real_DL = _grid(starts_D[members], lengths_D[members])
            back_T[own_DL[real_DL]] = offset + torch.arange(own_DL.numel()).view_as(own_DL)[real_DL]
            offset += own_DL.numel()
            keys_DM, mask = own_DL, None
            if above[members[0]]:
                over = [parents[document] for document in members]
                above_DP, seen_DP = _grid(starts_D[over], lengths_D[over])
                keys_DM = torch.cat([above_DP, own_DL], 1)
                past_LL = torch.ones(own_DL.shape[1], own_DL.shape[1], dtype=torch.bool).tril()
                shape = len(members), own_DL.shape[1], -1
                mask = torch.cat([seen_DP[:, None].expand(*shape), past_LL.expand(*shape)], 2)[:, None].to(device)
            self.calls.append(_Call(own_DL.flatten().to(device), keys_DM.flatten().to(device), len(members), mask))
        self.back_T = back_T.to(device)

    def __call__(self, query_THd: Tensor, key_TKd: Tensor, value_TKd: Tensor, scale: float) -> Tensor:
        grouped = query_THd.shape[1] != key_TKd.shape[1]
        outputs = []
        for call in self.calls:
            q, k, v = (
                x.index_select(0, places).unflatten(0, (call.documents, -1)).transpose(1, 2)
                for x, places in ((query_THd, call.queries), (key_TKd, call.keys), (value_TKd, call.keys))
            )
            out_DHLd = F.scaled_dot_product_attention(
                q, k, v, attn_mask=call.mask_D1LM, is_causal=call.mask_D1LM is None, scale=scale, enable_gqa=grouped
            )
            outputs.append(out_DHLd.transpose(1, 2).flatten(0, 1))
        return torch.cat(outputs).index_select(0, self.back_T)


def _grid(starts_D: Tensor, lengths_D: Tensor) -> tuple[Tensor, Tensor]:
    """Places of documents side by side, [D, longest], and which are real. Padding repeats a document's last token: being last
    it is seen by no token before it, and it is dropped on the way back."""
    steps_L = torch.arange(int(lengths_D.max()))
    grid_DL = starts_D[:, None] + torch.minimum(steps_L, lengths_D[:, None] - 1)
    return grid_DL, steps_L < lengths_D[:, None]
