"""Models and tokenizers: from a Hugging Face folder or id, or a small Qwen3 from nothing. Definitions come from transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from postgrad import attention
from postgrad.ranks import ALONE, Ranks
from postgrad.train import adapter, shard

# The run has a live display of its own; a second writer would tear it.
logging.disable_progress_bar()


def resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"model.device is {name!r} and torch {torch.__version__} sees no CUDA device: use cpu or auto, or run `postgrad doctor`"
        )
    return device


def load(path: str, *, dtype: torch.dtype, device: torch.device, ranks: Ranks = ALONE) -> PreTrainedModel:
    """A causal LM ready for postgrad's attention, its weights of `dtype` and divided among the ranks. Of an adapter's folder: merged.

    Raises ValueError for a folder that holds no model.
    """
    folder = _folder(path)
    if adapter.is_folder(folder):
        model = load(adapter.base(folder), dtype=dtype, device=torch.device("cpu"))
        adapter.load(model, folder)
        adapter.merge(model)
        return _ready(shard.shard(model, ranks, device), device)
    if folder.exists() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{path} has no config.json, so it is not a Hugging Face model folder: give the folder that holds config.json and *.safetensors"
        )
    config = AutoConfig.from_pretrained(path)
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, config=config, dtype=dtype, attn_implementation=attention.NAME
        )
    except SafetensorError as error:
        raise ValueError(f"the weights of {path} cannot be read ({error}): copy or download them again") from error
    return _ready(shard.shard(model, ranks, device), device)


def load_tokenizer(path: str) -> Any:
    folder = _folder(path)
    if folder.exists() and not any(
        (folder / name).is_file()
        for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")
    ):
        raise ValueError(
            f"{path} holds no tokenizer (no tokenizer.json or tokenizer.model): save the base model's tokenizer into it"
        )
    return AutoTokenizer.from_pretrained(path)


def _folder(path: str) -> Path:
    folder = Path(path)
    if not folder.exists() and (folder.is_absolute() or path.startswith(".") or path.count("/") > 1):
        raise ValueError(f"{path}: no such folder (and no hub id, which would be NAME or OWNER/NAME)")
    return folder


def scratch_config(shape: dict[str, Any], tokenizer: Any) -> Qwen3Config:
    settings: dict[str, Any] = {
        **shape,
        "vocab_size": len(tokenizer),
        "head_dim": shape["hidden_size"] // shape["num_attention_heads"],
        "tie_word_embeddings": True,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    return Qwen3Config(**settings)


def from_scratch(
    shape: dict[str, Any], tokenizer: Any, *, seed: int, dtype: torch.dtype, device: torch.device
) -> PreTrainedModel:
    """A Qwen3 of this shape with random weights; the same seed gives the same weights on every machine."""
    config = scratch_config(shape, tokenizer)
    config._attn_implementation = attention.NAME
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)  # and no buffer: rotary frequencies stay float32
    return _ready(model, device)


def _ready(model: PreTrainedModel, device: torch.device) -> PreTrainedModel:
    model.to(device)  # type: ignore[arg-type]  # transformers wraps `to` in a way that hides its signature
    model.eval()
    return model
