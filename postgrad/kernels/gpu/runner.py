"""The program inside a worker that has a GPU: runner.py, which lies beside it in the sandbox and whose rules hold here too.

A buffer set is one block on the device: a copy, byte for byte, of what the grader wrote into the arena, guard bands included. So alignments,
layouts and bands are the arena's, and the addresses are as random as the grader's offsets.

    c1,2,3     run on buffer sets 1, 2 and 3, with a wait for the whole device after each: what the grader times
    e3         as much, three times, without the implementation
    commit     a sum over all bits of each output of the last question: asked right after it, and timed too
    deliver    the outputs of one set into the arena; the grader adds up their bits itself
    back       the inputs of one set and their guard bands, as they are now, into the arena
    cool       write more than the L2 cache holds

Whoever does its work after the answer must do it before `commit` is answered, for nobody knows the sum without the work; and `commit` must take no
longer than the reference's. What runs in the timed part is saved before foreign code is imported: a patched torch.cuda.synchronize or
Event is not called (and told of by `settings`). Were all of that overcome, the sums and the grader's own clock would still be there.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:  # in the sandbox it is in none
    from postgrad.kernels import runner
else:
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import runner

    sys.path.pop(0)

BUILDS = "builds"
CACHES = ("TRITON_CACHE_DIR", "TORCH_EXTENSIONS_DIR", "TORCHINDUCTOR_CACHE_DIR", "CUDA_CACHE_PATH")
GUARD = 256
MOST = 64
"""Calls in a question."""
COLD = 9 / 4
"""Bytes that `cool` writes, in sizes of the L2 cache."""
POISON_BYTE = 0xFF


class Chip:
    """The device by functions that were there before any foreign code."""

    def __init__(self, torch: Any) -> None:
        torch.cuda.init()
        self.device = torch.device("cuda", torch.cuda.current_device())
        self.wait = torch._C._cuda_synchronize
        """For every stream of the device."""
        self.stream = torch.cuda.default_stream(self.device)
        base = torch._C._CudaEventBase
        self._record, self._elapsed = base.record, base.elapsed_time
        self.l2_bytes = int(torch.cuda.get_device_properties(self.device).L2_cache_size)
        self._random = torch.cuda.get_rng_state
        # float32 means float32, on both sides: torch's convolutions would take TF32.
        torch.backends.cudnn.allow_tf32 = False
        self._events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(MOST)]
        self.wait()

    def begin(self, place: int) -> None:
        self._record(self._events[place][0], self.stream)

    def end(self, place: int) -> None:
        self._record(self._events[place][1], self.stream)

    def seconds(self, place: int) -> float:
        """Between begin and end, as the device's own clock has it: both must have happened."""
        return float(self._elapsed(*self._events[place])) / 1e3

    def random(self) -> Any:
        return self._random()


