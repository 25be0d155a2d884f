"""A tiny Qwen3 with its tokenizer, made once: large enough weights that its distributions are far from uniform."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# A busy machine is no finding.
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")
# Products of 32 columns take longest on several threads; read when torch is imported, here and in child processes.
os.environ["OMP_NUM_THREADS"] = "1"
# Kernels run on CPU tensors; read when triton is imported. On a GPU, TRITON_INTERPRET=0 compiles them instead.
os.environ.setdefault("TRITON_INTERPRET", "1")

SHAPE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
}


def enliven(model: Any, seed: int = 1) -> Any:
    """Move a fresh model away from its almost constant output, so that a wrong mask or a lost factor shows."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * 0.3)
    return model


def nudge(model: Any, by: float = 0.02, seed: int = 2) -> Any:
    """What some steps of training do to the weights, in place."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * by)
    return model


@pytest.fixture(scope="session")
def tokenizer() -> Any:
    from postgrad.domains import arithmetic

    return arithmetic.tokenizer()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A Hugging Face folder: grouped-query attention, 2 layers, 275 tokens, weights from a seed."""
    import torch

    from postgrad.train import model as models

    folder = tmp_path_factory.mktemp("models") / "tiny"
    made = models.from_scratch(SHAPE, tokenizer, seed=0, dtype=torch.float32, device=torch.device("cpu"))
    enliven(made).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def model(model_folder: Path) -> Any:
    """Fresh, with postgrad's attention."""
    import torch

    from postgrad.train import model as models

    return models.load(str(model_folder), dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture
def stock(model_folder: Path) -> Any:
    """The same weights in transformers' own hands: what any user of the folder gets."""
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, attn_implementation="sdpa").eval()


MEASURED: dict[str, float] = {}


@pytest.fixture
def measured() -> Any:
    """Notes a distance under a name and returns it; `pytest -v` prints the largest of each at the end."""

    def note(name: str, distance: float) -> float:
        MEASURED[name] = max(MEASURED.get(name, 0.0), distance)
        return distance

    return note


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if MEASURED and terminalreporter.verbosity >= 0:
        terminalreporter.section("largest distances measured")
        for name, distance in sorted(MEASURED.items()):
            terminalreporter.line(f"{distance:8.1e}  {name}")
