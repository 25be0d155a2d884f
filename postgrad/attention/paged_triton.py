"""Triton kernels of paged.py: write the newest keys, attend over items of pages, put the parts together.

`_part` is one program for an item and a key head: the queries of all the item's rows and of the head's group are the rows of one
matrix product, so that a page is read once for all of them. It keeps the running maximum m, the sum l of exp(s - m) and the
sum of exp(s - m) v, and leaves acc / l and m + log l (base 2) for `_join`, which weights the parts of a row by their log-sum-exps.
Products of float32 are float32's own ("ieee"): Triton would take tf32, and the trainer does not.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from postgrad.attention.paged import PAGE, Plan, sharers


@triton.jit
def _write(
    keys, values, tables, positions, key, value, width, page_stride, head_stride, kh, kb, vh, vb,
    PAGE: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row, head = tl.program_id(0), tl.program_id(1)
    at = tl.load(positions + row)
    # A row that is over goes on to the end of its burst; what it writes beyond its pages is nobody's.
    slot = at // PAGE
    page = tl.load(tables + row * width + slot, mask=slot < width, other=0).to(tl.int64)
    d = tl.arange(0, WIDE)
    to = page * page_stride + head * head_stride + (at % PAGE) * D + d
    tl.store(keys + to, tl.load(key + head * kh + row * kb + d, mask=d < D), mask=d < D)
    tl.store(values + to, tl.load(value + head * vh + row * vb + d, mask=d < D), mask=d < D)


@triton.jit
def _part(
    query, keys, values, tables, items, positions, out, lse, scale, width, page_stride, head_stride, qh, qb,
    GROUP: tl.constexpr, ROWS: tl.constexpr, M: tl.constexpr, PAGE: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    item, head = tl.program_id(0), tl.program_id(1)
    first = tl.load(items + item * 4)
    rows = tl.load(items + item * 4 + 1)
    start = tl.load(items + item * 4 + 2)
    stop = tl.load(items + item * 4 + 3)
    if rows == 0:
        return
    m_M = tl.arange(0, M)
    row_M = m_M // GROUP
    real_M = row_M < rows
    d = tl.arange(0, WIDE)
    n = tl.arange(0, PAGE)
    from_MD = (first + row_M)[:, None] * qb + (head * GROUP + m_M % GROUP)[:, None] * qh + d[None, :]
    q_MD = tl.load(query + from_MD, mask=real_M[:, None] & (d < D)[None, :], other=0.0)
    seen_M = tl.load(positions + first + row_M, mask=real_M, other=0)
    high_M = tl.full([M], float("-inf"), tl.float32)
    sum_M = tl.zeros([M], tl.float32)
    acc_MD = tl.zeros([M, WIDE], tl.float32)
    tile = head * head_stride + n[:, None] * D + d[None, :]
    inside = (d < D)[None, :]
    for place in range(start, stop):
        page = tl.load(tables + first * width + place).to(tl.int64) * page_stride
        k_PD = tl.load(keys + page + tile, mask=inside, other=0.0)
        s_MP = tl.dot(q_MD, tl.trans(k_PD), input_precision="ieee") * scale
        s_MP = tl.where((place * PAGE + n)[None, :] <= seen_M[:, None], s_MP, float("-inf"))
        higher_M = tl.maximum(high_M, tl.max(s_MP, 1))
        # Before the first visible key the maximum is -inf, and -inf - -inf is no number.
        base_M = tl.where(higher_M == float("-inf"), 0.0, higher_M)
        p_MP = tl.exp2(s_MP - base_M[:, None])
        fade_M = tl.exp2(high_M - base_M)
        sum_M = sum_M * fade_M + tl.sum(p_MP, 1)
        v_PD = tl.load(values + page + tile, mask=inside, other=0.0)
        acc_MD = acc_MD * fade_M[:, None] + tl.dot(p_MP.to(v_PD.dtype), v_PD, input_precision="ieee")
        high_M = higher_M
    empty_M = sum_M == 0
    acc_MD = acc_MD / tl.where(empty_M, 1.0, sum_M)[:, None]
    total_M = tl.where(empty_M, float("-inf"), high_M + tl.log2(tl.where(empty_M, 1.0, sum_M)))
    at_M = (item * tl.num_programs(1) + head) * ROWS * GROUP + m_M
    tl.store(out + at_M[:, None] * D + d[None, :], acc_MD, mask=real_M[:, None] & inside)
    tl.store(lse + at_M, total_M, mask=real_M)


@triton.jit
def _join(
    out, parts, own, own_lse, shared, shared_lse, heads,
    GROUP: tl.constexpr, ROWS: tl.constexpr, SHARING: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    row, query = tl.program_id(0), tl.program_id(1)
    head, member = query // GROUP, query % GROUP
    d = tl.arange(0, WIDE)
    # One-element tensors, because a loop's values keep their kind.
    high = tl.full([1], float("-inf"), tl.float32)
    total = tl.zeros([1], tl.float32)
    acc_D = tl.zeros([WIDE], tl.float32)
    first = tl.load(parts + row * 5)
    count = tl.load(parts + row * 5 + 1)
    for item in range(first, first + count):
        at = (item * heads + head) * GROUP + member
        one = tl.load(own_lse + at)
        higher = tl.maximum(high, one)
        base = tl.where(higher == float("-inf"), 0.0, higher)
        fade, share = tl.exp2(high - base), tl.exp2(one - base)
        acc_D = acc_D * fade + share * tl.load(own + at * D + d, mask=d < D, other=0.0)
        total = total * fade + share
        high = higher
    if SHARING:
        first = tl.load(parts + row * 5 + 2)
        count = tl.load(parts + row * 5 + 3)
        place = tl.load(parts + row * 5 + 4)
        for item in range(first, first + count):
            at = ((item * heads + head) * ROWS + place) * GROUP + member
            one = tl.load(shared_lse + at)
            higher = tl.maximum(high, one)
            base = tl.where(higher == float("-inf"), 0.0, higher)
            fade, share = tl.exp2(high - base), tl.exp2(one - base)
            acc_D = acc_D * fade + share * tl.load(shared + at * D + d, mask=d < D, other=0.0)
            total = total * fade + share
            high = higher
    # A row that only fills up the batch has no part.
    acc_D = acc_D / tl.where(total == 0.0, 1.0, total)
    tl.store(out + (row * heads * GROUP + query) * D + d, acc_D.to(out.dtype.element_ty), mask=d < D)


def write(
    keys_NKPd: Tensor, values_NKPd: Tensor, tables_BM: Tensor, positions_B: Tensor, key_KBd: Tensor, value_KBd: Tensor
) -> None:
    heads, rows, width = key_KBd.shape
    assert key_KBd.stride(2) == value_KBd.stride(2) == 1
    _write[(rows, heads)](
        keys_NKPd, values_NKPd, tables_BM, positions_B, key_KBd, value_KBd, tables_BM.shape[1],
        keys_NKPd.stride(0), keys_NKPd.stride(1),
        key_KBd.stride(0), key_KBd.stride(1), value_KBd.stride(0), value_KBd.stride(1),
        PAGE=PAGE, D=width, WIDE=triton.next_power_of_2(width), num_warps=1,
    )  # fmt: skip


LOG2E = 1.4426950408889634


def attend(
    query_HBd: Tensor,
    keys_NKPd: Tensor,
    values_NKPd: Tensor,
    at: Plan,
    positions_B: Tensor,
    scale: float,
    *,
    sharing: bool,
) -> Tensor:
    """[B, H, d] contiguous, in the query's dtype."""
    heads, width = keys_NKPd.shape[1], keys_NKPd.shape[3]
    group = query_HBd.shape[0] // heads
    assert query_HBd.stride(2) == 1
    own, own_lse = _parts(query_HBd, keys_NKPd, values_NKPd, at, at.own_I4, 1, positions_B, scale)
    rows = sharers(group)
    if sharing:
        shared, shared_lse = _parts(query_HBd, keys_NKPd, values_NKPd, at, at.shared_J4, rows, positions_B, scale)
    else:
        shared, shared_lse = own, own_lse
    out_BHd = query_HBd.new_empty(query_HBd.shape[1], query_HBd.shape[0], width)
    _join[(out_BHd.shape[0], out_BHd.shape[1])](
        out_BHd, at.parts_B5, own, own_lse, shared, shared_lse, heads,
        GROUP=group, ROWS=rows, SHARING=sharing, D=width, WIDE=triton.next_power_of_2(width), num_warps=1,
    )  # fmt: skip
    return out_BHd


def _parts(
    query_HBd: Tensor, keys_NKPd: Tensor, values_NKPd: Tensor, at: Plan, items: Any, rows: int, positions_B: Tensor, scale: float
) -> tuple[Tensor, Tensor]:  # fmt: skip
    heads, width = keys_NKPd.shape[1], keys_NKPd.shape[3]
    group = query_HBd.shape[0] // heads
    size = len(items) * heads * rows * group
    out = torch.empty(size, width, dtype=torch.float32, device=query_HBd.device)
    lse = torch.empty(size, dtype=torch.float32, device=query_HBd.device)
    _part[(len(items), heads)](
        query_HBd, keys_NKPd, values_NKPd, at.tables_BM, items, positions_B, out, lse, scale * LOG2E,
        at.tables_BM.shape[1], keys_NKPd.stride(0), keys_NKPd.stride(1), query_HBd.stride(0), query_HBd.stride(1),
        GROUP=group, ROWS=rows, M=max(16, triton.next_power_of_2(rows * group)), PAGE=PAGE, D=width,
        WIDE=max(16, triton.next_power_of_2(width)), num_warps=4, num_stages=3,
    )  # fmt: skip
    return out, lse
