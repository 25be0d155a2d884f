"""Baselines compute what the reference computes; the hardest decides."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from postgrad.kernels.baselines import Baseline, hardest, of_python, weak
from postgrad.kernels.verdict import Reason
from tests.kernels.test_verdict import TIMED

SOURCE = """
import torch
from torch import nn


class Model(nn.Module):
    def __init__(self, width, scale=1.0):
        super().__init__()
        self.linear = nn.Linear(width, width)
        self.scale = scale

    def forward(self, x):
        return torch.relu(self.linear(x)) * self.scale
"""


def made(baseline: Baseline) -> torch.nn.Module:
    space: dict[str, object] = {"__name__": baseline.name}
    exec(compile(baseline.source, baseline.name, "exec"), space)
    torch.manual_seed(3)
    model = space["Model"](4, scale=2.0)  # type: ignore[operator]
    assert isinstance(model, torch.nn.Module)
    return model


def test_which_there_are() -> None:
    names = [one.name for one in of_python(SOURCE, "Model", gpu=True)]
    assert names == ["eager", "compile", "reduce-overhead", "max-autotune", "cuda-graph"]
    assert [one.name for one in of_python(SOURCE, "Model", gpu=False)] == ["eager", "compile"]


def test_each_has_the_references_parameters_and_asks_for_its_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def compiled(function: object, *, mode: str) -> object:
        asked.append(mode)
        return function

    monkeypatch.setattr(torch, "compile", compiled)
    eager, *others = (made(one) for one in of_python(SOURCE, "Model", gpu=True)[:-1])
    x = torch.randn(5, 4)
    for other in others:
        assert other.state_dict().keys() == eager.state_dict().keys()
        assert torch.equal(other(x), eager(x))
    assert asked == ["default", "reduce-overhead", "max-autotune"]


def test_a_function_is_compiled_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function, *, mode: lambda x: (mode, function(x)))
    space: dict[str, object] = {}
    exec(of_python("def twice(x): return 2 * x", "twice", gpu=False)[1].source, space)
    assert space["twice"](3) == ("default", 6)  # type: ignore[operator]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU: a CUDA graph")
def test_a_graph_computes_on_new_inputs_and_keeps_earlier_outputs() -> None:
    eager, *_, graph = (made(one).cuda() for one in of_python(SOURCE, "Model", gpu=True))
    with torch.no_grad():
        one, other = torch.randn(2, 5, 4, device="cuda").unbind()
        first, second = graph(one), graph(other)
        assert torch.allclose(first, eager(one), atol=1e-6)
        assert torch.allclose(second, eager(other), atol=1e-6)


# ---- The best of them counts ----------------------------------------------------------------------------------------


def test_the_hardest_is_the_one_over_which_least_is_gained() -> None:
    timings = {
        name: replace(TIMED, speedup=speedup) for name, speedup in (("eager", 3.0), ("compile", 1.2), ("graph", 1.5))
    }
    assert hardest(timings) == "compile"
    assert weak(timings, "eager") is None, "ahead of all"
    assert hardest({**timings, "graph": replace(TIMED, speedup=None)}) is None
    assert hardest({}) is None


def test_a_gain_over_a_weak_baseline_is_told() -> None:
    timings = {"eager": replace(TIMED, speedup=368.0), "compile": replace(TIMED, speedup=0.98)}
    found = weak(timings, "eager")
    assert found is not None
    assert found.reason is Reason.T18_WEAK_BASELINE
    assert found.evidence == "368.00 over eager, 0.98 over compile"
    assert weak({**timings, "eager": replace(TIMED, speedup=1.0)}, "eager") is None, "no gain, nothing to take away"
