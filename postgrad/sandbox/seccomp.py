"""Which system calls a sandboxed program may make: all but those below.

A list of what is denied, not of what is allowed: compilers, Python and torch use what they like, and what is denied is what
reaches another process, another namespace or the kernel's rarely used corners. Denied calls fail with EPERM.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct

from postgrad.sandbox import linux

DENIED: dict[str, tuple[int | None, int | None]] = {
    # other processes
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "process_madvise": (440, 440),
    # mounts, roots and namespaces
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "unshare": (272, 97),
    "setns": (308, 268),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    # large or privileged parts of the kernel
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "userfaultfd": (323, 282),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "lookup_dcookie": (212, 18),
    "personality": (135, 92),
    "modify_ldt": (154, None),
    "iopl": (172, None),
    "ioperm": (173, None),
    # memory that no process's size shows and no limit on files bounds
    "shmget": (29, 194),
    "shmat": (30, 196),
    "shmctl": (31, 195),
    "shmdt": (67, 197),
    "msgget": (68, 186),
    "msgsnd": (69, 189),
    "msgrcv": (70, 188),
    "msgctl": (71, 187),
    "semget": (64, 190),
    "semop": (65, 193),
    "semctl": (66, 191),
    "semtimedop": (220, 192),
    "mq_open": (240, 180),
    "memfd_secret": (447, 447),
    "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # the machine
    "acct": (163, 89),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "syslog": (103, 116),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "vhangup": (153, 58),
}
"""Name: (number on x86-64, number on aarch64)."""
MEMFD_CREATE = (319, 279)
_CLONE, _CLONE3, _SOCKETS, _IOCTL, _SECCOMP = (56, 220), (435, 435), ((41, 198), (53, 199)), (16, 29), (317, 277)
_NAMESPACES = 0x7E020080  # CLONE_NEW*, all of them
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C  # typing on another's behalf
_ARCHITECTURE = 0xC000003E if linux.X86 else 0xC00000B7
_X32 = 0x40000000
_NUMBER, _ARCH, _ARGUMENT_0, _ARGUMENT_1 = 0, 4, 16, 24  # offsets; the low half of an argument
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_SET_FILTER, _SPEC_ALLOW = 1, 4


def install(*, memfd: bool) -> None:
    """Bind this process and all that come of it. It must have given up new privileges before.

    memfd: whether memory files may be made. Their pages are in no process's size, so only a control group can bound them.
    """
    code = program(memfd=memfd)
    instructions = ctypes.create_string_buffer(code, len(code))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(instructions)), 16)
    # SPEC_ALLOW: kernels before 5.16 otherwise turn on speculation barriers, which slow down what we time.
    linux.syscall(_pick(_SECCOMP), _SET_FILTER, _SPEC_ALLOW, head)


def program(*, memfd: bool) -> bytes:
    """The filter in the kernel's classic BPF, eight bytes an instruction."""
    code = [
        _step(_LOAD, _ARCH),
        _step(_EQUAL, _ARCHITECTURE, 1, 0),
        _step(_RETURN, _KILL),
        _step(_LOAD, _NUMBER),
    ]
    if linux.X86:
        code += [_step(_AT_LEAST, _X32, 0, 1), _step(_RETURN, _ERROR | errno.ENOSYS)]
    denied = [_pick(both) for both in [*DENIED.values(), *([] if memfd else [MEMFD_CREATE])] if _has(both)]
    for number in denied:
        code += [_step(_EQUAL, number, 0, 1), _step(_RETURN, _ERROR | errno.EPERM)]
    # A filter cannot read clone3's arguments, which lie in memory: without it, the C library takes clone.
    code += [_step(_EQUAL, _pick(_CLONE3), 0, 1), _step(_RETURN, _ERROR | errno.ENOSYS)]
    code += _on(_CLONE, _ARGUMENT_0, [_step(_ANY_BIT, _NAMESPACES, 0, 1), _step(_RETURN, _ERROR | errno.EPERM)])
    for call in _SOCKETS:
        # Others than AF_UNIX lead out of the network namespace (vsock) or into rarely used code.
        family = [_step(_EQUAL, socket.AF_UNIX, 1, 0), _step(_RETURN, _ERROR | errno.EAFNOSUPPORT)]
        code += _on(call, _ARGUMENT_0, family)
    typing = [_step(_EQUAL, _TIOCSTI, 1, 0), _step(_EQUAL, _TIOCLINUX, 0, 1), _step(_RETURN, _ERROR | errno.EPERM)]
    code += _on(_IOCTL, _ARGUMENT_1, typing)
    return b"".join([*code, _step(_RETURN, _ALLOW)])


def _on(call: tuple[int, int], argument: int, steps: list[bytes]) -> list[bytes]:
    """Where it is this call, look at an argument by `steps`, which end it or fall through to ALLOW."""
    inner = [_step(_LOAD, argument), *steps, _step(_RETURN, _ALLOW)]
    return [_step(_EQUAL, _pick(call), 0, len(inner)), *inner]


def _has(both: tuple[int | None, int | None]) -> bool:
    return both[not linux.X86] is not None


def _pick(both: tuple[int | None, int | None]) -> int:
    number = both[not linux.X86]
    assert number is not None
    return number


def _step(code: int, value: int, true: int = 0, false: int = 0) -> bytes:
    return struct.pack("HBBI", code, true, false, value)
