"""Run code that a model wrote: apart from the host, within limits, with a typed result.

    run       one program from its start to its end
    Worker    one program that lives on and is asked things
    layers    what this machine offers for it; `postgrad doctor` prints it

What a sandboxed program sees: /usr and the libraries, this Python, and the folders asked for, all read-only; its own folder, /tmp
and /dev/shm in memory; its own processes; no network, no other user, no environment of ours. What comes back is data: the caller
compares, never the program. A sandbox that cannot be set up is BROKEN; it never runs anything with a layer less.

Parts: `host` and `worker` ask; `launcher` forks one `supervise` a job, which watches from outside; `inside` builds what the
program sees and binds it by `landlock` and `seccomp`.
"""

from postgrad.sandbox.host import run
from postgrad.sandbox.outcome import Ended, Limits, Outcome
from postgrad.sandbox.worker import Worker, WorkerEnded, WorkerTimeout

__all__ = ["Ended", "Limits", "Outcome", "Worker", "WorkerEnded", "WorkerTimeout", "run"]
