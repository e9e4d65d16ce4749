"""Who asked to be forgotten: a list that keeps their ids from ever becoming a user again (P-71, P-73).

`data_dir/forgotten` holds 16 bytes an id: a hash of the pseudonym, so that not even the pseudonym is kept. The key
ring looks every id up in it and makes none of them a user, whatever log, upload, event or bid request it comes in.
"""

import fcntl
import hashlib
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from dmp.schema import Uid

DIGEST_BYTES = 16
LOOK_S = 0.5  # how often a running process looks for ids forgotten meanwhile
_PERSON = b"forgotten"


def digest(uid: Uid) -> bytes:
    """What is kept of a forgotten pseudonym."""
    return hashlib.blake2b(uid, digest_size=DIGEST_BYTES, person=_PERSON).digest()


class Forgotten:
    """The list of a data directory, as of at most `LOOK_S` ago."""

    def __init__(self, data_dir: Path | str, clock: Callable[[], float] = time.monotonic) -> None:
        self._path = Path(data_dir) / "forgotten"
        self._clock = clock
        self._looked = -LOOK_S
        self._size = 0
        self._digests: set[bytes] = set()

    def __contains__(self, uid: object) -> bool:
        if self._clock() - self._looked >= LOOK_S:
            self.look()
        return bool(self._digests) and isinstance(uid, bytes) and digest(uid) in self._digests

    def __len__(self) -> int:
        self.look()
        return len(self._digests)

    def look(self) -> None:
        """Take up what was added."""
        self._looked = self._clock()
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            size = 0
        if size != self._size:
            data = self._path.read_bytes() if size else b""
            whole = len(data) // DIGEST_BYTES * DIGEST_BYTES  # a torn last one was never acknowledged
            self._digests = {data[at : at + DIGEST_BYTES] for at in range(0, whole, DIGEST_BYTES)}
            self._size = size

    def add(self, uids: Iterable[Uid]) -> int:
        """Forget ids for good; safe on disk when this returns. Returns how many are new."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            held = file.read()
            held = held[: len(held) // DIGEST_BYTES * DIGEST_BYTES]
            known = {held[at : at + DIGEST_BYTES] for at in range(0, len(held), DIGEST_BYTES)}
            new = sorted({digest(uid) for uid in uids} - known)
            file.seek(len(held))
            file.truncate()
            file.write(b"".join(new))
            file.flush()
            os.fsync(file.fileno())
        self.look()
        return len(new)
