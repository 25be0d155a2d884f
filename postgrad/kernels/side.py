"""One implementation in a worker of its own, as the grader sees it.

    side.place(arrays) -> k     values into the arena at fresh addresses, outputs poisoned; new tensor objects over there
    side.call(k) -> seconds     run on buffer set k: the grader's clock around question and answer
    side.output(k) -> arrays    copied out of the arena by the grader

Inputs and outputs lie in an arena: a sealed memfd that both sides map, one for each worker, so no worker sees another's.
A buffer set lies between guard bands, in one of a few regions that are used in turn, at an offset that is random.
"""

from __future__ import annotations

import contextlib
import json
import math
import mmap
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fcntl import F_ADD_SEALS, fcntl
from pathlib import Path
from typing import Any, Literal

import numpy as np

from postgrad.kernels.candidate import Backend
from postgrad.kernels.numeric import STORAGE, Array, numbers, stored
from postgrad.sandbox import Ended, Limits, Worker, WorkerEnded, WorkerTimeout, channel

RUNNER = Path(__file__).with_name("runner.py").read_bytes()
ARENA_BYTES = 8 << 30
"""Addresses, not memory: only what is written to takes any."""
REGIONS = 4
GUARD = 256
ALIGNED = 64
SCATTER = 1 << 20
"""Bytes over which the start of a buffer set is spread."""
GUARD_BYTE, POISON_BYTE = 0xA5, 0xFF
"""0xFF in every byte is a NaN in each floating type, and the largest number without sign."""
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "passive",
    "PYTHONHASHSEED": "0",
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
"""One thread, which sleeps where it waits: CPU-seconds are then those of the work. torch.compile starts no processes of its own."""
INTERPRETED = {**ENVIRONMENT, "TRITON_INTERPRET": "1"}
"""A worker on the CPU runs Triton's kernels in its interpreter."""
START_S = 120.0
"""For a worker to be there: importing torch on a busy machine."""
CALL_S = 60.0


class Misbehaved(Exception):
    """The implementation did something that ends its evaluation. `kind`: entry, inputs, shape, type, gradient, raised, memory,
    exit, late, protocol, or how its process ended; `who`: candidate or reference."""

    def __init__(self, kind: str, text: str, line: int | None = None, who: str = "candidate") -> None:
        super().__init__(text)
        self.kind, self.line, self.who = kind, line, who


@dataclass(frozen=True, slots=True)
class Spec:
    """A tensor's element type and lengths."""

    dtype: str
    shape: tuple[int, ...]
    name: str = ""

    @property
    def bytes(self) -> int:
        return math.prod(self.shape) * np.dtype(STORAGE[self.dtype]).itemsize


def spec(view: Mapping[str, Any]) -> Spec:
    """From what a worker says. Raises Misbehaved for a type that is not known here."""
    dtype, shape = str(view["dtype"]), tuple(int(length) for length in view["shape"])
    if dtype not in STORAGE or any(length < 0 for length in shape):
        raise Misbehaved("type", f"a tensor of type {dtype}: wanted {', '.join(STORAGE)}")
    return Spec(dtype, shape, str(view.get("name", "")))


@dataclass(frozen=True, slots=True)
class Code:
    """What a worker is to load."""

    backend: Backend
    source: str = ""
    name: Literal["candidate", "reference"] = "candidate"
    entry: str = "ModelNew"
    library: Path | None = None


@dataclass(slots=True)
class _Set:
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]
    given: list[Array]
    """What was placed, as the grader keeps it."""


