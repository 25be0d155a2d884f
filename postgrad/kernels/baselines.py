"""What a kernel must beat: not the reference as it stands but the best form of it that needs no kernel.

    Python tasks   eager, which is the reference; torch.compile; on a GPU also its other modes and a CUDA graph of the eager calls
    C++ tasks      none: the reference is built as candidates are, at -O3 -march=native

A baseline is text that defines what the reference defines, so it is loaded, checked and timed like any other side, in a worker of its own
(against.py). A gain over eager alone is often a gain over Python: the speed-up that counts is the one over the best baseline (`hardest`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from postgrad.kernels.estimate import counts
from postgrad.kernels.verdict import Finding, Reason, Timing

_COMPILED = """

import torch


def _compiled(call):
    return {outputs}(torch.compile(call, mode={mode!r}))


def _as_they_are(call):
    return call


def _own(call):
    from torch.utils._pytree import tree_map

    return lambda *inputs: tree_map(lambda one: one.clone() if isinstance(one, torch.Tensor) else one, call(*inputs))


if isinstance({entry}, type):
    _Eager{entry} = {entry}

    class {entry}(_Eager{entry}):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            self._compiled = _compiled(super().forward)

        def forward(self, *inputs):
            return self._compiled(*inputs)
else:
    {entry} = _compiled({entry})
"""

# The inputs are copied in and the outputs out, both timed: a graph that skips them computes on old values and gives away its own memory.
# A graph for each choice of sizes, as torch.compile has.
_GRAPH = """


def _graphed(eager):
    import torch
    from torch.utils._pytree import tree_map

    graphs = {{}}

    def captured(inputs):
        mine = [one.clone() if isinstance(one, torch.Tensor) else one for one in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                eager(*mine)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            outputs = eager(*mine)
        return graph, mine, outputs

    def call(*inputs):
        sizes = tuple((one.shape, one.stride()) if isinstance(one, torch.Tensor) else one for one in inputs)
        if sizes not in graphs:
            graphs[sizes] = captured(inputs)
        graph, mine, outputs = graphs[sizes]
        for own, given in zip(mine, inputs, strict=True):
            if isinstance(own, torch.Tensor):
                own.copy_(given)
        graph.replay()
        return tree_map(lambda one: one.clone() if isinstance(one, torch.Tensor) else one, outputs)

    return call


if isinstance({entry}, type):
    _Eager{entry} = {entry}

    class {entry}(_Eager{entry}):
        def __init__(self, *arguments, **named):
            super().__init__(*arguments, **named)
            self._graphed = _graphed(super().forward)

        def forward(self, *inputs):
            return self._graphed(*inputs)
else:
    {entry} = _graphed({entry})
"""

MODES = {"compile": "default", "reduce-overhead": "reduce-overhead", "max-autotune": "max-autotune"}
# On a GPU the last two give outputs in a graph's memory, which the next call overwrites; what may stand for the reference gives away none.
OUTPUTS = {"compile": "_as_they_are", "reduce-overhead": "_own", "max-autotune": "_own"}


@dataclass(frozen=True, slots=True)
class Baseline:
    name: str
    source: str


def of_python(source: str, entry: str, *, gpu: bool) -> list[Baseline]:
    """`source` defines `entry`, a module's class or a function; eager is the first. Parameters keep their names, so a state dict fits all."""
    modes = MODES if gpu else {"compile": MODES["compile"]}  # on a CPU the others differ in what they try, for minutes
    made = [Baseline("eager", source)]
    made += [
        Baseline(name, source + _COMPILED.format(entry=entry, mode=mode, outputs=OUTPUTS[name]))
        for name, mode in modes.items()
    ]
    return [*made, Baseline("cuda-graph", source + _GRAPH.format(entry=entry))] if gpu else made


def hardest(timings: Mapping[str, Timing]) -> str | None:
    """The baseline over which the candidate gains least. None where one gave no number: the best may be the one that failed."""
    speedups = {name: timing.speedup for name, timing in timings.items()}
    known = {name: speedup for name, speedup in speedups.items() if speedup is not None}
    return min(known, key=known.__getitem__) if known and len(known) == len(speedups) else None


def weak(timings: Mapping[str, Timing], reference: str) -> Finding | None:
    """Against a gain over `reference` that a better baseline takes away; None where the candidate is ahead of all, or gains nothing."""
    best = hardest(timings)
    if best is None or not counts(timings[reference].speedup) or counts(timings[best].speedup):
        return None
    told = f"{timings[reference].speedup:.2f} over {reference}, {timings[best].speedup:.2f} over {best}"
    return Finding(Reason.T18_WEAK_BASELINE, told)
