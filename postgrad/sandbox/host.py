"""The asker's side: one launcher a process, one control socket a job."""

from __future__ import annotations

import atexit
import os
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from postgrad.sandbox import channel
from postgrad.sandbox import job as jobs
from postgrad.sandbox.job import FOLDER, Job
from postgrad.sandbox.outcome import Ended, Limits, Outcome

GRACE_S = 30.0
"""For setting up and tearing down, on a busy machine."""
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/etc/alternatives", "/etc/ld.so.cache")
_ROOT = Path(__file__).parents[2]


class _Launcher:
    """The process that forks supervisors; started when first needed, ended with this one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None

    def start(self, control: socket.socket, passed: Sequence[int]) -> None:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._begin()
            assert self._socket is not None
            socket.send_fds(self._socket, [b"job"], [control.fileno(), *passed])

    def _begin(self) -> None:
        if self._socket is not None:
            self._socket.close()
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        code = (
            "import sys, runpy; sys.path.append(sys.argv.pop(1)); "
            "runpy.run_module('postgrad.sandbox.launcher', run_name='__main__')"
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", code, str(_ROOT), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
                start_new_session=True,
            )

    def stop(self) -> None:
        if self._process is not None and self._socket is not None:
            self._socket.close()
            self._process.wait()

    def forget(self) -> None:
        """In a forked child, which is not the launcher's parent: it starts its own."""
        if self._process is not None:
            self._process.returncode = 0  # nothing to wait for here
        if self._socket is not None:
            self._socket.close()
        self.__init__()  # type: ignore[misc]


_launcher = _Launcher()
atexit.register(_launcher.stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_launcher.forget)


def run(
    argv: Sequence[str],
    *,
    files: Mapping[str, bytes] = {},
    read: Sequence[Path] = (),
    stdin: bytes = b"",
    collect: Sequence[str] = (),
    limits: Limits,
    gpu: int | None = None,
    environment: Mapping[str, str] = {},
) -> Outcome:
    """Run a program in a sandbox of its own until it ends; then nothing of it is left.

    files: by name relative to its working folder, which holds at most `limits.disk_bytes`.
    read: host paths that it sees, read-only, under the same names, besides /usr, the libraries and this Python.
    collect: names of files that it may leave, for `Outcome.files`.
    gpu: the index of the one NVIDIA GPU that it may use.

    Raises ValueError for what no sandbox could be given; all else is an Outcome, a sandbox that failed is BROKEN.
    """
    job = describe(argv, read=read, collect=collect, limits=limits, gpu=gpu, environment=environment)
    try:
        with start(job, files, stdin, ()) as control:
            until = time.monotonic() + limits.wall_s + GRACE_S
            while True:
                head, blobs = jobs.read(control, until)
                if "ended" in head:
                    return outcome(head, blobs)
    except (channel.Closed, TimeoutError, OSError) as error:
        return unanswered(error)


def unanswered(error: Exception) -> Outcome:
    return Outcome(Ended.BROKEN, reason=f"launcher: no answer ({error!r}); is the machine out of memory or processes?")


def describe(
    argv: Sequence[str],
    *,
    read: Sequence[Path],
    collect: Sequence[str],
    limits: Limits,
    gpu: int | None,
    environment: Mapping[str, str],
    descriptors: Sequence[int] = (),
) -> Job:
    if not argv:
        raise ValueError("argv is empty: name a program")
    for name in collect:
        _inside(name)
    binds, links = _visible(read)
    search = [str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin"]
    known = {"HOME": FOLDER, "TMPDIR": "/tmp", "USER": "job", "LANG": "C.UTF-8", "PATH": ":".join(search)}
    return Job(
        argv=list(argv),
        environment={**known, **environment},
        binds=binds,
        links=links,
        collect=list(collect),
        gpu=gpu,
        descriptors=list(descriptors),
        wall_s=limits.wall_s,
        cpu_s=limits.cpu_s,
        memory_bytes=limits.memory_bytes,
        processes=limits.processes,
        disk_bytes=limits.disk_bytes,
        output_bytes=limits.output_bytes,
        lockdown=lockdown(),
        folder=FOLDER,
        memory_place=memory_place(),
    )


def start(job: Job, files: Mapping[str, bytes], stdin: bytes, passed: Sequence[int]) -> socket.socket:
    """Hand a job to the launcher; the socket over which it tells how it goes."""
    if sys.platform != "linux":
        raise OSError(f"{sys.platform}: sandboxes are of Linux")
    for name in files:
        _inside(name)
    control, theirs = socket.socketpair()
    try:
        with theirs:
            _launcher.start(theirs, passed)
        jobs.write(control, jobs.plain(job), {"": stdin, **files}, time.monotonic() + GRACE_S)
    except BaseException:
        control.close()
        raise
    return control


def outcome(head: dict[str, Any], blobs: dict[str, bytes]) -> Outcome:
    blobs = dict(blobs)
    out, err = blobs.pop(" stdout", b""), blobs.pop(" stderr", b"")
    return Outcome(**{**head, "ended": Ended(head["ended"])}, stdout=out, stderr=err, files=blobs)


SETTING = "POSTGRAD_SANDBOX"


def lockdown() -> bool:
    """Whether the user asked, by POSTGRAD_SANDBOX=lockdown, for a sandbox without namespaces (`layers.GAPS` are open then)."""
    value = os.environ.get(SETTING, "")
    if value not in ("", "lockdown"):
        raise ValueError(f"{SETTING} is {value!r}: wanted 'lockdown', or nothing for all layers")
    return value == "lockdown"


_place: list[str | None] = []


def memory_place() -> str | None:
    """Where control groups can be made, found once."""
    from postgrad.sandbox import cgroup

    if not _place:
        found = cgroup.place() if sys.platform == "linux" else None
        _place.append(None if found is None else str(found))
    return _place[0]


def _visible(read: Sequence[Path]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """What to bind, outermost first, and the system's own links (/lib -> usr/lib)."""
    binds, links = [], []
    for name in _SYSTEM:
        if os.path.islink(name):
            links.append((os.readlink(name), name))
        elif os.path.exists(name):
            binds.append((name, name))
    for path in (Path(sys.prefix), Path(sys.base_prefix), *read):
        seen = os.path.abspath(path)
        if seen == "/":
            raise ValueError("read holds '/': name the folders that the program needs")
        if not os.path.exists(seen):
            raise ValueError(f"read holds {str(path)!r}, which does not exist")
        _readable_by_others(seen)
        binds.append((os.path.realpath(seen), seen))
    return sorted(set(binds), key=lambda pair: pair[1].count("/")), links


def _readable_by_others(path: str) -> None:
    """Root's sandboxes run as a user of their own, who is neither owner nor in the group."""
    mode = os.stat(path).st_mode
    wanted = 0o5 if stat.S_ISDIR(mode) else 0o4
    if os.getuid() == 0 and mode & wanted != wanted:
        raise ValueError(
            f"read holds {path!r}, of mode {stat.S_IMODE(mode):o}: other users must be able to read it (chmod o+rX)"
        )


def _inside(name: str) -> None:
    if not name or os.path.isabs(name) or ".." in Path(name).parts or name.startswith(" "):
        raise ValueError(f"file {name!r}: wanted a name relative to the working folder, without '..'")
