"""Where a row runs, its clock and its memory; models with random weights that every contestant reads from the same folder."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen3Config

from postgrad.train import layers
from postgrad.train import model as ours

GIB = 2**30
QWEN3: dict[str, dict[str, int]] = {
    "0.6b": {"hidden_size": 1024, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 3072},
    "1.7b": {"hidden_size": 2048, "num_hidden_layers": 28, "num_attention_heads": 16, "intermediate_size": 6144},
    "4b": {"hidden_size": 2560, "num_hidden_layers": 36, "num_attention_heads": 32, "intermediate_size": 9728},
}
"""All have 8 key heads, a head width of 128, 151,936 tokens and tied embeddings."""
TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


@dataclass(frozen=True, slots=True)
class Place:
    device: torch.device
    dtype: torch.dtype
    """Of matrix products."""
    tiny: bool
    """Small shapes, so that a row's code, twin and result are proved without a GPU; its times mean nothing."""
    rounds: int
    scratch: Path
    """For models; their weights are the same for everyone who reads them."""
    rates: dict[str, float] = field(default_factory=dict)
    """What this device was measured to reach (limits.py), once for all rows."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def pick(self, real: int, tiny: int) -> int:
        return tiny if self.tiny else real

    def wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()

    def now(self) -> float:
        """Seconds, once everything asked of the device is done."""
        self.wait()
        return time.perf_counter()

    def seconds(self, work: Callable[[], Any]) -> float:
        began = self.now()
        work()
        return self.now() - began

    def held(self) -> int:
        """Bytes of tensors that are alive."""
        return torch.cuda.memory_allocated() if self.on_gpu else 0

    @contextmanager
    def peak(self, above: int = 0) -> Iterator[dict[str, float | None]]:
        """Fills in "gib": the most that was allocated inside, less what was held `above` by others."""
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        found: dict[str, float | None] = {"gib": None}
        yield found
        if self.on_gpu:
            found["gib"] = round((torch.cuda.max_memory_allocated() - above) / GIB, 3)

    def clear(self) -> None:
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    @property
    def vocabulary(self) -> int:
        return self.pick(151_936, 512)

    def config(self, name: str) -> Qwen3Config:
        return Qwen3Config(
            **(TINY if self.tiny else QWEN3[name]),
            vocab_size=self.vocabulary,
            num_key_value_heads=self.pick(8, 2),
            head_dim=self.pick(128, 8),
            tie_word_embeddings=True,
            max_position_embeddings=40_960,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )

    def folder(self, name: str) -> Path:
        """Random weights of this shape, written once; a model of 4 billion parameters is 8 GB."""
        folder = self.scratch / name
        if not (folder / "config.json").is_file():
            torch.manual_seed(0)
            with torch.device(self.device):
                model = AutoModelForCausalLM.from_config(self.config(name), dtype=self.dtype)
            model.save_pretrained(folder)
            del model
            self.clear()
        return folder

    def ours(self, name: str, *, recomputed: bool = False) -> Any:
        model = ours.load(str(self.folder(name)), dtype=self.dtype, device=self.device)
        layers.prepare(model, compiled=self.on_gpu, recomputed=recomputed)
        return model

    def peer(self, name: str, dtype: torch.dtype) -> Any:
        read = AutoModelForCausalLM.from_pretrained
        return read(self.folder(name), dtype=dtype, attn_implementation="sdpa").to(self.device).eval()


def tokenizer(vocabulary: int) -> PreTrainedTokenizerFast:
    """One word a token. The end of sequence is one token beyond the model's vocabulary, so no length is left to chance."""
    # Names that are no prefix of a word: the tokenizer would find special tokens inside words.
    words = ["<pad>", "<unk>", *(f"t{index}" for index in range(2, vocabulary)), "<eos>"]
    core = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    template = "{{ messages[-1]['content'] }}"
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token="<pad>", eos_token="<eos>", chat_template=template)


def text(ids: list[int]) -> str:
    """What the tokenizer reads as these ids."""
    return " ".join(f"t{token}" for token in ids)


def tokens(rng: np.random.Generator, count: int, vocabulary: int) -> list[int]:
    return [int(token) for token in rng.integers(5, vocabulary, count)]
