"""The vLLM server: one that runs already, or one of our own that is started for a stage and ended with it.

A process that ends is noticed: whoever waits for an answer calls `check`, which then raises with the log's last lines.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postgrad.run import Failed

LAST_LINES = 20
"""Of the log, in an error."""


@dataclass(frozen=True, slots=True)
class Server:
    url: str
    """As in http://127.0.0.1:8000."""
    process: subprocess.Popen[bytes] | None = None
    """None: somebody else's, of which nothing is known but its answers."""
    log: Path | None = None

    def check(self) -> None:
        """Raises Failed where the process has ended."""
        if self.process is None or self.process.poll() is None:
            return
        assert self.log is not None, "a process has a log"
        last = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        raise Failed(
            f"the vLLM server at {self.url} ended with exit code {self.process.returncode}; the last lines of {self.log}:\n"
            + "\n".join(f"    {line}" for line in last)
        )


def command(
    model: str,
    *,
    executable: str,
    port: int,
    dtype: str,
    backend: str,
    logprobs_mode: str,
    max_model_len: int,
    tensor_parallel_size: int,
    gpu_memory_utilization: float,
) -> list[str]:
    """`vllm serve` with what the sampler needs of it. It listens on this machine alone."""
    options = {
        "host": "127.0.0.1",
        "port": port,
        "dtype": dtype,
        "max-model-len": max_model_len,
        "tensor-parallel-size": tensor_parallel_size,
        "gpu-memory-utilization": gpu_memory_utilization,
        "logprobs-mode": logprobs_mode,
        "weight-transfer-config": f'{{"backend": "{backend}"}}',
        "generation-config": "vllm",  # nothing of the model's own top-p, penalties or temperature
        "uvicorn-log-level": "warning",  # a line for each request would hide what went wrong
    }
    return [
        executable,
        "serve",
        model,
        *(part for name, value in options.items() for part in (f"--{name}", str(value))),
    ]


@contextmanager
def started(model: str, log: Path, *, devices: str | None, **options: Any) -> Iterator[Server]:
    """A server of the model in the folder `model`, alive as long as the block; `options` are those of `command`.

    `devices` are GPUs as CUDA_VISIBLE_DEVICES names them; None: those of this process. Weights then travel by CUDA IPC, which the
    server only takes with VLLM_ALLOW_INSECURE_SERIALIZATION: who can reach its port on this machine can run code in it.

    Returns before the server answers; `Client` waits for it. Raises ValueError where the executable cannot be started.
    """
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    switches = {"VLLM_SERVER_DEV_MODE": "1"}  # without it there are no endpoints for weights
    if devices is None:
        switches["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    else:
        switches["CUDA_VISIBLE_DEVICES"] = devices
    arguments = command(model, port=port, backend="ipc" if devices is None else "nccl", **options)
    with log.open("ab") as written:
        process = _start(arguments, {**os.environ, **switches}, written)
    try:
        yield Server(f"http://127.0.0.1:{port}", process, log)
    finally:
        _stop(process)


def _start(arguments: list[str], environment: Mapping[str, str], log: Any) -> subprocess.Popen[bytes]:
    try:
        # A session of its own: Ctrl-C is for us, and what it starts ends with it.
        return subprocess.Popen(
            arguments, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    except OSError as error:
        raise ValueError(
            f"the vLLM server cannot be started: {error}; rl.vllm.executable={arguments[0]!r} must be the `vllm` command of an "
            "environment that has vLLM, or give rl.vllm.server_base_url of a running server"
        ) from error


def _stop(process: subprocess.Popen[bytes], patience: float = 30) -> None:
    """End the process and all that it started: politely, then not."""
    for ending in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):  # Nobody of the group is left.
            os.killpg(process.pid, ending)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience)
