"""A training step on one long document, activations recomputed: seconds and peak memory at growing lengths, beside TRL with Liger.

Memory beyond the weights' and the optimizer's must grow as the length does, no faster: `growth` is what doubling the length
the second time added over twice what the first time added, so 1 is linear and 2 is quadratic.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from bench.gpu.place import Place, tokens
from bench.gpu.row import Row
from bench.gpu.sft import Work, from_peer, our_side, trl_side, twins


def row(place: Place, shape: str) -> Row:
    peer = "TRL + Liger" if place.on_gpu else "TRL"
    lengths = [place.pick(8192, 64), place.pick(16_384, 128), place.pick(32_768, 256)]
    seconds: dict[str, dict[int, list[float]]] = {"ours": {}, peer: {}}
    peaks: dict[str, dict[int, float | None]] = {"ours": {}, peer: {}}
    absent = ""
    twin: dict[str, float] = {}
    for length in lengths:
        work = Work(shape, 1, length, place.pick(3, 1), checkpointing=True)
        rng = np.random.default_rng(0)
        texts = [tokens(rng, length, place.vocabulary) for _ in range(work.steps)]
        look = None
        # Boundary: a peer that finds no memory is told of as such.
        try:
            with trl_side(place, work, place.dtype, texts) as side:
                look = from_peer(side.first), side.look(side.first)
                seconds[peer][length] = [(length - 1) / rate for rate in side.round()]
                peaks[peer][length] = side.peak_gib
        except torch.cuda.OutOfMemoryError as error:
            absent = f"out of memory at {length} tokens: {str(error).splitlines()[0]}"
        place.clear()
        with our_side(place, work, texts) as side:
            if look is not None:
                twin |= twins(place, side.look(look[0]), look[1], f"{peer}, {length} tokens")
            seconds["ours"][length] = [(length - 1) / rate for rate in side.round()]
            peaks["ours"][length] = side.peak_gib
        place.clear()
    longest = lengths[-1]
    peers: dict[str, Sequence[float] | str] = {peer: seconds[peer].get(longest, absent)}
    return Row(
        f"SFT step on one document, Qwen3-{shape}, {longest} tokens, activations recomputed",
        "s",
        higher=False,
        ours=seconds["ours"][longest],
        peers=peers,
        twin=twin,
        more={
            "seconds": {who: {length: min(times) for length, times in of.items()} for who, of in seconds.items()},
            "peak_gib": peaks,
            "growth": {who: _growth([of.get(length) for length in lengths]) for who, of in peaks.items()},
        },
    )


def _growth(peaks: Sequence[float | None]) -> float | None:
    short, middle, long = peaks
    if short is None or middle is None or long is None:
        return None
    return (long - middle) / (2 * (middle - short))
