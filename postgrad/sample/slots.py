"""Keys and values on a CPU: every running sequence owns a slot in each layer, and running slots stand together.

So the keys of all running sequences are one tensor without a copy, [slots, K, d, length], the values [slots, K, length, d]: as the two
products of attention read them. A prefix's keys stay as its pass computed them and are copied to each slot that enters behind it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from postgrad.attention import Packed
from postgrad.sample.draw import Rule, draw, rule
from postgrad.sample.request import Request
from postgrad.sample.scheduler import Prefix, Running, Tokens


class Slots:
    pass_tokens = 1 << 30  # a prefix is computed in one pass
    steps = 1

    def __init__(self, model: Any, rows: int, longest: int) -> None:
        """For sequences of at most `longest` tokens, prompt and completion together."""
        self.model = model
        self.rows = rows
        self.longest = longest
        self.device = next(model.parameters()).device
        self._layers: dict[int, tuple[Tensor, Tensor]] = {}
        self._running: list[Running] = []
        """In the order of their slots."""
        self._rule: tuple[list[Request], Rule] = ([], Rule())

    def fits(self, request: Request) -> str | None:
        tokens = len(request.prompt_ids) + request.max_tokens
        if tokens <= self.longest:
            return None
        return f"a request of {tokens} tokens, its max_tokens included, is longer than a slot of {self.longest}"

    def hold(self, prefix: Prefix) -> bool:
        prefix.place = {}
        return True

    def drop(self, prefix: Prefix) -> None:
        pass

    def prefill(self, parts: Sequence[tuple[Prefix, int, int]]) -> None:
        assert all(start == 0 and stop == len(prefix.ids) for prefix, start, stop in parts)
        prefixes = [prefix for prefix, _, _ in parts]
        lengths = [len(prefix.ids) for prefix in prefixes]
        ids_T = torch.tensor([token for prefix in prefixes for token in prefix.ids], device=self.device)
        positions_T = torch.cat([torch.arange(length) for length in lengths]).to(self.device)
        # One token's logits, because a model makes some; none is used.
        run(self.model, ids_T, positions_T, _Prefill(prefixes, self.device), keep=1)

    def enter(self, one: Running) -> bool:
        if len(self._running) == self.rows:
            return False
        slot = one.place = len(self._running)
        self._running.append(one)
        for layer, (key_KPd, value_KPd) in one.prefix.place.items() if one.prefix.ids else ():
            keys_SKdL, values_SKLd = self._layer(layer, key_KPd, value_KPd)
            keys_SKdL[slot, :, :, : key_KPd.shape[1]] = key_KPd.mT
            values_SKLd[slot, :, : key_KPd.shape[1]] = value_KPd
        return True

    def grow(self, one: Running) -> bool:
        return True

    def leave(self, one: Running) -> None:
        """The last running one moves into the freed slot."""
        last = self._running.pop()
        if last is not one:
            for keys_SKdL, values_SKLd in self._layers.values():
                keys_SKdL[one.place], values_SKLd[one.place] = keys_SKdL[last.place], values_SKLd[last.place]
            last.place = one.place
            self._running[last.place] = last

    def decode(self, running: Sequence[Running]) -> Tokens:
        order = self._running
        assert len(running) == len(order)
        ids_B = torch.tensor([one.newest for one in order], device=self.device)
        positions_B = torch.tensor([one.cached for one in order], device=self.device)
        uniforms_B = torch.tensor([one.uniforms[len(one.ids)] for one in order], device=self.device)
        requests = [one.request for one in order]
        if requests != self._rule[0]:
            self._rule = requests, rule(requests, self.device)
        # Tensors without a version or a view's base, 5 to 10 % less time; none may meet a gradient later, so none leaves.
        with torch.inference_mode():
            logits_BV = run(self.model, ids_B, positions_B, _Decode(self, positions_B), keep=0)
            drawn = draw(logits_BV, uniforms_B, self._rule[1])
        columns = [x.tolist() for x in (drawn.ids, drawn.logprobs, drawn.sampled_logprobs, drawn.raw_logprobs)]
        places = [one.place for one in running]
        return Tokens(*([[column[place]] for place in places] for column in columns))

    def _layer(self, index: int, key_KTd: Tensor, value_KTd: Tensor) -> tuple[Tensor, Tensor]:
        if index not in self._layers:
            heads, _, width = key_KTd.shape
            # Zeros, not empty: a masked place still enters the product with the values as 0 * value, and 0 * NaN is NaN.
            # A sequence of one token comes here while decoding, and another's keys are written later.
            with torch.inference_mode(False):
                self._layers[index] = (
                    key_KTd.new_zeros((self.rows, heads, width, self.longest)),
                    value_KTd.new_zeros((self.rows, heads, self.longest, value_KTd.shape[2])),
                )
        return self._layers[index]


class _Prefill:
    """Prefixes packed back to back; each keeps the keys that its tokens get."""

    def __init__(self, prefixes: Sequence[Prefix], device: torch.device) -> None:
        self.prefixes = prefixes
        self.packed = Packed([len(prefix.ids) for prefix in prefixes], device)
        self.longest = self.packed.longest

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        start = 0
        for prefix in self.prefixes:
            stop = start + len(prefix.ids)
            prefix.place[layer] = key_1KTd[0, :, start:stop], value_1KTd[0, :, start:stop]
            start = stop
        return self.packed(layer, query_1HTd, key_1KTd, value_1KTd, scale)


class _Decode:
    """One new token for each of the first `len(positions)` slots."""

    def __init__(self, slots: Slots, positions_B: Tensor) -> None:
        self.slots = slots
        self.positions_B = positions_B
        self.rows_B = torch.arange(len(positions_B), device=positions_B.device)
        self.longest = int(positions_B.max()) + 1
        later_BL = torch.arange(self.longest, device=positions_B.device) > positions_B[:, None]
        # Numbers that are added to each head's products.
        mask_BL = torch.zeros(later_BL.shape, device=positions_B.device).masked_fill_(later_BL, -torch.inf)
        self.mask_B11L = mask_BL[:, None, None]

    def __call__(self, layer: int, query_1HTd: Tensor, key_1KTd: Tensor, value_1KTd: Tensor, scale: float) -> Tensor:
        keys_SKdL, values_SKLd = self.slots._layer(layer, key_1KTd[0], value_1KTd[0])
        keys_SKdL[self.rows_B, :, :, self.positions_B] = key_1KTd[0].transpose(0, 1)
        values_SKLd[self.rows_B, :, self.positions_B] = value_1KTd[0].transpose(0, 1)
        # A key head's G queries stand where a sequence's tokens do, so that its keys are read once for all of them.
        query_BKGd = query_1HTd[0].transpose(0, 1).unflatten(1, (key_1KTd.shape[1], -1)) * scale
        running = len(self.rows_B)
        scores_BKGL = query_BKGd @ keys_SKdL[:running, :, :, : self.longest] + self.mask_B11L
        out_BKGd: Tensor = scores_BKGL.softmax(-1).to(value_1KTd.dtype) @ values_SKLd[:running, :, : self.longest]
        return out_BKGd.flatten(1, 2).transpose(0, 1)[None]


def run(model: Any, ids_T: Tensor, positions_T: Tensor, layout: Any, *, keep: int) -> Tensor:
    """Logits of the last `keep` tokens of a row; 0: of all."""
    logits: Tensor = model(
        input_ids=ids_T[None], position_ids=positions_T[None], logits_to_keep=keep, use_cache=False, layout=layout
    ).logits
    return logits[0]
