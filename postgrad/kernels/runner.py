"""The program inside a worker: it loads one implementation and calls it when asked. It returns data, never a verdict.

It is sent as text into the sandbox, so it imports nothing of this project: the standard library, and torch for Python code.
All that it says about itself may be forged by the code that it loads. So it holds no clock, no expected value and no later
input; output values lie in memory of the grader's (the arena, a memfd that both map) when a call is answered, and what
is said about types, addresses and settings (`describe`, `settings`) can only speak against a kernel.

One frame is one JSON object {"op": ...}; the answer is {"error": {...}} or whatever the operation gives. The timed operation is
"c<k>" instead, answered by nothing (so is "e", which does nothing): run on buffer set k and have the outputs in the arena. Each frame begins with a serial number and a
space, and so does its answer: one that was sent by other hands leaves one too many. Where there is a GPU, gpu/runner.py runs in the place of this and builds on it.

A buffer set holds views {"dtype", "shape", "stride", "offset"}: offset in bytes from the arena's start, stride in elements.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

View = dict[str, Any]
BOUND = 16
"""Buffer sets remembered at most."""
LOADED = ("candidate.py", "reference.py")
"""What loaded code is called, in its folder."""


class Arena:
    """The grader's memory, as this process sees it."""

    def __init__(self, fd: int) -> None:
        self.memory = mmap.mmap(fd, os.fstat(fd).st_size)
        self.start = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))


