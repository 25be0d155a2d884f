"""Compiled or recomputed, a model has the same loss and gradients; lengths cost no compilation; what is recomputed is not kept."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from postgrad.train import layers, loss, optim
from postgrad.train import model as models
from postgrad.train.batch import Batch, Document, pack
from tests.conftest import SHAPE, enliven

# torch looks whether a tensor has a gradient, and hides its warning in a way that does not hold where warnings are errors.
pytestmark = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
CPU = torch.device("cpu")


def batch(*lengths: int) -> Batch:
    rng = np.random.default_rng(0)
    documents = [
        Document(f"d{index}", tuple(map(int, rng.integers(0, 200, n))), np.array([0, *[1] * (n - 1)], np.float32))
        for index, n in enumerate(lengths)
    ]
    return pack(documents, count=1.0)


def gradients(model: Any, one: Batch) -> tuple[float, dict[str, torch.Tensor]]:
    model.train()
    model.zero_grad()
    total = loss.likelihood(model, one).total
    total.backward()
    model.eval()
    return float(total.detach()), {name: p.grad.clone() for name, p in model.named_parameters()}


def same(one: tuple[float, dict[str, torch.Tensor]], other: tuple[float, dict[str, torch.Tensor]]) -> None:
    assert one[0] == pytest.approx(other[0], rel=1e-6)
    for name, gradient in other[1].items():
        assert float((one[1][name] - gradient).norm() / gradient.norm()) < 1e-5, name


LENGTHS = [(5, 9), (12, 30, 7), (64,), (3, 3, 3, 3), (40, 2), (90, 4, 4, 4, 17)]


@pytest.fixture
def deep(tokenizer: Any) -> Any:
    """More layers than graphs."""
    shape = {**SHAPE, "num_hidden_layers": 6}
    return enliven(models.from_scratch(shape, tokenizer, seed=0, dtype=torch.float32, device=CPU))


class Alone:
    """A decoding layout for n sequences that see one token each."""

    longest = 1

    def __call__(self, layer: int, query: Any, key: Any, value: Any, scale: float) -> torch.Tensor:
        return value.repeat_interleave(query.shape[1] // key.shape[1], 1)


@torch.no_grad()
def decoded(model: Any, slots: int) -> torch.Tensor:
    ids = torch.arange(slots)[None]
    logits: torch.Tensor = model(input_ids=ids, position_ids=ids + 3, use_cache=False, layout=Alone()).logits
    return logits


def test_compiled_layers_are_the_same_and_share_few_graphs_over_all_lengths_and_in_decoding(deep: Any) -> None:
    wanted = [gradients(deep, batch(*lengths)) for lengths in LENGTHS]
    steps = {slots: decoded(deep, slots) for slots in (4, 7, 1, 30)}
    names = list(deep.state_dict())
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    layers.prepare(deep, compiled=True, recomputed=False, backend=counter)
    same(gradients(deep, batch(*LENGTHS[0])), wanted[0])
    first = counter.frame_count
    assert 0 < first <= 6, "fewer than one for each layer"
    for lengths, one in zip(LENGTHS[1:], wanted[1:], strict=True):
        same(gradients(deep, batch(*lengths)), one)
    assert counter.frame_count == first, "another length costs nothing"
    for slots, logits in steps.items():
        assert torch.allclose(decoded(deep, slots), logits, atol=1e-5)
    # One variant for training, one for decoding, one for a single token.
    assert counter.frame_count <= 3 * first
    total = counter.frame_count
    decoded(deep, 19)
    gradients(deep, batch(7, 8, 9))
    assert counter.frame_count == total
    assert list(deep.state_dict()) == names


def test_compiled_layers_are_recomputed_selectively(deep: Any) -> None:
    wanted = [gradients(deep, batch(*lengths)) for lengths in LENGTHS[:2]]
    layers.prepare(deep, compiled=True, recomputed="selective", backend="aot_eager")
    for lengths, one in zip(LENGTHS[:2], wanted, strict=True):
        same(gradients(deep, batch(*lengths)), one)


def test_bfloat16_weights_compile_with_gradients_in_float32(model_folder: Any) -> None:
    found = []
    for compiled in (False, True):
        model = models.load(str(model_folder), dtype=torch.bfloat16, device=CPU)
        layers.prepare(model, compiled=compiled, recomputed=False, backend="aot_eager")
        weights = list(model.parameters())
        sums = optim.Gradients(weights, 2)
        for lengths in LENGTHS[:2]:
            loss.likelihood(model, batch(*lengths)).total.backward()
            sums.add()
        sums.finish()
        assert {weight.grad.dtype for weight in weights} == {torch.float32}
        found.append(torch.cat([weight.grad.flatten() for weight in weights]))
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.02


PRODUCTS = {torch.ops.aten.mm.default, torch.ops.mkldnn._linear_pointwise.default}


class Watched(TorchDispatchMode):
    """Counts matrix products, and knows which of the storages made under it are still held."""

    def __init__(self) -> None:
        super().__init__()
        self.products = 0
        self.made: dict[int, tuple[StorageWeakRef, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.products += func in PRODUCTS
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else [out]:
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.made[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        return out

    def held(self) -> int:
        return sum(size for storage, size in self.made.values() if not storage.expired())


def test_recomputed_layers_have_the_same_gradient_and_keep_less(deep: Any) -> None:
    one = batch(200, 100, 50)
    wanted = gradients(deep, one)
    forwards = [layer.forward for layer in layers.decoder_layers(deep)]
    products, held = {}, {}
    deep.train()
    for how in (False, "selective", True):
        for layer, forward in zip(layers.decoder_layers(deep), forwards, strict=True):
            layer.forward = forward
        layers.prepare(deep, compiled=False, recomputed=how)
        with Watched() as watched:
            total = loss.likelihood(deep, one).total
            held[how] = watched.held()
            total.backward()
        products[how] = watched.products
        same(gradients(deep, one), wanted)
        deep.train()
    # A layer's seven products have two each in the backward pass. All are made again: ours (train/products.py) keep their input when they are done.
    assert products == {False: products[False], "selective": products[False], True: products[False] + 6 * 7}
    assert held[True] < 0.5 * held["selective"] < 0.5 * 0.8 * held[False]


def test_a_layer_in_evaluation_keeps_nothing_to_recompute(deep: Any) -> None:
    layers.prepare(deep, compiled=False, recomputed=True)
    deep.eval()
    with torch.no_grad():
        before = loss.likelihood(deep, batch(5)).total
    assert not before.requires_grad


def test_a_model_that_does_not_name_its_layers_is_refused() -> None:
    plain = torch.nn.Linear(2, 2)
    plain._no_split_modules = None
    layers.prepare(plain, compiled=False, recomputed=False)
    with pytest.raises(
        ValueError, match=r"Linear does not say which of its modules are layers .* set torch_compile and"
    ):
        layers.prepare(plain, compiled=True, recomputed=False)
