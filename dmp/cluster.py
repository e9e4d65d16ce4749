"""A tag store of several nodes: which slot a key is in, which node serves a slot, and how nodes tell so.

A Redis or Valkey Cluster divides all keys over 16,384 slots: CRC16 of the key, or of what stands between its first
`{` and the next `}` (redis.io, "Redis cluster specification"). `dmp.keys` puts a user between those braces, so one user
is one slot and one read goes to one node. Whether a store is a cluster is asked of the store, never configured.
Everything here is pure but for `is_cluster`.
"""

from typing import Any
from urllib.parse import urlsplit, urlunsplit

import msgspec
import redis
from redis.crc import key_slot

SLOTS = 16_384

slot = key_slot
"""The slot of a key (bytes)."""


class Node(msgspec.Struct, frozen=True):
    """Where one server of a cluster listens."""

    host: str
    port: int


class Range(msgspec.Struct, frozen=True):
    """Slots `first` to `last`, both included, and who has them."""

    first: int
    last: int
    primary: Node
    replicas: tuple[Node, ...] = ()


class Topology(msgspec.Struct, frozen=True):
    """Who serves what, as one node saw it. Slots that no range covers are served by nobody."""

    ranges: tuple[Range, ...]

    @property
    def primaries(self) -> list[Node]:
        """Each once, in the order of their slots."""
        return list(dict.fromkeys(one.primary for one in self.ranges))

    @property
    def nodes(self) -> list[Node]:
        """Primaries, then replicas, each once."""
        return list(dict.fromkeys([*self.primaries, *(node for one in self.ranges for node in one.replicas)]))

    def owners(self) -> list[Node | None]:
        """The primary of each of the `SLOTS` slots, None where there is none."""
        found: list[Node | None] = [None] * SLOTS
        for one in self.ranges:
            found[one.first : one.last + 1] = [one.primary] * (one.last + 1 - one.first)
        return found


class Redirect(msgspec.Struct, frozen=True):
    """A node says that another one has the slot: for good, or (ask) for the key of this one command."""

    slot: int
    node: Node
    ask: bool


def redirect(error: str, asked: Node) -> Redirect | None:
    """What an error reply says about the way, None when it is another error. asked: who replied so.

    >>> redirect("MOVED 3999 127.0.0.1:6381", Node("a", 1))
    Redirect(slot=3999, node=Node(host='127.0.0.1', port=6381), ask=False)
    >>> redirect("ASK 3999 :6381", Node("a", 1)).node
    Node(host='a', port=6381)
    """
    kind, _, rest = error.partition(" ")
    number, _, address = rest.partition(" ")
    host, _, port = address.rpartition(":")
    if kind not in ("MOVED", "ASK") or not number.isdigit() or not port.isdigit():
        return None
    return Redirect(int(number), Node(_known(host) or asked.host, int(port)), kind == "ASK")


def parse_slots(reply: Any, asked: Node) -> Topology:
    """The reply to CLUSTER SLOTS. asked: who gave it; a node that does not know its own address means that one.

    Raises ValueError on what is no such reply.
    """
    try:
        ranges = []
        for first, last, *nodes in reply:
            primary, *replicas = (_node(node, asked) for node in nodes)
            ranges.append(Range(int(first), int(last), primary, tuple(replicas)))
        sound = all(0 <= one.first <= one.last < SLOTS for one in ranges)
    except (TypeError, ValueError, IndexError):
        sound = False
    if not sound:
        raise ValueError(f"no reply to CLUSTER SLOTS: {str(reply)[:200]}")
    return Topology(tuple(ranges))


def _node(said: Any, asked: Node) -> Node:
    """`[host, port, id, [name, value, ...]]`; where names are preferred, one that is not set is "?" and has its IP."""
    host, port = _known(said[0]), int(said[1])
    if not host and len(said) > 3:
        more = [_text(part) for part in said[3]]
        host = _known(dict(zip(more[::2], more[1::2], strict=True)).get("ip", ""))
    return Node(host or asked.host, port)


def _known(host: object) -> str:
    """A host as text; "" for one that the node itself does not know."""
    text = _text(host)
    return "" if text == "?" else text


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)


def seeds(url: str) -> list[str]:
    """One URL for each address in `url`: several nodes to ask first may be named, with commas between them.

    >>> seeds("redis://me:secret@a:7000,b:7001/0?protocol=2")
    ['redis://me:secret@a:7000/0?protocol=2', 'redis://me:secret@b:7001/0?protocol=2']
    """
    parts = urlsplit(url)
    if parts.scheme == "unix":
        return [url]
    login, at, addresses = parts.netloc.rpartition("@")
    return [urlunsplit(parts._replace(netloc=f"{login}{at}{address}")) for address in addresses.split(",") if address]


def at(url: str, node: Node) -> str:
    """The URL of one node, with the login and the options of another's.

    >>> at("rediss://me:secret@a:7000/0?protocol=2", Node("::1", 7001))
    'rediss://me:secret@[::1]:7001?protocol=2'
    """
    parts = urlsplit(url)
    login, at_sign, _ = parts.netloc.rpartition("@")
    host = f"[{node.host}]" if ":" in node.host else node.host
    scheme = "redis" if parts.scheme == "unix" else parts.scheme
    return urlunsplit((scheme, f"{login}{at_sign}{host}:{node.port}", "", parts.query, ""))


def epoch(info: bytes) -> int:
    r"""How recent a node's view is, from its reply to CLUSTER INFO: views of a later epoch overrule earlier ones.

    >>> epoch(b"cluster_state:ok\r\ncluster_current_epoch:6\r\n")
    6
    """
    lines = (line.partition(b":") for line in info.split(b"\r\n"))
    return int(next((value for name, _, value in lines if name == b"cluster_current_epoch"), b"0"))


def is_cluster(client: redis.Redis) -> bool:
    """Whether the server behind a client is one node of a cluster. Raises redis.exceptions.RedisError."""
    return bool(client.info("cluster").get("cluster_enabled"))
