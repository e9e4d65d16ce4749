"""Waits for sockets or for a moment in time, whichever comes first, to the microsecond.

epoll counts time-outs in milliseconds, far too coarse for 20,000 sends a second, so on Linux a timerfd armed with an
absolute time sits among the sockets. Elsewhere `selectors` does the waiting (kqueue is precise enough).
"""

import ctypes
import os
import select
import selectors
import socket
import sys
import time
from collections.abc import Sequence
from typing import Protocol

READ, WRITE = 1, 4  # EPOLLIN, EPOLLOUT
FOREVER_NS = 2**62
_ABSOLUTE = 1  # TFD_TIMER_ABSTIME, linux/timerfd.h
_NON_BLOCKING = 0o4000  # TFD_NONBLOCK
_MOST_EVENTS = 64  # handled before the clock is looked at again


class Poller(Protocol):
    """Times are of `time.monotonic_ns`."""

    def watch(self, sock: socket.socket) -> None: ...

    def want_write(self, sock: socket.socket, wanted: bool) -> None: ...

    def forget(self, sock: socket.socket) -> None: ...

    def wait(self, until_ns: int) -> Sequence[tuple[int, int]]:
        """[(file descriptor, READ | WRITE | other bits)]; empty, or with unknown descriptors, when time is up."""
        ...

    def close(self) -> None: ...


def open_poller() -> Poller:
    return TimerPoller() if sys.platform == "linux" else SelectorPoller()


class SelectorPoller:
    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()

    def watch(self, sock: socket.socket) -> None:
        self._selector.register(sock, selectors.EVENT_READ)

    def want_write(self, sock: socket.socket, wanted: bool) -> None:
        self._selector.modify(sock, selectors.EVENT_READ | (selectors.EVENT_WRITE if wanted else 0))

    def forget(self, sock: socket.socket) -> None:
        self._selector.unregister(sock)

    def wait(self, until_ns: int) -> Sequence[tuple[int, int]]:
        left_s = max(0, until_ns - time.monotonic_ns()) / 1e9
        ready = self._selector.select(min(left_s, 3600.0))
        return [
            (key.fd, (READ if events & selectors.EVENT_READ else 0) | (WRITE if events & selectors.EVENT_WRITE else 0))
            for key, events in ready
        ]

    def close(self) -> None:
        self._selector.close()


if sys.platform == "linux":

    class _Timespec(ctypes.Structure):
        _fields_ = (("sec", ctypes.c_long), ("nsec", ctypes.c_long))

    class _TimerSpec(ctypes.Structure):
        _fields_ = (("interval", _Timespec), ("value", _Timespec))

    class TimerPoller:
        def __init__(self) -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            self._timer = int(libc.timerfd_create(time.CLOCK_MONOTONIC, _NON_BLOCKING))
            if self._timer < 0:
                raise OSError(ctypes.get_errno(), "timerfd_create")
            self._settime = libc.timerfd_settime
            self._spec = _TimerSpec()
            self._reference = ctypes.byref(self._spec)
            self._armed_ns = -1
            self._epoll = select.epoll()
            self._epoll.register(self._timer, READ)

        def watch(self, sock: socket.socket) -> None:
            self._epoll.register(sock, READ)

        def want_write(self, sock: socket.socket, wanted: bool) -> None:
            self._epoll.modify(sock, READ | WRITE if wanted else READ)

        def forget(self, sock: socket.socket) -> None:
            self._epoll.unregister(sock)

        def wait(self, until_ns: int) -> Sequence[tuple[int, int]]:
            # Setting the timer also makes it unready; it is never read, which saves a system call for each send.
            if until_ns != self._armed_ns:
                value = self._spec.value
                value.sec, value.nsec = divmod(until_ns, 1_000_000_000)
                self._settime(self._timer, _ABSOLUTE, self._reference, None)
                self._armed_ns = until_ns
            return self._epoll.poll(-1, _MOST_EVENTS)

        def close(self) -> None:
            self._epoll.close()
            os.close(self._timer)
