"""Chance without dice: a place in [0, 1) from a salt and a unit, the same on every worker and in every replay."""

from hashlib import blake2b

BUCKETS = 10_000


def place(salt: bytes, unit: bytes) -> float:
    """Uniform over units, independent between salts; salt: at most 16 bytes.

    >>> 0 <= place(b"pace", b"request 1") < 1
    True
    """
    return int.from_bytes(blake2b(unit, digest_size=7, salt=salt).digest()) / 2**56


def bucket(salt: bytes, unit: bytes) -> int:
    """One of `BUCKETS`, as `place`."""
    return int(place(salt, unit) * BUCKETS)
