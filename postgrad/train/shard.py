"""A model over several ranks: FSDP2. Each holds a part of every weight, gradient and moment, and all compute with the whole.

A step's gradient is the SUM over ranks of what their micro-batches add to it; `fit` has divided by the whole step's count, so
nothing is averaged over ranks. Layers are gathered one at a time, in forward and backward passes; for sampling, where
ranks run different numbers of passes, all of them at once (`whole`): the weights, not the state of training, must fit on
each device.

What is saved is whole and the same as one process saves, so a checkpoint goes on with any number of ranks. Without ranks every
function here but `whole_*`, which copy, gives back what it was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from postgrad.ranks import Ranks
from postgrad.train import adapter
from postgrad.train.layers import decoder_layers


def shard(model: Any, ranks: Ranks, device: torch.device) -> Any:
    """Divide the model's weights, in place, among the ranks' devices. They must be equal on all ranks.

    Raises ValueError where the ranks have not a device each.
    """
    if ranks.size == 1:
        return model
    if device.index is not None:
        raise ValueError(f"model.device={device} names one device for {ranks.size} ranks: use {device.type} or auto")
    if device.type == "cuda" and ranks.size > torch.cuda.device_count():
        raise ValueError(
            f"{ranks.size} ranks for {torch.cuda.device_count()} GPUs: give torchrun that --nproc-per-node"
        )
    mesh = init_device_mesh(device.type, (ranks.size,))
    # The model itself too: its embeddings would stay whole after a validation, and nothing may see them so.
    for part in [*decoder_layers(model), model]:
        # Ranks' gradients are added up in float32, whatever the weights are.
        policy = MixedPrecisionPolicy(reduce_dtype=torch.float32)
        fully_shard(part, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
    for part in _parts(model):
        part.set_gradient_divide_factor(1.0)
        part.set_force_sum_reduction_for_comms(True)
    return model


def is_sharded(model: Any) -> bool:
    return isinstance(model, FSDPModule)


def _parts(model: Any) -> list[FSDPModule]:
    return [part for part in model.modules() if isinstance(part, FSDPModule)] if is_sharded(model) else []


@contextmanager
def whole(model: Any) -> Iterator[None]:
    """All weights on every rank for as long as this lasts, so that each may run as many forward passes as it likes."""
    parts = _parts(model)
    for part in parts:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in parts:
            part.reshard()
            part.set_reshard_after_forward(True, recurse=False)


def is_divided(optimizer: torch.optim.Optimizer) -> bool:
    return any(isinstance(weight, DTensor) for group in optimizer.param_groups for weight in group["params"])


def local(tensor: Tensor) -> Tensor:
    """This rank's part."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def full(tensor: Tensor) -> Tensor:
    """The whole tensor; every rank must ask."""
    if not isinstance(tensor, DTensor):
        return tensor
    if tensor.dtype != torch.int16:
        return tensor.full_tensor()
    # Neither gloo nor NCCL sends it; as bfloat16 the bits travel as they are.
    sent = tensor.to_local().view(torch.bfloat16)
    whole = DTensor.from_local(sent, tensor.device_mesh, tensor.placements, shape=tensor.shape, stride=tensor.stride())
    return whole.full_tensor().view(torch.int16)


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """This rank's part of a tensor that every rank has whole, divided as `other` is."""
    if not isinstance(other, DTensor):
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


class HostMemory:
    """Copies of tensors in host memory that later updates do not reach; the next ones of the same names take their place.

    Making memory costs several times the copy: pages are cleared, and pinned where a GPU writes them.
    """

    def __init__(self) -> None:
        self._held: dict[str, Tensor] = {}

    def copy(self, name: str, tensor: Tensor) -> Tensor:
        """From a GPU it is there once the stream has been waited for."""
        if name not in self._held:
            self._held[name] = torch.empty_like(tensor, device="cpu", pin_memory=tensor.is_cuda)
        return self._held[name].copy_(tensor, non_blocking=True)


def whole_weights(model: Any, host: HostMemory, ranks: Ranks) -> dict[str, Tensor]:
    """What rank 0 saves, in host memory; every rank must ask."""
    gathered: dict[int, Tensor] = {}
    weights = {}
    for name, weight in adapter.stored(model).items():
        # Tied weights stay one tensor, so that they are written once.
        if id(weight) not in gathered:
            one = full(weight.detach())
            gathered[id(weight)] = host.copy(name, one) if ranks.is_main else one.new_empty(0)
        weights[name] = gathered[id(weight)]
    return weights


def whole_moments(optimizer: torch.optim.Optimizer, host: HostMemory, ranks: Ranks) -> dict[str, Any]:
    """The optimizer's state as one process would have it, in host memory; every rank must ask."""
    state = optimizer.state_dict()
    moments: dict[int, dict[str, Tensor]] = {}
    for index, values in state["state"].items():
        moments[index] = {}
        for name, value in values.items():
            one = full(value)
            if ranks.is_main:
                moments[index][name] = host.copy(f"{index} {name}", one)
    return {**state, "state": moments}


def take_weights(model: torch.nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Copy whole weights into a model, sharded or not."""
    own = model.state_dict()
    model.load_state_dict(
        {name: like(weight, own[name]) if name in own else weight for name, weight in weights.items()}
    )


def take_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """The same for an optimizer's whole state."""
    weights = [weight for group in optimizer.param_groups for weight in group["params"]]
    parts = {
        index: {name: like(v, weights[index]) if v.shape == weights[index].shape else v for name, v in values.items()}
        for index, values in state["state"].items()
    }
    optimizer.load_state_dict({**state, "state": parts})
