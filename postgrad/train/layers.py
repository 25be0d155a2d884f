"""What is done to each of a model's decoder layers: compiled, recomputed in the backward pass. Hooks, FSDP2's, stay outside both.

A layer's `forward` alone is compiled (torch.compile, dynamic shapes): all layers share the graphs, so a model costs as much
compilation as one layer does, and neither another length nor another number of documents costs any. Attention is not compiled
(postgrad/attention), so a layer is two graphs around it.

Recomputing keeps a layer's input and computes the rest again (Chen et al., arXiv 1604.06174); "selective" keeps what matrix
products and attention give too, which is what takes time, and computes norms, activations and rotations again. In a
compiled layer products are inside the graphs, so that what is kept is the output of attention alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint, create_selective_checkpoint_contexts, noop_context_fn

from postgrad.train.products import by_onednn

aten = torch.ops.aten
KEPT = [
    aten.mm.default,
    aten.addmm.default,
    aten.bmm.default,
    aten._flash_attention_forward.default,
    aten._scaled_dot_product_flash_attention.default,
    aten._scaled_dot_product_flash_attention_for_cpu.default,
    aten._scaled_dot_product_efficient_attention.default,
    aten._scaled_dot_product_cudnn_attention.default,
    *([torch.ops.mkldnn._linear_pointwise.default] if torch.backends.mkldnn.is_available() else []),
]
"""Operations whose outputs "selective" keeps."""

VARIANTS = 64
"""Graphs of one function before torch gives up compiling it; 8 is few for training, sampling and a reference at once."""

Recomputed = bool | Literal["selective"]


def decoder_layers(model: Any) -> list[Any]:
    """By the class names that the model says are not to be divided; FSDP2 derives classes of its own from them."""
    names = set(model._no_split_modules or ())
    return [part for part in model.modules() if names & {base.__name__ for base in type(part).__mro__}]


def prepare(
    model: Any, *, compiled: bool, recomputed: Recomputed, backend: str | Callable[..., Any] = "inductor"
) -> None:
    """Once for a model, before or after it is sharded; weights and their names stay as they are.

    Raises ValueError for a model whose layers are not known.
    """
    if not compiled and not recomputed:
        return
    layers = decoder_layers(model)
    if not layers:
        raise ValueError(
            f"{type(model).__name__} does not say which of its modules are layers (_no_split_modules): set torch_compile and gradient_checkpointing to false"
        )
    if compiled:
        torch._dynamo.config.recompile_limit = max(VARIANTS, torch._dynamo.config.recompile_limit)
    for layer in layers:
        forward = layer.forward
        if compiled:
            forward = torch.compile(forward, dynamic=True, backend=backend)
        if recomputed:
            # Computed again outside of the pass that had its products by oneDNN.
            forward = partial(_recomputed, layer, by_onednn(layer)(forward), recomputed)
        layer.forward = forward


def _recomputed(layer: torch.nn.Module, forward: Callable[..., Any], how: Recomputed, *args: Any, **kwargs: Any) -> Any:
    if not (layer.training and torch.is_grad_enabled()):
        return forward(*args, **kwargs)
    contexts = partial(create_selective_checkpoint_contexts, KEPT) if how == "selective" else noop_context_fn
    return checkpoint(forward, *args, use_reentrant=False, context_fn=contexts, **kwargs)
