"""When to tell senders to wait: more events than are worked off, or a tag store that is running out of memory.

Looked at twice a second at most, off the request; between two looks the last answer holds.
"""

import math
import time
from collections.abc import Mapping
from typing import Any

import redis

from dmp import keys
from dmp.clustered import nodes
from dmp.config import DmpConfig

LOOK_S = 0.5
FULL_SHARE = 0.9  # of the store's memory limit: what is left is for those who read the streams
MIN_WAIT_S, MAX_WAIT_S = 1, 60


class Pressure:
    """What the store last told. wait_s: seconds senders are to wait, 0 when they are welcome."""

    def __init__(self, config: DmpConfig) -> None:
        self._partitions, self._most = config.stream.partitions, config.collect.max_backlog
        self._looked_s = -math.inf
        self.backlog = 0
        self.wait_s = 0

    def due(self) -> bool:
        return time.monotonic() - self._looked_s >= LOOK_S

    def look(self, client: redis.Redis) -> None:
        """Ask the store. Raises redis.exceptions.RedisError."""
        self._looked_s = time.monotonic()
        pipe = client.pipeline(transaction=False)
        for partition in range(self._partitions):
            pipe.xlen(keys.events(partition))
        self.backlog = sum(pipe.execute())
        fullest: Any = [node.info("memory") for node in nodes(client)]
        self.wait_s = max(wait_s(self.backlog, self._most, memory) for memory in fullest)


def wait_s(backlog: int, most: int, memory: Mapping[str, Any]) -> int:
    """Seconds to wait with so many entries in the streams and this memory of the store (`INFO memory`).

    Up to `most` entries there is no wait; from there it grows to a minute at twice as many.

    >>> [wait_s(n, 1_000, {}) for n in (1_000, 1_001, 1_500, 9_000)]
    [0, 1, 30, 60]
    >>> wait_s(0, 1_000, {"maxmemory": 100, "used_memory": 90})
    60
    """
    limit = int(memory.get("maxmemory", 0))
    if limit and int(memory["used_memory"]) >= FULL_SHARE * limit:
        return MAX_WAIT_S
    if backlog <= most:
        return 0
    return min(MAX_WAIT_S, max(MIN_WAIT_S, math.floor(MAX_WAIT_S * (backlog - most) / most)))
