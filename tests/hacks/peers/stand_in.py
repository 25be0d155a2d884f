"""In the place of CUDA where there is no GPU: the functions of torch.cuda that evaluators call around their checks. It runs in the sandbox alone.

    waiting for the device      nothing is left to wait for: a call is done when it returns
    caches, seeds, its name     there are none
    tensor.cuda()               a copy, as there

So an evaluator's own checks run as they are, and nothing of its code is replaced. What is not here is a clock: what times by a GPU's events
cannot be asked for a number. With a GPU this file does nothing.
"""

import contextlib

import torch


def _nothing(*_, **__):
    return None


def device() -> torch.device:
    """The device to be evaluated on."""
    if torch.cuda.is_available():
        return torch.device("cuda:0")
    cuda = torch.cuda
    cuda.is_available = lambda: True
    cuda.synchronize = cuda.set_device = cuda.empty_cache = cuda.reset_peak_memory_stats = cuda.manual_seed = _nothing
    cuda.get_device_name = lambda *_, **__: "the host"
    cuda.current_device = lambda: 0
    cuda.device = lambda *_: contextlib.nullcontext()
    torch.Tensor.cuda = lambda self, *_, **__: self.clone()
    return torch.device("cpu")
