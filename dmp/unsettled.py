"""Users whom the stream could not count exactly, waiting for the nightly batch (`dmp.settle`).

`unsettled:{e<p>}` is a sorted set of a partition's users (16 bytes) by how often they were put aside: what they did is
in the archive, so nothing else needs to be kept. It is bounded: beyond MOST users the member EVERYBODY stands for those
who found no room, and the batch then counts the whole partition. Nobody is forgotten.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import redis

from dmp import keys
from dmp.schema import Uid

MOST = 100_000  # of a partition: some 10 MB
EVERYBODY = b""
# KEYS: 1 the set. ARGV: 1 most members, then users. Returns how many found room.
ADD = """
local room = 0
for i = 2, #ARGV do
  if redis.call('ZCARD', KEYS[1]) < tonumber(ARGV[1]) or redis.call('ZSCORE', KEYS[1], ARGV[i]) then
    redis.call('ZINCRBY', KEYS[1], 1, ARGV[i])
    room = room + 1
  else
    redis.call('ZINCRBY', KEYS[1], 1, '')
  end
end
return room
"""
# KEYS: 1 the set. ARGV: 1 user, 2 how often they were put aside when the batch began. Returns 1 when they wait no more.
_DONE = """
if tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or '-1') ~= tonumber(ARGV[2]) then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
"""


def add(pipe: Any, partition: int, uids: Iterable[Uid], most: int = MOST) -> None:
    """Queue on a pipeline, or do by a client: put users aside, once more each."""
    if aside := list(uids):
        pipe.eval(ADD, 1, keys.unsettled(partition), most, *aside)


def waiting(client: redis.Redis, partition: int) -> Mapping[Uid, int]:
    """{user: how often put aside}; EVERYBODY among them when some found no room."""
    found: Any = client.zrange(keys.unsettled(partition), 0, -1, withscores=True)
    return {uid: int(times) for uid, times in found}


def done(client: redis.Redis, partition: int, uid: Uid, times: int) -> bool:
    """Let a user go who was settled, unless they were put aside again since `waiting` told `times`."""
    return bool(client.eval(_DONE, 1, keys.unsettled(partition), uid, times))


def forget(client: redis.Redis, partitions: int, uids: Iterable[Uid]) -> int:
    """Take users out of every partition, whatever number there was when they were put aside; returns how many."""
    named = list(uids)
    return sum(int(client.zrem(keys.unsettled(partition), *named)) for partition in range(partitions)) if named else 0
