"""The trainer's weights into the server, after vLLM's "Weight Transfer": the server's endpoints say when, the GPUs carry the data.

    ipc    the server is on the trainer's own GPU and reads the trainer's memory in place
    nccl   the server is on other GPUs; every tensor is broadcast to all its workers

Both as documented for a "Trainer Without vLLM over HTTP": torch is all that they need here.

An update is pause (in-flight requests finish, keys and values of the old weights are dropped), start, update, finish, resume.
Each is acknowledged; the middle three are never repeated. After a failure the server stays paused, since nobody knows what it holds.
"""

from __future__ import annotations

import base64
import pickle
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed
from torch import Tensor
from torch.multiprocessing.reductions import reduce_tensor

from postgrad.run import Failed
from postgrad.sample.vllm.client import DEV, Client, Facts

dist: Any = torch.distributed  # its stubs do not name what it exports


class Transfer(Protocol):
    def join(self, client: Client, workers: int, device: torch.device) -> None:
        """Once: meet the server's workers."""
        ...

    def send(self, client: Client, named: Mapping[str, Tensor]) -> None:
        """All tensors, in order; return when they have arrived. They stay as they are until the update has finished."""
        ...


class Ipc:
    """CUDA IPC: the server's one worker opens handles of the tensors that the trainer trains. Nothing is copied on our side."""

    def join(self, client: Client, workers: int, device: torch.device) -> None:
        if device.type != "cuda" or workers != 1:
            raise Failed(
                f"{client.url} takes weights by CUDA IPC with {workers} workers from a model on {device}: it must share the trainer's "
                'GPU alone; for other GPUs start it with --weight-transfer-config \'{"backend": "nccl"}\''
            )
        client.phase("/init_weight_transfer_engine", {"init_info": {"packed": False}})

    def send(self, client: Client, named: Mapping[str, Tensor]) -> None:
        torch.cuda.ipc_collect()  # what the last update's reader has let go
        gpu = str(torch.cuda.get_device_properties(next(iter(named.values())).device).uuid)
        handles = [{gpu: reduce_tensor(tensor)[1]} for tensor in named.values()]
        torch.cuda.synchronize()
        pickled = base64.b64encode(pickle.dumps(handles)).decode()
        client.phase("/update_weights", {"update_info": described(named) | {"ipc_handles_pickled": pickled}})


class Nccl:
    """A broadcast from this process, rank 0, to every worker of the server.

    The group's unique id is read from torch's store under the key "0", where ProcessGroupNCCL leaves it: a detail of torch that
    vLLM's documentation leans on as well.
    """

    def __init__(self) -> None:
        self._group: Any = None

    def join(self, client: Client, workers: int, device: torch.device) -> None:
        if device.type != "cuda":
            raise Failed(f"{client.url} takes weights by NCCL, and the model is on {device}: train on a GPU")
        store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        group = self._group = dist.ProcessGroupNCCL(store, 0, 1 + workers, dist.ProcessGroupNCCL.Options())

        def invite() -> None:
            reader = dist.TCPStore("127.0.0.1", store.port, is_master=False)
            reader.wait(["0"], timedelta(seconds=client.patience.control))
            unique = base64.b64encode(reader.get("0")).decode()
            info = {"nccl_unique_id_b64": unique, "rank_offset": 1, "world_size": 1 + workers, "packed": False}
            client.phase("/init_weight_transfer_engine", {"init_info": info})

        def enter() -> None:
            with torch.cuda.device(device):
                group.eager_connect_single_device(device)
                group.allreduce([torch.zeros(1, device=device)]).wait()  # the workers' first call
                torch.cuda.synchronize()

        together(client, invite, enter)

    def send(self, client: Client, named: Mapping[str, Tensor]) -> None:
        root = dist.BroadcastOptions()
        root.rootRank = 0

        def broadcast() -> None:
            device = next(iter(named.values())).device
            with torch.cuda.device(device):
                for tensor in named.values():
                    self._group.broadcast([tensor], root).wait()
                torch.cuda.synchronize()

        together(client, lambda: client.phase("/update_weights", {"update_info": described(named)}), broadcast)


