"""redis-py's blocking client of a cluster, made to do what its client of one server does.

redis-py refuses several commands in the pipelines of its cluster client (MGET, EVALSHA) and gives replies of all nodes
another form. Here a pipeline is cut up by node and sent as one pipeline a node; a node's redirections are followed for
each command. Everything that works with one user, one partition or one campaign works the same on both clients, since
its keys are in one slot (`dmp.keys`); what concerns all of the store asks `nodes`.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import redis
import redis.backoff
import redis.cluster
import redis.retry
from redis.connection import parse_url

from dmp.cluster import seeds
from dmp.link import key_of

CROSSINGS = (
    redis.exceptions.MovedError,
    redis.exceptions.AskError,
    redis.exceptions.TryAgainError,
    redis.exceptions.ClusterDownError,
    redis.exceptions.SlotNotCoveredError,
)
"""What a node says of slots that it has not, or not yet, or that nobody has; all of it passes."""

MOVING = (redis.exceptions.AskError, redis.exceptions.TryAgainError)
"""Of these, what is told of keys between two servers: until their slot has moved, for good where nobody ends the move.
To redis-py a MovedError is an AskError, too."""


class Client(redis.cluster.RedisCluster):
    """A cluster, to be used as `redis.Redis` is."""

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> Any:
        """transaction: all commands together on one slot; else each goes to its node, in one write a node."""
        return _Transaction(self) if transaction else _Pipeline(self)

    def transaction(self, func: Callable[[redis.client.Pipeline], Any], *watches: Any, **options: Any) -> Any:
        return self.at(watches[0]).transaction(func, *watches, **options)

    def at(self, key: bytes | str) -> redis.Redis:
        """A plain client of the node that has a key's slot. Raises SlotNotCoveredError."""
        return self.get_redis_connection(self.get_node_from_key(key))  # type: ignore[no-untyped-call]


def connect(url: str, timeout_s: float, connect_timeout_s: float) -> redis.Redis:
    """A client of the cluster whose nodes `url` names. Raises redis.exceptions.RedisError when none answers."""
    addresses = [parse_url(seed) for seed in seeds(url)]  # type: ignore[no-untyped-call]
    options = {name: value for name, value in addresses[0].items() if name not in ("host", "port", "db")}
    if options.pop("connection_class", None) is redis.SSLConnection:
        options["ssl"] = True
    client = Client(
        startup_nodes=[
            redis.cluster.ClusterNode(one.get("host", "localhost"), one.get("port", 6379))  # type: ignore[no-untyped-call]
            for one in addresses
        ],
        require_full_coverage=False,
        socket_connect_timeout=connect_timeout_s,
        socket_timeout=timeout_s,
        retry=redis.retry.Retry(redis.backoff.NoBackoff(), 1),
        protocol=2,
        **options,
    )
    return cast("redis.Redis", client)


def node(client: redis.Redis, key: bytes) -> redis.Redis:
    """A plain client of the server that has a key: of one server that is `client` itself."""
    found: object = client
    return found.at(key) if isinstance(found, Client) else client


def nodes(client: redis.Redis) -> list[redis.Redis]:
    """A plain client of every server that holds keys."""
    found: object = client
    if not isinstance(found, Client):
        return [client]
    return [found.get_redis_connection(primary) for primary in found.get_primaries()]  # type: ignore[no-untyped-call]


class _Queue(redis.client.Pipeline):
    """Commands that wait for `execute`."""

    def __init__(self, cluster: Client) -> None:
        super().__init__(None, redis.Redis().response_callbacks, False, None)  # type: ignore[arg-type]
        self.to = cluster

    def reset(self) -> None:  # type: ignore[override]  # as in its superclass, which has two of them
        self.command_stack = []


class _Pipeline(_Queue):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands: list[Any] = self.command_stack
        self.reset()
        replies: list[Any] = [None] * len(commands)
        by_node: dict[str, list[int]] = {}
        for place, (args, _) in enumerate(commands):
            found = self.to.get_node_from_key(_key(args))  # type: ignore[no-untyped-call]
            by_node.setdefault(found.name, []).append(place)
        for name, places in by_node.items():
            at = self.to.get_redis_connection(self.to.get_node(node_name=name))  # type: ignore[no-untyped-call]
            pipe = at.pipeline(transaction=False)
            for place in places:
                args, options = commands[place]
                pipe.execute_command(*args, **options)  # type: ignore[no-untyped-call]
            for place, reply in zip(places, pipe.execute(raise_on_error=False), strict=True):
                replies[place] = self._elsewhere(commands[place]) if isinstance(reply, CROSSINGS) else reply
        if raise_on_error:
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
        return replies

    def _elsewhere(self, command: Any) -> Any:
        """The reply of the node that a command was sent on to."""
        args, options = command
        try:
            return self.to.execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.exceptions.RedisError as error:
            return error


class _Transaction(_Queue):
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        commands: list[Any] = self.command_stack
        self.reset()
        if not commands:
            return []
        pipe = self.to.at(_key(commands[0][0])).pipeline(transaction=True)
        for args, options in commands:
            pipe.execute_command(*args, **options)  # type: ignore[no-untyped-call]
        return list(pipe.execute(raise_on_error))


def _key(args: Sequence[Any]) -> bytes:
    if args[0] == "XREADGROUP":
        following = args.index(b"STREAMS") + 1
        return _bytes(args[following])
    found = key_of(args)
    if found is None:
        raise redis.exceptions.RedisClusterException(f"{args[0]} names no key, so no node to send it to")
    return found


def _bytes(key: Any) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()
