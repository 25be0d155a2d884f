"""Triton texts run by Triton's interpreter, on CPU tensors: python -m tests.domains.interpret JOBS RESULTS, both pickles.

A job is (text, calls), a call (arrays, what is wanted); its result says how the text fails first: "build", "raises", "values", or None.
Memory that was never written is NaN. In a process of its own: TRITON_INTERPRET is read when triton is imported, and a wrong text may
crash it.
"""

from __future__ import annotations

import importlib.util
import os
import pickle
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

Call = tuple[Sequence[Any], Any]
Job = tuple[str, Sequence[Call]]


def failure(job: Job, path: Path) -> str | None:
    import torch

    text, calls = job
    path.write_text(text)  # Triton reads the source of what it is given
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError:
        return "build"
    for arrays, wanted in calls:
        given = [torch.from_numpy(array.copy()) for array in arrays]
        try:
            found = module.function(*given).numpy()
        except Exception:
            return "raises"
        if found.shape != wanted.shape or not np.abs(found - wanted).max() <= 1e-6 + 1e-4 * np.abs(wanted).max():
            return "values"
        assert all(np.array_equal(now.numpy(), array) for now, array in zip(given, arrays, strict=True))
    return None


def main() -> None:
    os.environ["TRITON_INTERPRET"] = "1"
    import torch

    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)  # so that empty memory is filled with NaN
    jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
    with tempfile.TemporaryDirectory() as folder:
        found = [failure(job, Path(folder) / f"text{number}.py") for number, job in enumerate(jobs)]
    Path(sys.argv[2]).write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    main()