class Side:
    """A started worker. Use as a context manager. Questions raise Misbehaved for what the implementation did, which ends
    the worker or not, and WorkerEnded where the sandbox itself failed."""

    def __init__(self, code: Code, limits: Limits, *, rng: np.random.Generator) -> None:
        self.code, self._rng, self.limits = code, rng, limits
        self._fd = _memory(ARENA_BYTES)
        self._arena = mmap.mmap(self._fd, ARENA_BYTES)
        self._region_bytes = ARENA_BYTES // REGIONS
        self._sets: dict[int, _Set] = {}
        self._serial = self._placed = 0
        self._kept = REGIONS
        """Buffer sets that are known at a time."""
        self.state: list[Spec] = []
        self.extra: list[Array] = []
        """Parameters that a C++ kernel gets after the inputs."""
        try:
            self.worker = self._started()
        except BaseException:
            self._release()
            raise

    def _started(self) -> Worker:
        code, files = self.code, {"runner.py": RUNNER, "channel.py": channel.SOURCE}
        if code.library is not None:
            files["kernel.so"] = code.library.read_bytes()
        bare = ["-S"] if code.backend == "cpp" else []
        return Worker(
            [sys.executable, "-I", *bare, "runner.py", code.backend, str(self._fd)],
            files=files,
            limits=self.limits,
            environment=INTERPRETED if code.backend == "triton" else ENVIRONMENT,
            pass_fds=(self._fd,),
        )

    def __enter__(self) -> Side:
        self.worker.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        self.worker.close()
        self._release()

    def _release(self) -> None:
        self._sets.clear()
        with contextlib.suppress(BufferError):  # an array of the caller's still looks at it: freed with that
            self._arena.close()
        os.close(self._fd)

    # ---- Questions

    def ask(self, op: str, deadline_s: float = CALL_S, **told: Any) -> dict[str, Any]:
        return self._asked(json.dumps({"op": op, **told}).encode(), deadline_s)

    def _asked(self, body: bytes, deadline_s: float) -> dict[str, Any]:
        return self._read(self._round_trip(body, deadline_s))

    def _read(self, answer: bytes) -> dict[str, Any]:
        """What an answer says. Raises Misbehaved where it tells of an error, or is none."""
        try:
            found = json.loads(answer) if answer else {}
            error = found.get("error")
        except (ValueError, AttributeError, RecursionError):
            raise self._misbehaved("protocol", f"an answer that is no JSON object: {answer[:80]!r}") from None
        if error is not None:
            line = error.get("line") if isinstance(error, dict) else None
            kind, text = (
                (str(error.get(key)) for key in ("kind", "text")) if isinstance(error, dict) else ("protocol", "")
            )
            raise self._misbehaved(kind, text, line if isinstance(line, int) else None)
        assert isinstance(found, dict)
        return found

    def _misbehaved(self, kind: str, text: str, line: int | None = None) -> Misbehaved:
        return Misbehaved(kind, text, line, self.code.name)

    def _round_trip(self, body: bytes, deadline_s: float) -> bytes:
        self._serial += 1
        serial = b"%d " % self._serial
        try:
            answer = self.worker.ask(serial + body, deadline_s)
        except WorkerEnded as error:
            outcome = error.outcome
            if outcome.ended is Ended.BROKEN:
                raise
            said = outcome.stderr.decode("utf-8", "replace")[-500:].strip()
            how = f"signal {outcome.signal}" if outcome.code is None else f"exit status {outcome.code}"
            text = f"its process ended ({how}) {outcome.reason} {said}".strip()
            raise self._misbehaved(str(outcome.ended), text) from error
        except WorkerTimeout as error:
            raise self._misbehaved(str(Ended.TIMED_OUT), str(error)) from error
        if not answer.startswith(serial):
            raise self._misbehaved(
                "protocol", f"answer {answer[:20]!r} to question {self._serial}: something else answered before"
            )
        return answer[len(serial) :]

    def load(
        self, *, seed: int, init: dict[str, Any] | None, mode: str = "eval", precision: str = "float32"
    ) -> list[Spec]:
        """Import and construct; gives the names, types and shapes of parameters and buffers."""
        if self.code.backend == "cpp":
            self.ask("load", START_S, path="kernel.so")
            return []
        told = {"source": self.code.source, "name": self.code.name, "entry": self.code.entry}
        found = self.ask("load", START_S, **told, seed=seed, init=init, mode=mode, precision=precision)
        self.state = [spec(view) for view in found["state"]]
        return self.state

    # ---- Buffer sets

    def place(
        self,
        arrays: Sequence[Array],
        inputs: Sequence[Spec],
        outputs: Sequence[Spec],
        *,
        n: Sequence[int] = (),
        at: int | None = None,
        layout: Literal["contiguous", "transposed", "misaligned"] = "contiguous",
        **told: Any,
    ) -> int:
        """A new buffer set with values (stored form) in it, k. `at`: the addresses of that earlier set; `told`: further words for bind."""
        arrays = [*arrays, *self.extra]
        inputs = [*inputs, *(Spec("float32", array.shape) for array in self.extra)]
        k = self._placed = self._placed + 1
        if at is None:
            space = _Space(k % REGIONS * self._region_bytes, self._region_bytes, self._rng)
            made = [space.view(one, layout) for one in inputs]
            outs = [space.view(one) for one in outputs]
            self._sets.pop(k - self._kept, None)
        else:
            made, outs = self._sets[at].inputs, self._sets[at].outputs
        for view in (*made, *outs):
            self._guards(view)[:] = GUARD_BYTE
        for view, array in zip(made, arrays, strict=True):
            np.copyto(self._array(view), array)
        for view in outs:
            self._raw(view)[:] = POISON_BYTE
        self._sets[k] = _Set(made, outs, list(arrays))
        self.ask("bind", k=k, given=made, out=outs, n=list(n), **self._placing(k, at), **told)
        return k

    def _placing(self, k: int, at: int | None) -> dict[str, Any]:
        """What else the worker must know of where set k lies."""
        return {}

    def call(self, k: int, deadline_s: float = CALL_S) -> float:
        """Seconds by the grader's clock, from question to answer, outputs in the arena included."""
        return self._timed(b"c%d" % k, deadline_s)

    def _timed(self, body: bytes, deadline_s: float) -> float:
        start = time.perf_counter_ns()
        answer = self._round_trip(body, deadline_s)
        elapsed = time.perf_counter_ns() - start
        if answer:
            self._read(answer)
            raise self._misbehaved("protocol", f"an answer to a call that is no error either: {answer[:80]!r}")
        return elapsed / 1e9

    def empty(self) -> float:
        """Seconds of a round trip that runs nothing."""
        return self._timed(b"e", CALL_S)

    def output(self, k: int) -> list[Array]:
        """Numbers of each output, copied."""
        return [
            numbers(raw, view["dtype"]) for raw, view in zip(self.stored_output(k), self._sets[k].outputs, strict=True)
        ]

    def stored_output(self, k: int) -> list[Array]:
        return [self._array(view).copy() for view in self._sets[k].outputs]

    def poisoned(self, k: int) -> list[Array]:
        """Where an output still holds what the grader had put there."""
        bits = [_bits(self._array(view)) for view in self._sets[k].outputs]
        return [one == np.iinfo(one.dtype).max for one in bits]

    def changed_inputs(self, k: int) -> list[int]:
        """Places of inputs whose bytes are not those that were placed."""
        held = self._sets[k]
        return [
            place
            for place, (view, given) in enumerate(zip(held.inputs, held.given, strict=True))
            if not np.array_equal(_bits(self._array(view)), _bits(given))
        ]

    def broken_guards(self, k: int) -> int:
        """Guard bands of set k that were written to."""
        views = (*self._sets[k].inputs, *self._sets[k].outputs)
        return sum(bool((self._guards(view) != GUARD_BYTE).any()) for view in views)

    def fetch(self, op: str, specs: Sequence[Spec], deadline_s: float = CALL_S, **told: Any) -> list[Array]:
        """Stored arrays that an operation writes to the arena (its `out`)."""
        self._placed += 1
        space = _Space(self._placed % REGIONS * self._region_bytes, self._region_bytes, self._rng)
        views = [space.view(one) for one in specs]
        self.ask(op, deadline_s, out=views, **told)
        return [self._array(view).copy() for view in views]

    def send(self, op: str, arrays: Sequence[Array], specs: Sequence[Spec], **told: Any) -> None:
        """Stored arrays to an operation that reads them from the arena (its `given`)."""
        self._placed += 1
        space = _Space(self._placed % REGIONS * self._region_bytes, self._region_bytes, self._rng)
        views = [space.view(one) | {"name": one.name} for one in specs]
        for view, array in zip(views, arrays, strict=True):
            np.copyto(self._array(view), array)
        self.ask(op, given=views, **told)

    def gradients(self, k: int, weights: Sequence[Array], specs: Sequence[Spec], *, exact: bool) -> list[Array]:
        """Numbers of the gradients of set k's floating inputs and of the parameters, for these weights of the outputs."""
        self._placed += 1
        space = _Space(self._placed % REGIONS * self._region_bytes, self._region_bytes, self._rng)
        views = [space.view(one) for one in specs]
        for view, array in zip(views, weights, strict=True):
            np.copyto(self._array(view), array)
        told = self.ask("gradients", k=k, weights=views, grads=None, exact=exact)
        grads = [space.view(spec(view)) for view in told["grads"]]
        self.ask("gradients", k=k, weights=views, grads=grads, exact=exact)
        return [numbers(self._array(view).copy(), view["dtype"]) for view in grads]

    # ---- Seen from outside

    def cpu_seconds(self) -> float:
        """Of the worker's whole tree."""
        return self.worker.cpu_seconds()

    def census(self) -> tuple[int, int]:
        """Processes and threads of the worker's tree."""
        return self.worker.processes(), self.worker.threads()

    def _array(self, view: Mapping[str, Any]) -> Array:
        kind = np.dtype(STORAGE[view["dtype"]])
        strides = [step * kind.itemsize for step in view["stride"]]
        return np.ndarray(view["shape"], kind, self._arena, view["offset"], strides)

    def _raw(self, view: Mapping[str, Any]) -> Array:
        return np.ndarray((view["bytes"],), np.uint8, self._arena, view["offset"])

    def _guards(self, view: Mapping[str, Any]) -> Array:
        """`[2, GUARD]`: the bands right before and right after a buffer."""
        ends = view["bytes"] + GUARD
        return np.ndarray((2, GUARD), np.uint8, self._arena, view["offset"] - GUARD, (ends, 1))


