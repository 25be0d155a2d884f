"""The parts of a training step alone, first proved, then timed: python -m bench.gpu.step [--shape 0.6b] [--tiny]

AdamW's kernel (postgrad/train/adamw_triton.py) against torch's plain operations in every form, and its time beside torch's fused AdamW on
float32 weights and beside the bytes that it must move. Then a step of packed rows with layers compiled, recomputed, both: its loss
against the plain one, seconds of the first step, the median of the others, peak memory, and how often the host waited for the
device. Last a step that does not fit, in a share of the memory. `--tiny` runs the same code on a CPU, where Triton's
interpreter must have been asked for: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import json
import operator
import os
import statistics
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.gpu import limits, sft
from bench.gpu.place import Place
from postgrad.train import adamw, adamw_triton, layers, optim
from postgrad.train.batch import Batch, pack
from postgrad.train.fit import update
from postgrad.train.loss import likelihood
from postgrad.train.room import Room
from postgrad.train.settings import SftSettings

GROUP: dict[str, Any] = {"lr": 1e-3, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}
SETTINGS = SftSettings(max_steps=10_000, learning_rate=1e-4, max_length=4096)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="0.6b")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        parser.error("torch sees no GPU: run on one, or give --tiny to prove the code on a CPU")
    if asked.tiny and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("a CPU runs kernels in Triton's interpreter only: set TRITON_INTERPRET=1")
    with tempfile.TemporaryDirectory() as scratch:
        place = Place(torch.device("cpu" if asked.tiny else "cuda"), torch.bfloat16, asked.tiny, 1, Path(scratch))
        proved(place)
        timed(place, asked.shape)
        ways(place, asked.shape)
        too_large(place, asked.shape)


def tell(name: str, **numbers: Any) -> None:
    print(json.dumps({"part": name} | numbers), flush=True)


# ---- AdamW -----------------------------------------------------------------------------------------------------------


def proved(place: Place) -> None:
    """Relative distances after three steps; raises where one is too large."""
    for size in (1, 1023, 1024, place.pick(2**24 + 5, 5000)):
        for form in ("master", "bfloat16", "float32"):
            for gradients in (torch.bfloat16, torch.float32):
                # One number into the storage: an address that no vector load may take.
                for offset in (0, 1):
                    far = distance(place, size, form, gradients, offset)
                    assert far < (2**-7 if form == "bfloat16" else 1e-5), (size, form, gradients, offset, far)
    tell("AdamW's kernel agrees with plain operations", sizes=[1, 1023, 1024, size])


def distance(place: Place, size: int, form: str, gradients: torch.dtype, offset: int) -> float:
    dtype = torch.float32 if form == "float32" else torch.bfloat16
    found = []
    for apply in (adamw.update, in_table):
        generator = torch.Generator(place.device).manual_seed(0)

        def drawn(dtype: torch.dtype, generator: torch.Generator = generator) -> Tensor:
            return torch.randn(size + offset, device=place.device, generator=generator).to(dtype)[offset:]

        weight = drawn(dtype)
        residual = torch.zeros_like(weight, dtype=torch.int16) if form == "master" else None
        mean, square = (torch.zeros_like(weight, dtype=torch.float32) for _ in range(2))
        part = adamw.Part(weight, residual, mean, square)
        scale = torch.tensor(0.7, device=place.device)
        for step in (1, 2, 3):
            gradient = drawn(gradients)
            apply(part, gradient, scale, adamw._factors(GROUP, step))
        master = weight.float() if residual is None else adamw.joined(weight, residual)
        if residual is not None:
            assert torch.equal(adamw.divided(master)[0], weight), "the weight is the master's nearest"
        found.append((master, mean, square))
    return max(float((plain - kernel).abs().max() / plain.abs().max()) for plain, kernel in zip(*found, strict=True))


def in_table(part: adamw.Part, gradient: Tensor, scale: Tensor, by: adamw.Factors) -> None:
    adamw_triton.Table([part]).update([gradient], scale, by)


def timed(place: Place, shape: str) -> None:
    with torch.device(place.device):
        sizes = [p.shape for p in place.ours(shape).parameters()]
    for name, dtype in (("ours, bfloat16 with masters", torch.bfloat16), ("torch's fused, float32", torch.float32)):
        weights = [torch.nn.Parameter(torch.zeros(size, device=place.device, dtype=dtype)) for size in sizes]
        made: Any = (
            adamw.AdamW([{"params": weights}], lr=1e-4, betas=(0.9, 0.999), eps=1e-8)
            if dtype == torch.bfloat16
            else torch.optim.AdamW(weights, lr=1e-4, fused=True)
        )
        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        times = limits.repeated(place, made.step, place.pick(20, 1))
        host = [asked(place, made.step) for _ in times]
        numbers = sum(weight.numel() for weight in weights)
        # Read and written: weight and moments, and a residual; read: the gradient.
        moved = numbers * (2 * (2 + 2 + 8) + 2 if dtype == torch.bfloat16 else 2 * (4 + 8) + 4)
        tell(
            f"AdamW, {name}",
            parameters=numbers,
            ms_best=round(1e3 * min(times), 3),
            ms_median=round(1e3 * statistics.median(times), 3),
            ms_host_best=round(1e3 * min(host), 3),
            ms_floor=round(1e3 * moved / limits.bandwidth(place), 3),
        )
        del weights, made
        place.clear()


def asked(place: Place, work: Any) -> float:
    """Seconds until the host may go on, of a device that had nothing to do."""
    began = place.now()
    work()
    return time.perf_counter() - began


# ---- A step ----------------------------------------------------------------------------------------------------------


def batches(place: Place, micro_batches: int) -> list[list[Batch]]:
    """Of six steps, each of other documents: 16,384 tokens in a micro-batch."""
    texts = iter(sft.documents(place.pick(4096, 64), place.vocabulary))
    steps = []
    for _ in range(6):
        step = []
        for _ in range(micro_batches):
            documents, left = [], place.pick(16_384, 200)
            while left > 8:
                ids = next(texts)[:left]
                documents.append(sft.document(str(left), ids))
                left -= len(ids)
            step.append(pack(documents, count=float(sum(document.weights.sum() for document in documents))))
        steps.append(step)
    return steps


def ways(place: Place, shape: str) -> None:
    steps = batches(place, 2)
    plain: list[float] = []
    for compiled in (False, True):
        for recomputed in (False, "selective", True):
            losses, numbers = way(place, shape, steps, compiled, recomputed)
            plain = plain or losses
            apart = max(abs(a - b) / b for a, b in zip(losses, plain, strict=True))
            assert apart < 5e-3, (compiled, recomputed, losses, plain)
            tell("step", compiled=compiled, recomputed=recomputed, **numbers, loss_apart=apart)


def way(
    place: Place, shape: str, steps: list[list[Batch]], compiled: bool, recomputed: layers.Recomputed
) -> tuple[list[float], dict[str, Any]]:
    """Losses of the steps, and what they cost."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    place.clear()
    held = place.held()
    model = place.ours(shape)
    layers.prepare(model, compiled=compiled, recomputed=recomputed, backend="aot_eager" if place.tiny else "inductor")
    optimizer = optim.adamw(model, SETTINGS)
    losses, seconds = [], []
    with place.peak(held) as peak:
        for taken, step in enumerate(steps):
            began = place.now()
            losses.append(update(model, step, likelihood, optimizer, 1e-5, 1.0, taken + 1)["loss"])
            seconds.append(place.now() - began)
    tokens = [sum(len(batch.input_ids_T) for batch in step) for step in steps]
    numbers = {
        "first_s": round(seconds[0], 2),
        "median_s": round(statistics.median(seconds[1:]), 4),
        "tokens_per_s_best": round(max(map(operator.truediv, tokens[1:], seconds[1:]))),
        "tokens_per_s_median": round(statistics.median(map(operator.truediv, tokens[1:], seconds[1:]))),
        "peak_gib": peak["gib"],
        "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"],
        "waits": waits(place, lambda: update(model, steps[0], likelihood, optimizer, 0.0, 1.0, 7)),
    }
    return losses, numbers


