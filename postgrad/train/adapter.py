"""Low-rank adapters on a frozen model, through PEFT: LoRA, rsLoRA, DoRA and DoRA with rsLoRA's scale; formulas in lowrank.py.

The model stays the object that it was, its linear layers wrapped in place: the loop, the engine and the losses meet nothing new. What is
trained, saved and restored is the adapter alone, in PEFT's own folder (adapter_config.json, adapter_model.safetensors).

Adapter weights are of the model's type; their float32 masters, where that is bfloat16, are the optimizer's (train/adamw.py).

Merging writes new weights and never subtracts: `merged` keeps the base's own and puts them back, so they are the same to the last bit, and
what was read in between does not change with them (X-R1's issue 49: weights read after `unmerge` were not those merged).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from postgrad.train.settings import Adapter

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
"""What PEFT's files put before the names that weights have in the model."""


def attach(model: Any, wanted: Adapter, *, seed: int) -> None:
    """Freeze the model and put a fresh adapter on it, which changes nothing yet; the same seed gives the same one on every machine.

    Raises ValueError where `target_modules` names no linear layer, or the output head, and for a model of several ranks.
    """
    from peft import LoraConfig

    where = Path(model.name_or_path)
    config = LoraConfig(
        r=wanted.r,
        lora_alpha=wanted.lora_alpha,
        lora_dropout=wanted.lora_dropout,
        target_modules=wanted.target_modules if isinstance(wanted.target_modules, str) else list(wanted.target_modules),
        use_rslora=wanted.use_rslora,
        use_dora=wanted.use_dora,
        task_type="CAUSAL_LM",
        base_model_name_or_path=str(where.resolve()) if where.exists() else model.name_or_path,
    )
    _inject(model, config, seed)


def _inject(model: Any, config: Any, seed: int) -> None:
    from peft import inject_adapter_in_model
    from peft.tuners.tuners_utils import BaseTunerLayer

    from postgrad.train import lowrank, shard

    if shard.is_sharded(model):
        raise ValueError("an adapter on a model of several ranks is not supported yet: train on one device")
    assert not is_adapted(model), "one adapter at a time: merge the first"
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        inject_adapter_in_model(config, model, lowrank.NAME)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            lowrank.adopt(module)
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    if isinstance(head, lowrank.Linear) and head.base_layer.weight is embedding.weight:
        raise ValueError("target_modules names the output head, whose weight is the embedding's too: leave it out")


def is_adapted(model: Any) -> bool:
    return hasattr(model, "peft_config")


def stored(model: Any) -> dict[str, Tensor]:
    """What of the model a checkpoint keeps, by name: all of it, or the adapter alone. The tensors themselves, no copies."""
    weights: dict[str, Tensor] = model.state_dict(keep_vars=True)
    if not is_adapted(model):
        return weights
    return {name: weight for name, weight in weights.items() if weight.requires_grad}


# ---- Folders --------------------------------------------------------------------------------------------------------


def is_folder(folder: Path) -> bool:
    return (folder / CONFIG).is_file()


def base(folder: Path) -> str:
    """The folder or hub id of the model that an adapter's folder belongs to."""
    named = json.loads((folder / CONFIG).read_text())["base_model_name_or_path"]
    if not named:
        raise ValueError(f"{folder / CONFIG} names no base_model_name_or_path: write the base model's folder there")
    return str(named)


def write(folder: Path, model: Any, weights: Mapping[str, Tensor] | None = None) -> None:
    """A PEFT folder; `weights` are those of `stored`, if they are not the model's present ones."""
    from postgrad.train import lowrank

    held = stored(model) if weights is None else weights
    model.peft_config[lowrank.NAME].save_pretrained(str(folder))
    named = {_peft_name(name): weight.detach().contiguous() for name, weight in held.items()}
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})


def take(model: Any, folder: Path) -> None:
    """Copy a folder's adapter into the one that the model has. Raises ValueError where they are not alike."""
    saved = load_file(folder / WEIGHTS)
    own = {_peft_name(name): weight for name, weight in stored(model).items()}
    shapes = {name: tuple(weight.shape) for name, weight in own.items()}
    if unlike := sorted(shapes.items() ^ {name: tuple(weight.shape) for name, weight in saved.items()}.items()):
        raise ValueError(
            f"{folder} holds an adapter of another kind, rank or model: {unlike[0][0]} {list(unlike[0][1])} is on one side only. "
            "Set model.adapter as it was, or begin a new run"
        )
    with torch.no_grad():
        for name, weight in own.items():
            weight.copy_(saved[name])


def load(model: Any, folder: Path) -> None:
    """Put a folder's adapter, as PEFT, TRL or we wrote it, on a plain model."""
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(str(folder))
    if not isinstance(config, LoraConfig) or config.modules_to_save or config.bias != "none" or config.lora_bias:
        raise ValueError(
            f"{folder} is a {config.peft_type} adapter that is no plain LoRA or DoRA (or trains biases or whole modules): merge it with PEFT"
        )
    config.inference_mode = False
    _inject(model, config, seed=0)
    take(model, folder)


def _peft_name(name: str) -> str:
    """model.layers.0.mlp.up_proj.lora_A.default.weight -> base_model.model.[...].lora_A.weight; DoRA's magnitude has no `weight`."""
    short = name.replace(".lora_magnitude_vector.default.weight", ".lora_magnitude_vector")
    return PREFIX + short.replace(".default.", ".")


# ---- Merging --------------------------------------------------------------------------------------------------------


def _layers(model: Any) -> dict[str, Any]:
    from postgrad.train import lowrank

    return {name: module for name, module in model.named_modules() if isinstance(module, lowrank.Linear)}


def merge(model: Any) -> None:
    """For good: the linear layers are plain again, with weights that say what base and adapter said. All are trained again."""
    from postgrad.train import lowrank

    for name, layer in _layers(model).items():
        plain = layer.base_layer
        plain.weight = torch.nn.Parameter(lowrank.merged(layer))
        model.set_submodule(name, plain)
    del model.peft_config
    model.requires_grad_(True)


@contextmanager
def merged(model: Any) -> Iterator[None]:
    """For as long as this lasts. Afterwards the base's weights are what they were, to the last bit."""
    from postgrad.train import lowrank

    layers = list(_layers(model).values())
    kept = [layer.base_layer.weight.detach().clone() for layer in layers]
    try:
        for layer in layers:
            layer.base_layer.weight.data.copy_(lowrank.merged(layer))
            layer.merged_adapters.append(lowrank.NAME)
        yield
    finally:
        for layer, weight in zip(layers, kept, strict=True):
            layer.base_layer.weight.data.copy_(weight)
            layer.merged_adapters.clear()
