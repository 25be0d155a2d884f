"""What this machine has for kernels of a GPU, asked from the grader's side."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from postgrad.kernels.candidate import Candidate
from postgrad.kernels.verdict import Finding, Reason

TOOLKIT = Path("/usr/local/cuda")
SEEN = ("/usr/", "/lib")
"""What every sandbox sees."""
ASKED = (
    "name", "uuid", "driver_version", "pstate", "clocks.sm", "clocks.mem", "clocks.max.sm", "temperature.gpu", "power.draw",
    "power.limit", "utilization.gpu", "clocks_event_reasons.active",
)  # fmt: skip
SLOWED = {
    0x4: "power cap",
    0x8: "hardware slowdown",
    0x20: "software thermal",
    0x40: "hardware thermal",
    0x80: "power brake",
}
"""Bits of clocks_event_reasons.active that make a GPU slower than its clocks were set to (NVML's nvmlClocksEventReason...)."""


def refusal(candidate: Candidate, gpu: int) -> Finding | None:
    """What is missing to run a kernel on this GPU; None where nothing is. Raises ValueError for C++ of a CPU."""
    if candidate.backend == "cpp":
        raise ValueError("backend 'cpp' runs on the CPU: leave the GPU out, or give Python")
    if shutil.which("nvidia-smi") is None or not Path(f"/dev/nvidia{gpu}").exists():
        return Finding(Reason.NEEDS_GPU, f"no NVIDIA GPU {gpu} here: no nvidia-smi, or no /dev/nvidia{gpu}", "runtime")
    builds = (
        candidate.backend == "cuda" or "cpp_extension" in candidate.code
    )  # PyTorch's own form of it is a torch candidate too
    wanted = ("nvcc", "ninja", "g++") if builds else ("gcc",) if candidate.backend == "triton" else ()
    lacking = [name for name in wanted if _tool(name) is None]
    if lacking:
        told = "; ".join(f"no {name} found: {INSTALL[name]}" for name in lacking)
        return Finding(Reason.NEEDS_TOOLS, told, "runtime")
    return None


INSTALL: Mapping[str, str] = {
    "gcc": "Triton compiles its launcher with it (Debian: apt install gcc python3-dev)",
    "g++": "install a C++ compiler (Debian: apt install g++)",
    "nvcc": "install the CUDA toolkit of torch.version.cuda, at /usr/local/cuda or where CUDA_HOME says",
    "ninja": "pip install ninja",
}


def _tool(name: str) -> str | None:
    """As a sandboxed program would find it: beside this Python, on the system's path, in the toolkit."""
    folders = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    if name == "nvcc":
        folders = [str(toolkit() / "bin"), *folders]
    return shutil.which(name, path=os.pathsep.join(folders))


def toolkit() -> Path:
    """Of CUDA: where the user says, where nvcc is, or the usual place (which may not be there)."""
    said = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if said:
        return Path(said)
    found = shutil.which("nvcc")
    return TOOLKIT if found is None or TOOLKIT.exists() else Path(found).resolve().parent.parent


@cache
def _driver() -> Path | None:
    """The folder of libcuda.so.1 where only LD_LIBRARY_PATH leads to it."""
    for folder in filter(None, os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)):
        if Path(folder, "libcuda.so.1").exists():
            return Path(folder)
    return None


def environment() -> dict[str, str]:
    """Of a worker with a GPU. It sees one device node, so the GPU that it has is its first: no CUDA_VISIBLE_DEVICES."""
    driver = _driver()
    return {
        "CUDA_HOME": str(toolkit()),
        "MAX_JOBS": "2",
        **({} if driver is None else {"LD_LIBRARY_PATH": str(driver)}),
    }


def folders() -> list[Path]:
    """What a worker must see besides the system's own folders."""
    wanted = [toolkit(), *([driver] if (driver := _driver()) is not None else [])]
    return [path for path in wanted if path.exists() and not str(path).startswith(SEEN)]


def look(gpu: int) -> dict[str, object]:
    """Name, driver, clocks, temperature and what slows it now, by nvidia-smi; its own words where it cannot tell."""
    asked = ["nvidia-smi", f"--id={gpu}", f"--query-gpu={','.join(ASKED)}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"unknown": str(error)}
    values = [value.strip() for value in told.stdout.strip().split(",")]
    if told.returncode or len(values) != len(ASKED):
        return {"unknown": (told.stdout + told.stderr).strip()[:300]}
    found: dict[str, object] = dict(zip(ASKED, values, strict=True))
    return found | {"slowed by": slowed(values[-1])}


def slowed(mask: str) -> list[str] | None:
    """Names of the bits of a mask such as 0x0000000000000004; None where it is none."""
    try:
        bits = int(mask, 16)
    except ValueError:
        return None
    return [name for bit, name in SLOWED.items() if bits & bit]