def waits(place: Place, work: Any) -> list[str] | None:
    """Where the host waited for the device, as torch sees it; one place, that of the losses, is meant."""
    if not place.on_gpu:
        return None
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            work()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return [f"{Path(one.filename).name}:{one.lineno}" for one in caught if "synchroniz" in str(one.message)]


def too_large(place: Place, shape: str) -> None:
    """A step in less memory than it wants, whose loss is that of one that fits."""
    if not place.on_gpu:
        return
    place.clear()
    model = place.ours(shape)
    optimizer = optim.adamw(model, SETTINGS)
    (step, *_) = batches(place, 2)
    wanted = update(model, step, likelihood, optimizer, 0.0, 1.0, 1)
    with place.peak() as peak:
        update(model, step, likelihood, optimizer, 0.0, 1.0, 2)
    assert peak["gib"] is not None
    place.clear()
    held = place.held()
    # What is held all the time, and most of what a step needs besides.
    limit = held + (peak["gib"] * 2**30 - held) * 0.7
    torch.cuda.set_per_process_memory_fraction(limit / torch.cuda.get_device_properties(0).total_memory)
    told: list[str] = []
    room = Room(told.append)
    numbers = update(model, step, likelihood, optimizer, 0.0, 1.0, 3, room=room)
    torch.cuda.set_per_process_memory_fraction(1.0)
    assert told, "the limit was not met"
    apart = abs(numbers["loss"] - wanted["loss"]) / wanted["loss"]
    assert apart < 1e-3
    assert abs(numbers["grad_norm"] - wanted["grad_norm"]) / wanted["grad_norm"] < 1e-2
    tell("out of memory", told=told, loss_apart=apart)


if __name__ == "__main__":
    main()
