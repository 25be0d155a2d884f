"""How much memory each phase of a run wants: counted for weights, gradients, optimizer and cache, estimated for activations.

    weights 4 N, gradients 4 N, AdamW 8 N bytes (N parameters, all float32: train/model.py), a reference 4 N
    cache   slots * length * layers * 2 * key-value width * bytes
    activations, for each token and layer, about 10 hidden + 2 query width + 4 key-value width + 4 intermediate numbers
    kept for the backward pass (one hidden alone where they are recomputed); logits: 3 float32 copies of K rows

The estimate leaves out what the allocator and the framework keep for themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

GIB = 2**30


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


def state(of: Shape, *, reference: bool) -> int:
    """Bytes that training holds all the time."""
    return of.parameters * (16 + 4 * reference)


def activations(of: Shape, tokens: int, trained: int, *, number_bytes: int, recomputed: bool) -> int:
    """Bytes at the peak of one micro-batch of `tokens`, `trained` of them with a loss."""
    layer = 10 * of.hidden + 2 * of.query_width + 4 * of.kv_width + 4 * of.intermediate
    kept = of.layers * of.hidden + layer if recomputed else of.layers * layer
    return tokens * kept * number_bytes + 3 * 4 * trained * of.vocabulary


def cache(of: Shape, slots: int, length: int, *, number_bytes: int) -> int:
    """Bytes of the engine's keys and values."""
    return slots * length * of.layers * 2 * of.kv_width * number_bytes
