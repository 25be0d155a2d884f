"""Attention of one new token for each running sequence, over keys and values that live in pages.

    pool[0 or 1, layer, page, K, slot, d]   keys, values; a sequence's t-th token is in slot t % PAGE of its page t // PAGE

On CUDA the work is cut into items, each a range of pages and the rows that see it (paged_triton.py): the pages of a
prompt that several rows share are read once for all of them, long sequences are spread over several programs, and the parts are put
together by their log-sum-exps (flash decoding; for shared prompts: Hydragen, arXiv 2402.05099). Elsewhere, plain torch with the same result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

PAGE = 64
"""Tokens of a page: a page of one head's keys is 16 KiB at width 128 in bfloat16, a tile of the kernel."""
NOWHERE = 0
"""A page that belongs to nobody: rows that only fill up a batch write there."""
PROGRAMS = 8 * 132
"""How many programs a layer's attention is cut into, about: eight for each multiprocessor of an H100."""

Ints = np.ndarray[Any, np.dtype[np.int32]]


@dataclass(frozen=True, slots=True)
class Plan:
    """Who reads which pages in the next steps. numpy on the host, tensors on the device."""

    tables_BM: Any
    """Pages of each row."""
    own_I4: Any
    """(row, 1, first page, page after the last): pages that one row reads. Unused: all 0."""
    shared_J4: Any
    """(first row, rows, first page, page after the last): pages that neighbouring rows share, in the first one's table."""
    parts_B5: Any
    """Of each row: (first own item, how many, first shared item, how many, its place among the rows that share)."""

    def on(self, device: torch.device) -> Plan:
        return Plan(*(torch.from_numpy(getattr(self, one.name)).to(device) for one in fields(self)))

    def take(self, other: Plan) -> None:
        """Copy another plan of the same sizes into this one's tensors."""
        for one in fields(self):
            getattr(self, one.name).copy_(torch.from_numpy(getattr(other, one.name)), non_blocking=True)