class _Space:
    """Hands out places of one region, from a random start."""

    def __init__(self, start: int, length: int, rng: np.random.Generator) -> None:
        self.next, self.end = start + ALIGNED * int(rng.integers(min(length // 64, SCATTER) // ALIGNED)), start + length
        self.length, self.rng = length, rng

    def view(self, one: Spec, layout: str = "contiguous") -> dict[str, Any]:
        width = np.dtype(STORAGE[one.dtype]).itemsize
        stride, elements = _strides(one.shape, layout == "transposed")
        offset = self.next + GUARD + ALIGNED * int(self.rng.integers(0, 8))
        offset += -offset % ALIGNED + (width if layout == "misaligned" else 0)
        length = elements * width
        self.next = offset + length + GUARD
        if self.next > self.end:
            raise ValueError(
                f"inputs and outputs need more than {self.length:,} bytes, a quarter of the arena: give the task smaller shapes, or a larger ARENA_BYTES"
            )
        return {"dtype": one.dtype, "shape": list(one.shape), "stride": stride, "offset": offset, "bytes": length}


def _strides(shape: tuple[int, ...], transposed: bool) -> tuple[list[int], int]:
    """In elements, and how many elements lie between the first and the last: row-major, or with the last two axes swapped
    (one axis: every second element)."""
    if transposed and len(shape) == 1:
        return [2], max(0, 2 * shape[0] - 1)
    order = [*shape[:-2], shape[-1], shape[-2]] if transposed and len(shape) > 1 else [*shape]
    stride = [math.prod(order[axis + 1 :]) for axis in range(len(order))]
    if transposed and len(shape) > 1:
        stride[-2:] = [stride[-1], stride[-2]]
    return stride, math.prod(shape)


def _bits(values: Array) -> Array:
    """All bytes of an element as one number, which compares NaN and is faster than byte by byte."""
    found: Array = values.view(f"u{values.itemsize}")
    return found


def stored_all(values: Sequence[Array], specs: Sequence[Spec]) -> list[Array]:
    return [stored(value, one.dtype) for value, one in zip(values, specs, strict=True)]


def _memory(length: int) -> int:
    """A memfd whose size nobody can change."""
    fd = os.memfd_create("arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, length)
        fcntl(fd, F_ADD_SEALS, 0x1 | 0x2 | 0x4)  # F_SEAL_SEAL, F_SEAL_SHRINK, F_SEAL_GROW
    except OSError:
        os.close(fd)
        raise
    return fd
