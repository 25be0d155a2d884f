"""KernelBench's evaluation of one candidate, from a checkout of it. It runs in the sandbox alone.

    python ask_kernelbench.py FOLDER     ->  said.json: {"passed", "speedup", "why", "static", "device"}

`eval_kernel_against_ref` as it is, with five correctness trials and a hundred timed ones, as its scripts ask for; without a GPU nothing is
timed (its argument `measure_performance`). Its static checker is asked beside, without the rule that a kernel must be CUDA text (none here
is). Modules that only its clients of language models need may be missing: they are put there empty.
"""

import contextlib
import importlib.util
import io
import json
import sys
import types
from pathlib import Path

sys.path.insert(0, ".")
import stand_in

CLIENTS = ("requests", "dotenv", "openai", "litellm", "tqdm")


class Empty(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *_, **__: None


def importable(folder):
    """Makes `import kernelbench` find the checkout's."""
    for name in CLIENTS:
        if importlib.util.find_spec(name) is None:
            sys.modules[name] = Empty(name)
    sys.path.insert(0, str(Path(folder, "src")))


def main():
    device = stand_in.device()
    importable(sys.argv[1])
    from kernelbench.eval import eval_kernel_against_ref
    from kernelbench.kernel_static_checker import validate_kernel_static

    task, candidate = (Path(name).read_text() for name in ("task.py", "candidate.py"))
    _, errors, warnings = validate_kernel_static(candidate, backend="", precision="fp32")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        found = eval_kernel_against_ref(
            task,
            candidate,
            num_correct_trials=5,
            num_perf_trials=100,
            measure_performance=device.type == "cuda",
            device=device,
        )
    told = {} if found is None else found.metadata
    why = next((str(told[name]) for name in ("correctness_issue", "runtime_error", "compilation_error", "error_during_performance") if name in told), "")  # fmt: skip
    passed = found is not None and found.correctness
    timed = passed and found.runtime > 0 and found.ref_runtime > 0
    said = {
        "passed": passed,
        "speedup": found.ref_runtime / found.runtime if timed else None,
        "why": (why or printed.getvalue().strip()[-300:]) if not passed else "",
        "static": {"errors": sorted(errors), "warnings": sorted(warnings)},
        "device": str(device),
    }
    Path("said.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main()
