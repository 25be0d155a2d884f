"""KernelBench's evaluation of one candidate with its timing, without a GPU by its own host clock. It runs in the sandbox alone.

    python time_kernelbench.py FOLDER     ->  said.json: {"passed", "runtime_ms", "reference_ms"}

Five correctness trials and a hundred timed ones, as its scripts ask for. Without a GPU there is no second-level cache to be flushed before each
trial, and the 256 MiB that it writes for that are not written: they would be most of its time.
"""

import contextlib
import io
import json
import sys
from pathlib import Path

sys.path.insert(0, ".")
import ask_kernelbench
import stand_in


def main():
    device = stand_in.device()
    ask_kernelbench.importable(sys.argv[1])
    from kernelbench import timing
    from kernelbench.eval import eval_kernel_against_ref

    if device.type == "cpu":
        timing.clear_l2_cache = lambda **_: None
    task, candidate = (Path(name).read_text() for name in ("task.py", "candidate.py"))
    with contextlib.redirect_stdout(io.StringIO()):
        found = eval_kernel_against_ref(
            task,
            candidate,
            num_correct_trials=5,
            num_perf_trials=100,
            measure_performance=True,
            timing_method="host_time" if device.type == "cpu" else "cuda_event",
            device=device,
        )
    said = {"passed": found.correctness, "runtime_ms": found.runtime, "reference_ms": found.ref_runtime}
    Path("said.json").write_text(json.dumps(said))


main()
