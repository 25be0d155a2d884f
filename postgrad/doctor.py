"""What this machine has, what is missing and how to get it. Sound: everything that postgrad cannot do without is there."""

from __future__ import annotations

import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from postgrad import sandbox

CORE = {
    "torch": "2.11",
    "transformers": "5.17",
    "safetensors": "0.5",
    "tokenizers": "0.22",
    "pydantic": "2.11",
    "PyYAML": "6",
    "typer": "0.16",
    "rich": "14",
    "jinja2": "3.1",
    "numpy": "2",
    "math-verify": "0.9",
    "pyarrow": "20",
}
"""Least versions; tests/test_cli.py holds them to pyproject.toml."""
EXTRAS = {
    "track": ("tensorboard", "wandb", "trackio"),
    "test": (
        "pytest",
        "hypothesis",
        "scipy",
        "trl",
        "peft",
        "datasets",
        "playwright",
        "axe-playwright-python",
        "tensorboard",
        "triton",
    ),
    "check": ("ruff", "mypy"),
}
PYTHON = ((3, 11), (3, 13))
LEAST_MEMORY_GIB, LEAST_DISK_GIB = 4.0, 5.0


@dataclass(frozen=True, slots=True)
class Finding:
    name: str
    state: Literal["ok", "warning", "error"]
    """error: postgrad does not work; warning: something it can do does not, or may not."""
    found: str
    advice: str = ""


def examine() -> list[Finding]:
    """Everything, in the order in which to read it."""
    return [python(), *packages(), *extras(), *devices(), memory(), disk(Path.cwd()), *sandboxed(), chromium()]


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing is an error."""
    return all(finding.state != "error" for finding in findings)


def render(findings: list[Finding]) -> str:
    """One line each, with the advice beneath; the verdict last."""
    marks = {"ok": "  ok ", "warning": "warn ", "error": "FAIL "}
    lines = []
    for finding in findings:
        lines.append(f"{marks[finding.state]} {finding.name:<14} {finding.found}")
        if finding.advice:
            lines.append(f"      {'':<14} -> {finding.advice}")
    lines.append("postgrad can run here" if healthy(findings) else "postgrad cannot run here: see FAIL above")
    return "\n".join(lines)


def python(version: tuple[int, int] = sys.version_info[:2]) -> Finding:
    least, most = PYTHON
    wanted = f"{least[0]}.{least[1]} to {most[0]}.{most[1]}"
    found = platform.python_version() if version == sys.version_info[:2] else f"{version[0]}.{version[1]}"
    if version < least:
        return Finding("python", "error", found, f"postgrad needs Python {wanted}")
    if version > most:
        return Finding("python", "warning", found, f"not tried: postgrad is tested on Python {wanted}")
    return Finding("python", "ok", found)


def packages() -> Iterator[Finding]:
    """What postgrad cannot do without."""
    for name, least in CORE.items():
        yield package(name, installed(name), least)


def package(name: str, version: str | None, least: str) -> Finding:
    command = f"pip install '{name}>={least}'"
    if version is None:
        return Finding(name, "error", "not installed", command)
    if _release(version) < _release(least):
        return Finding(name, "error", f"{version} is older than {least}", command)
    return Finding(name, "ok", version)


def extras() -> Iterator[Finding]:
    """Optional packages by the extra that brings them."""
    for extra, names in EXTRAS.items():
        missing = [name for name in names if installed(name) is None]
        if missing:
            yield Finding(f"[{extra}]", "warning", f"without {', '.join(missing)}", f"pip install 'postgrad[{extra}]'")
        else:
            yield Finding(f"[{extra}]", "ok", ", ".join(f"{name} {installed(name)}" for name in names))


def installed(name: str) -> str | None:
    """The version of an installed distribution, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def devices() -> Iterator[Finding]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Finding("cpu", "ok", f"{cores} cores, {platform.machine()}")
    try:
        import torch
    except (ImportError, OSError) as error:
        yield Finding("torch", "error", f"cannot be imported: {error}", "install torch again: https://pytorch.org")
        return
    if not torch.cuda.is_available():
        built = f"torch is built for CUDA {torch.version.cuda}" if torch.version.cuda else "torch is built for CPU only"
        yield Finding("gpu", "ok", f"none ({built}); the laptop presets need none")
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        found = f"cuda:{index} {properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        if properties.major < 8:
            advice = "no bfloat16 arithmetic before compute capability 8.0: use model.dtype=float32"
            yield Finding("gpu", "warning", found, advice)
        else:
            yield Finding("gpu", "ok", found)


def memory() -> Finding:
    """The least of the machine's memory and the limit of its control group."""
    amounts = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        if Path(limit).is_file() and (text := Path(limit).read_text().strip()).isdecimal():
            amounts.append(int(text))
    gib = min(amounts) / 2**30
    if gib < LEAST_MEMORY_GIB:
        advice = f"less than {LEAST_MEMORY_GIB:g} GiB: lower batch sizes (per_device_train_batch_size, eval.batch_size)"
        return Finding("memory", "warning", f"{gib:.1f} GiB", advice)
    return Finding("memory", "ok", f"{gib:.1f} GiB")


def disk(folder: Path) -> Finding:
    gib = shutil.disk_usage(folder).free / 2**30
    found = f"{gib:.1f} GiB free in {folder}"
    if gib < LEAST_DISK_GIB:
        advice = f"less than {LEAST_DISK_GIB:g} GiB: write runs elsewhere with --out, or lower save_total_limit"
        return Finding("disk", "warning", found, advice)
    return Finding("disk", "ok", found)


def sandboxed() -> Iterator[Finding]:
    """The layers around code that a model wrote, tried; without one of them such code is not run."""
    found = sandbox.layers()
    active = [layer for layer in found if layer.active]
    if active:
        yield Finding("sandbox", "ok", "; ".join(f"{layer.name}: {layer.found}" for layer in active))
    for why in dict.fromkeys(layer.found for layer in found if not layer.active):
        missing = [layer for layer in found if not layer.active and layer.found == why]
        names = ", ".join(layer.name for layer in missing)
        consequence = (
            "so that code of a model is not run here"
            if not active
            else "open: " + "; ".join(layer.open for layer in missing)
        )
        yield Finding("sandbox", "warning", f"without {names}", f"{why}; {consequence}")
    if sandbox.lockdown():
        yield Finding("sandbox", "warning", "weaker, as asked for", "open: " + "; ".join(sandbox.GAPS))


def chromium() -> Finding:
    """The browser that the tests of report pages use."""
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return Finding("chromium", "ok", path)
    downloads = Path(os.environ.get("PLAYWRIGHT_BROWSERS_PATH") or Path.home() / ".cache" / "ms-playwright")
    if found := sorted(downloads.glob("chromium*")):
        return Finding("chromium", "ok", str(found[-1]))
    advice = "only for tests of report pages: apt install chromium, or playwright install chromium"
    return Finding("chromium", "warning", "not found", advice)


def _release(version: str) -> tuple[int, ...]:
    """(2, 13) of "2.13.0+cpu": numbers up to the first that is none, without trailing zeros."""
    numbers = [int(part) for part in re.match(r"[\d.]*", version)[0].split(".") if part]  # type: ignore[index]
    while numbers and numbers[-1] == 0:
        numbers.pop()
    return tuple(numbers)
