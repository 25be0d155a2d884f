"""Landlock: what of the visible files may be written, by whatever name they are reached; no TCP, no signals out.

The second wall behind the mounts. Kernels know different shares of it (`version`); what a kernel does not know is not asked.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable

from postgrad.sandbox import linux

EXECUTE, WRITE, READ, READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK, _REFER, _TRUNCATE, _IOCTL = 1 << 6, 1 << 11, 1 << 13, 1 << 14, 1 << 15
LOOK = EXECUTE | READ | READ_DIR
_FILE = EXECUTE | WRITE | READ | _TRUNCATE | _IOCTL
_CREATE, _ADD, _RESTRICT = 444, 445, 446


def version() -> int | None:
    """None where the kernel has none, or it is off."""
    try:
        return linux.syscall(_CREATE, None, 0, 1)
    except OSError:
        return None


def restrict(readable: Iterable[str], writable: Iterable[str], devices: Iterable[str]) -> None:
    """Bind this process and all that come of it to these paths. It must have given up new privileges before."""
    abi = version()
    if abi is None:
        raise OSError("this kernel has none, or it is off")
    rights = (1 << 13) - 1
    for least, right in ((2, _REFER), (3, _TRUNCATE), (5, _IOCTL)):
        rights |= right if abi >= least else 0
    network, scopes = 0b11, 0b11  # no binding to and no connecting by TCP; no abstract sockets or signals out of here
    words = [rights, *([network] if abi >= 4 else []), *([scopes] if abi >= 6 else [])]
    attributes = b"".join(word.to_bytes(8, "little") for word in words)
    rules = linux.syscall(_CREATE, ctypes.create_string_buffer(attributes, len(attributes)), len(attributes), 0)
    allowed = [(path, LOOK) for path in readable]
    allowed += [(path, rights & ~(_MAKE_CHAR | _MAKE_BLOCK)) for path in writable]
    allowed += [(path, WRITE | READ | _TRUNCATE | _IOCTL) for path in devices]
    for path, granted in allowed:
        beneath = os.open(path, os.O_PATH | os.O_CLOEXEC)
        if not os.path.isdir(path):
            granted &= _FILE
        rule = (granted & rights).to_bytes(8, "little") + beneath.to_bytes(4, "little")
        linux.syscall(_ADD, rules, 1, ctypes.create_string_buffer(rule, 12), 0)
        os.close(beneath)
    linux.syscall(_RESTRICT, rules, 0)
    os.close(rules)
