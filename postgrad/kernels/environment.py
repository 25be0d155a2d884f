"""Where a verdict is reached: hardware, compiler, versions, seeds, hashes of task and code."""

from __future__ import annotations

import hashlib
import os
import platform
import time
from collections.abc import Mapping
from functools import cache
from importlib import metadata
from typing import Any

from postgrad import __version__
from postgrad.kernels.verdict import Environment
from postgrad.run import commit, hardware


def environment(
    *, task: str, code: str, seeds: Mapping[str, int], compiler: str | None, gpu: Mapping[str, Any] | None = None
) -> Environment:
    """`task` and `code` are the whole texts; `compiler` is what the compiler says of itself and the flags it got; `gpu` what
    gpu/machine.py saw before and after the timing."""
    return Environment(
        hardware=_hardware() if gpu is None else {**_hardware(), "gpu in use": gpu},
        compiler=compiler,
        versions=_versions(),
        seeds=dict(seeds),
        task_sha256=_sha256(task),
        code_sha256=_sha256(code),
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        load=os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    )


# Each asks another program once, and neither changes while we run.
@cache
def _hardware() -> Mapping[str, Any]:
    return hardware()


@cache
def _versions() -> Mapping[str, str]:
    return {
        "postgrad": f"{__version__} ({commit()})",
        "python": platform.python_version(),
        "torch": metadata.version("torch"),
        "numpy": metadata.version("numpy"),
        "system": platform.platform(),
    }


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
