"""Kernels of a GPU with a CPU for the GPU: buffer sets, commitments, several calls a question, the second clock, and what the machine has.

test_gpu_kernels.py is the same on real hardware.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from postgrad.kernels import roofline, runtime
from postgrad.kernels.candidate import Candidate
from postgrad.kernels.correct import check
from postgrad.kernels.evaluate import Evaluator, Settings, on_gpu, unread
from postgrad.kernels.gpu import machine, timed
from postgrad.kernels.gpu.runner import MOST
from postgrad.kernels.gpu.side import GPU_RUNNER, GpuSide, summed
from postgrad.kernels.numeric import stored
from postgrad.kernels.reference import LIMITS, Reference
from postgrad.kernels.side import INTERPRETED, RUNNER, Code, Misbehaved
from postgrad.kernels.subject import Subject
from postgrad.kernels.task import from_text
from postgrad.kernels.trial import Trial
from postgrad.kernels.verdict import ACCEPTED, REJECTED, UNCHECKED, Finding, Reason
from postgrad.sandbox import Worker, channel
from tests.kernels.small_tasks import module, needs_sandbox, softmax, squares
from tests.kernels.test_evaluate_kernels import PATIENT
from tests.kernels.test_triton_kernels import ROWS, rows

PRETEND = Path(__file__).with_name("pretend_gpu.py").read_bytes()


class PretendSide(GpuSide):
    """Its device is the CPU."""

    def _started(self) -> Worker:
        return Worker(
            [sys.executable, "-I", "pretend.py", self.code.backend, str(self._fd)],
            files={
                "runner.py": RUNNER,
                "gpu_runner.py": GPU_RUNNER,
                "pretend.py": PRETEND,
                "channel.py": channel.SOURCE,
            },
            limits=self.limits,
            environment=INTERPRETED,
            pass_fds=(self._fd,),
        )


@pytest.fixture(autouse=True)
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime, "GpuSide", PretendSide)


@pytest.fixture(scope="module")
def reference() -> Iterator[Reference]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "GpuSide", PretendSide)
        with Reference(softmax(), seed=5, gpu=0) as made:
            yield made


def seen(reference: Reference, candidate: Candidate) -> list[Finding]:
    rng = np.random.default_rng(7)
    code = Code(candidate.backend, candidate.code, "candidate", "ModelNew")
    with runtime.side(code, LIMITS, rng=rng, gpu=0) as side:
        return check(Subject(reference, side, candidate, rng), seeds=2)


@needs_sandbox
def test_a_right_module_passes_every_probe_with_its_tensors_on_a_device(reference: Reference) -> None:
    assert seen(reference, module()) == []


@needs_sandbox
@pytest.mark.parametrize(
    ("forward", "init", "reasons"),
    [
        ("x.mul_(1.0001)\nreturn torch.softmax(self.linear(x), -1)", "", {Reason.C10_INPUT_CHANGED}),
        ("y = torch.softmax(self.linear(x), -1)\ny[:, 0] = 0\nreturn y", "", {Reason.S05_PARTIAL_WORK}),
        ("return torch.softmax(self.linear(x), -1).double()", "", {Reason.S14_WRONG_ATTRIBUTES}),
        ("return torch.softmax(self.linear(x), -1)[:1]", "", {Reason.S13_BROADCAST}),
        ("return torch.softmax(self.linear(x), -1).to('meta')", "", {Reason.T04_DISGUISED_TENSOR}),
        ("key = x.data_ptr()\nif key not in self.seen:\n    self.seen[key] = torch.softmax(self.linear(x), -1)\nreturn self.seen[key].clone()",
         "self.seen = {}", {Reason.C02_STALE_ADDRESS, Reason.C05_STALE_RESULT}),
        ("key = (id(x), x._version)\nif key not in self.seen:\n    self.seen[key] = x, torch.softmax(self.linear(x), -1)\nreturn self.seen[key][1].clone()",
         "self.seen = {}", {Reason.C03_STALE_VERSION, Reason.C01_STALE_OBJECT}),
        ("torch.softmax(self.linear(x), -1, out=self.kept) if x.shape[0] == 48 else None\nreturn self.kept",
         "self.kept = torch.empty(48, classes)", {Reason.C09_ALIASED_OUTPUT, Reason.S20_PARAMETERS}),
        ("flat = torch.as_strided(x, (1,), (1,), x.storage_offset() + x.numel())\nflat.fill_(1.0)\nreturn torch.softmax(self.linear(x), -1)",
         "", {Reason.C13_OUT_OF_BOUNDS}),
    ],
)  # fmt: skip
def test_what_it_does_on_the_device_is_seen(
    reference: Reference, forward: str, init: str, reasons: set[Reason]
) -> None:
    found = seen(reference, module(forward, init))
    assert reasons & {one.reason for one in found}, found


@needs_sandbox
def test_an_output_that_changes_after_the_answer_is_not_what_was_committed_to(reference: Reference) -> None:
    later = module(
        "import threading\ny = torch.zeros(x.shape[0], 24)\n"
        "threading.Timer(0.3, lambda: y.copy_(torch.softmax(self.linear(x.detach()), -1).detach())).start()\nreturn y"
    )
    rng = np.random.default_rng(8)
    code = Code("torch", later.code, "candidate", "ModelNew")
    with runtime.side(code, LIMITS, rng=rng, gpu=0) as side:
        side.load(seed=1, init=reference.init)
        specs = reference.specs(reference.cases[-1])
        arrays = reference.drawn(reference.cases[-1], "own", 1)
        k = side.place(arrays, specs.inputs, specs.outputs, others=specs.others)
        side.call(k)
        assert not side.output(k)[0].any()
        k = side.place(arrays, specs.inputs, specs.outputs, others=specs.others)
        side.call(k)
        time.sleep(0.8)
        with pytest.raises(Misbehaved, match="is not what it was") as caught:
            side.output(k)
    assert caught.value.kind == "late"


@needs_sandbox
def test_a_question_is_several_calls_each_on_values_of_its_own(reference: Reference) -> None:
    rng = np.random.default_rng(9)
    code = Code("torch", module().code, "candidate", "ModelNew")
    with runtime.side(code, LIMITS, rng=rng, gpu=0) as side:
        assert check(Subject(reference, side, module(), rng), seeds=2) == []
        subject = Subject(reference, side, module(), rng)
        trial = Trial(subject)
        assert 1 < trial.repeats <= MOST
        trial.prepare(0)
        assert len({arrays[0].tobytes() for arrays in trial.sets}) == trial.repeats == len(trial.sets)
        assert trial.reference.empty() > 0
        assert trial.reference.call(0) > 0
        assert trial.candidate.call(0) > 0
        assert trial.candidate.cpu_seconds() > 0
        assert trial.judge(5.0) == []
        assert isinstance(side, GpuSide)
        placed = [subject.place(arrays) for arrays in trial.sets]
        assert side.calls(placed) >= side.events_s > 0
        for k, arrays in zip(placed, trial.sets, strict=True):
            (bounds,) = reference.envelope(subject.case, arrays)
            assert bounds.mismatch(side.output(k)[0]) is None


@needs_sandbox
def test_an_evaluation_ends_in_a_speed_with_both_clocks_and_what_the_gpu_did(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "refusal", lambda *_: None)
    monkeypatch.setattr(machine, "look", lambda _: {"name": "Pretend", "slowed by": []})
    settings = replace(on_gpu(0, budget_s=1.0, limits=LIMITS, seeds=2), rules=PATIENT)
    with Evaluator(softmax(), settings, seed=1) as evaluate:
        found = evaluate(module())
        late = evaluate(
            module(
                "self.calls += 1\ny = torch.softmax(self.linear(x), -1)\nreturn y if self.calls < 60 else y * 1.1",
                "self.calls = 0",
            )
        )
    assert found.status is ACCEPTED, found.findings
    assert found.timing is not None
    assert (found.timing.second, found.timing.cache, found.timing.clock) == ("events", "cold", "wall")
    assert all(0 < c < w for c, w in zip(found.timing.reference_cpu_s, found.timing.reference_s, strict=True))
    assert set(found.timing.candidate_between_s) == {0.0}
    used = found.environment.hardware["gpu in use"]
    assert used["before"]["name"] == "Pretend"
    assert used["calls in a question"] > 1
    assert late.status is REJECTED
    assert Reason.S10_LATE_WRONG in late.reasons or Reason.C05_STALE_RESULT in late.reasons


@needs_sandbox
def test_triton_and_lazy_tensors_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "refusal", lambda *_: None)
    monkeypatch.setattr(machine, "look", lambda _: {"unknown": "no nvidia-smi"})
    lazy = rows(
        "class ModelNew",
        "class Later(torch.Tensor):\n    pass\n\n\nclass ModelNew",
    )
    lazy = Candidate(lazy.code.replace("return y\n", "return y.as_subclass(Later)\n"), "triton")
    settings = replace(on_gpu(0, budget_s=1.0, limits=LIMITS, seeds=2, scan=unread), rules=PATIENT)
    with Evaluator(from_text("rows", ROWS), settings, seed=1) as evaluate:
        slow = evaluate(rows())  # 64 calls a question: too many for the interpreter in a second
        assert {*slow.reasons} <= {Reason.BUDGET_TOO_SMALL}, slow.findings
        assert evaluate(lazy).reasons == (Reason.T03_LAZY_TENSOR,)


def test_the_grader_and_the_worker_add_up_the_same_bits() -> None:
    from postgrad.kernels.gpu.runner import OnGpu

    worker = SimpleNamespace(
        torch=torch,
        _sum=torch.sum,
        _view=torch.Tensor.view,
        _reshape=torch.Tensor.reshape,
        _words={8: torch.int64, 4: torch.int32, 2: torch.int16, 1: torch.uint8},
    )
    generator = torch.Generator().manual_seed(0)
    for dtype in ("float64", "float32", "float16", "bfloat16", "int64", "int8", "uint8", "bool"):
        for shape in ((), (1,), (3,), (7, 5), (4, 6), (0, 3)):
            value = (torch.randn(shape, generator=generator) * 9).to(getattr(torch, dtype))
            raw = stored(value.double().numpy(), "bfloat16") if dtype == "bfloat16" else value.numpy()
            told = int(OnGpu._bits(worker, value))  # type: ignore[arg-type]
            assert told == summed(raw), (dtype, shape)
    wide = torch.randn(6, 5, generator=generator)
    for view in (wide.t(), wide[1:], wide.reshape(-1)[1:9], wide[:, 2]):
        assert int(OnGpu._bits(worker, view)) == summed(view.numpy())  # type: ignore[arg-type]


def clocked(beside: float, span: float, commit: float) -> Any:
    return SimpleNamespace(beside=[beside] * 9, spans=[span] * 9, commits=[commit] * 9, empties=[5e-5] * 9)


def test_work_beside_the_events_and_work_put_off_are_told() -> None:
    usual = clocked(6e-5, 1e-3, 2e-4)
    assert timed.findings(usual, clocked(7e-5, 5e-4, 2.2e-4)) == []
    (stream,) = timed.findings(usual, clocked(9e-4, 1e-3, 2e-4))
    assert (stream.reason, stream.status) == (Reason.T01_SIDE_STREAM, REJECTED)
    (late,) = timed.findings(usual, clocked(6e-5, 2e-4, 1e-3))
    assert late.reason is Reason.T02_LATE_WORK
    assert timed.findings(usual, SimpleNamespace(spans=[])) == []  # type: ignore[arg-type]


# ---- The machine ----------------------------------------------------------------------------------------------------


def test_what_is_missing_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.shutil, "which", lambda *_, **__: None)
    none = machine.refusal(Candidate("", "triton"), 0)
    assert none is not None
    assert (none.reason, none.status) == (Reason.NEEDS_GPU, UNCHECKED)
    monkeypatch.setattr(machine.shutil, "which", lambda name, **_: "/usr/bin/x" if name == "nvidia-smi" else None)
    monkeypatch.setattr(machine.Path, "exists", lambda _: True)
    assert machine.refusal(Candidate("import torch", "torch"), 0) is None
    inline = "from torch.utils.cpp_extension import load_inline"
    for bare in (machine.refusal(Candidate("", "cuda"), 0), machine.refusal(Candidate(inline, "torch"), 0)):
        assert bare is not None
        assert bare.reason is Reason.NEEDS_TOOLS
        for words in ("CUDA toolkit", "pip install ninja", "apt install g++"):
            assert words in bare.evidence
    with pytest.raises(ValueError, match="runs on the CPU"):
        machine.refusal(Candidate("", "cpp"), 0)


def test_what_slows_a_gpu_is_named_and_no_answer_is_none() -> None:
    assert machine.slowed("0x0000000000000024") == ["power cap", "software thermal"]
    assert machine.slowed("0x0000000000000001") == []
    assert machine.slowed("[N/A]") is None


def test_a_driver_beside_the_system_s_folders_reaches_the_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "libcuda.so.1").touch()
    machine._driver.cache_clear()
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    monkeypatch.setenv("CUDA_HOME", "/nowhere")
    try:
        assert machine.environment()["LD_LIBRARY_PATH"] == str(tmp_path)
        assert machine.folders() == [tmp_path]
    finally:
        machine._driver.cache_clear()


def test_peaks_of_a_gpu_are_those_of_its_name() -> None:
    most = {
        name: roofline.gpu_peaks(name) for name in ("NVIDIA H100 80GB HBM3", "NVIDIA H200", "NVIDIA H100 PCIe", "A")
    }
    assert most.pop("A") is None
    assert [one and one.bandwidth(1 << 30) for one in most.values()] == [3.35e12, 4.8e12, 2.0e12]
    peaks = roofline.gpu_peaks("NVIDIA H200")
    assert peaks is not None
    assert roofline.bound_s(roofline.Work(1 << 20), peaks) == 0.0, "the cache may hold it"


def test_a_gpu_s_work_is_in_no_cpu_time() -> None:
    with pytest.raises(ValueError, match="give 'wall'"):
        Settings(gpu=0, clock="cpu")
    with pytest.raises(ValueError, match="leave the GPU out"):
        Reference(squares(), seed=0, gpu=0)
