"""What a checkpoint costs the loop, written in the loop and by `Saver`'s thread: python -m bench.saving [--device cuda]

Qwen3 of 95 million parameters (hidden 640, 12 layers, 32,768 tied tokens) with AdamW's moments, random: 1.1 GB a checkpoint.
Prints seconds of the loop for each of five saves (the first of the thread's makes its memory), and the longest time for
which the thread kept Python from running. The disk decides much of it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

from postgrad.domains import arithmetic
from postgrad.run import hardware
from postgrad.train import checkpoint, optim, shard
from postgrad.train.saver import Saver
from postgrad.train.settings import SftSettings

SAVES = 5
STATE = {"tokens": 0, "best_step": None, "best_score": None, "source": {}}


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return round(time.perf_counter() - started, 3)


def longest_pause(thread: threading.Thread | None) -> float:
    """Seconds between two turns of this thread, which asks for one every millisecond, while the other lives."""
    assert thread is not None
    longest, last = 0.0, time.perf_counter()
    while thread.is_alive():
        time.sleep(0.001)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    return round(longest, 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    config = Qwen3Config(
        vocab_size=32_768,
        hidden_size=640,
        num_hidden_layers=12,
        num_attention_heads=10,
        num_key_value_heads=5,
        head_dim=64,
        intermediate_size=2560,
        tie_word_embeddings=True,
    )
    logging.disable_progress_bar()
    model: Any = Qwen3ForCausalLM(config).to(device)
    optimizer = optim.adamw(model, SftSettings(max_steps=1, learning_rate=1e-4, max_length=8))
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    with tempfile.TemporaryDirectory() as name:
        folder, tokenizer = Path(name), arithmetic.tokenizer()

        taken = checkpoint.snapshot(0, model=model, optimizer=optimizer, trainer=STATE, host=shard.HostMemory())

        def in_the_loop(step: int) -> None:
            checkpoint.write(folder, replace(taken, step=step), model=model, tokenizer=tokenizer)
            checkpoint.prune(folder, 1, None)

        inside = [seconds(lambda step=step: in_the_loop(step)) for step in range(SAVES)]
        beside, pauses = [], []
        with Saver(folder, model, tokenizer, optimizer, keep=1) as saver:
            for step in range(SAVES, 2 * SAVES):
                saver.wait()
                beside.append(seconds(lambda step=step: saver.save(step, STATE)))
                pauses.append(longest_pause(saver._thread))
    told = {"parameters": sum(p.numel() for p in model.parameters()), "in the loop": inside, "beside it": beside}
    print(json.dumps(told | {"longest pause": pauses, "hardware": hardware()}))


if __name__ == "__main__":
    main()
