"""Frames over a stream socket: eight bytes of length, then the message. Also what a Worker's program speaks.

Needs nothing but Python, so that its text can be given to a sandboxed program as a file:

    import channel                       # files={"channel.py": channel.SOURCE, ...}
    for message in channel.messages():   # until the other side closes
        channel.answer(message.upper())
"""

from __future__ import annotations

import os
import select
import socket
import struct
import time
from collections.abc import Iterator

with open(__file__, "rb") as _file:
    SOURCE = _file.read()
VARIABLE = "POSTGRAD_CHANNEL"
"""The environment variable that tells a Worker's program the number of its socket."""
_LENGTH = struct.Struct("<Q")
_MOST = 1 << 40


class Closed(Exception):
    """The other side is gone."""


class TooLong(Exception):
    """A frame is longer than allowed."""


def send(to: socket.socket, message: bytes, until: float | None = None) -> None:
    """Raises Closed, or TimeoutError at `until` (time.monotonic)."""
    rest = memoryview(_LENGTH.pack(len(message)) + message)
    while rest:
        try:
            rest = rest[to.send(rest, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) :]
        except BlockingIOError:
            _wait(to, select.POLLOUT, until)
        except (BrokenPipeError, ConnectionResetError):
            raise Closed from None


def receive(source: socket.socket, until: float | None = None, most: int = _MOST) -> bytes:
    """The next frame. Raises Closed, TooLong where it is longer than `most`, or TimeoutError at `until`."""
    (length,) = _LENGTH.unpack(_exactly(source, _LENGTH.size, until))
    if length > most:
        raise TooLong(f"a frame of {length:,} bytes: at most {most:,} are allowed")
    return _exactly(source, length, until)


def messages() -> Iterator[bytes]:
    """In a Worker's program: what it is asked, until the asker is gone."""
    while True:
        try:
            yield receive(_own())
        except Closed:
            return


def answer(message: bytes) -> None:
    """In a Worker's program: the reply to the message last received."""
    send(_own(), message)


def _own() -> socket.socket:
    global _channel
    if _channel is None:
        _channel = socket.socket(fileno=int(os.environ[VARIABLE]))
    return _channel


_channel: socket.socket | None = None


def _exactly(source: socket.socket, length: int, until: float | None) -> bytes:
    parts: list[bytes] = []
    while length:
        try:
            part = source.recv(min(length, 1 << 20), socket.MSG_DONTWAIT)
        except BlockingIOError:
            _wait(source, select.POLLIN, until)
            continue
        except ConnectionResetError:
            raise Closed from None
        if not part:
            raise Closed
        parts.append(part)
        length -= len(part)
    return b"".join(parts)


def _wait(on: socket.socket, event: int, until: float | None) -> None:
    poll = select.poll()
    poll.register(on, event)
    if until is None:
        poll.poll()
    elif (left := until - time.monotonic()) <= 0 or not poll.poll(left * 1000):
        raise TimeoutError
