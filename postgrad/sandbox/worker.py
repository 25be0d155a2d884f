"""A sandboxed program that lives on and is asked things, over a socket of its own."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from postgrad.sandbox import census, channel, host
from postgrad.sandbox import job as jobs
from postgrad.sandbox.outcome import Ended, Limits, Outcome


class WorkerEnded(Exception):
    """The program is gone; `outcome` says how."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(f"the worker's program has ended: {outcome.ended} {outcome.reason}".strip())
        self.outcome = outcome


class WorkerTimeout(Exception):
    """No whole reply by the deadline. The program was ended: a late reply would answer the next question."""


class Worker:
    """Started by its making, ended by `close`, or at the end of a `with`.

    argv, files, read, limits, gpu, environment: as for `run`; `limits.wall_s` is for its whole life.
    pass_fds: descriptors that the program has under the same numbers (sealed memory files, say).

    The program finds its socket by the environment variable `channel.VARIABLE`; `channel.SOURCE` is a module to speak with.
    Raises WorkerEnded where the sandbox could not be set up.
    """

    pid: int
    """Of the program, as the host counts."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        files: Mapping[str, bytes] = {},
        read: Sequence[Path] = (),
        limits: Limits,
        gpu: int | None = None,
        environment: Mapping[str, str] = {},
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._limits = limits
        self._outcome: Outcome | None = None
        number = max([2, *pass_fds]) + 1
        job = host.describe(
            argv,
            read=read,
            collect=(),
            limits=limits,
            gpu=gpu,
            environment={**environment, channel.VARIABLE: str(number)},
            descriptors=[number, *pass_fds],
        )
        self._channel, theirs = socket.socketpair()
        try:
            with theirs:
                self._control = host.start(job, files, b"", [theirs.fileno(), *pass_fds])
        except (channel.Closed, TimeoutError, OSError) as error:
            self._channel.close()
            raise WorkerEnded(host.unanswered(error)) from None
        try:
            head, blobs = jobs.read(self._control, time.monotonic() + host.GRACE_S)
        except (channel.Closed, TimeoutError) as error:
            raise WorkerEnded(self._lost(error)) from None
        if "ended" in head:
            raise WorkerEnded(self._finish(head, blobs))
        self._first, self.pid = head["first"], head["program"]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, message: bytes, deadline_s: float) -> bytes:
        """The reply to a message. Raises WorkerEnded, or WorkerTimeout after `deadline_s` seconds.

        A reply longer than `limits.output_bytes` ends the program as FLOODED.
        """
        if self._outcome is not None:
            raise WorkerEnded(self._outcome)
        until = time.monotonic() + deadline_s
        try:
            channel.send(self._channel, message, until)
            return channel.receive(self._channel, until, self._limits.output_bytes)
        except channel.Closed:
            raise WorkerEnded(self._end(Ended.FAILED, "it closed its channel", patience_s=1.0)) from None
        except channel.TooLong as error:
            raise WorkerEnded(self._end(Ended.FLOODED, str(error))) from None
        except TimeoutError:
            self._end(Ended.TIMED_OUT, f"no reply within {deadline_s:g} s")
            raise WorkerTimeout(f"no reply within {deadline_s:g} s") from None

    def cpu_seconds(self) -> float:
        """Of the program and all that it started, read from outside: it has no say in it."""
        return census.cpu_seconds(self._first)

    def threads(self) -> int:
        return census.threads(self._first)

    def processes(self) -> int:
        return len(census.descendants(self._first))

    def stderr(self) -> bytes:
        """Its standard error so far, at most `limits.output_bytes`."""
        if self._outcome is not None:
            return self._outcome.stderr
        try:
            jobs.write(self._control, {"output": True}, {})
            head, blobs = jobs.read(self._control, time.monotonic() + host.GRACE_S)
        except (channel.Closed, TimeoutError):
            return self._end().stderr
        return blobs["stderr"] if "output" in head else self._finish(head, blobs).stderr

    def close(self) -> Outcome:
        """End the program and all that it started, and wait until they are gone. How it ended, if it had before."""
        return self._end()

    def _end(self, ended: Ended = Ended.OK, reason: str = "closed", patience_s: float = 0.0) -> Outcome:
        """Its own end if that comes within `patience_s`, else this one."""
        if self._outcome is not None:
            return self._outcome
        self._channel.close()
        try:
            try:
                return self._last(patience_s)
            except TimeoutError:
                jobs.write(self._control, {"end": ended, "reason": reason}, {})
                return self._last(host.GRACE_S)
        except (channel.Closed, TimeoutError) as error:
            return self._lost(error)

    def _last(self, within_s: float) -> Outcome:
        until = time.monotonic() + within_s
        while True:
            head, blobs = jobs.read(self._control, until)
            if "ended" in head:
                return self._finish(head, blobs)

    def _lost(self, error: Exception) -> Outcome:
        self._outcome = host.unanswered(error)
        self._channel.close()
        self._control.close()
        return self._outcome

    def _finish(self, head: dict[str, Any], blobs: dict[str, bytes]) -> Outcome:
        self._outcome = host.outcome(head, blobs)
        self._channel.close()
        self._control.close()
        return self._outcome
