"""Two processes with a device each against one: the same steps of SFT or GRPO under torchrun, and what speed-up they bring.

The "peer" is ourselves in one process. The twin is the norm of the first step's gradient, which division among ranks must not
change; under GRPO in bfloat16 it may, since other batches round differently and so sample some other tokens.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from bench.gpu.grpo import OBJECTIVE, our_source
from bench.gpu.place import Place, tokenizer
from bench.gpu.rollout import problems
from bench.gpu.row import Row, agree
from bench.gpu.sft import document, documents
from postgrad.ranks import Ranks, joined
from postgrad.train import model as models
from postgrad.train import optim, source
from postgrad.train.fit import update
from postgrad.train.loss import likelihood
from postgrad.train.settings import SftSettings

PATIENCE_S = 240
STEPS = 4
"""The first is not counted."""


def row(place: Place, shape: str, kind: str) -> Row:
    """`kind`: "sft" or "grpo"."""
    if place.on_gpu and torch.cuda.device_count() < 2:
        raise RuntimeError(f"this row wants two GPUs and torch sees {torch.cuda.device_count()}")
    place.folder(shape)
    place.clear()
    told: dict[int, dict[str, Any]] = {}
    for ranks in (1, 2):
        told[ranks] = _torchrun(place, shape, kind, ranks)
    apart = abs(told[2]["norm"] - told[1]["norm"]) / told[1]["norm"]
    return Row(
        f"{kind.upper()} step, Qwen3-{shape}, in two processes",
        "s",
        higher=False,
        ours=told[2]["seconds"],
        peers={"postgrad, one process": told[1]["seconds"]},
        twin={
            "gradient norm, one process": agree(
                place, "gradient norm", apart, bfloat16=0.2 if kind == "grpo" else 0.02, float32=1e-4
            )
        },
        limit=min(told[1]["seconds"]) / 2,
        more={"limit_is": "half of one process's time"},
    )


def _torchrun(place: Place, shape: str, kind: str, ranks: int) -> dict[str, Any]:
    out = place.scratch / f"two-{kind}-{ranks}.json"
    asked = json.dumps(
        {"shape": shape, "kind": kind, "tiny": place.tiny, "scratch": str(place.scratch), "out": str(out)}
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    ran = subprocess.run(
        [*launcher, "-m", "bench.gpu.two", asked],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    if ran.returncode:
        raise RuntimeError(f"{ranks} processes ended with {ran.returncode}:\n{ran.stdout[-6000:]}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def _rank(asked: dict[str, Any], ranks: Ranks) -> None:
    tiny = asked["tiny"]
    device = torch.device("cpu" if tiny else "cuda")
    place = Place(device, torch.float32 if tiny else torch.bfloat16, tiny, 1, Path(asked["scratch"]))
    model = models.load(str(place.folder(asked["shape"])), dtype=place.dtype, device=device, ranks=ranks)
    feed, objective, settings = _sft(place) if asked["kind"] == "sft" else _grpo(place, ranks)
    optimizer = optim.adamw(model, settings)
    norms, seconds = [], []
    for step in range(STEPS):
        ranks.everyone(None)
        began = place.now()
        batches = feed.step(model, step).batches
        norms.append(update(model, batches, objective, optimizer, 0.0, 1.0, step, ranks)["grad_norm"])
        ranks.everyone(None)
        seconds.append(place.now() - began)
    if ranks.is_main:
        Path(asked["out"]).write_text(json.dumps({"norm": norms[0], "seconds": seconds[1:]}))


def _sft(place: Place) -> tuple[Any, Any, Any]:
    length = place.pick(4096, 64)
    settings = SftSettings(
        max_steps=10_000,
        learning_rate=1e-4,
        max_length=length,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
    )
    texts = documents(length, place.vocabulary)
    packed = source.Packed([document(str(at), ids) for at, ids in enumerate(texts)], settings, seed=0)
    return packed, likelihood, settings


def _grpo(place: Place, ranks: Ranks) -> tuple[Any, Any, Any]:
    asked, _ = problems(place, place.pick(16, 2), place.pick(256, 12))
    rollouts, settings = our_source(asked, place.pick(512, 8), tokenizer(place.vocabulary), ranks)
    return rollouts, OBJECTIVE, settings


if __name__ == "__main__":
    with joined() as joined_ranks:
        _rank(json.loads(sys.argv[1]), joined_ranks)
