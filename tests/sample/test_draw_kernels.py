"""The kernels that draw (in Triton's interpreter) take the very tokens that the plain version takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECK = """
import os
os.environ["TRITON_INTERPRET"] = "1"
import torch
from postgrad.sample import draw as plain, draw_triton
from postgrad.sample.request import Request

torch.manual_seed(0)
worst = 0.0
for vocabulary in (5, 2048, 5000):
    logits = 4 * torch.randn(40, vocabulary)
    logits[:, 3::7] = -float("inf")
    for heats in ([1.0], [0.7, 1.0, 1.6], [1.0, 0.0, 0.5]):
        requests = [Request((0,), 1, temperature=heats[row % len(heats)]) for row in range(40)]
        how = plain.rule(requests, torch.device("cpu"))
        uniforms = torch.rand(40, dtype=torch.float64)
        uniforms[:2] = torch.tensor([0.0, 1 - 2**-53])
        a, b = plain.draw(logits, uniforms, how), draw_triton.draw(logits, uniforms, how)
        # A uniform within rounding of an edge may fall on either side.
        same = a.ids == b.ids
        assert same[2:].float().mean() > 0.94, (vocabulary, heats)
        assert not torch.isinf(logits.gather(1, b.ids[:, None])).any()
        for name in ("logprobs", "sampled_logprobs", "raw_logprobs"):
            worst = max(worst, float((getattr(a, name) - getattr(b, name))[same].abs().max()))
print(worst)
"""


def test_kernels_draw_what_the_plain_version_draws() -> None:
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", CHECK],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(__file__).parent.parent.parent,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 1e-5
