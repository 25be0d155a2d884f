"""Keys and values on a GPU: pages of one pool, given to prefixes and running sequences as they grow, and decoding through CUDA graphs.

A prefix's full pages are shared by all who run behind it; its last, partly filled page is copied for each, because each writes on in
it. A call of `decode` draws `steps` tokens for every row without asking the host: the drawn tokens are the next step's input, and what
is read back is read once. A graph holds one step for a number of rows; batches are filled up to the next such number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from postgrad.attention import Packed
from postgrad.attention.paged import NOWHERE, PAGE, PagedDecode, Plan, gather, plan
from postgrad.sample.draw import Rule, draw, rule
from postgrad.sample.region import Region
from postgrad.sample.request import Request
from postgrad.sample.scheduler import Prefix, Running, Tokens
from postgrad.sample.slots import run

SIZES = (2, 4, 8, 16, 32, 64, 96, 128, 192, 256)
"""Rows of a graph; above, multiples of 128. A row that only fills up costs little: weights are read once for all. Not 1, for
which a compiled layer would be compiled again."""
SHARE = 0.9
"""Of the memory that is free, what the pool may take."""


@dataclass(frozen=True, slots=True)
class Shape:
    layers: int
    heads: int
    """Key heads."""
    group: int
    """Query heads for each."""
    width: int


def shape(model: Any) -> Shape:
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    keys = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    return Shape(config.num_hidden_layers, keys, heads // keys, width)


class Pages:
    pass_tokens = 16_384
    steps = 16

    def __init__(self, model: Any, rows: int, requests: Sequence[Request], *, pages: int | None = None) -> None:
        """`pages`: of the pool; None: what the requests could fill, or what fits."""
        self.model = model
        self.rows = rows
        self.shape = shape(model)
        self.device = next(model.parameters()).device
        longest = max((len(one.prompt_ids) + one.max_tokens for one in requests), default=1)
        self.width = -(-longest // PAGE)
        self.pages = pages or min(self._wanted(requests), self._room())
        self.free = list(range(self.pages - 1, NOWHERE, -1))
        dims = (2, self.shape.layers, self.pages, self.shape.heads, PAGE, self.shape.width)
        # Zeros, not empty: a masked place still enters the product with the values as 0 * value, and 0 * NaN is NaN.
        size = self.pages * self._bytes()
        self._region = Region(size, self.device) if self.device.type == "cuda" else None
        memory = self._region.take()[:size] if self._region else torch.zeros(size, dtype=torch.uint8)
        self.pool = memory.view(model.dtype).view(dims)
        self._weights = _addresses(model)
        self._copies: dict[int, int] = {}
        """Page to be filled -> page to copy, before the next pass."""
        self._programs: dict[Any, _Program] = {}
        # One for all graphs: only one runs at a time, and what it draws is copied out.
        self._scratch = torch.cuda.graph_pool_handle() if self.device.type == "cuda" else None

    # ---- Pages --------------------------------------------------------------------------------------------------------

    def _wanted(self, requests: Sequence[Request]) -> int:
        """Every prefix once and the longest sequences side by side."""
        prefixes = sum(-(-len(ids[:-1]) // PAGE) for ids in {one.prompt_ids for one in requests})
        ends = [(len(one.prompt_ids) - 1, len(one.prompt_ids) + one.max_tokens) for one in requests]
        own = sorted((-(-end // PAGE) - start // PAGE for start, end in ends), reverse=True)
        # One for NOWHERE, and one more for a sequence alone that steps back.
        return 2 + prefixes + sum(own[: self.rows])

    def _room(self) -> int:
        """Pages that free memory holds."""
        if self.device.type != "cuda":
            return 1 << 30
        torch.cuda.empty_cache()
        free, _ = torch.cuda.mem_get_info(self.device)
        return int(SHARE * free / self._bytes())

    def _bytes(self) -> int:
        """Of one page in all layers."""
        itemsize: int = self.model.dtype.itemsize
        return 2 * self.shape.layers * self.shape.heads * PAGE * self.shape.width * itemsize

    # ---- Kept from one rollout to the next ----------------------------------------------------------------------------

    def serves(self, model: Any, rows: int, requests: Sequence[Request]) -> bool:
        """Whether this cache, with its graphs, is right for these requests too."""
        wide = all(len(one.prompt_ids) + one.max_tokens <= self.width * PAGE for one in requests)
        # Its memory is not mapped now, so what is free counts it in.
        room = self._room()
        enough = 0.9 * min(self._wanted(requests), room) <= self.pages <= room / SHARE
        same = model is self.model and _addresses(model) == self._weights
        return same and rows <= self.rows and wide and enough

    @property
    def empty(self) -> bool:
        return len(self.free) == self.pages - 1

    def wake(self) -> None:
        if self._region is not None:
            self._region.take()

    def sleep(self) -> None:
        """Give the memory of keys and values back; graphs stay, and find it where it was."""
        if self._region is not None:
            self._region.give_back()

    def close(self) -> None:
        self._programs.clear()
        if self._region is not None:
            self._region.close()

    def fits(self, request: Request) -> str | None:
        tokens = len(request.prompt_ids) + request.max_tokens
        # At worst it steps back near its end: all it has is a prefix then, the last page twice.
        wanted = -(-tokens // PAGE) + 1
        if wanted < self.pages and -(-tokens // PAGE) <= self.width:
            return None
        most = min((self.pages - 2) * PAGE, self.width * PAGE)
        return f"a request of {tokens} tokens, its max_tokens included, does not fit: the cache holds {most} for a sequence"

    def hold(self, prefix: Prefix) -> bool:
        pages = self._take(-(-len(prefix.ids) // PAGE))
        prefix.place = pages
        return pages is not None

    def drop(self, prefix: Prefix) -> None:
        self.free += prefix.place

    def enter(self, one: Running) -> bool:
        shared, rest = divmod(len(one.prefix.ids), PAGE)
        own = self._take(self._pages_of(one) - shared)
        if own is None:
            return False
        one.place = [*one.prefix.place[:shared], *own]
        if rest:
            self._copies[own[0]] = one.prefix.place[shared]
        return True

    def grow(self, one: Running) -> bool:
        more = self._take(self._pages_of(one) - len(one.place))
        if more is None:
            return False
        one.place += more
        return True

    def leave(self, one: Running) -> None:
        own = one.place[len(one.prefix.ids) // PAGE :]
        for page in own:
            self._copies.pop(page, None)
        self.free += own

    def _pages_of(self, one: Running) -> int:
        """By the end of the next call of `decode`."""
        return -(-(one.cached + min(self.steps, one.left)) // PAGE)

    def _take(self, count: int) -> list[int] | None:
        if count > len(self.free):
            return None
        return [self.free.pop() for _ in range(count)]

    def _copy(self) -> None:
        if self._copies:
            pairs = torch.tensor(list(self._copies.items()), device=self.device)
            # By layer: what is read is held once more, which for a thousand sequences and all layers at once was 7 GiB.
            for part in self.pool.flatten(0, 1):
                part[pairs[:, 0]] = part[pairs[:, 1]]
            self._copies.clear()

    # ---- Passes -------------------------------------------------------------------------------------------------------

    def prefill(self, parts: Sequence[tuple[Prefix, int, int]]) -> None:
        ids_T = torch.tensor([token for prefix, start, stop in parts for token in prefix.ids[start:stop]])
        positions_T = torch.cat([torch.arange(start, stop) for _, start, stop in parts])
        layout = _Prefill(self.pool, parts, positions_T)
        # One token's logits, because a model makes some; none is used.
        run(self.model, ids_T.to(self.device), positions_T.to(self.device), layout, keep=1)

    def decode(self, running: Sequence[Running]) -> Tokens:
        self._copy()
        # Those who share pages stand together.
        order = sorted(range(len(running)), key=lambda row: running[row].place[0])
        ordered = [running[row] for row in order]
        rows = next((size for size in SIZES if size >= len(ordered)), -(-len(ordered) // 128) * 128)
        shared = [len(one.prefix.ids) // PAGE if one.prefix.running > 1 else 0 for one in ordered]
        places = [one.place[: self._pages_of(one)] for one in ordered]
        at = plan(places, shared, heads=self.shape.heads, group=self.shape.group, rows=rows, width=self.width)
        requests = [one.request for one in ordered]
        how = rule([*requests, *requests[:1] * (rows - len(requests))], torch.device("cpu"))
        kinds = tuple(getattr(how, name) is not None for name in Rule.__slots__)
        key = rows, kinds, bool(at.shared_J4.any())
        steps = min(self.steps, max(one.left for one in ordered))
        state = _state(ordered, rows, steps, self.steps)
        program = self._programs.get(key)
        if program is None:
            program = self._programs[key] = _Program(self, rows, at, how, state, sharing=key[2])
        columns = program.run(at, how, state, steps)
        back = np.argsort(order)
        return Tokens(*(column[:, : len(ordered)].T[back].tolist() for column in columns))


def _state(ordered: Sequence[Running], rows: int, steps: int, most: int) -> tuple[Tensor, Tensor, Tensor]:
    """Newest tokens [B], their positions [B] and the uniforms of the next tokens [steps, B]."""
    padding = [0] * (rows - len(ordered))
    ids_B = torch.tensor([one.newest for one in ordered] + padding)
    positions_B = torch.tensor([one.cached for one in ordered] + padding)
    uniforms_SB = np.full((most, rows), 0.5)
    for row, one in enumerate(ordered):
        next_S = one.uniforms[len(one.ids) : len(one.ids) + steps]
        uniforms_SB[: len(next_S), row] = next_S
    return ids_B, positions_B, torch.from_numpy(uniforms_SB)


def _addresses(model: Any) -> list[int]:
    """Where the weights are: what graphs read."""
    return [weight.data_ptr() for weight in model.parameters()]


class _Program:
    """One step of decoding for a number of rows, in tensors that stay where they are; on CUDA, a graph."""

    def __init__(
        self, cache: Pages, rows: int, at: Plan, how: Rule, state: tuple[Tensor, ...], *, sharing: bool
    ) -> None:
        device = cache.device
        self.cache = cache
        self.at = at.on(device)
        self.rule = Rule(*(None if x is None else x.to(device) for x in _parts(how)))
        self.ids_B, self.positions_B, self.uniforms_SB = (x.to(device) for x in state)
        self.step_1 = torch.zeros(1, dtype=torch.long, device=device)
        self.ids_SB = torch.zeros(cache.steps, rows, dtype=torch.long, device=device)
        self.numbers_3SB = torch.zeros(3, cache.steps, rows, device=device)
        self.layout = PagedDecode(cache.pool, self.at, self.positions_B, sharing=sharing, longest=cache.width * PAGE)
        self.graph: Any = None
        if device.type == "cuda":
            # Once outside, so that kernels are compiled; `run` sets anew what this changes.
            self._step()
            self.graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self.graph, pool=cache._scratch):
                self._step()

    def run(self, at: Plan, how: Rule, state: tuple[Tensor, ...], steps: int) -> list[np.ndarray[Any, Any]]:
        """Token ids and the three log-probabilities, [steps, B] each."""
        self.at.take(at)
        for mine, new in zip(_parts(self.rule), _parts(how), strict=True):
            if mine is not None:
                mine.copy_(new)
        for mine, new in zip((self.ids_B, self.positions_B, self.uniforms_SB), state, strict=True):
            mine.copy_(new, non_blocking=True)
        self.step_1.zero_()
        for _ in range(steps):
            if self.graph is None:
                self._step()
            else:
                self.graph.replay()
        return [self.ids_SB[:steps].cpu().numpy(), *self.numbers_3SB[:, :steps].cpu().numpy()]

    def _step(self) -> None:
        logits_BV = run(self.cache.model, self.ids_B, self.positions_B, self.layout, keep=0)
        uniforms_B = self.uniforms_SB.index_select(0, self.step_1)[0]
        if logits_BV.is_cuda and not self.rule.filters:
            from postgrad.sample import draw_triton

            drawn = draw_triton.draw(logits_BV, uniforms_B, self.rule)
        else:
            drawn = draw(logits_BV, uniforms_B, self.rule)
        self.ids_SB.index_copy_(0, self.step_1, drawn.ids[None])
        numbers_31B = torch.stack([drawn.logprobs, drawn.sampled_logprobs, drawn.raw_logprobs])[:, None]
        self.numbers_3SB.index_copy_(1, self.step_1, numbers_31B)
        self.ids_B.copy_(drawn.ids)
        self.positions_B += 1
        self.step_1 += 1


def _parts(how: Rule) -> list[Any]:
    return [getattr(how, name) for name in Rule.__slots__]


class _Prefill:
    """A layout: parts of prefixes back to back; what of a prefix was computed before is read from its pages."""

    def __init__(self, pool: Tensor, parts: Sequence[tuple[Prefix, int, int]], positions_T: Tensor) -> None:
        self.pool = pool
        self.longest = max(stop for _, _, stop in parts)
        device = pool.device
        pages = torch.cat(
            [torch.tensor(prefix.place)[torch.arange(start, stop) // PAGE] for prefix, start, stop in parts]
        )
        self.page_T, self.slot_T = pages.to(device), (positions_T % PAGE).to(device)
        lengths = [stop - start for _, start, stop in parts]
        self.spans = [(sum(lengths[:index]), lengths[index]) for index in range(len(parts))]
        self.later = [
            (first, length, stop, torch.tensor([prefix.place], device=device))
            for (prefix, start, stop), (first, length) in zip(parts, self.spans, strict=True)
            if start
        ]
        fresh = [span for span, (_, start, _) in zip(self.spans, parts, strict=True) if not start]
        self.fresh_T = torch.tensor(
            [at for first, length in fresh for at in range(first, first + length)], device=device
        )
        self.packed = Packed([length for _, length in fresh], device) if fresh else None

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        keys_NKPd, values_NKPd = self.pool[0, layer], self.pool[1, layer]
        keys_NKPd[self.page_T, :, self.slot_T] = key_1KTd[0].transpose(0, 1)
        values_NKPd[self.page_T, :, self.slot_T] = value_1KTd[0].transpose(0, 1)
        if not self.later:
            assert self.packed is not None
            return self.packed(layer, query_1HTd, key_1KTd, value_1KTd, scale)
        out_1HTd = torch.empty_like(query_1HTd)
        if self.packed is not None:
            query, key, value = (x.index_select(2, self.fresh_T) for x in (query_1HTd, key_1KTd, value_1KTd))
            out_1HTd.index_copy_(2, self.fresh_T, self.packed(layer, query, key, value, scale))
        for first, length, stop, table in self.later:
            keys, values = gather(keys_NKPd, table, stop), gather(values_NKPd, table, stop)
            query = query_1HTd[:, :, first : first + length]
            group = query.shape[1] // keys.shape[1]
            out_1HTd[:, :, first : first + length] = F.scaled_dot_product_attention(
                query,
                keys.repeat_interleave(group, 1),
                values.repeat_interleave(group, 1),
                attn_mask=causal_lower_right(length, stop),
                scale=scale,
            )
        return out_1HTd
