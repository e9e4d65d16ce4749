"""Where workers come from: one process that has loaded everything, and forks.

Campaigns and models are read once, whatever the number of workers, and what nobody changes stays in memory once: a fork
shares its parent's pages until one of the two writes to them, and `gc.freeze` keeps collections from doing so. The
process has neither threads nor a loop nor a connection, so that a fork of it is whole; each worker makes its own after
its birth. The next birth sees to it that what it inherits is what is in the files by then. From then on a worker
follows changes by itself, and what it loads is its own: sharing lasts until campaigns or models change.

The supervisor asks over a socket: one byte and two file descriptors, the worker's standard input and output. The answer
is the worker's pid on a line of standard output. The end of the socket is the end of the nursery; workers go on.
"""

import contextlib
import gc
import logging
import os
import signal
import socket
import sys
from functools import partial

from msgspec import Struct

from bidder import serving
from bidder.config import BidderConfig
from bidder.serving import Serving
from bidder.snapshot import Paces
from bidder.topics import Topics
from dmp.errors import TagbidError

log = logging.getLogger("tagbid.bidder")
BIRTH = b"w"
ENVIRON = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
"""For a nursery: no thread of a library may be lost in a fork; bids are decided without."""


class Loaded(Struct, frozen=True):
    """What a bidder starts with. seen: its `serving.fingerprint`. paces, topics: what the snapshot refers to."""

    seen: tuple[object, ...]
    serving: Serving
    paces: Paces
    topics: Topics


def load(settings: BidderConfig, public_url: str) -> Loaded:
    """Everything from disk. Raises TagbidError when a part cannot be used."""
    seen, paces, topics = serving.fingerprint(settings), Paces(), Topics()
    return Loaded(seen, serving.load(settings, public_url, paces, None, topics), paces, topics)


def born(settings: BidderConfig, public_url: str) -> Loaded | None:
    """Load, then fork whenever asked to. Returns in each child what it inherits, and None in the nursery at its end.

    Standard input is the supervisor's socket. Raises TagbidError when the first load fails.
    """
    control = socket.socket(fileno=os.dup(0))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal, meant for the supervisor
    loaded = load(settings, public_url)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: _bury())
    _settle()
    while True:
        asked, descriptors, _, _ = socket.recv_fds(control, 1, 2)
        if not asked:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            with contextlib.suppress(ChildProcessError):
                while True:  # they are told to leave, too
                    os.wait()
            return None
        if serving.fingerprint(settings) != loaded.seen:
            loaded = _renewed(settings, public_url, loaded)
        pid = os.fork()
        if not pid:
            control.close()
            for number, signs in ((signal.SIGCHLD, signal.SIG_DFL), (signal.SIGINT, signal.default_int_handler)):
                signal.signal(number, signs)
            for own, given in enumerate(descriptors):
                os.dup2(given, own)
                os.close(given)
            return loaded
        for given in descriptors:
            os.close(given)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


def ask(control: socket.socket, stdin: int, stdout: int) -> None:
    """In the supervisor: have a worker born with these as its standard input and output."""
    socket.send_fds(control, [BIRTH], [stdin, stdout])


def _renewed(settings: BidderConfig, public_url: str, loaded: Loaded) -> Loaded:
    """What the files say now; what is there goes on where they cannot be used, as in a worker."""
    try:
        found = load(settings, public_url)
    except TagbidError as error:
        log.error("kept the campaigns and model in use: %s", error)  # noqa: TRY400 - for its reader, not a defect
        return loaded
    _settle()
    return found


def _settle() -> None:
    """Out of the sight of collections: those of a child would write to every object, and so copy its page."""
    gc.collect()
    gc.freeze()


def _bury() -> None:
    """Children that ended, and how."""
    with contextlib.suppress(ChildProcessError):
        for pid, status in iter(partial(os.waitpid, -1, os.WNOHANG), (0, 0)):
            code = os.waitstatus_to_exitcode(status)
            if code:
                log.error("worker process %d ended with status %d", pid, code)
