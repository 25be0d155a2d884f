"""The control: an evaluator as many are written, in one process, best of ten, `allclose` by hand. It runs in the sandbox alone.

    python naive.py task.py candidate.py     ->  {"correct": true, "speedup": 3.1}

What it trusts, and our pipeline does not: the candidate shares its process, clock, names, weights and inputs; the inputs of the
comparison are those of the timing; the tolerance is 1e-2; a difference that is not greater than it is right.
"""

import json
import sys
import time
from pathlib import Path

import torch

TOLERANCE = 1e-2


def best_of(call, inputs, rounds=10):
    for _ in range(3):
        call(*inputs)
    best = float("inf")
    for _ in range(rounds):
        started = time.perf_counter()
        call(*inputs)
        best = min(best, time.perf_counter() - started)
    return best


def compare(reference, candidate, inputs):
    got = candidate(*inputs)
    expected, again = reference(*inputs), reference(*inputs)
    assert torch.equal(expected, again), "the reference is random"
    difference = abs(got - expected)
    return not bool((difference > TOLERANCE + TOLERANCE * abs(expected)).any())


def main():
    names = {"__name__": "evaluated"}
    task, candidate_code = (Path(name).read_text() for name in sys.argv[1:3])
    exec(task, names)
    torch.manual_seed(42)
    reference = names["Model"]()
    baseline = best_of(reference, names["get_inputs"]())
    exec(candidate_code, names)
    torch.manual_seed(42)
    candidate = names["ModelNew"]()
    candidate.load_state_dict(reference.state_dict(), strict=False, assign=True)
    inputs = names["get_inputs"]()
    print("output:", tuple(reference(*inputs).shape), file=sys.stderr)
    speedup = baseline / max(best_of(candidate, inputs), 1e-9)
    print(json.dumps({"correct": compare(reference, candidate, inputs), "speedup": speedup}))


main()
