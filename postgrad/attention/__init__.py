"""One attention entry for training and decoding: the caller's `layout` says which token sees which.

Registered with transformers as implementation "postgrad" for the attention alone, without a mask function, so any causal
LM builds no mask, passes keyword arguments through to its layers, and reaches `attend` with `layout=...`:

- `Packed` (packed.py, varlen.py, long.py): documents back to back in one row [1, T]; a token sees its own document's past and nothing else.
- the engine's slots (postgrad/sample/engine.py): one token for each running sequence against its cached keys.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from postgrad.attention.packed import Packed as Packed

NAME = "postgrad"


class Layout(Protocol):
    longest: int
    """Tokens of the longest sequence, the new one included: what a sliding window must hold."""

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        """Attention output [1, H, T, d] for one layer; H query heads, K key heads, H a multiple of K."""
        ...


# Compiled layers break here on purpose: lengths change with every micro-batch, and a graph that held them would be compiled anew for each.
@torch.compiler.disable  # type: ignore[untyped-decorator]
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