class Refused(Exception):
    """The implementation is not what was agreed on; `kind` says in which respect."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Native:
    """A shared library with `kernel(const float* const* in, float* out, const long* n)`."""

    def __init__(self, arena: Arena) -> None:
        self.arena = arena
        self.bound: dict[int, Callable[[], object]] = {}

    def load(self, told: dict[str, Any]) -> dict[str, Any]:
        library = ctypes.CDLL(os.path.abspath(told["path"]))
        try:
            self.kernel = library.kernel
        except AttributeError:
            raise Refused("entry", 'the library exports no `kernel`: define extern "C" void kernel(...)') from None
        self.kernel.restype = None
        return {"state": []}

    def bind(self, told: dict[str, Any]) -> dict[str, Any]:
        pointers = [self.arena.start + view["offset"] for view in told["given"]]
        arguments = (
            (ctypes.c_void_p * len(pointers))(*pointers),
            ctypes.c_void_p(self.arena.start + told["out"][0]["offset"]),
            (ctypes.c_long * max(1, len(told["n"])))(*told["n"]),
        )
        kernel = self.kernel
        self.bound[told["k"]] = lambda: kernel(*arguments)
        return {}

    def call(self, told: bytes) -> None:
        self.bound[int(told)]()

    def empty(self, told: bytes) -> None:
        pass

    def settings(self, told: dict[str, Any]) -> dict[str, Any]:
        return {"files": _files(), "signals": _signals()}


class Modules:
    """Python code with a module class or a function, run by torch."""

    compiled: str | None = None
    """A folder that compilers may write to."""
    most = BOUND

    def __init__(self, arena: Arena) -> None:
        import torch

        torch.set_num_threads(1)
        self.torch, self.arena = torch, arena
        self.bound: dict[int, tuple[list[Any], list[Any]]] = {}
        self.results: list[list[Any]] = []
        self.exact: Any = None
        self.backward: list[View] | None = None
        self.watched = _Watched(torch)

    # ---- What is called

    def load(self, told: dict[str, Any]) -> dict[str, Any]:
        """Import the source and make the implementation: a class is constructed right after seeding, a function is taken as it is."""
        import importlib.util

        name, torch = told["name"], self.torch
        path = os.path.abspath(f"{name}.py")
        with open(path, "w", encoding="utf-8") as file:
            file.write(told["source"])
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        self.module = importlib.util.module_from_spec(spec)
        sys.modules[name] = self.module
        spec.loader.exec_module(self.module)
        entry = getattr(self.module, told["entry"], None)
        if entry is None:
            raise Refused("entry", f"{name}.py defines no {told['entry']}")
        if isinstance(entry, type):
            init = self.init_inputs() if told["init"] is None else _decoded(told["init"])
            torch.manual_seed(told["seed"])
            self.model: Any = entry(*init)
            if not isinstance(self.model, torch.nn.Module):
                raise Refused("entry", f"{told['entry']} is no torch.nn.Module")
            self.model.train(told["mode"] == "train")
            self.precision(told["precision"])
        else:
            self.model = entry
        return {"state": [_view(value) | {"name": name} for name, value in self.state()]}

    def precision(self, name: str) -> None:
        if name != "float32":
            self.model.to(getattr(self.torch, name))

    def init_inputs(self) -> list[Any]:
        return list(getattr(self.module, "get_init_inputs", list)())

    def state(self) -> list[tuple[str, Any]]:
        return list(self.model.state_dict().items()) if isinstance(self.model, self.torch.nn.Module) else []

    def survey(self, told: dict[str, Any]) -> dict[str, Any]:
        """What the reference's own functions give: constructor arguments, and inputs for a seed."""
        init = _encoded(self.init_inputs())
        self.torch.manual_seed(told["seed"])
        if told.get("shapes") is None:
            make = getattr(self.module, "get_inputs", None)
            if make is None:
                raise Refused("inputs", "the task defines no get_inputs() and no shapes were given")
            self.inputs = make()
        else:
            self.inputs = [self.torch.randn(shape) for shape in told["shapes"]]
        if not isinstance(self.inputs, (list, tuple)):
            raise Refused(
                "inputs", f"get_inputs() gave a {type(self.inputs).__name__}; wanted: a list of tensors and numbers"
            )
        self.tensors = [value for value in self.inputs if isinstance(value, self.torch.Tensor)]
        others = [None if isinstance(value, self.torch.Tensor) else _encoded(value) for value in self.inputs]
        return {"init": init, "in": [_view(value) for value in self.tensors], "others": others}

    def sample(self, told: dict[str, Any]) -> dict[str, Any]:
        """The values of the last survey, into the arena."""
        for view, value in zip(told["out"], self.tensors, strict=True):
            self._tensor(view).copy_(value)
        return {}

    def set_state(self, told: dict[str, Any]) -> dict[str, Any]:
        """Parameters and buffers from the arena: by a strict load, or in place as an optimiser's step does."""
        views = told["given"]
        values = {view["name"]: self._tensor(view).clone() for view in views}
        mine = dict(self.state())
        if [*mine] != [*values]:  # other names: the same order and shapes will do
            values = dict(zip(mine, values.values(), strict=True))
        if told["how"] == "load":
            self.model.load_state_dict(values, strict=True)
        else:
            with self.torch.no_grad():
                for name, value in values.items():
                    mine[name].copy_(value)
        self.exact = None
        return {}

    def get_state(self, told: dict[str, Any]) -> dict[str, Any]:
        for view, (_, value) in zip(told["out"], self.state(), strict=True):
            self._tensor(view).copy_(value)
        return {}

    def mode(self, told: dict[str, Any]) -> dict[str, Any]:
        if isinstance(self.model, self.torch.nn.Module):
            self.model.train(told["mode"] == "train")
        self.exact = None
        return {}

    # ---- Calls

    def bind(self, told: dict[str, Any]) -> dict[str, Any]:
        """Tensors of buffer set k: new objects, unless `keep` says that those of an earlier set are to be given again."""
        torch = self.torch
        self.release()
        if told.get("keep") is not None:
            given = self.bound[told["keep"]][0]
            fresh = self._given(told)
            tensors = [value for value in given if isinstance(value, torch.Tensor)]
            for old, new in zip(tensors, fresh, strict=True):
                if told["how"] == "data":
                    old.data = new  # the same object on other memory
                elif told["how"] == "copy":
                    with torch.no_grad():
                        old.copy_(new)  # the same object and memory, with the version counted up
        else:
            made = iter(self._given(told))
            others = told.get("others") or [None] * len(told["given"])
            given = [next(made) if other is None else _decoded(other) for other in others]
        if told.get("grad"):
            given = [v.requires_grad_() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for v in given]
        outs = [self._tensor(view) for view in told["out"]]
        self.bound.pop(told["k"], None)
        self.bound[told["k"]] = (given, outs)
        while len(self.bound) > self.most:
            self.bound.pop(next(iter(self.bound)))
        return {}

    def _given(self, told: dict[str, Any]) -> list[Any]:
        return [self._tensor(view) for view in told["given"]]

    def call(self, told: bytes) -> None:
        given, outs = self.bound[int(told)]
        with self.torch.no_grad():
            results = _flat(self.model(*given))
            self.results.append(results)
            self._deliver(results, outs)

    def empty(self, told: bytes) -> None:
        pass

    def _deliver(self, results: list[Any], outs: list[Any]) -> None:
        self._agreed(results, outs)
        for result, out in zip(results, outs, strict=True):
            out.copy_(result)

    def _agreed(self, results: list[Any], outs: list[Any]) -> None:
        if len(results) != len(outs):
            raise Refused("shape", f"{len(results)} outputs where the reference has {len(outs)}")
        for place, (result, out) in enumerate(zip(results, outs, strict=True)):
            if not isinstance(result, self.torch.Tensor):
                raise Refused("type", f"output {place} is a {type(result).__name__}, not a tensor")
            if tuple(result.shape) != tuple(out.shape):  # or copy_ would broadcast
                wanted = tuple(out.shape)
                raise Refused("shape", f"output {place} has shape {tuple(result.shape)}, the reference's has {wanted}")

    def outputs(self, told: dict[str, Any]) -> dict[str, Any]:
        """What the implementation gives on buffer set k, without values: the reference is asked for its shapes so."""
        given, _ = self.bound[told["k"]]
        with self.torch.no_grad():
            results = _flat(self.model(*given))
        return {"out": [_view(result) for result in results]}

    def oracle(self, told: dict[str, Any]) -> dict[str, Any]:
        """The same implementation in float64."""
        torch = self.torch
        if self.exact is None:
            import copy

            self.exact = self.model
            if isinstance(self.model, torch.nn.Module):
                self.exact = copy.deepcopy(self.model).double()
        given, outs = self.bound[told["k"]]
        with torch.no_grad():
            for result, out in zip(_flat(self.exact(*given)), outs, strict=True):
                out.copy_(result)
        return {}

    def gradients(self, told: dict[str, Any]) -> dict[str, Any]:
        """Forward and backward on buffer set k: gradients of floating inputs and of parameters, into `told["grads"]`."""
        torch = self.torch
        given, _ = self.bound[told["k"]]
        model = self.model
        if told.get("exact"):
            import copy

            model = copy.deepcopy(self.model).double() if isinstance(self.model, torch.nn.Module) else self.model
        leaves = [value for value in given if isinstance(value, torch.Tensor) and value.requires_grad]
        if isinstance(model, torch.nn.Module):
            leaves += [value for value in model.parameters() if value.requires_grad]
        results = [value for value in _flat(model(*given)) if value.is_floating_point()]
        if not any(value.requires_grad for value in results):
            raise Refused("gradient", "no output requires a gradient, those of the reference do")
        weights = [self._tensor(view).to(results[0].device, copy=True) for view in told["weights"]]
        grads = torch.autograd.grad(results, leaves, weights, allow_unused=True)
        found = [torch.zeros_like(leaf) if grad is None else grad for leaf, grad in zip(leaves, grads, strict=True)]
        for view, grad in zip(told["grads"] or [], found, strict=bool(told["grads"])):
            self._tensor(view).copy_(grad)
        return {"grads": [_view(grad) for grad in found], "results": [_view(value) for value in results]}

    def release(self) -> None:
        """Forget outputs of all but the last call, so that their memory can be used again."""
        del self.results[:-2]

    def again(self, told: dict[str, Any]) -> dict[str, Any]:
        """The outputs of the call before the last, as they are now."""
        for view, value in zip(told["out"], self.results[-2], strict=True):
            self._tensor(view).copy_(value)
        return {}

    # ---- What can be said about it

    def describe(self, told: dict[str, Any]) -> dict[str, Any]:
        """Attributes of the last call's outputs, read without asking their class."""
        torch = self.torch
        given, _ = self.bound[told["k"]]
        owned = [(f"input {place}", value) for place, value in enumerate(given) if isinstance(value, torch.Tensor)]
        owned += [(f"state {name}", value) for name, value in self.state()]
        owned += [(f"output {i} of the call before", value) for i, value in enumerate(self._before())]
        found = []
        with torch._C.DisableTorchFunctionSubclass():
            for value in self.results[-1]:
                kind = type(value)
                if not issubclass(kind, torch.Tensor):
                    found.append({"type": kind.__name__})
                    continue
                told_of = _view(value) | {
                    "type": f"{kind.__module__}.{kind.__qualname__}",
                    "exact": kind in (torch.Tensor, torch.nn.Parameter),
                    "device": str(value.device),
                    "requires_grad": value.requires_grad,
                    "bits": bool(value.is_conj() or value.is_neg()),
                    "strided": value.layout == torch.strided and value.device.type != "meta",
                }
                if told_of["strided"] and told_of["exact"]:
                    start, length = _memory(value)
                    told_of["empty"] = value.numel() > 0 and (start == 0 or length == 0)
                    told_of["overlaps"] = [name for name, other in owned if _overlap((start, length), other, torch)]
                found.append(told_of)
        return {"out": found}

    def _before(self) -> list[Any]:
        return self.results[-2] if len(self.results) > 1 else []

    def stir(self, told: dict[str, Any]) -> dict[str, Any]:
        """Random generators at a place that nobody knows."""
        import random

        self.torch.manual_seed(told["seed"])
        random.seed(told["seed"])
        return {}

    def settings(self, told: dict[str, Any]) -> dict[str, Any]:
        return self.watched.found() | {"files": _files(self.compiled), "signals": _signals()}

    def _tensor(self, view: View) -> Any:
        torch = self.torch
        dtype = getattr(torch, view["dtype"])
        shape, stride = view["shape"], view["stride"]
        if 0 in shape:
            return torch.empty(shape, dtype=dtype)
        count = 1 + sum((length - 1) * step for length, step in zip(shape, stride, strict=True))
        flat = torch.frombuffer(self.arena.memory, dtype=dtype, count=count, offset=view["offset"])
        return flat.as_strided(shape, stride)


