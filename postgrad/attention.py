"""One attention entry for training and decoding: the caller's `layout` says which token sees which.

Registered with transformers as implementation "postgrad" for the attention alone, without a mask function, so any causal
LM builds no mask, passes keyword arguments through to its layers, and reaches `attend` with `layout=...`:

- `Packed`: documents back to back in one row [1, T]; a token sees its own document's past and nothing else.
- the engine's slots (postgrad/sample/engine.py): one token for each running sequence against its cached keys.

Departure from peers: no block mask of size T x T and no flash package; documents are grouped by length and each
group is one causal SDPA call, so the cost is the documents' own, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface

NAME = "postgrad"


class Layout(Protocol):
    longest: int
    """Tokens of the longest sequence, the new one included: what a sliding window must hold."""

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        """Attention output [1, H, T, d] for one layer; H query heads, K key heads, H a multiple of K."""
        ...


class Packed:
    """Documents of these lengths stand back to back; built once for a micro-batch and shared by all layers."""

    def __init__(self, lengths: Sequence[int], device: torch.device) -> None:
        assert lengths, "an empty pack"
        assert min(lengths) > 0, "an empty document in a pack"
        self.longest = max(lengths)
        starts = torch.tensor([0, *lengths]).cumsum(0)[:-1]
        order = sorted(range(len(lengths)), key=lengths.__getitem__)
        # Lengths within a quarter of a power of two share a call: at most 19 % of it is padding.
        groups: dict[int, list[int]] = {}
        for document in order:
            groups.setdefault(math.ceil(4 * math.log2(lengths[document])), []).append(document)
        total = sum(lengths)
        back_T = torch.empty(total, dtype=torch.long)
        offset = 0
        self.gathers: list[tuple[Tensor, int, int]] = []
        """For each group: the tokens of its padded grid [D * L], D and L."""
        for members in groups.values():
            longest = max(lengths[document] for document in members)
            steps_L = torch.arange(longest)
            lengths_D1 = torch.tensor([lengths[document] for document in members])[:, None]
            starts_D1 = starts[members][:, None]
            # Padding repeats the last token; being last it is seen by no real token, and is dropped on the way back.
            grid_DL = starts_D1 + torch.minimum(steps_L, lengths_D1 - 1)
            real_DL = steps_L < lengths_D1
            back_T[grid_DL[real_DL]] = offset + torch.arange(grid_DL.numel()).view_as(grid_DL)[real_DL]
            self.gathers.append((grid_DL.flatten().to(device), len(members), longest))
            offset += grid_DL.numel()
        self.back_T = back_T.to(device)

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        query_THd, key_TKd, value_TKd = (x[0].transpose(0, 1) for x in (query_1HTd, key_1KTd, value_1KTd))
        grouped = query_THd.shape[1] != key_TKd.shape[1]
        outputs = []
        for gather, documents, longest in self.gathers:
            q, k, v = (
                x.index_select(0, gather).view(documents, longest, *x.shape[1:]).transpose(1, 2)
                for x in (query_THd, key_TKd, value_TKd)
            )
            out_DHLd = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
            outputs.append(out_DHLd.transpose(1, 2).flatten(0, 1))
        out_THd = torch.cat(outputs).index_select(0, self.back_T)
        return out_THd.transpose(0, 1)[None]


def attend(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001  transformers' signature; without a mask function it is always None
    *,
    layout: Layout | None = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """What transformers calls in every layer. [1, H, T, d] in, [1, T, H, d] out."""
    if layout is None:
        raise ValueError(
            "this model was prepared for postgrad's own attention and was called without `layout`; "
            "for ordinary use load the checkpoint folder again with AutoModelForCausalLM.from_pretrained"
        )
    for name, value_of in {
        "dropout": dropout,
        "softcap": options.get("softcap"),
        "s_aux": options.get("s_aux"),
    }.items():
        if value_of is not None and not isinstance(value_of, Tensor) and value_of == 0.0:
            continue
        if value_of is not None:
            raise ValueError(
                f"attention option {name} of {type(module).__name__} is not supported: set it to 0 in the model's config"
            )
    if sliding_window is not None and layout.longest > sliding_window:
        raise ValueError(
            f"{type(module).__name__} attends over a window of {sliding_window} tokens and a sequence has {layout.longest}: sliding "
            "windows are not supported; keep sequences within it, or set use_sliding_window to false in the model's config"
        )
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    layer: int = module.layer_idx  # type: ignore[assignment]  # set by transformers on every attention module
    return layout(layer, query, key, value, scale).transpose(1, 2), None


AttentionInterface.register(NAME, attend)
