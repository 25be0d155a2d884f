"""Long-lived worker processes with a hard deadline: a job that hangs is killed and reported, and the next one is fine.

A worker starts on the first job that needs one, serves one job at a time, and dies with its pool, at the interpreter's
exit or when its input closes. Any thread may ask. A forked child forgets its parent's workers and starts its own.
"""

from __future__ import annotations

import atexit
import json
import os
import select
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from typing import Any

_ROOT = str(Path(__file__).parents[2])
_SERVE = "import sys; sys.path.insert(0, sys.argv[1]); from postgrad.verify.algebra import main; main(int(sys.argv[2]))"
_START_S = 120.0
"""A worker imports sympy first, which on a loaded machine takes long and says nothing about the job."""


class Failed(Exception):
    """The job has no result: it ran out of time or memory, or its worker died."""


class Pool:
    """Jobs for `algebra`, at most `workers` at once."""

    def __init__(self, *, deadline_s: float = 5.0, memory: int = 2 << 30, workers: int = 2) -> None:
        self.deadline_s = deadline_s
        self.memory = memory
        self.workers = workers
        self._fresh()
        _pools.add(self)

    def _fresh(self) -> None:
        self._idle: list[_Worker] = []
        self._all: set[_Worker] = set()
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(self.workers)

    def ask(self, job: dict[str, Any]) -> dict[str, Any]:
        """The worker's reply. Raises Failed where there is none in time; waiting for a free worker is not counted."""
        with self._places:
            worker = self._take()
            try:
                reply = worker.ask({**job, "seconds": self.deadline_s}, self.deadline_s)
            except BaseException:
                self._drop(worker)
                raise
            with self._lock:
                self._idle.append(worker)
            return reply

    def pids(self) -> list[int]:
        with self._lock:
            return [worker.process.pid for worker in self._all]

    def close(self) -> None:
        """Kill every worker; a later job starts new ones."""
        with self._lock:
            workers, self._idle = list(self._all), []
        for worker in workers:
            self._drop(worker)

    def _take(self) -> _Worker:
        with self._lock:
            if self._idle:
                return self._idle.pop()
            worker = _Worker(self.memory)
            self._all.add(worker)
            return worker

    def _drop(self, worker: _Worker) -> None:
        with self._lock:
            self._all.discard(worker)
        worker.kill()

    def _forget(self) -> None:
        """In a forked child: the pipes are the parent's, and two writers would mix their jobs."""
        for worker in self._all:
            worker.let_go()
        self._fresh()


class _Worker:
    def __init__(self, memory: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, _ROOT, str(memory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            # sympy orders terms by hash: with one seed, a pair gets the same verdict in every worker and every run.
            env={**os.environ, "PYTHONHASHSEED": "0"},
        )
        self.ready = False

    def ask(self, job: dict[str, Any], deadline_s: float) -> dict[str, Any]:
        if not self.ready:
            self._receive(_START_S)
            self.ready = True
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(job).encode() + b"\n")
        except BrokenPipeError:
            raise Failed("worker died") from None
        return self._receive(deadline_s)

    def _receive(self, seconds: float) -> dict[str, Any]:
        assert self.process.stdout is not None
        pipe = self.process.stdout.fileno()
        poll = select.poll()  # not select: its descriptors end at 1,023
        poll.register(pipe, select.POLLIN)
        until, received = time.monotonic() + seconds, b""
        while not received.endswith(b"\n"):
            if not poll.poll(max(0.0, until - time.monotonic()) * 1000):
                raise Failed(f"no result in {seconds:g} s")
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                raise Failed("worker died")
            received += chunk
        reply: dict[str, Any] = json.loads(received)
        return reply

    def kill(self) -> None:
        self.process.kill()
        self.let_go()
        self.process.wait()

    def let_go(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for pool in list(_pools):
        pool.close()


def _forget_all() -> None:
    for pool in list(_pools):
        pool._forget()


os.register_at_fork(after_in_child=_forget_all)