class OnGpu(runner.Modules):
    """Modules whose tensors lie on the device."""

    compiled = os.path.join(os.getcwd(), BUILDS)
    most = 4 * MOST  # the grader says which are forgotten

    def __init__(self, arena: runner.Arena) -> None:
        for name in CACHES:
            os.environ[name] = os.path.join(self.compiled, name.lower())
        super().__init__(arena)
        self.watched = runner._Watched(self.torch, **{"torch.cuda": self.torch.cuda})
        tensor = self.torch._C.TensorBase
        self._sum, self._view, self._reshape = self.torch.sum, tensor.view, tensor.reshape
        self._words = {8: self.torch.int64, 4: self.torch.int32, 2: self.torch.int16, 1: self.torch.uint8}
        self.blocks: dict[int, tuple[Any, int]] = {}
        """Of each buffer set: its bytes on the device, and the arena's offset of the first."""
        self.made: dict[int, list[Any]] = {}
        """Outputs of the last question."""
        self.ran: list[tuple[int, Any]] = []

    def begin(self, told: dict[str, Any]) -> dict[str, Any]:
        """Take the device. The first question: an error here is the machine's."""
        self.chip = Chip(self.torch)
        self.flushed = self.torch.zeros(
            int(self.chip.l2_bytes * COLD) // 8, dtype=self.torch.int64, device=self.chip.device
        )
        return {"l2_bytes": self.chip.l2_bytes}

    def precision(self, name: str) -> None:
        self.model.to(self.chip.device)
        super().precision(name)

    # ---- Buffer sets

    def bind(self, told: dict[str, Any]) -> dict[str, Any]:
        for held in (self.bound, self.blocks):
            for k in [one for one in held if one <= told["oldest"]]:
                held.pop(k)
        self.made.clear()
        self.ran.clear()
        super().bind(told)
        for view in told["out"]:
            # What was freed keeps its values, and an output is likely to be put there: two, because one more may be made on the way.
            spare = [self.torch.empty(view["bytes"], dtype=self.torch.uint8, device=self.chip.device) for _ in range(2)]
            for one in spare:
                one.fill_(POISON_BYTE)
        self.chip.wait()
        return {}

    def _given(self, told: dict[str, Any]) -> list[Any]:
        views, device = told["given"], self.chip.device
        if not views:
            return []
        first, last = _range(views)
        if told["at"] is None:
            start = told["base"]
            block = self.torch.empty(last - start, dtype=self.torch.uint8, device=device)
        else:
            block, start = self.blocks[told["at"]]
        self.blocks[told["k"]] = block, start
        block[first - start : last - start].copy_(self._bytes(first, last))
        return [self._on_device(view, block, start) for view in views]

    def _on_device(self, view: dict[str, Any], block: Any, start: int) -> Any:
        dtype = getattr(self.torch, view["dtype"])
        empty = self.torch.empty(0, dtype=dtype, device=self.chip.device)
        if 0 in view["shape"]:
            return empty.reshape(view["shape"])
        # Not a view of the block: that would share its version counter.
        place = (view["offset"] - start) // dtype.itemsize
        return empty.set_(block.untyped_storage(), place, view["shape"], view["stride"])

    def _bytes(self, first: int, last: int) -> Any:
        return self.torch.frombuffer(self.arena.memory, dtype=self.torch.uint8, count=last - first, offset=first)

    def back(self, told: dict[str, Any]) -> dict[str, Any]:
        if told["given"]:
            block, start = self.blocks[told["k"]]
            first, last = _range(told["given"])
            self._bytes(first, last).copy_(block[first - start : last - start])
        return {}

    # ---- Calls

    def call(self, told: bytes) -> None:
        chip, model, no_grad = self.chip, self.model, self.torch.no_grad
        ran = []
        for place, k in enumerate(map(int, told.split(b","))):
            given = self.bound[k][0]
            chip.begin(place)
            with no_grad():
                result = model(*given)
            chip.end(place)
            chip.wait()
            ran.append((k, result))
        self.ran = ran

    def empty(self, told: bytes) -> None:
        chip, no_grad = self.chip, self.torch.no_grad
        for place in range(int(told)):
            chip.begin(place)
            with no_grad():
                pass
            chip.end(place)
            chip.wait()

    def commit(self, told: dict[str, Any]) -> dict[str, Any]:
        """The last question's outputs: what they are, and the sum of all their bits, output by output of each set in turn."""
        with self.torch.no_grad():
            for k, result in self.ran:
                results = runner._flat(result)
                self.results.append(results)
                self._agreed(results, self.bound[k][1])
                self.made[k] = results
            sums = [self._bits(one) for results in self.made.values() for one in results]
            found = self.torch.stack(sums).tolist() if sums else []
        return {"sums": found, "seconds": [self.chip.seconds(place) for place in range(len(self.ran))]}

    def _agreed(self, results: list[Any], outs: list[Any]) -> None:
        torch = self.torch
        for place, result in enumerate(results):
            kind = type(result)
            if kind not in (torch.Tensor, torch.nn.Parameter):
                raise runner.Refused("type", f"output {place} is a {kind.__name__}; wanted exactly torch.Tensor")
            if result.layout != torch.strided or result.is_conj() or result.is_neg():
                raise runner.Refused("type", f"output {place} is no dense tensor that holds its values")
            if result.device != self.chip.device:
                raise runner.Refused(
                    "type", f"output {place} lies on {result.device}, the inputs on {self.chip.device}"
                )
        super()._agreed(results, outs)
        for place, (result, out) in enumerate(zip(results, outs, strict=True)):
            if result.dtype != out.dtype:
                raise runner.Refused("type", f"output {place} is {result.dtype}, the reference's {out.dtype}")

    def _bits(self, result: Any) -> Any:
        """The sum over all bits in the widest words that fit, as int64."""
        flat = self._reshape(result.contiguous(), -1)
        length = flat.numel() * flat.element_size()
        width = next(width for width in self._words if length % width == 0)
        if flat.storage_offset() * flat.element_size() % width:
            flat = flat.clone()
        return self._sum(self._view(flat, self._words[width]), dtype=self.torch.int64)

    def deliver(self, told: dict[str, Any]) -> dict[str, Any]:
        for result, out in zip(self.made[told["k"]], self.bound[told["k"]][1], strict=True):
            out.copy_(result)
        return {}

    def cool(self, told: dict[str, Any]) -> dict[str, Any]:
        self.flushed.add_(1)
        self.chip.wait()
        return {}

    def settings(self, told: dict[str, Any]) -> dict[str, Any]:
        found = super().settings(told)
        found["random"].append(hash(self.chip.random().numpy().tobytes()))
        return found


def _range(views: list[dict[str, Any]]) -> tuple[int, int]:
    """The arena's bytes from the first guard band to the end of the last one."""
    starts = [view["offset"] - GUARD for view in views]
    return min(starts), max(view["offset"] + view["bytes"] + GUARD for view in views)


if __name__ == "__main__":
    runner.serve(OnGpu)
