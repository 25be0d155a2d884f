"""The training kernels alone, first against float64, then against the clock: python -m bench.gpu.kernels [--sweep] [--tiny]

Attention (postgrad/attention/varlen.py) beside SDPA over groups of documents, and the loss head (postgrad/train/head.py) beside the
matrix products that it cannot do without, at the rate that this device was measured to reach. `error` is the relative distance to float64 of
numbers and gradients, of some rows and words. `--sweep` tries sizes of tiles; `--tiny` runs the same code on a CPU, where Triton's interpreter
must have been asked for: TRITON_INTERPRET=1.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from bench.gpu import limits
from bench.gpu.place import Place

MIB = 2**20
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--tiny", action="store_true")
    asked = parser.parse_args()
    if not asked.tiny and not torch.cuda.is_available():
        parser.error("torch sees no GPU: run on one, or give --tiny to prove the code on a CPU")
    if asked.tiny and os.environ.get("TRITON_INTERPRET") != "1":
        parser.error("a CPU runs kernels in Triton's interpreter only: set TRITON_INTERPRET=1")
    with tempfile.TemporaryDirectory() as scratch:
        device = torch.device("cpu" if asked.tiny else "cuda")
        place = Place(device, torch.float32 if asked.tiny else torch.bfloat16, asked.tiny, 1, Path(scratch))
        print(f"matrix products: {limits.matmul(place) / 1e12:.0f} TFLOP/s")
        if asked.sweep:
            sweep(place)
        else:
            attention(place)
            heads(place)


def timed(place: Place, work: Callable[[], Any]) -> tuple[float, float]:
    """Best and median milliseconds of a call."""
    times = sorted(limits.repeated(place, work, 1 if place.tiny else ROUNDS))
    return 1e3 * times[0], 1e3 * times[len(times) // 2]


def mib(place: Place, work: Callable[[], Any]) -> float:
    """The most that a call allocates above what is held, what it returns included."""
    place.clear()
    held = place.held()
    with place.peak() as found:
        work()
        place.wait()
    return 0.0 if found["gib"] is None else found["gib"] * 1024 - held / MIB


def error(ours: Tensor, exact: Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm())


# ---- Attention ---------------------------------------------------------------------------------------------------------


def attention(place: Place) -> None:
    from postgrad.attention.packed import Packed

    rng = np.random.default_rng(0)
    short = place.pick(1, 64)
    packs: dict[str, tuple[list[int], dict[int, int]]] = {
        "documents of 100 to 2,000": ([int(n) // short + 1 for n in rng.integers(100, 2000, 16)], {}),
        "one of 16,384": ([16_384 // short], {}),
        "8 groups: prompt 256, 8 of 200": ([256 // short, *[200 // short] * 8] * 8, {9 * g + c: 9 * g for g in range(8) for c in range(1, 9)}),
        "4 groups: prompt 2,048, 8 of 256": ([2048 // short, *[256 // short] * 8] * 4, {9 * g + c: 9 * g for g in range(4) for c in range(1, 9)}),
    }  # fmt: skip
    print(f"{'attention, 16 query and 8 key heads of 128':44} {'tokens':>7} {'forward':>9} {'both ms':>9} {'SDPA fwd':>9} {'both ms':>9} {'MiB':>6} {'SDPA':>6}  error of out, dq, dk, dv (SDPA's)")  # fmt: skip
    for name, (lengths, parents) in packs.items():
        layout = Packed(lengths, place.device, parents)
        # As projections make them: a token's heads stand together.
        inputs = [
            torch.randn(1, sum(lengths), h, 128, device=place.device, dtype=place.dtype)
            .transpose(1, 2)
            .requires_grad_()
            for h in (16, 8, 8)
        ]
        weights = torch.randn_like(inputs[0])
        columns, errors = [], []
        for flash in (layout.flash, None):
            layout.flash = flash

            def forward() -> Tensor:
                return layout(0, *inputs, 128**-0.5)  # noqa: B023

            def both() -> tuple[Tensor, ...]:
                out = forward()
                return out, *torch.autograd.grad((out * weights).sum(), inputs)  # noqa: B023

            columns += [timed(place, forward)[0], timed(place, both)[0], mib(place, both)]
            errors.append(_attention_errors(both(), inputs, weights, lengths, parents))
        a, b, m, sa, sb, sm = columns
        told = ", ".join(f"{ours:.4f} ({theirs:.4f})" for ours, theirs in zip(*errors, strict=True))
        print(
            f"{name:44} {sum(lengths):7} {a:9.3f} {b:9.3f} {sa:9.3f} {sb:9.3f} {m:6.0f} {sm:6.0f}  {told}", flush=True
        )


def _attention_errors(
    found: tuple[Tensor, ...], inputs: list[Tensor], weights: Tensor, lengths: list[int], parents: dict[int, int]
) -> list[float]:
    """Of the last family or document alone: nothing outside of it touches it. In float64, two query heads and their key head."""
    first = max(one for one in range(len(lengths)) if one not in parents)
    start = sum(lengths[:first])
    sizes = lengths[first:]
    limit = 4096
    if sum(sizes) > limit:
        # The first tokens of a single document see no others.
        assert len(sizes) == 1
        sizes = [limit]
    here = slice(start, start + sum(sizes))
    whole = sum(sizes) == sum(lengths[first:])
    ends = np.cumsum([0, *sizes])
    seen = torch.zeros(ends[-1], ends[-1], dtype=torch.bool)
    for one, (a, b) in enumerate(pairwise(ends)):
        seen[a:b, a:b] = torch.ones(b - a, b - a, dtype=torch.bool).tril()
        if one:
            seen[a:b, : ends[1]] = True
    q, k, v = (x[0, :n, here].detach().double().requires_grad_() for x, n in zip(inputs, (2, 1, 1), strict=True))
    scores = (q @ k.transpose(1, 2) * 128**-0.5).masked_fill(~seen.to(q.device), -torch.inf)
    out = scores.softmax(-1) @ v
    exact = (out, *torch.autograd.grad((out * weights[0, :2, here].double()).sum(), (q, k, v)))
    ours = [x[0, :n, here] for x, n in zip(found, (2, 2, 1, 1), strict=True)]
    # Keys of a document that was cut have gradients from behind the cut.
    return [error(o, e.detach()) if whole or i < 2 else float("nan") for i, (o, e) in enumerate(zip(ours, exact, strict=True))]  # fmt: skip


# ---- The head ----------------------------------------------------------------------------------------------------------

SHAPES = {"1.7b, 16,384 tokens, 30 % masked": (11_469, 2048), "0.6b, 16,384 tokens": (16_384, 1024)}


class Case:
    def __init__(self, place: Place, rows: int, width: int) -> None:
        make = {"device": place.device, "dtype": place.dtype}
        rows, width, words = place.pick(rows, 40), place.pick(width, 16), place.pick(151_936, 100)
        torch.manual_seed(0)
        # Logits of a spread of 3: a peaked distribution, as a trained model's.
        self.hidden = torch.randn(rows, width, **make).requires_grad_()
        self.weight = (torch.randn(words, width, **make) * (3 / width**0.5)).requires_grad_()
        self.targets = torch.randint(words, (rows,), device=place.device)
        self.weights = torch.rand(rows, device=place.device)
        self.flops = 2 * rows * width * words
        self.inputs = self.hidden, self.weight

    def by_logprobs(self) -> tuple[Tensor, ...]:
        from postgrad.train import head

        logprobs, entropy = head.logprobs_and_entropy(self.hidden, self.weight, self.targets)
        total = -(logprobs * self.weights).sum()
        return logprobs.detach(), entropy, *torch.autograd.grad(total, self.inputs)

    def by_likelihood(self) -> tuple[Tensor, ...]:
        from postgrad.train import head

        total, logprobs, entropy = head.weighted_nll(self.hidden, self.weight, self.targets, self.weights)
        return logprobs, entropy, *torch.autograd.grad(total, self.inputs)

    def forward_only(self) -> None:
        from postgrad.train import head

        with torch.no_grad():
            head.logprobs_and_entropy(self.hidden, self.weight, self.targets)

    def exact(self) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """In float64: which rows and words were looked at, and log-probability, entropy and both gradients of them."""
        hidden, weight = self.hidden.detach().double(), self.weight.detach().double()
        rows = torch.arange(0, len(hidden), max(1, len(hidden) // 256), device=hidden.device)
        words = torch.cat([self.targets[:128], torch.arange(0, len(weight), max(1, len(weight) // 128), device=hidden.device)])  # fmt: skip
        lse = torch.cat([(part @ weight.T).logsumexp(-1) for part in hidden.split(512)])
        logp = (hidden[rows] @ weight.T) - lse[rows, None]
        p = logp.exp()
        onehot = torch.zeros_like(p).scatter_(1, self.targets[rows, None], 1)
        to_hidden = ((p - onehot) * self.weights[rows, None].double()) @ weight
        g = ((hidden @ weight[words].T) - lse[:, None]).exp() - (self.targets[:, None] == words).double()
        to_weight = (g * self.weights[:, None].double()).T @ hidden
        chosen = logp.gather(1, self.targets[rows, None])[:, 0]
        return (rows, words), [chosen, -(p * logp).sum(-1), to_hidden, to_weight]


def errors(found: tuple[Tensor, ...], at: tuple[Tensor, Tensor], exact: list[Tensor]) -> str:
    picked = [found[0][at[0]], found[1][at[0]], found[2][at[0]], found[3][at[1]]]
    return " ".join(f"{error(ours, wanted):9.2e}" for ours, wanted in zip(picked, exact, strict=True))


@contextmanager
def tiled(**sizes: Any) -> Iterator[None]:
    from postgrad.train import head

    with mock.patch.multiple(head, _tiled=lambda hidden: len(hidden) > 0, **sizes):
        yield


HEADER = f"{'':44} {'best ms':>8} {'median':>8} {'of floor':>8} {'MiB':>7}   error of logp, H, dhidden, dweight"


def row(place: Place, name: str, case: Case, work: Callable[[], Any], products: int, told: str) -> None:
    """`of floor` is against four products, which a forward and a backward pass have, or the one of a forward pass."""
    best, median = timed(place, work)
    floor = 1e3 * products * case.flops / limits.matmul(place)
    print(f"{name:44} {best:8.2f} {median:8.2f} {best / floor:8.2f} {mib(place, work):7.0f}   {told}", flush=True)


def heads(place: Place) -> None:
    sizes: dict[str, Any] = {"WIDTHS": (16, 16), "KEPT": 0} if place.tiny else {}
    for name, shape in SHAPES.items():
        case = Case(place, *shape)
        at, exact = case.exact()
        print(f"\n{name}\n{HEADER}")
        with tiled(**sizes):
            row(place, "logprobs_and_entropy, forward only", case, case.forward_only, 1, "")
            row(place, "logprobs_and_entropy", case, case.by_logprobs, 4, errors(case.by_logprobs(), at, exact))
            row(place, "weighted_nll", case, case.by_likelihood, 4, errors(case.by_likelihood(), at, exact))
        parts(place, case)
        del case, exact
        place.clear()


def parts(place: Place, case: Case) -> None:
    """The products as the head makes them, one tile each, as milliseconds for all of the vocabulary or all rows."""
    from postgrad.train.head import add_product, product

    hidden, weight = case.hidden.detach(), case.weight.detach()
    rows, words = len(hidden), len(weight)

    def told(kind: str, share: float, **work: Callable[[], Any]) -> None:
        times = ", ".join(f"{name} {timed(place, one)[0] / share:.2f}" for name, one in work.items())
        print(f"  products in {kind}, ms in all: {times}", flush=True)

    for width in (16,) if place.tiny else (2048, 4096, 8192):
        tile, sums = weight[:width], torch.zeros_like(hidden, dtype=torch.float32)
        g = torch.randn(rows, width, device=place.device, dtype=place.dtype)
        wide, grown = g.float(), torch.empty_like(tile)
        told(
            f"tiles of {rows} x {width}",
            width / words,
            logits=partial(product, hidden, tile.T, wide),
            logits_rounded=partial(product, hidden, tile.T, g),
            dweight=partial(product, g.T, hidden, grown),
            dhidden=partial(add_product, g, tile, sums),
        )
    for size in (16,) if place.tiny else (512, 1024, 2048):
        part = hidden[:size]
        g = torch.randn(size, words, device=place.device, dtype=place.dtype)
        told(
            f"groups of {size} rows",
            size / rows,
            dweight=partial(add_product, g.T, part, torch.zeros_like(weight)),
            dhidden=partial(product, g, weight, torch.empty_like(part)),
        )


def sweep(place: Place) -> None:
    for name, shape in SHAPES.items():
        case = Case(place, *shape)
        at, exact = case.exact()
        print(f"\n{name}\n{HEADER}")
        for dtype in (torch.float32, place.dtype):
            for width in (16,) if place.tiny else (1024, 2048, 4096, 8192):
                with tiled(WIDTHS=(width, width), LOGITS=dtype):
                    told = errors(case.by_logprobs(), at, exact)
                    row(place, f"logprobs, {width} words, {dtype}", case, case.by_logprobs, 4, told)
            for width in (16,) if place.tiny else (4096, 8192):
                for mebi in (0,) if place.tiny else (80, 160, 320, 640):
                    with tiled(WIDTHS=(width, width), LOGITS=dtype, KEPT=mebi * MIB):
                        told = errors(case.by_likelihood(), at, exact)
                        kept = f"nll, {2 * mebi} MiB kept, {width} words, {dtype}"
                        row(place, kept, case, case.by_likelihood, 4, told)
        del case, exact
        place.clear()


if __name__ == "__main__":
    main()
