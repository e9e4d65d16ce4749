"""Listening addresses: taken with a clear error, shared between processes where that is wanted."""

import socket

from dmp.errors import TagbidError

BACKLOG = 4096  # of connections not accepted yet: an exchange that reconnects all at once loses none


class CannotListen(TagbidError):
    """A port is taken or not ours to open."""


def bound(host: str, port: int, shared: bool = False) -> socket.socket:
    """A TCP socket that has an address; port 0 takes a free one. Raises CannotListen.

    shared: other sockets of this user may have the same port (SO_REUSEPORT): the kernel spreads new connections over
    those that listen, so this one does not listen yet. A socket of one's own does, because only then nobody else can.
    """
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, port))
        if not shared:
            made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise CannotListen(
            f"cannot listen on {host}:{port}: {error.strerror}; stop what uses it, or choose another port"
        ) from None
    return made


def url_of(host: str, listening: socket.socket) -> str:
    """How a client on this machine reaches a bound socket."""
    return url_at(host, listening.getsockname()[1])


def url_at(host: str, port: int) -> str:
    """As `url_of`, for who knows the port."""
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
