"""Which servers are accepted, and that a server's end is noticed, told with its last words, and not waited for."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fake_vllm import QUICK, Fake

from postgrad.records import Message, Problem
from postgrad.run import Failed
from postgrad.sample.vllm import server as servers
from postgrad.sample.vllm.client import Client
from postgrad.sample.vllm.server import Server

PROBLEMS = [Problem("p0", (Message("user", "1 + 1 ="),), "2")]
OPTIONS: dict[str, Any] = {
    "dtype": "float32",
    "logprobs_mode": "raw_logprobs",
    "max_model_len": 64,
    "tensor_parallel_size": 2,
    "gpu_memory_utilization": 0.5,
}


@pytest.mark.parametrize("version", ["0.31.9", "dev", None])
def test_an_old_or_nameless_version_is_refused(fake: Fake, client: Client, version: Any) -> None:
    fake.version = version
    with pytest.raises(Failed, match=r"is vLLM .*0.32 is the oldest"):
        client.facts()


@pytest.mark.parametrize("version", ["0.32.0", "0.34.1rc2.dev7+g12ab", "1.0.0"])
def test_later_versions_are_accepted(fake: Fake, client: Client, version: str) -> None:
    fake.version = version
    facts = client.facts()
    assert (facts.model, facts.logprobs_mode, facts.backend, facts.workers) == ("tiny", "processed_logprobs", "ipc", 1)


def test_a_server_without_weight_transfer_is_told(fake: Fake, sampler: Any, client: Client) -> None:
    fake.backend = None
    with pytest.raises(Failed, match=r"takes weights by 'none', wanted one of \['ipc', 'nccl'\]: .*DEV_MODE=1"):
        sampler()
    fake.rules["/server_info?config_format=json"] = lambda nth, body: (404, {"detail": "Not Found"})
    with pytest.raises(Failed, match=r"answered 404.*VLLM_SERVER_DEV_MODE=1 and --weight-transfer-config"):
        client.facts()


def test_a_server_that_says_nothing_of_itself_is_no_vllm(fake: Fake, client: Client) -> None:
    fake.rules["/v1/models"] = lambda nth, body: (200, {"data": []})
    with pytest.raises(Failed, match=r"does not say what it is .*is it a vLLM server"):
        client.facts()


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://x", "http://"])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="no server's address"):
        Client(Server(url))


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def test_no_server_is_said_with_its_address() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    message = rf"{url}: waited 0.3 s for /health; .*ConnectionRefusedError.*is the server running"
    with pytest.raises(Failed, match=message):
        Client(Server(url), replace(QUICK, start=0.3)).facts()


def test_a_server_that_is_loading_is_waited_for(fake: Fake, client: Client) -> None:
    fake.rules["/health"] = lambda nth, body: (503, b"") if nth < 3 else None
    assert client.facts()
    assert fake.counts["/health"] == 4


# ---- A process of our own -------------------------------------------------------------------------------------------


def test_the_command_says_all_that_the_sampler_needs() -> None:
    words = servers.command("folder", executable="vllm", port=7, backend="nccl", **OPTIONS)
    assert words[:3] == ["vllm", "serve", "folder"]
    assert dict(zip(words[3::2], words[4::2], strict=True)) == {
        "--host": "127.0.0.1",
        "--port": "7",
        "--dtype": "float32",
        "--max-model-len": "64",
        "--tensor-parallel-size": "2",
        "--gpu-memory-utilization": "0.5",
        "--logprobs-mode": "raw_logprobs",
        "--weight-transfer-config": '{"backend": "nccl"}',
        "--generation-config": "vllm",
        "--uvicorn-log-level": "warning",
    }


def script(folder: Path, body: str) -> str:
    """A stand-in for the `vllm` command."""
    path = folder / "vllm"
    path.write_text(f"#!{sys.executable}\nimport os, subprocess, sys, time\n{body}")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(("devices", "backend"), [(None, "ipc"), ("2,3", "nccl")])
def test_it_is_started_for_its_gpus_and_ended_with_all_its_children(
    tmp_path: Path, devices: str | None, backend: str
) -> None:
    body = (
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "names = 'VLLM_SERVER_DEV_MODE', 'VLLM_ALLOW_INSECURE_SERIALIZATION', 'CUDA_VISIBLE_DEVICES'\n"
        "print(child.pid, *map(os.environ.get, names), *sys.argv, flush=True)\ntime.sleep(60)"
    )
    log = tmp_path / "vllm.log"
    with servers.started("m", log, devices=devices, executable=script(tmp_path, body), **OPTIONS) as server:
        assert server.process is not None
        while not log.read_text().endswith("\n"):
            server.check()
            time.sleep(0.01)
        child, dev, insecure, visible, *words = log.read_text().split()
        assert (dev, insecure, visible) == (("1", "1", "None") if devices is None else ("1", "None", "2,3"))
        assert f'"{backend}"}}' in words
        assert server.url.endswith(words[words.index("--port") + 1])
    assert server.process.returncode == -signal.SIGTERM
    deadline = time.monotonic() + 20
    while is_alive(int(child)):
        assert time.monotonic() < deadline, "its child lives on"
        time.sleep(0.01)


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # Nobody here collects an orphan's exit code.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


def test_a_server_that_ends_while_it_loads_is_told_with_its_last_lines(tmp_path: Path) -> None:
    body = "print(*(f'line {i}' for i in range(50)), 'CUDA out of memory', sep='\\n'); sys.exit(3)"
    options = OPTIONS | {"executable": script(tmp_path, body)}
    message = r"(?s)ended with exit code 3; the last lines of .*vllm.log:\n    line 31.*CUDA out of memory$"
    with (
        servers.started("m", tmp_path / "vllm.log", devices=None, **options) as server,
        pytest.raises(Failed, match=message),
    ):
        Client(server, QUICK).facts()


def test_a_server_that_dies_while_it_is_asked_is_told_with_its_last_lines(
    fake: Fake, sampler: Any, tmp_path: Path
) -> None:
    body = "print('NCCL watchdog: bad news', flush=True); time.sleep(60)"
    options = OPTIONS | {"executable": script(tmp_path, body)}
    with servers.started("m", tmp_path / "vllm.log", devices=None, **options) as started:
        # The stand-in answers in the process's place, until that one dies in the middle of a request.
        process = started.process
        assert process is not None
        asked = sampler(server=replace(started, url=fake.url))
        while "bad news" not in (tmp_path / "vllm.log").read_text():
            time.sleep(0.01)

        def die(nth: int, body: Any) -> Any:
            process.kill()
            process.wait()
            return 0, b"{"

        fake.rules["/v1/completions"] = die
        with pytest.raises(Failed, match=r"(?s)ended with exit code -9; the last lines .*NCCL watchdog: bad news"):
            asked.sample(PROBLEMS, 1)
        assert fake.counts["/v1/completions"] == 1, "a dead server is not asked again"


def test_an_executable_that_is_not_there_is_named(tmp_path: Path) -> None:
    wrong = str(tmp_path / "none")
    with (
        pytest.raises(ValueError, match=r"rl.vllm.executable='.*none' must be the `vllm` command"),
        servers.started("m", tmp_path / "log", devices=None, executable=wrong, **OPTIONS),
    ):
        pass
