"""gpu/runner.py with a CPU for a device and a clock for events: a worker's program, so that all but the hardware can be tried without a GPU.

It is sent into the sandbox in the place of the real one, beside it, and imported by nobody here.
"""

import os
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gpu_runner  # type: ignore[import-not-found]  # their texts lie beside this one
import runner  # type: ignore[import-not-found]

sys.path.pop(0)


class Chip:
    """As gpu_runner.Chip."""

    def __init__(self, torch):  # type: ignore[no-untyped-def]
        self.device, self.l2_bytes, self.now = torch.device("cpu"), 1 << 20, time.perf_counter
        self.random = torch.random.get_rng_state
        self.times = [[0.0, 0.0] for _ in range(gpu_runner.MOST)]

    def wait(self):  # type: ignore[no-untyped-def]
        pass

    def begin(self, place):  # type: ignore[no-untyped-def]
        self.times[place][0] = self.now()

    def end(self, place):  # type: ignore[no-untyped-def]
        self.times[place][1] = self.now()

    def seconds(self, place):  # type: ignore[no-untyped-def]
        return self.times[place][1] - self.times[place][0]


gpu_runner.Chip = Chip

if __name__ == "__main__":
    runner.serve(gpu_runner.OnGpu)
