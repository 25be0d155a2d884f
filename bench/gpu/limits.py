"""What this device reaches: the rate of a large matrix product on random data, and of copying memory."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch

from bench.gpu.place import Place
from bench.gpu.row import Row


def matmul(place: Place) -> float:
    """FLOP/s of n x n x n in the row's number type, best of 20."""
    if "matmul" not in place.rates:
        n = place.pick(8192, 256)
        left, right = (torch.randn(n, n, device=place.device, dtype=place.dtype) for _ in range(2))
        out = torch.empty_like(left)
        times = repeated(place, lambda: torch.mm(left, right, out=out))
        place.rates.update({"matmul": 2 * n**3 / min(times), "matmul_median": 2 * n**3 / statistics.median(times)})
    return place.rates["matmul"]


def bandwidth(place: Place) -> float:
    """Bytes read and written a second by a copy on the device, best of 20."""
    if "copy" not in place.rates:
        source = torch.ones(place.pick(2**32, 2**20), device=place.device, dtype=torch.uint8)
        target = torch.empty_like(source)
        times = repeated(place, lambda: target.copy_(source))
        size = 2 * source.numel()
        place.rates.update({"copy": size / min(times), "copy_median": size / statistics.median(times)})
    return place.rates["copy"]


def repeated(place: Place, work: Callable[[], Any], times: int = 20) -> list[float]:
    """Seconds of each call, after three that are not counted."""
    for _ in range(3):
        work()
    return [place.seconds(work) for _ in range(times)]


def both(place: Place) -> Row:
    flops, copied = matmul(place), bandwidth(place)
    size = place.pick(8192, 256)
    return Row(
        f"matrix product {size}³; copy of {place.pick(4096, 1)} MiB",
        "TFLOP/s",
        higher=True,
        ours=[flops / 1e12, place.rates["matmul_median"] / 1e12],
        peers={},
        twin={},
        more={"copy_tb_s": copied / 1e12, "copy_median_tb_s": place.rates["copy_median"] / 1e12},
    )
