"""Run code that a model wrote: apart from the host, within limits, with a typed result.

    run       one program from its start to its end
    Worker    one program that lives on and is asked things
    layers    what this machine offers for it; `postgrad doctor` prints it

What a sandboxed program sees: /usr and the libraries, this Python, and the folders asked for, all read-only; its own folder, /tmp
and /dev/shm in memory; its own processes; no network, no other user, no environment of ours. What comes back is data: the caller
compares, never the program. A sandbox that cannot be set up is BROKEN; it never runs anything with a layer less. Where a machine
offers no namespaces (most containers), the user may ask for less by POSTGRAD_SANDBOX=lockdown: `layers.GAPS` says what is open.

Parts: `host` and `worker` ask; `launcher` forks one `supervise` a job, which watches from outside; `inside` builds what the
program sees and binds it by `landlock` and `seccomp`.
"""

from postgrad.sandbox.host import lockdown, run
from postgrad.sandbox.layers import GAPS, Layer, layers
from postgrad.sandbox.outcome import Ended, Limits, Outcome
from postgrad.sandbox.worker import Worker, WorkerEnded, WorkerTimeout

__all__ = [
    "GAPS",
    "Ended",
    "Layer",
    "Limits",
    "Outcome",
    "Worker",
    "WorkerEnded",
    "WorkerTimeout",
    "layers",
    "lockdown",
    "run",
]