class _Watched:
    """Settings and functions that no kernel has a reason to change."""

    def __init__(self, torch: Any, **further: Any) -> None:
        import builtins
        import time

        self.torch = torch
        places = {
            "time": time,
            "builtins": builtins,
            "torch": torch,
            "torch.Tensor": torch.Tensor,
            "torch.nn.Module": torch.nn.Module,
            "torch.nn.functional": torch.nn.functional,
            "torch.cuda.Event": torch.cuda.Event,
            "torch.testing": torch.testing,
            "torch.random": torch.random,
            **further,
        }
        # Functions only: modules and flags may come later and change.
        self.functions = {
            (name, key): (vars(place), value)
            for name, place in places.items()
            for key, value in vars(place).items()
            if callable(value) and not (name == "builtins" and key == "_")
        }

    def found(self) -> dict[str, Any]:
        torch = self.torch
        replaced = [
            f"{name}.{key}" for (name, key), (place, value) in self.functions.items() if place.get(key) is not value
        ]
        backends = torch.backends
        return {
            "replaced": replaced,
            "threads": [torch.get_num_threads(), torch.get_num_interop_threads()],
            "random": [hash(torch.random.get_rng_state().numpy().tobytes()), hash(str(_random_state()))],
            "globals": {
                "default dtype": str(torch.get_default_dtype()),
                "float32 matmul precision": torch.get_float32_matmul_precision(),
                "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
                "gradients": torch.is_grad_enabled(),
                "inference mode": torch.is_inference_mode_enabled(),
                "autocast": [torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")],
                "cudnn": [backends.cudnn.enabled, backends.cudnn.benchmark, backends.cudnn.allow_tf32],
                "cuda matmul": [
                    backends.cuda.matmul.allow_tf32,
                    backends.cuda.matmul.allow_fp16_reduced_precision_reduction,
                ],
                "mkldnn": backends.mkldnn.enabled,
                "flush denormals": float(torch.tensor([1e-40]) * 1) == 0.0,
            },
        }


def _random_state() -> Any:
    import random

    return random.getstate()[1]


def _files(but: str | None = None) -> list[str]:
    """Files that can be written to and shared: the working folder and the temporary ones, without those in the folder `but`."""
    found = []
    for top in (os.getcwd(), "/tmp", "/dev/shm"):
        for folder, inner, names in os.walk(top):
            inner[:] = [name for name in inner if os.path.join(folder, name) != but]
            found += [os.path.join(folder, name) for name in names if not name.endswith(".pyc")]
            if len(found) > 100:
                return found[:100]
    return sorted(set(found))


def _signals() -> list[str]:
    """Signals that are caught or ignored."""
    usual = (signal.SIG_DFL, signal.default_int_handler, None)
    caught = [signal.Signals(n) for n in signal.valid_signals() if n in list(signal.Signals)]
    return [one.name for one in caught if signal.getsignal(one) not in usual]


def _view(value: Any) -> View:
    return {
        "dtype": str(value.dtype).removeprefix("torch."),
        "shape": [int(length) for length in value.shape],
        "stride": [int(step) for step in value.stride()],
    }


def _memory(value: Any) -> tuple[int, int]:
    storage = value.untyped_storage()
    return storage.data_ptr(), storage.nbytes()


def _overlap(own: tuple[int, int], other: Any, torch: Any) -> bool:
    """Ranges of bytes that the two views can touch."""
    if not isinstance(other, torch.Tensor) or other.layout != torch.strided or not other.numel():
        return False
    start, length = other.data_ptr(), _extent(other)
    return bool(own[0] < start + length and start < own[0] + own[1])


def _extent(value: Any) -> int:
    steps = sum((length - 1) * step for length, step in zip(value.shape, value.stride(), strict=True))
    return int((1 + steps) * value.element_size())


def _flat(result: Any) -> list[Any]:
    """Outputs of nested tuples and lists, in order."""
    if isinstance(result, (tuple, list)):
        return [one for each in result for one in _flat(each)]
    return [result]


def _encoded(value: Any) -> Any:
    """Constructor arguments as JSON that keeps tuples apart from lists."""
    if isinstance(value, (bool, int, float, str, type(None))):
        return {"v": value}
    if isinstance(value, (tuple, list)):
        return {"t" if isinstance(value, tuple) else "l": [_encoded(one) for one in value]}
    if isinstance(value, dict):
        return {"d": [[_encoded(key), _encoded(one)] for key, one in value.items()]}
    raise Refused("inputs", f"an argument is a {type(value).__name__}; wanted: numbers, texts, lists, tuples, dicts")


def _decoded(told: Any) -> Any:
    ((kind, value),) = told.items()
    if kind == "v":
        return value
    if kind == "d":
        return {_decoded(key): _decoded(one) for key, one in value}
    made = [_decoded(one) for one in value]
    return tuple(made) if kind == "t" else made


def _told(error: BaseException) -> dict[str, Any]:
    """An error for the grader: its kind, its text, and the line of the loaded code where it arose."""
    if isinstance(error, Refused):
        return {"kind": error.kind, "text": str(error)[:2000], "line": None}
    import traceback  # not at the start: a worker of C++ lives for a fifth of a second, and most never need it

    kind = "exit" if isinstance(error, SystemExit) else "memory" if isinstance(error, MemoryError) else "raised"
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if os.path.basename(frame.filename) in LOADED]
    if isinstance(error, SyntaxError) and os.path.basename(error.filename or "") in LOADED:
        lines.append(error.lineno)
    return {"kind": kind, "text": f"{type(error).__name__}: {error}"[:2000], "line": lines[-1] if lines else None}


def serve(make: Callable[[Arena], Any]) -> None:
    """Answer until the grader hangs up. The program's arguments are BACKEND ARENA: the backend's name, and the number of the arena's descriptor."""
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import channel  # type: ignore[import-not-found]  # its text lies beside this one

    sys.path.pop(0)
    arena = Arena(int(sys.argv[2]))
    host = make(arena)
    for message in channel.messages():
        serial, _, body = message.partition(b" ")
        try:
            if body[:1] == b"c":
                host.call(body[1:])
                answer = b""
            elif body[:1] == b"e":
                host.empty(body[1:])
                answer = b""
            else:
                told = json.loads(body)
                answer = json.dumps(getattr(host, told["op"])(told)).encode()
        except BaseException as error:  # whatever the loaded code raises is an answer; only its text is used
            answer = json.dumps({"error": _told(error)}).encode()
        channel.answer(serial + b" " + answer)


if __name__ == "__main__":
    serve(Native if sys.argv[1] == "cpp" else Modules)
