"""What this machine offers for a sandbox, found by running probes in one."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass

from postgrad.sandbox import host
from postgrad.sandbox.outcome import Ended, Limits

GAPS = (
    "files that other users may read are hidden by Landlock alone, and their names and modes can be asked for",
    "modes, owners and times of its own user's files can be changed: run it as root, which gives it another user",
    "the host's processes are seen; before Linux 6.12, those of the same user can be signalled",
    "a service that listens on a Unix socket of a visible name can be reached",
    "files: each is bounded, their sum and their number are not",
)
"""What POSTGRAD_SANDBOX=lockdown leaves open."""

_PROBE = """
import ctypes, errno, json, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def refused(act):
    try:
        act()
    except OSError as error:
        return error.errno
    return 0
def called(name, *arguments):
    return 0 if getattr(libc, name)(*arguments) >= 0 else ctypes.get_errno()
rows = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines())
print(json.dumps({
    "user": os.getuid(),
    "groups": len(os.getgroups()),
    "capabilities": [rows[name].strip().strip("0") for name in ("CapEff", "CapPrm")],
    "no_new_privileges": rows["NoNewPrivs"].strip(),
    "seccomp": rows["Seccomp"].strip(),
    "root": sorted(os.listdir("/")) if not refused(lambda: os.listdir("/")) else None,
    "write": refused(lambda: os.open("/usr/bin/env", os.O_WRONLY)),
    "processes": len([name for name in os.listdir("/proc") if name.isdecimal()]),
    "network": refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM)),
    "ptrace": called("ptrace", 0, 0, 0, 0),
    "unshare": called("unshare", 0x10000000),
    "mount": called("mount", b"none", b"/tmp", b"tmpfs", 0, None),
    "signal": refused(lambda: os.kill(os.getppid(), 0)),
}))
"""


@dataclass(frozen=True, slots=True)
class Layer:
    name: str
    active: bool
    found: str
    """What it is here; where it is not active, why not, with the remedy."""
    open: str
    """What is open without it."""


def layers() -> list[Layer]:
    """Every layer, tried in a sandbox of now. None is active where no sandbox can be had: then nothing is run at all."""
    if sys.platform != "linux":
        return [_missing(name, f"{sys.platform}: only Linux has it", without) for name, without in _WITHOUT.items()]
    limits = Limits(wall_s=10, cpu_s=10, memory_bytes=256 << 20, processes=8)
    outcome = host.run([sys.executable, "-I", "-S", "-c", _PROBE], limits=limits)
    if outcome.ended != Ended.OK:
        why = outcome.reason or outcome.stderr.decode(errors="replace")[-300:] or str(outcome.ended)
        return [_missing(name, why, without) for name, without in _WITHOUT.items()]
    return _judged(json.loads(outcome.stdout))


_WITHOUT = {
    "user": "its own user's files, processes and share of the kernel's limits",
    "mounts": "the host's files can be seen, and their names and modes asked for",
    "processes": "the host's processes are seen",
    "network": "services of this machine and of the network can be reached",
    "privileges": "root's programs and capabilities",
    "seccomp": "the kernel's rarely used calls: ptrace, mount, bpf, io_uring, user namespaces",
    "landlock": "one wall less around files; signals to this user's processes where there is no process namespace",
    "memory": "the machine's memory",
}


def _judged(found: dict[str, object]) -> list[Layer]:
    from postgrad.sandbox import landlock  # of Linux alone

    weak = host.lockdown()
    asked = f"not asked for: {host.SETTING}=lockdown is set"
    abi, place = landlock.version(), host.memory_place()
    bare = found["capabilities"] == ["", ""] and found["no_new_privileges"] == "1"
    denied = found["seccomp"] == "2" and {found[name] for name in ("ptrace", "unshare", "mount")} == {1}
    rooted = isinstance(found["root"], list) and "job" in found["root"]
    facts = {
        "user": (
            True,
            f"user {found['user']}" if found["user"] != os.getuid() else f"user {found['user']}, in a namespace",
        ),
        "mounts": (rooted and found["write"] != 0, asked if weak else "a root of its own, read-only"),
        "processes": (
            isinstance(found["processes"], int) and found["processes"] <= 3,
            asked if weak else "its own only",
        ),
        "network": (found["network"] != 0, "none"),
        "privileges": (bare, "none, and no new ones"),
        "seccomp": (denied, "calls into other processes and namespaces fail"),
        "landlock": (
            abi is not None,
            "not in this kernel: 5.13 or newer, landlock in lsm=" if abi is None else f"version {abi}",
        ),
        "memory": (
            True,
            f"counted by the control group in {place}" if place else "watched every 10 ms: a burst in between passes",
        ),
    }
    if weak and found["user"] == os.getuid():
        facts["user"] = (False, f"{asked}, and only root can give another user")
    return [Layer(name, *facts[name], without) for name, without in _WITHOUT.items()]


def _missing(name: str, why: str, without: str) -> Layer:
    return Layer(name, False, why, without)
