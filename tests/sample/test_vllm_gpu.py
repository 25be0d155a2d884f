"""Weights to another process over CUDA IPC and NCCL: the stand-in's worker receives them as vLLM's does. Needs one GPU, and two."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from fake_vllm import INIT, Fake

from postgrad.sample.vllm import weights
from postgrad.sample.vllm.client import Client
from tests.conftest import nudge

WORKER = """
import base64, json, pickle, sys
import torch, torch.distributed as dist
from torch.multiprocessing.reductions import rebuild_cuda_tensor

device = torch.device("cuda", int(sys.argv[1]))
torch.cuda.set_device(device)
group = root = None
for line in sys.stdin:
    path, body = json.loads(line)
    if path == "/init_weight_transfer_engine":
        info = body["init_info"]
        if "nccl_unique_id_b64" in info:
            store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
            store.set("0", base64.b64decode(info["nccl_unique_id_b64"]))
            group = dist.ProcessGroupNCCL(store, info["rank_offset"], info["world_size"], dist.ProcessGroupNCCL.Options())
            group.eager_connect_single_device(device)
            group.allreduce([torch.zeros(1, device=device)]).wait()
            root = dist.BroadcastOptions()
            root.rootRank = 0
        print(json.dumps([]), flush=True)
        continue
    info = body["update_info"]
    if group is None:
        gpu = str(torch.cuda.get_device_properties(device).uuid)
        tensors = []
        for handle in pickle.loads(base64.b64decode(info["ipc_handles_pickled"])):
            args = list(handle[gpu])
            args[6] = device.index
            tensors.append(rebuild_cuda_tensor(*args))
    else:
        names = zip(info["shapes"], info["dtype_names"], strict=True)
        tensors = [torch.empty(shape, dtype=getattr(torch, dtype), device=device) for shape, dtype in names]
        for tensor in tensors:
            group.broadcast([tensor], root).wait()
    print(json.dumps([float(tensor.double().sum()) for tensor in tensors]), flush=True)
    tensors.clear()
"""


class Worker:
    """A process that does what the server's worker would, and says the sum of each tensor that it received."""

    def __init__(self, fake: Fake, gpu: int) -> None:
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen([sys.executable, "-c", WORKER, str(gpu)], **pipes)
        self.sums: list[float] = []
        fake.rules[INIT] = lambda nth, body: self.tell(INIT, body)
        fake.rules["/update_weights"] = lambda nth, body: self.tell("/update_weights", body)

    def tell(self, path: str, body: Any) -> tuple[int, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([path, body]) + "\n")
        self.process.stdin.flush()
        self.sums = json.loads(self.process.stdout.readline())
        return 200, {"message": "done"}


@pytest.fixture
def worker(fake: Fake, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[Worker]:
    monkeypatch.setitem(weights.TRANSFERS, "ipc", weights.Ipc)
    made = Worker(fake, request.param)
    with made.process as process:
        yield made
        process.kill()


def follows(worker: Worker, client: Client, model: Any) -> None:
    model = model.to("cuda:0")
    publisher = weights.Publisher(client)
    for step in range(3):
        publisher.publish(model, str(step))
        assert worker.sums == pytest.approx([float(tensor.double().sum()) for tensor in model.parameters()], rel=1e-9)
        nudge_on_gpu(model, step)


def nudge_on_gpu(model: Any, seed: int) -> None:
    nudge(model.cpu(), seed=seed).to("cuda:0")


@pytest.mark.skipif(torch.cuda.device_count() < 1, reason="CUDA IPC needs a GPU")
@pytest.mark.parametrize("worker", [0], indirect=True)
def test_ipc_shows_another_process_every_tensor(worker: Worker, client: Client, model: Any) -> None:
    follows(worker, client, model)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL joins two GPUs")
@pytest.mark.parametrize("worker", [1], indirect=True)
def test_nccl_sends_another_gpu_every_tensor(fake: Fake, worker: Worker, client: Client, model: Any) -> None:
    fake.backend = "nccl"
    follows(worker, client, model)
