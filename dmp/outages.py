"""Which failures of the tag store pass by themselves, so that whoever works beside it waits and goes on."""

import redis

from dmp.clustered import CROSSINGS

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0  # between attempts of a worker that lost the store
_PASSING = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.BusyLoadingError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.ExecAbortError,  # before 7.0 that is how a full store refuses a transaction
    *CROSSINGS,
)


def passes(error: redis.exceptions.RedisError) -> bool:
    """Whether the store may be well again by itself; one that was emptied has no groups until we make them.

    Before 7.0 a script that a full store refuses fails with a text of its own.

    >>> passes(redis.exceptions.ConnectionError()), passes(redis.exceptions.ResponseError("WRONGTYPE ..."))
    (True, False)
    """
    text = str(error)
    return isinstance(error, _PASSING) or text.startswith(("NOGROUP", "no such key")) or "-OOM command" in text
