"""An update of a server's weights: all of them, in its phases, and never half of them unnoticed."""

from __future__ import annotations

import base64
import pickle
import time
from collections.abc import Mapping
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from fake_vllm import INIT, PHASES, QUICK, UPDATE, Fake, Wire

from postgrad.records import Message, Problem
from postgrad.run import Failed
from postgrad.sample import vllm
from postgrad.sample.vllm import weights
from postgrad.sample.vllm.client import Client

PROBLEMS = [Problem("p0", (Message("user", "1 + 1 ="),), "2")]
HASTY = replace(QUICK, control=0.5)
FACTS = ["/health", "/version", "/v1/models", "/server_info?config_format=json", "/get_world_size"]


def test_an_update_goes_through_its_phases_and_sends_all_weights(fake: Fake, sampler: Any, model: Any) -> None:
    one = sampler(follows=False)
    one.follow(model, 7)
    assert fake.paths == [*FACTS, INIT, *UPDATE]
    bodies = dict(fake.asked)
    assert bodies["/finish_weight_update"] == {"weight_version": "7"}
    info = bodies["/update_weights"]["update_info"]
    named = dict(model.named_parameters())
    assert info["names"] == list(named) == list(fake.weights)
    assert set(info["dtype_names"]) == {"float32"}
    for name, shape in zip(info["names"], info["shapes"], strict=True):
        assert shape == list(named[name].shape)
        assert torch.equal(fake.weights[name], named[name])
    one.sample(PROBLEMS, 1)
    assert fake.completions[0]["seed"] == vllm.seed_of(3, 7, "p0", 0)
    # The second time the way is known.
    fake.asked.clear()
    one.follow(model, 8)
    assert fake.paths == UPDATE


def test_names_are_those_of_the_checkpoint(model: Any, tmp_path: Any) -> None:
    from safetensors import safe_open

    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as stored:
        assert weights.weights(model).keys() == set(stored.keys())
    assert list(weights.weights(torch.compile(model, backend="eager"))) == list(weights.weights(model))


def test_adapters_must_be_merged(fake: Fake, client: Client) -> None:
    adapter = torch.nn.Module()
    adapter.lora_A = torch.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="merge adapters"):
        weights.Publisher(client).publish(adapter, "0")
    assert not fake.asked


@pytest.mark.parametrize("path", PHASES)
def test_a_failed_phase_is_not_repeated_and_leaves_the_server_paused(
    fake: Fake, sampler: Any, model: Any, path: str
) -> None:
    fake.rules[path] = lambda nth, body: (500, {"error": "out of memory"})
    one = sampler(follows=False)
    with pytest.raises(Failed, match=f"{path}: asked once .*out of memory.*restart the server"):
        one.follow(model, 1)
    assert fake.counts[path] == 1
    assert not fake.counts["/resume"]
    with pytest.raises(ValueError, match="follows no model"):
        one.sample(PROBLEMS, 1)


def test_a_server_that_does_not_take_the_weights_has_a_deadline(fake: Fake, sampler: Any, model: Any) -> None:
    fake.rules["/update_weights"] = lambda nth, body: (fake.stopping.wait(5), None)[1]
    began = time.monotonic()
    with pytest.raises(Failed, match=r"/update_weights: asked once .*no answer within 0.5 s"):
        sampler(patience=HASTY)
    assert time.monotonic() - began < 4.9


# ---- CUDA IPC -------------------------------------------------------------------------------------------------------


def test_ipc_hands_over_every_tensors_handle_for_the_gpu_it_is_on(
    fake: Fake, client: Client, model: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU does is replaced: a handle is here the tensor's numbers."""
    monkeypatch.setattr(torch.cuda, "ipc_collect", lambda: None)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="gpu-1"))
    monkeypatch.setattr(weights, "reduce_tensor", lambda tensor: ("rebuild", (tensor.tolist(),)))
    ipc = weights.Ipc()
    ipc.join(client, 1, torch.device("cuda"))
    named = weights.weights(model)
    ipc.send(client, named)
    (_, init), (_, update) = fake.asked
    assert init == {"init_info": {"packed": False}}
    info = update["update_info"]
    handles = pickle.loads(base64.b64decode(info.pop("ipc_handles_pickled")))
    assert info == weights.described(named)
    for tensor, handle in zip(named.values(), handles, strict=True):
        assert handle == {"gpu-1": (tensor.tolist(),)}


@pytest.mark.parametrize(("workers", "device"), [(2, "cuda"), (1, "cpu")])
def test_ipc_is_for_one_worker_on_the_trainers_gpu(fake: Fake, client: Client, workers: int, device: str) -> None:
    with pytest.raises(
        Failed, match=f"with {workers} workers from a model on {device}: it must share the trainer's GPU"
    ):
        weights.Ipc().join(client, workers, torch.device(device))
    assert not fake.asked


def test_nccl_wants_a_gpu(client: Client) -> None:
    with pytest.raises(Failed, match="takes weights by NCCL, and the model is on cpu"):
        weights.Nccl().join(client, 1, torch.device("cpu"))


# ---- Both sides at once ---------------------------------------------------------------------------------------------


class Beside(Wire):
    """Sends beside the server's call, as NCCL does."""

    def __init__(self, fake: Fake, work: Any) -> None:
        super().__init__(fake)
        self.work = work

    def send(self, client: Client, named: Mapping[str, torch.Tensor]) -> None:
        call = lambda: client.phase("/update_weights", {"update_info": weights.described(named)})  # noqa: E731
        weights.together(client, call, self.work)


@pytest.fixture
def beside(fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Any:
    def use(work: Any) -> None:
        monkeypatch.setitem(weights.TRANSFERS, "ipc", lambda: Beside(fake, work))

    return use


def test_both_sides_take_part_at_once(fake: Fake, sampler: Any, beside: Any) -> None:
    """Each waits for the other."""
    came, told = [], fake.stopping.__class__()
    beside(lambda: (came.append(told.wait(10)), None)[1])
    fake.rules["/update_weights"] = lambda nth, body: (told.set(), None)[1]
    assert sampler().sample(PROBLEMS, 1)
    assert came == [True]


def test_weights_that_do_not_leave_have_a_deadline(fake: Fake, sampler: Any, beside: Any) -> None:
    beside(lambda: fake.stopping.wait(5))
    with pytest.raises(Failed, match=r"waited 0.5 s for our side of the transfer: .*NCCL_SOCKET_IFNAME"):
        sampler(patience=HASTY)
    assert not fake.counts["/finish_weight_update"]


def test_our_own_failure_does_not_wait_for_the_server(fake: Fake, sampler: Any, beside: Any) -> None:
    def broken() -> None:
        raise RuntimeError("NCCL error: remote process exited")

    beside(broken)
    fake.rules["/update_weights"] = lambda nth, body: (fake.stopping.wait(5), None)[1]
    began = time.monotonic()
    with pytest.raises(
        Failed, match="our side of the transfer failed: RuntimeError: NCCL error: remote process exited"
    ):
        sampler()
    assert time.monotonic() - began < 4.9
