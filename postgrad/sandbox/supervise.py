"""Watches one sandbox from outside: its output, its time, its memory, and whether the asker still lives.

One process a job. It speaks with the asker over `control` (the job, then "started", then the outcome; on the way the asker may
ask for the output so far, or hang up) and with the sandbox's first process over `report`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from postgrad.sandbox import census, channel, inside, linux
from postgrad.sandbox import job as jobs
from postgrad.sandbox.cgroup import Group
from postgrad.sandbox.job import Job
from postgrad.sandbox.outcome import Ended

_UNUSED_USERS = 1_879_048_192
"""From here to 2^31 no distribution gives out user ids (systemd's table of them)."""
_BEGIN_S = 20.0
"""For the first process to build what the program sees; a folder of a server that is gone may hang."""
_END_S = 10.0
"""For the first process to end all others and to report."""


def supervise(control: socket.socket, passed: list[int]) -> None:
    """One job, from its description to its outcome."""
    head, files = jobs.read(control)
    job = jobs.of(head)
    stdin = files.pop("")
    group = None
    try:
        if not linux.KNOWN:
            raise RuntimeError(f"processor: {platform.machine()}: system calls are known for x86_64 and aarch64 only")
        if job.lockdown:
            job = _lodged(job)
        if job.memory_place is not None:
            with inside.layer("memory"):
                group = Group(
                    Path(job.memory_place), f"postgrad-{os.getppid()}-{os.urandom(4).hex()}", job.memory_bytes
                )
        watch = _Watch(job, control, group)
        head, found = watch.run(files, stdin, passed)
    except (OSError, RuntimeError, inside.Layer) as error:
        head, found = {"ended": Ended.BROKEN, "reason": str(error)}, {}
    finally:
        if group is not None:
            group.remove()
        if job.lockdown:
            # Not by Python, which follows a deep folder with its stack.
            subprocess.run(["/bin/rm", "-rf", "--one-file-system", job.folder], env={}, check=False)
    with contextlib.suppress(channel.Closed):
        jobs.write(control, head, found)


def _lodged(job: Job) -> Job:
    """With a folder of the host's to work in."""
    folder = tempfile.mkdtemp(prefix="postgrad-", dir="/tmp")
    return replace(job, folder=folder, environment={**job.environment, "HOME": folder, "TMPDIR": folder})


@dataclass(slots=True)
class _Pipe:
    name: str
    number: int
    kept: bytearray
    seen: int = 0


class _Watch:
    def __init__(self, job: Job, control: socket.socket, group: Group | None) -> None:
        self.job, self.control, self.group = job, control, group
        self.verdict: tuple[Ended, str] | None = None
        """What we ended it for."""
        self.peak = 0
        self.cpu_s = 0.0

    def run(self, files: dict[str, bytes], stdin: bytes, passed: list[int]) -> tuple[dict[str, Any], dict[str, bytes]]:
        first = self._fork(files, stdin, passed)
        try:
            heard, _ = jobs.read(self.report, time.monotonic() + _BEGIN_S)
            if "broken" in heard:
                raise RuntimeError(heard["broken"])
            program = next(census.children(first), None)
            if program is None:
                raise RuntimeError(
                    "census: /proc/<pid>/task/<tid>/children is missing; it wants a kernel with CONFIG_PROC_CHILDREN"
                )
            jobs.write(self.control, {"started": True, "first": first, "program": program}, {})
            self.report.send(b"+")
            begun = time.monotonic()
            told, found = self._watch(first, begun)
            wall_s = time.monotonic() - begun
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.kill(first, signal.SIGKILL)
            os.waitpid(first, 0)  # the kernel has ended all of the namespace before this returns
            if self.job.lockdown:
                inside.end_tree(os.getpid())
        for pipe in self.pipes:
            while self._read(pipe):
                pass
        return self._outcome(told, wall_s), {
            **found,
            " stdout": bytes(self.pipes[0].kept),
            " stderr": bytes(self.pipes[1].kept),
        }

    def _fork(self, files: dict[str, bytes], stdin: bytes, passed: list[int]) -> int:
        """Start the sandbox's first process; its id."""
        user = None
        if os.getuid() == 0:
            user = unused_user(os.getpid(), Path("/proc/self/uid_map").read_text())
        if self.job.lockdown:
            linux.subreaper()
            if user is not None:
                os.chown(self.job.folder, user, user)
        elif user is None:
            _own_users()
        else:
            with inside.layer("namespaces"):
                linux.unshare(linux.CLONE_NEWPID)
        self.report, theirs = socket.socketpair()
        ends = [os.pipe2(os.O_CLOEXEC) for _ in range(2)]
        given = os.memfd_create("stdin", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        with open(given, "wb", closefd=False) as file:
            file.write(stdin)
        os.lseek(given, 0, os.SEEK_SET)
        seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
        fcntl.fcntl(given, fcntl.F_ADD_SEALS, seals)
        entry = None if self.group is None else self.group.entry
        first = os.fork()
        if first == 0:
            try:
                self.report.close()
                self.control.close()
                inside.serve(self.job, files, user, theirs, (given, ends[0][1], ends[1][1]), entry, passed)
            finally:
                os._exit(1)
        theirs.close()
        for number in (given, ends[0][1], ends[1][1], *passed):
            os.close(number)
        self.pipes = [
            _Pipe(name, read, bytearray()) for name, (read, _) in zip(("stdout", "stderr"), ends, strict=True)
        ]
        for pipe in self.pipes:
            os.set_blocking(pipe.number, False)
        return first

    def _watch(self, first: int, begun: float) -> tuple[dict[str, Any], dict[str, bytes]]:
        """Until the first process reports. What went wrong on the way is in `verdict`."""
        job = self.job
        asker = os.pidfd_open(
            struct.unpack("3i", self.control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        )
        poll = select.poll()
        for source in (self.report.fileno(), self.control.fileno(), asker, *(pipe.number for pipe in self.pipes)):
            poll.register(source, select.POLLIN)
        pause = 0.05 if self.group is not None else 0.01
        deadline, look, killed = begun + job.wall_s, begun + pause, False
        while True:
            wait = max(0.0, min(look, deadline) - time.monotonic())
            for number, _ in poll.poll(wait * 1000 + 1):
                if number == self.report.fileno():
                    try:
                        return jobs.read(self.report)
                    except channel.Closed:
                        raise RuntimeError("the sandbox's first process ended without a report") from None
                elif number in (asker, self.control.fileno()):
                    if number == asker or not self._answer():
                        poll.unregister(number)
                        self._end(Ended.BROKEN, "nobody waits for it any more")
                else:
                    pipe = next(one for one in self.pipes if one.number == number)
                    if not self._read(pipe):
                        poll.unregister(number)
                    if pipe.seen > job.output_bytes:
                        self._end(Ended.FLOODED, f"{pipe.name}: more than {job.output_bytes:,} bytes")
            now = time.monotonic()
            if now >= deadline:
                if killed:
                    raise RuntimeError("the sandbox's first process did not end the others")
                self._end(Ended.TIMED_OUT, f"wall: more than {job.wall_s:g} s")
            elif now >= look:
                look = now + pause
                self._look(first)
            if self.verdict is not None and not killed:
                killed = True
                with contextlib.suppress(BrokenPipeError):
                    self.report.send(b"-")
                deadline = now + _END_S

    def _look(self, first: int) -> None:
        job = self.job
        self.cpu_s = max(self.cpu_s, census.cpu_seconds(first))
        if self.cpu_s > job.cpu_s:
            self._end(Ended.TIMED_OUT, f"cpu: more than {job.cpu_s:g} s")
        if self.group is None:
            used = census.resident_bytes(first)
            if used > job.memory_bytes:  # forked children share pages that were counted for each
                used = census.shared_out_bytes(first)
            self.peak = max(self.peak, used)
            if self.peak > job.memory_bytes:
                self._end(Ended.OUT_OF_MEMORY, f"memory: more than {job.memory_bytes:,} bytes")
        elif self.group.killed():
            self._end(Ended.OUT_OF_MEMORY, f"memory: more than {job.memory_bytes:,} bytes")

    def _end(self, ended: Ended, reason: str) -> None:
        if self.verdict is None:
            self.verdict = ended, reason

    def _answer(self) -> bool:
        """Send the asker the output so far, or end the program as it wishes; False where the asker is gone."""
        try:
            head, _ = jobs.read(self.control, time.monotonic() + 1)
            if "end" in head:
                self._end(Ended(head["end"]), head["reason"])
            else:
                for pipe in self.pipes:  # what was written before the question; a pipe holds no more than one read
                    self._read(pipe)
                jobs.write(self.control, {"output": True}, {pipe.name: bytes(pipe.kept) for pipe in self.pipes})
        except (channel.Closed, TimeoutError):
            return False
        return True

    def _read(self, pipe: _Pipe) -> bool:
        """Take what is there; False at its end, or where there is nothing now."""
        try:
            part = os.read(pipe.number, 1 << 16)
        except BlockingIOError:
            return False
        pipe.kept += part[: self.job.output_bytes - len(pipe.kept)]
        pipe.seen += len(part)
        return bool(part)

    def _outcome(self, told: dict[str, Any], wall_s: float) -> dict[str, Any]:
        status = told["status"]
        if self.verdict is None:
            self._judge(told)
        assert self.verdict is not None
        ended, reason = self.verdict
        counted = None if self.group is None else self.group.peak_bytes()
        peak = max(self.peak, told["peak_bytes"]) if counted is None else counted
        own = isinstance(status, int)
        return {
            "ended": ended,
            "reason": reason,
            "code": os.WEXITSTATUS(status) if own and os.WIFEXITED(status) else None,
            "signal": os.WTERMSIG(status) if ended == Ended.CRASHED else None,
            "wall_s": wall_s,
            "cpu_s": max(self.cpu_s, told["cpu_s"]),
            "peak_bytes": peak,
        }

    def _judge(self, told: dict[str, Any]) -> None:
        """It ended by itself."""
        status = told["status"]
        assert isinstance(status, int)
        if self.group is not None and self.group.killed():
            self._end(Ended.OUT_OF_MEMORY, f"memory: more than {self.job.memory_bytes:,} bytes")
        elif told["refused"]:
            self._end(Ended.FLOODED, f"{told['refused']}: more than {self.job.output_bytes:,} bytes")
        elif any(pipe.seen > self.job.output_bytes for pipe in self.pipes):
            self._end(Ended.FLOODED, f"output: more than {self.job.output_bytes:,} bytes")
        elif os.WIFEXITED(status):
            self._end(Ended.FAILED if os.WEXITSTATUS(status) else Ended.OK, "")
        elif os.WTERMSIG(status) == signal.SIGXCPU:
            self._end(Ended.TIMED_OUT, f"cpu: more than {self.job.cpu_s:g} s")
        else:
            self._end(Ended.CRASHED, "")


def unused_user(process: int, mapped: str) -> int | None:
    """A user id that nobody has, another one for each living process. `mapped`: the text of /proc/self/uid_map.

    Root needs one: the kernel counts root's processes but does not limit them, and what the host shows is root's to write.
    None where this root has no ids to give, being an ordinary user's in disguise.
    """
    count = max(int(line.split()[0]) + int(line.split()[2]) for line in mapped.splitlines())
    wanted = _UNUSED_USERS + process
    if wanted < count:
        return wanted
    # A container: above the people's, below nobody's.
    return 60_000 + process % 5_000 if count > 65_000 else None


def _own_users() -> None:
    """A user namespace in which this user is itself and may mount; processes to come are in a namespace of theirs."""
    user, group = os.getuid(), os.getgid()
    with inside.layer("users"):
        linux.unshare(linux.CLONE_NEWUSER | linux.CLONE_NEWPID)
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"{user} {user} 1")
        Path("/proc/self/gid_map").write_text(f"{group} {group} 1")