TRANSFERS: dict[str, Callable[[], Transfer]] = {"ipc": Ipc, "nccl": Nccl}
"""By the names of vLLM's backends."""


class Publisher:
    """Gives one server the weights of the model in training; samplers of the same server share it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self._facts: Facts | None = None
        self._transfer: Transfer | None = None

    @property
    def facts(self) -> Facts:
        """The server's, asked for once: waits until it has started."""
        if self._facts is None:
            self._facts = self.client.facts()
        return self._facts

    def publish(self, model: Any, version: str) -> None:
        """Return when the server has acknowledged all weights. Raises Failed, ValueError for adapters that are not merged."""
        named = weights(model)
        if self._transfer is None:
            backend = self.facts.backend
            if backend not in TRANSFERS:
                raise Failed(
                    f"{self.client.url} takes weights by {backend!r}, wanted one of {sorted(TRANSFERS)}: {DEV} "
                    f'\'{{"backend": "nccl"}}\', or "ipc" on the trainer\'s own GPU'
                )
            transfer = TRANSFERS[backend]()
            transfer.join(self.client, self.facts.workers, next(model.parameters()).device)
            self._transfer = transfer
        self.client.ask("POST", "/pause?mode=wait", seconds=self.client.patience.answer, hint=DEV)
        self.client.phase("/start_weight_update", {})
        self._transfer.send(self.client, named)
        self.client.phase("/finish_weight_update", {"weight_version": version})
        self.client.ask("POST", "/resume", hint=DEV)


def weights(model: Any) -> dict[str, Tensor]:
    """Parameters by the names of the model's checkpoint, which are what the server loads; a tied head comes once."""
    named = {}
    for name, tensor in model.named_parameters():
        if name.startswith("base_model.model.") or "lora_" in name:
            raise ValueError(
                f"the model has the adapter parameter {name!r}: merge adapters before the server follows it"
            )
        plain = name.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")
        named[plain] = tensor.detach().contiguous()
    return named


def described(named: Mapping[str, Tensor]) -> dict[str, Any]:
    return {
        "names": list(named),
        "dtype_names": [str(tensor.dtype).removeprefix("torch.") for tensor in named.values()],
        "shapes": [list(tensor.shape) for tensor in named.values()],
    }


def together(client: Client, call: Callable[[], None], work: Callable[[], None]) -> None:
    """The server's call and our side of it, at once: each ends only if the other takes part. The first failure ends the wait."""
    ended: queue.Queue[tuple[str, Exception | None]] = queue.Queue()

    def run(name: str, job: Callable[[], None]) -> None:
        try:
            job()
        except Exception as error:  # Boundary: it is raised again in the caller's thread.
            ended.put((name, error))
        else:
            ended.put((name, None))

    jobs = {"the server's answer": call, "our side of the transfer": work}
    for name, job in jobs.items():
        # Daemons: a collective whose other side is gone cannot be interrupted, and must not keep the process.
        threading.Thread(target=run, args=(name, job), name=f"vllm: {name}", daemon=True).start()
    deadline = time.monotonic() + client.patience.control
    missing: Sequence[str] = list(jobs)
    while missing:
        try:
            name, error = ended.get(timeout=max(deadline - time.monotonic(), 0.01))
        except queue.Empty:
            client.server.check()
            raise Failed(
                f"{client.url}: waited {client.patience.control:g} s for {' and '.join(missing)}: see the server's log, and that both "
                "sides reach each other (NCCL_SOCKET_IFNAME); restart the server before resuming the run"
            ) from None
        if isinstance(error, Failed):
            raise error
        if error is not None:
            raise Failed(f"{client.url}: {name} failed: {type(error).__name__}: {error}") from error
        missing = [other for other in missing if other != name]