def sharers(group: int) -> int:
    """How many rows read a shared page together, at most, where `group` query heads belong to a key head: their queries are the
    rows of one matrix product, of which 64 still leave room in the registers."""
    return max(1, min(16, 64 // group))


def plan(
    tables: Sequence[Sequence[int]], shared: Sequence[int], *, heads: int, group: int, rows: int, width: int
) -> Plan:
    """`tables`: each running row's pages, those in use by the end of the next steps; `shared`: how many first ones it has in common
    with its neighbours that have the same first page. Filled up to `rows` rows and `width` pages."""
    tables_BM = np.full((rows, width), NOWHERE, np.int32)
    for row, pages in enumerate(tables):
        tables_BM[row, : len(pages)] = pages
    parts_B5 = np.zeros((rows, 5), np.int32)
    families = [(row, count) for row, count in _families(tables, shared, sharers(group)) if count > 1]
    among = {row + place: (row, place) for row, count in families for place in range(count)}
    own = [(row, shared[row] if row in among else 0, len(pages)) for row, pages in enumerate(tables)]
    own_I4, own_first, own_count = _items([(row, 1, start, stop) for row, start, stop in own], heads, rows)
    shared_J4, first, count = _items([(row, size, 0, shared[row]) for row, size in families], heads, rows)
    of = {row: index for index, (row, _) in enumerate(families)}
    for row in range(len(tables)):
        parts_B5[row, :2] = own_first[row], own_count[row]
        if row in among:
            head, place = among[row]
            parts_B5[row, 2:] = first[of[head]], count[of[head]], place
    return Plan(tables_BM, own_I4, shared_J4, parts_B5)


def _families(tables: Sequence[Sequence[int]], shared: Sequence[int], most: int) -> list[tuple[int, int]]:
    """(first row, rows) of neighbours that share pages, at most so many together."""
    found: list[tuple[int, int]] = []
    for row in range(len(tables)):
        if found and found[-1][1] < most:
            head, size = found[-1]
            if shared[row] and shared[row] == shared[head] and tables[row][0] == tables[head][0]:
                found[-1] = head, size + 1
                continue
        found.append((row, 1))
    return found


def _items(ranges: list[tuple[int, int, int, int]], heads: int, rows: int) -> tuple[Ints, list[int], list[int]]:
    """Ranges of pages cut into pieces, so that there is work for all multiprocessors and none waits for a long one."""
    pages = sum(stop - start for _, _, start, stop in ranges)
    most = -(-PROGRAMS // heads)
    size = max(1, -(-pages // most))
    items: list[tuple[int, int, int, int]] = []
    firsts, counts = [], []
    for row, size_of, start, stop in ranges:
        firsts.append(len(items))
        items += [(row, size_of, at, min(at + size, stop)) for at in range(start, stop, size)]
        counts.append(len(items) - firsts[-1])
    table = np.zeros((rows + most, 4), np.int32)
    if items:
        table[: len(items)] = items
    return table, firsts, counts


class PagedDecode:
    """A layout: the newest token of each row, whose key and value are written to its page first."""

    def __init__(self, pool: Tensor, at: Plan, positions_B: Tensor, *, sharing: bool, longest: int) -> None:
        """`at` holds tensors. `sharing`: whether any item is shared."""
        self.pool = pool
        self.at = at
        self.positions_B = positions_B
        self.sharing = sharing
        self.longest = longest

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        keys_NKPd, values_NKPd = self.pool[0, layer], self.pool[1, layer]
        if self.pool.is_cuda:
            from postgrad.attention import paged_triton as kernels

            kernels.write(keys_NKPd, values_NKPd, self.at.tables_BM, self.positions_B, key_1KTd[0], value_1KTd[0])
            out_BHd = kernels.attend(
                query_1HTd[0], keys_NKPd, values_NKPd, self.at, self.positions_B, scale, sharing=self.sharing
            )
        else:
            slot_B, width = self.positions_B // PAGE, self.at.tables_BM.shape[1]
            page_B = self.at.tables_BM.gather(1, slot_B.clamp(max=width - 1)[:, None])[:, 0]
            # A row that is over goes on to the end of its burst; what it writes beyond its pages is nobody's.
            page_B = torch.where(slot_B < width, page_B, NOWHERE)
            keys_NKPd[page_B, :, self.positions_B % PAGE] = key_1KTd[0].transpose(0, 1)
            values_NKPd[page_B, :, self.positions_B % PAGE] = value_1KTd[0].transpose(0, 1)
            out_BHd = _attend(
                query_1HTd[0], keys_NKPd, values_NKPd, self.at.tables_BM, self.positions_B, self.longest, scale
            )
        return out_BHd.transpose(0, 1)[None]


def _attend(
    query_HBd: Tensor,
    keys_NKPd: Tensor,
    values_NKPd: Tensor,
    tables_BM: Tensor,
    at_B: Tensor,
    longest: int,
    scale: float,
) -> Tensor:
    """[B, H, d], by gathering every row's pages."""
    keys_BKLd, values_BKLd = gather(keys_NKPd, tables_BM, longest), gather(values_NKPd, tables_BM, longest)
    seen_B11L = (torch.arange(longest, device=at_B.device) <= at_B[:, None])[:, None, None]
    out_BH1d = F.scaled_dot_product_attention(
        query_HBd.transpose(0, 1)[:, :, None],
        keys_BKLd,
        values_BKLd,
        attn_mask=seen_B11L,
        scale=scale,
        enable_gqa=query_HBd.shape[0] != keys_NKPd.shape[1],
    )
    return out_BH1d[:, :, 0]


def gather(pages_NKPd: Tensor, tables_BM: Tensor, longest: int) -> Tensor:
    """[B, K, longest, d]: each row's first tokens, out of its pages."""
    wanted = -(-longest // PAGE)
    return pages_NKPd[tables_BM[:, :wanted].long()].transpose(1, 2).flatten(2, 3)[:, :, :longest]
