"""CUDA-L1's evaluation of one candidate, from a checkout of it. It runs in the sandbox alone.

    python ask_cuda_l1.py FOLDER     ->  said.json: {"passed", "speedup", "why", "device"}

The four steps of its `eval_pipeline` in their order, with the counts that its `eval` asks for: the text runs, its output is no lazy tensor,
ten correctness trials, seven times ten timed trials (or fewer, where a score is below 0.3), of which the mean counts. Not the function
`eval_pipeline` itself, because it names the device cuda:0. Without a GPU nothing is timed.
"""

import contextlib
import importlib.util
import io
import json
import statistics
import sys
from pathlib import Path

sys.path.insert(0, ".")
import stand_in


def judged(theirs, task, candidate, device):
    """(passed, speedup, why)"""
    ran, why, _ = theirs.execute_model_with_timeout(model_src=candidate, context={}, timeout=100)
    if not ran:
        return False, None, f"does not run: {why}"
    eager, why = theirs.validate_no_lazy_evaluation(warmup_src=task, custom_model_src=candidate, device=device)
    if not eager:
        return False, None, why
    right, why, _ = theirs.check_kernel_correctness(
        warmup_src=task, original_model_src=task, custom_model_src=candidate, num_correct_trials=10, device=device
    )
    if not right or device.type != "cuda":
        return right, None, why
    scores = []
    for trial in range(7):
        score, _, why = theirs.eval_kernel_against_ref(
            warmup_src=task,
            original_model_src=task,
            custom_model_src=candidate,
            seed_num=42 + trial,
            num_perf_trials=10,
            device=device,
            original_eval_setup="vanilla",
        )
        if score is None:
            return False, None, why
        scores.append(score)
        if score < 0.3:
            break
    return True, statistics.fmean(scores), ""


def main():
    device = stand_in.device()
    spec = importlib.util.spec_from_file_location("eval_cuda", Path(sys.argv[1], "eval", "eval_cuda.py"))
    theirs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(theirs)
    task, candidate = (Path(name).read_text() for name in ("task.py", "candidate.py"))
    with contextlib.redirect_stdout(io.StringIO()):
        passed, speedup, why = judged(theirs, task, candidate, device)
    said = {"passed": passed, "speedup": speedup, "why": why[-300:], "device": str(device)}
    Path("said.json").write_text(json.dumps(said))


main()
