"""`draw` without filters as two Triton kernels: the logits are read once, and one chunk of each row a second time.

`_chunks` leaves, for each chunk of a row, its largest scaled logit and the sum of exp(logit - largest), at the row's temperature and at 1.
`_pick` adds the chunks up in float64, finds the chunk in which the uniform falls, and in it the token.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from postgrad.sample.draw import Drawn, Rule

CHUNK = 2048


@triton.jit
def _chunks(logits, temperature, peaks, sums, raw, stride, V, chunks, SCALED: tl.constexpr, CHUNK: tl.constexpr):
    row, chunk = tl.program_id(0), tl.program_id(1)
    at = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(logits + row.to(tl.int64) * stride + at, mask=at < V, other=float("-inf")).to(tl.float32)
    out = row * chunks + chunk
    peak = tl.max(x, 0)
    base = tl.where(peak == float("-inf"), 0.0, peak)
    if SCALED:
        # Divided, as the trainer divides, so that both round alike.
        heat = tl.load(temperature + row)
        tl.store(raw + out, tl.sum(tl.exp(x - base), 0))
        x, base = x / heat, base / heat
    tl.store(peaks + out, peak)
    tl.store(sums + out, tl.sum(tl.exp(x - base), 0))


@triton.jit
def _pick(
    logits, temperature, greedy, uniforms, peaks, sums, raw, ids, logprobs, raw_logprobs, stride, V, chunks,
    SCALED: tl.constexpr, GREEDY: tl.constexpr, CHUNK: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    c = tl.arange(0, WIDE)
    peak_C = tl.load(peaks + row * chunks + c, mask=c < chunks, other=float("-inf"))
    peak = tl.max(peak_C, 0)
    heat = 1.0
    if SCALED:
        heat = tl.load(temperature + row)
    share_C = tl.exp(peak_C / heat - peak / heat)
    weight_C = (tl.load(sums + row * chunks + c, mask=c < chunks, other=0.0) * share_C).to(tl.float64)
    edges_C = tl.cumsum(weight_C, 0)
    total = tl.sum(weight_C, 0)
    # Kept under the last edge, so that rounding can never choose a token of weight 0.
    target = tl.minimum(tl.load(uniforms + row) * total, total * (1 - 1e-12))
    chunk = tl.minimum(tl.sum((edges_C <= target).to(tl.int32), 0), chunks - 1)
    if GREEDY:
        at_peak = tl.min(tl.where(peak_C == peak, c, WIDE), 0)
        chunk = tl.where(tl.load(greedy + row), at_peak, chunk)
    rest = target - tl.sum(tl.where(c < chunk, weight_C, 0.0), 0)
    n = tl.arange(0, CHUNK)
    at = chunk * CHUNK + n
    x = tl.load(logits + row.to(tl.int64) * stride + at, mask=at < V, other=float("-inf")).to(tl.float32)
    inside = tl.cumsum(tl.exp(x / heat - peak / heat).to(tl.float64), 0)
    last = tl.max(inside, 0)
    rest = tl.minimum(tl.maximum(rest, 0.0), last * (1 - 1e-12))
    place = tl.sum((inside <= rest).to(tl.int32), 0)
    if GREEDY:
        place = tl.where(tl.load(greedy + row), tl.min(tl.where(x == tl.max(x, 0), n, CHUNK), 0), place)
    chosen = tl.sum(tl.where(n == place, x, 0.0), 0)
    tl.store(ids + row, (chunk * CHUNK + place).to(tl.int64))
    tl.store(logprobs + row, chosen / heat - peak / heat - tl.log(total.to(tl.float32)))
    if SCALED:
        raw_C = tl.load(raw + row * chunks + c, mask=c < chunks, other=0.0) * tl.exp(peak_C - peak)
        tl.store(raw_logprobs + row, chosen - peak - tl.log(tl.sum(raw_C, 0)))


def draw(logits_BV: Tensor, uniforms_B: Tensor, how: Rule) -> Drawn:
    """As postgrad/sample/draw.py's; `how` has no filter."""
    assert not how.filters
    rows, vocabulary = logits_BV.shape
    assert logits_BV.stride(1) == 1
    chunks = triton.cdiv(vocabulary, CHUNK)
    device = logits_BV.device
    peaks, sums, raw = torch.empty(3, rows, chunks, device=device).unbind()
    ids_B = torch.empty(rows, dtype=torch.long, device=device)
    logprobs_B, raw_B = torch.empty(2, rows, device=device).unbind()
    heat, greedy = how.temperature_B1, how.greedy_B
    scaled = heat is not None
    _chunks[(rows, chunks)](
        logits_BV, heat, peaks, sums, raw, logits_BV.stride(0), vocabulary, chunks, SCALED=scaled, CHUNK=CHUNK, num_warps=4
    )  # fmt: skip
    _pick[(rows,)](
        logits_BV, heat, greedy, uniforms_B, peaks, sums, raw, ids_B, logprobs_B, raw_B, logits_BV.stride(0), vocabulary, chunks,
        SCALED=scaled, GREEDY=greedy is not None, CHUNK=CHUNK, WIDE=triton.next_power_of_2(chunks), num_warps=4,
    )  # fmt: skip
    sampled_B = logprobs_B if greedy is None else torch.where(greedy, 0.0, logprobs_B)
    return Drawn(ids_B, logprobs_B, sampled_B, raw_B if scaled else logprobs_B)
