"""Kernels on an NVIDIA GPU, reference and candidate each in a worker of its own on the same one. No GPU has proved it yet.

    runner    the program inside a worker: a buffer set is a block on the device
    side      the worker as the grader sees it: calls are timed from outside, and what they gave is committed to before it is asked for
    timed     a side for the clock: several calls a question, the L2 cache emptied before each question, CUDA events as the second clock
    machine   what this machine has: the GPU's name, clocks and throttling, the driver's library, nvcc and ninja

What differs from a CPU stands here; the rest of `kernels` asks `runtime` for a side.
"""
