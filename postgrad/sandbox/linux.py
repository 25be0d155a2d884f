"""The calls of Linux that Python does not offer, by ctypes. A failed one raises OSError."""

from __future__ import annotations

import ctypes
import errno
import os
import platform

CLONE_NEWNS, CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC = 0x20000, 0x2000000, 0x4000000, 0x8000000
CLONE_NEWUSER, CLONE_NEWPID, CLONE_NEWNET = 0x10000000, 0x20000000, 0x40000000
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT = 1, 2, 4, 8, 32
MS_BIND, MS_REC, MS_PRIVATE = 4096, 16384, 1 << 18
MNT_DETACH = 2

_AT_FDCWD, _AT_RECURSIVE = -100, 0x8000
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV = 1, 2, 4
_RESOLVE_NO_MAGICLINKS, _RESOLVE_NO_SYMLINKS, _RESOLVE_BENEATH = 2, 4, 8
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.prctl.argtypes = (ctypes.c_int, *[ctypes.c_ulong] * 4)

X86 = platform.machine() == "x86_64"
"""Else aarch64: no other processor has a table of system calls here."""
KNOWN = X86 or platform.machine() == "aarch64"


def syscall(number: int, *arguments: int | ctypes.Array[ctypes.c_char] | bytes | None) -> int:
    """A system call by its number; integers go as 64 bits."""
    words = [ctypes.c_long(value) if isinstance(value, int) else value for value in arguments]
    return _checked(_libc.syscall(ctypes.c_long(number), *words))


def unshare(flags: int) -> None:
    _checked(_libc.unshare(flags))


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    done = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, flags, options.encode() or None
    )
    _checked(done, f"mount {source} on {target}")


def bind(source: str, target: str, *, devices: bool = False) -> None:
    """Make `source` and all that is mounted beneath it visible at `target`: read-only, without set-user-id."""
    mount(source, target, None, MS_BIND | MS_REC)
    attributes = _ATTR_NOSUID | (0 if devices else _ATTR_RDONLY | _ATTR_NODEV)
    wanted = attributes.to_bytes(8, "little") + bytes(24)
    syscall(442, _AT_FDCWD, target.encode() + b"\0", _AT_RECURSIVE, ctypes.create_string_buffer(wanted, 32), 32)


def pivot_root(new: str, old: str) -> None:
    syscall(155 if X86 else 41, new.encode() + b"\0", old.encode() + b"\0")


def detach(target: str) -> None:
    _checked(_libc.umount2(target.encode(), MNT_DETACH), f"unmount {target}")


def open_beneath(folder: int, path: str, flags: int) -> int:
    """Open `path` within the folder of a descriptor; no link is followed and no step leads out."""
    how = (flags | os.O_CLOEXEC).to_bytes(8, "little") + bytes(8)
    how += (_RESOLVE_NO_MAGICLINKS | _RESOLVE_NO_SYMLINKS | _RESOLVE_BENEATH).to_bytes(8, "little")
    return syscall(437, folder, path.encode() + b"\0", ctypes.create_string_buffer(how, 24), 24)


def die_with_parent() -> None:
    """SIGKILL when the thread that forked this process ends. Cleared by a change of user: call it after one."""
    _prctl(_PR_SET_PDEATHSIG, 9)


def not_dumpable() -> None:
    """No other process of the same user may read or trace this one, until it executes a program."""
    _prctl(_PR_SET_DUMPABLE, 0)


def no_new_privileges() -> None:
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def subreaper() -> None:
    """Orphans of this process's tree become its children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)


def drop_bounding_set() -> None:
    for capability in range(64):
        try:
            _prctl(_PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return  # beyond the last one that this kernel knows


def drop_capabilities() -> None:
    _prctl(_PR_CAP_AMBIENT, 4)  # clear all
    header = ctypes.create_string_buffer(0x20080522.to_bytes(4, "little") + bytes(4), 8)
    _checked(_libc.capset(header, ctypes.create_string_buffer(24)))


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, value, 0, 0, 0))


def _checked(result: int, doing: str = "") -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code) + (f": {doing}" if doing else ""))
    return result
