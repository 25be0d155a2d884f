"""Within the namespaces: the first process, which builds what the program sees, starts it, and ends all that it left.

The first process (`serve`) builds the root, gives up every privilege, starts the program and waits. Nobody in the sandbox can
signal or read it: the kernel shields process 1 from its namespace's signals, and it is not dumpable. The program's own
process (`_become`) binds itself by limits, Landlock and seccomp before it executes anything foreign.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import select
import signal
import socket
import stat
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import NoReturn

from postgrad.sandbox import census, channel, landlock, linux, seccomp
from postgrad.sandbox import job as jobs
from postgrad.sandbox.job import FOLDER, Job

INODES = 4096
_NAMESPACES = linux.CLONE_NEWNS | linux.CLONE_NEWNET | linux.CLONE_NEWIPC | linux.CLONE_NEWUTS | linux.CLONE_NEWCGROUP
_DEVICES = ("null", "zero", "full", "random", "urandom")
_GPU = ("nvidiactl", "nvidia-uvm", "nvidia-uvm-tools")
_READY = b"!"
_WRITABLE = (FOLDER, "/tmp", "/dev/shm")


_LESS = "or ask for less by POSTGRAD_SANDBOX=lockdown (`postgrad doctor` says what is open then)"
_REMEDIES = {
    "namespaces": "root without CAP_SYS_ADMIN, as in most containers: start the container with --cap-add SYS_ADMIN "
    f"--security-opt seccomp=unconfined, run as an ordinary user, {_LESS}",
    "users": "allow unprivileged user namespaces: sysctl user.max_user_namespaces and kernel.unprivileged_userns_clone=1, "
    "kernel.apparmor_restrict_unprivileged_userns=0 or a profile for this Python, or the container's seccomp profile; "
    + _LESS,
    "mounts": "Linux 5.14 or newer; in a container --security-opt systempaths=unconfined and apparmor=unconfined, "
    + _LESS,
    "memory": "the control group may have gone: start again",
    "landlock": "Linux 5.13 or newer, with landlock among the lsm= of its start; other users must reach what is read",
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER",
}


class Layer(Exception):
    """A layer could not be set up; says which, why and what to change."""

    def __init__(self, name: str, error: Exception) -> None:
        remedy = _REMEDIES.get(name)
        super().__init__(f"{name}: {error}" + (f"; {remedy}" if remedy else ""))


def serve(
    job: Job,
    files: dict[str, bytes],
    user: int | None,
    report: socket.socket,
    standard: tuple[int, int, int],
    entry: int | None,
    passed: list[int],
) -> NoReturn:
    """Be process 1. `user`: whom to become, where this is root itself; `entry`: of the control group."""
    try:
        # A signal with a handler reaches process 1 even from within; without one the kernel drops it.
        for quiet in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(quiet, signal.SIG_DFL)
        os.umask(0o022)
        if job.lockdown:
            linux.subreaper()
            os.chdir(job.folder)
        else:
            with layer("mounts"):
                _build(job, user)
        with layer("privileges"):
            _drop(user, job)
        linux.not_dumpable()
        linux.die_with_parent()
        with layer("files"):
            _fill(files)
        ended = _Ended()
        child = _start(job, standard, entry, passed)
    except Exception as error:
        jobs.write(report, {"broken": str(error) or repr(error)}, {})
        os._exit(0)
    for number in (*standard, *passed):
        os.close(number)
    jobs.write(report, {"started": True}, {})
    report.recv(1)  # the supervisor has found the program's process, which therefore is not waited for before
    status = ended.wait(child, report)
    if job.lockdown:
        end_tree(os.getpid())
    else:
        _end_namespace()
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    found, refused = _collect(job) if status is not None else ({}, [])
    told = {
        "status": status,
        "cpu_s": usage.ru_utime + usage.ru_stime,
        "peak_bytes": usage.ru_maxrss << 10,
        "refused": refused,
    }
    with contextlib.suppress(channel.Closed):
        jobs.write(report, told, found)
    os._exit(0)


@contextlib.contextmanager
def layer(name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise Layer(name, error) from None


# ---- What the program sees ------------------------------------------------------------------------------------------


def _build(job: Job, user: int | None) -> None:
    """A root of its own, in memory: the binds, a few devices, its processes, and three folders to write in."""
    linux.unshare(_NAMESPACES)
    linux.mount("none", "/", None, linux.MS_REC | linux.MS_PRIVATE)
    quiet = linux.MS_NOSUID | linux.MS_NODEV
    # On top of /tmp, so that no folder is needed; what lies in /tmp is seen again once the root is another.
    linux.mount("sandbox", "/tmp", "tmpfs", quiet, "size=1m,nr_inodes=4k,mode=755")
    os.chdir("/tmp")
    os.mkdir("host")
    linux.pivot_root(".", "host")
    os.chdir("/")
    # One filesystem for all that can be written, so that one number bounds it.
    os.mkdir("/host-of-files")
    owner = os.getuid() if user is None else user
    room = f"size={job.disk_bytes},nr_inodes={INODES},mode=755,uid={owner},gid={os.getgid() if user is None else user}"
    linux.mount("files", "/host-of-files", "tmpfs", quiet, room)
    for number, target in enumerate(_WRITABLE):
        os.mkdir(f"/host-of-files/{number}")
        os.makedirs(target, exist_ok=True)
        if user is not None:
            os.chown(f"/host-of-files/{number}", user, user)
        linux.mount(f"/host-of-files/{number}", target, None, linux.MS_BIND)
    linux.detach("/host-of-files")
    os.rmdir("/host-of-files")
    bound: list[str] = []
    for source, target in job.binds:
        if any(target == one or target.startswith(one + "/") for one in bound):
            continue
        _bind("/host" + source, target)
        bound.append(target)
    for source, target in job.links:
        os.symlink(source, target)
    for name in _devices(job, "/host/dev"):
        _bind(f"/host/dev/{name}", f"/dev/{name}", devices=True)
    if job.gpu is not None:
        _bind("/host/sys", "/sys")
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        os.symlink(f"/proc/self/fd/{number}", f"/dev/{name}")
    os.symlink("/proc/self/fd", "/dev/fd")
    os.makedirs("/etc", exist_ok=True)
    with open("/etc/passwd", "w") as file:
        file.write(f"job:x:{os.getuid() if user is None else user}:65534::{FOLDER}:/bin/sh\n")
    os.mkdir("/proc")
    # CUDA names its threads through /proc/self; nobody else need write there.
    written = 0 if job.gpu is not None else linux.MS_RDONLY
    linux.mount("proc", "/proc", "proc", quiet | linux.MS_NOEXEC | written)
    linux.detach("/host")
    os.rmdir("/host")
    linux.mount("none", "/", None, linux.MS_REMOUNT | linux.MS_BIND | linux.MS_RDONLY | quiet)
    os.chdir(FOLDER)


def _devices(job: Job, folder: str) -> list[str]:
    if job.gpu is None:
        return list(_DEVICES)
    common = [name for name in _GPU if os.path.exists(f"{folder}/{name}")]
    return [*_DEVICES, *common, f"nvidia{job.gpu}"]


def _bind(source: str, target: str, *, devices: bool = False) -> None:
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    else:
        os.makedirs(os.path.dirname(target), exist_ok=True)
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC))
    linux.bind(source, target, devices=devices)


def _drop(user: int | None, job: Job) -> None:
    if user is not None or not job.lockdown:  # an ordinary user has none to drop, and its programs get no new ones
        linux.drop_bounding_set()
    if user is not None:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
    linux.drop_capabilities()


def _fill(files: dict[str, bytes]) -> None:
    for name, content in files.items():
        if folder := os.path.dirname(name):
            os.makedirs(folder, exist_ok=True)
        with open(name, "wb") as file:
            file.write(content)


# ---- The program's process ------------------------------------------------------------------------------------------


def _start(job: Job, standard: tuple[int, int, int], entry: int | None, passed: list[int]) -> int:
    """Fork, and wait until the child has executed the program. Raises Layer where it could not."""
    heard, told = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with layer("memory"):
                if entry is not None:
                    os.write(entry, b"0")
            told = _arrange(job, standard, passed, told)
            _become(job, told, counted=entry is not None)
        except Exception as error:
            os.write(told, str(error).encode())
        finally:
            os._exit(127)
    os.close(told)
    with open(heard, "rb") as file:
        message = file.read()
    if message != _READY:
        raise RuntimeError(message.removeprefix(_READY).decode() or "limits: the program's process died of them")
    return child


def _become(job: Job, told: int, *, counted: bool) -> NoReturn:
    """Give up what is left, and execute the program. counted: whether a control group counts its memory."""
    os.setsid()
    for number in (signal.SIGINT, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    with layer("limits"):
        _limit(job)
    with layer("no new privileges"):
        linux.no_new_privileges()
    with layer("landlock"):
        devices, threads = [f"/dev/{name}" for name in _devices(job, "/dev")], [] if job.gpu is None else ["/proc"]
        if job.lockdown:
            visible = ["/proc", *(target for _, target in job.binds), *([] if job.gpu is None else ["/sys"])]
            landlock.restrict(visible, [job.folder, *threads], devices)
        elif landlock.version() is not None:
            landlock.restrict(["/"], [*_WRITABLE, *threads], devices)
    with layer("seccomp"):
        seccomp.install(memfd=counted)
    os.write(told, _READY)
    try:
        os.execvpe(job.argv[0], job.argv, job.environment)
    except OSError as error:
        raise RuntimeError(
            f"program: {job.argv[0]!r} cannot be started: {error.strerror}; is its folder among `read`?"
        ) from None


def _arrange(job: Job, standard: tuple[int, int, int], passed: list[int], told: int) -> int:
    """Give each descriptor its number and close all others; where `told` then is."""
    wanted = {**dict(enumerate(standard)), **dict(zip(job.descriptors, passed, strict=True))}
    floor = max(wanted) + 1
    copies = {number: _above(floor, source) for number, source in wanted.items()}
    told = _above(floor, told)
    for number, copy in copies.items():
        os.dup2(copy, number, inheritable=True)
    kept = [*sorted([*wanted, told]), os.sysconf("SC_OPEN_MAX")]
    for number, following in pairwise(kept):
        if following > number + 1:  # an empty range ending at 0 would mean all descriptors
            os.closerange(number + 1, following)
    return told


def _above(floor: int, source: int) -> int:
    return fcntl.fcntl(source, fcntl.F_DUPFD_CLOEXEC, floor)


def _limit(job: Job) -> None:
    seconds = int(job.cpu_s) + 1
    for kind, soft, hard in (
        (resource.RLIMIT_CPU, seconds, seconds + 1),
        (resource.RLIMIT_FSIZE, job.disk_bytes, job.disk_bytes),
        (resource.RLIMIT_NOFILE, 1024, 1024),
        (resource.RLIMIT_NPROC, job.processes + 1, job.processes + 1),  # process 1 is of the same user
        # 1 and not 0: the kernel pipes a core of "at most 0 bytes" into the host's handler all the same.
        (resource.RLIMIT_CORE, 1, 1),
        (resource.RLIMIT_MEMLOCK, 1 << 16, 1 << 16),
        (resource.RLIMIT_MSGQUEUE, 0, 0),
        (resource.RLIMIT_NICE, 0, 0),
        (resource.RLIMIT_RTPRIO, 0, 0),
    ):
        most = resource.getrlimit(kind)[1]
        if most != resource.RLIM_INFINITY:
            soft, hard = min(soft, most), min(hard, most)
        resource.setrlimit(kind, (soft, hard))


# ---- The end --------------------------------------------------------------------------------------------------------


class _Ended:
    """Wakes process 1 when a child ends. Made before the first child."""

    def __init__(self) -> None:
        self._wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def wait(self, child: int, report: socket.socket) -> int | None:
        """Until the program ends or the supervisor says so. Its status; None where it had not ended by itself."""
        status = None
        poll = select.poll()
        poll.register(self._wake, select.POLLIN)
        poll.register(report, select.POLLIN)
        going = True
        while going and status is None:
            for number, _ in poll.poll():
                if number == report.fileno():
                    going = False
                else:
                    os.read(self._wake, 4096)
                    status = _reap(child)
        return status


def _end_namespace() -> None:
    """All but this process, at once: none can fork itself out of it."""
    assert os.getpid() == 1, "elsewhere it would end all of this user's processes"
    with contextlib.suppress(ProcessLookupError):
        os.kill(-1, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        while True:
            os.wait()


def end_tree(root: int) -> None:
    """Kill all beneath `root`, this process, one after another; its limits keep them from outrunning us for long."""
    until = time.monotonic() + 5
    while (living := census.descendants(root)) and time.monotonic() < until:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _reap(child: int) -> int | None:
    """Wait for all that ended; the status of the program where it is among them."""
    status = None
    with contextlib.suppress(ChildProcessError):
        while (found := os.waitpid(-1, os.WNOHANG))[0]:
            if found[0] == child:
                status = found[1]
    return status


def _collect(job: Job) -> tuple[dict[str, bytes], list[str]]:
    """The files asked for, and the names of those that are too long. What is no regular file is not there."""
    found, refused = {}, []
    here = os.open(job.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    for name in job.collect:
        try:
            number = linux.open_beneath(here, name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY)
        except OSError:  # not there, a link, or beyond the folder
            continue
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode) or about.st_nlink != 1:
            os.close(number)
            continue
        with open(number, "rb") as file:
            content = file.read(job.output_bytes + 1)
        if len(content) > job.output_bytes:
            refused.append(name)
        else:
            found[name] = content
    return found, refused
