"""How much memory each phase of a run wants: counted for weights, gradients, optimizer and cache, estimated for activations.

    bytes of a parameter     float32   bfloat16
    weight                   4         2
    residual of its master   -         2            train/adamw.py; none without master_weights
    AdamW's moments          8         8
    gradient                 4         2            4 where a step has several micro-batches: they are added up in float32
    weight of a reference    4         2

    cache   slots * length * layers * 2 * key-value width * bytes
    activations, for each token and layer, about 10 hidden + 2 query width + 4 key-value width + 4 intermediate numbers kept for
    the backward pass; one hidden alone where they are recomputed, the outputs of products and attention where selectively
    head    3 float32 copies of K rows of logits; on CUDA at most about 0.7 GiB of tiles (train/head.py)

The estimate leaves out what the allocator and the framework keep for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from postgrad.train.settings import Adapter

GIB = 2**30
BYTES = {"float32": 4, "bfloat16": 2}
TILES = 700 * 2**20
Recomputed = bool | Literal["selective"]


@dataclass(frozen=True, slots=True)
class Shape:
    parameters: int
    layers: int
    hidden: int
    intermediate: int
    query_width: int
    kv_width: int
    vocabulary: int


def shape(config: Any) -> Shape:
    """Of a transformers config; the model is built without memory to count its parameters."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    return Shape(
        model.num_parameters(),
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        heads * width,
        kv_heads * width,
        config.vocab_size,
    )


def adapted(config: Any, wanted: Adapter) -> int:
    """Parameters of an adapter on such a model."""
    import torch
    from transformers import AutoModelForCausalLM

    from postgrad.train import adapter

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        adapter.attach(model, wanted, seed=0)
    return sum(weight.numel() for weight in adapter.stored(model).values())


def state(
    of: Shape, *, dtype: str, master_weights: bool, micro_batches: int, reference: bool, adapted: int | None = None
) -> int:
    """Bytes that training holds all the time, over all ranks together. `adapted`: parameters of an adapter, trained instead."""
    weight = BYTES[dtype]
    residual = 2 if dtype == "bfloat16" and master_weights else 0
    gradient = weight if micro_batches == 1 else 4
    trained, more = (of.parameters, 0) if adapted is None else (adapted, adapted)
    return (of.parameters + more) * weight + trained * (residual + 8 + gradient) + of.parameters * weight * reference


def activations(of: Shape, tokens: int, trained: int, *, dtype: str, recomputed: Recomputed, on_cuda: bool) -> int:
    """Bytes at the peak of one micro-batch of `tokens`, `trained` of them with a loss."""
    layer = 10 * of.hidden + 2 * of.query_width + 4 * of.kv_width + 4 * of.intermediate
    kept = {
        False: of.layers * layer,
        True: of.layers * of.hidden + layer,
        "selective": of.layers * (3 * of.hidden + 2 * of.query_width + 2 * of.kv_width + 2 * of.intermediate) + layer,
    }[recomputed]
    head = 3 * 4 * trained * of.vocabulary
    return tokens * kept * BYTES[dtype] + (min(head, TILES) if on_cuda else head)


def cache(of: Shape, slots: int, length: int, *, dtype: str) -> int:
    """Bytes of the engine's keys and values."""
    return slots * length * of.layers * 2 * of.kv_width * BYTES[dtype]
