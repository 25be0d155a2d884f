"""The launcher: a small process that forks one supervisor a job. Started once by whoever first runs something.

A process of its own, because the asker may be large, hold threads and know secrets: what is forked from here has seen none of
it. Started as `python -I -S`, with an empty environment.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
import sys

from postgrad.sandbox.supervise import supervise


def serve(listen: socket.socket) -> None:
    """Until the starter is gone. A message brings the job's control socket and the descriptors to pass."""
    asker = os.pidfd_open(os.getppid())
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the asker's to answer
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    gc.freeze()
    poll = select.poll()
    poll.register(listen, select.POLLIN)
    poll.register(asker, select.POLLIN)
    while True:
        if any(number == asker for number, _ in poll.poll()):
            return
        message, numbers, _, _ = socket.recv_fds(listen, 16, 250)
        if not message:
            return
        if os.fork() == 0:
            try:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                listen.close()
                os.close(asker)
                supervise(socket.socket(fileno=numbers[0]), numbers[1:])
            finally:
                os._exit(0)
        for number in numbers:
            os.close(number)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
    # Not by way of the interpreter's end: a supervisor may still be at work, and ends by itself.
    os._exit(0)
