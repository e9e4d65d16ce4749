"""A new key for the pseudonyms while the former one is still read (P-61).

    rotate:  new ids are made under the new key; whoever reads, looks under both (`KeyRing.former_of`)
    carry:   an event of a user brings what is held under their former pseudonym to the new one, in the tag store
    retire:  the former key is destroyed: what was not carried can be linked to nobody any more (crypto-erasure)

Two keys are readable at most. `carried` lists pairs (former, new) of those who were carried: by it the nightly build
reads their older events as theirs. It goes with the former key. Copies that a sender repeats across the rotation are
two events, since an event's id is made under the key as well.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from dmp import keys
from dmp.asked import ask_all
from dmp.errors import DmpError
from dmp.link import Link
from dmp.pseudonym import ENVIRONMENT, FORMER_ENVIRONMENT, FORMER_KEY_FILE, KEY_FILE, former_key, load_key, secret_file
from dmp.schema import Uid

CARRIED_FILE = "pseudonym.carried"
ID_CHARS = 8
MOST_REMEMBERED = 100_000


class Key(msgspec.Struct, frozen=True):
    """id: says which key it is, and nothing about it. use: "writes", or "read only"."""

    id: str
    use: str


def key_id(key: bytes) -> str:
    """The name of a key: hex digits of a hash of it."""
    return hashlib.blake2b(key, digest_size=ID_CHARS // 2, person=b"tagbid.key.id").hexdigest()


def readable(data_dir: Path) -> list[Key]:
    """The keys of a data directory, the one that writes first. Raises ConfigError as `pseudonym.load_key`."""
    former = former_key(data_dir)
    present = Key(key_id(load_key(data_dir / KEY_FILE)), "writes")
    return [present] if former is None else [present, Key(key_id(former), "read only")]


def rotate(data_dir: Path) -> list[Key]:
    """Make a new key that writes from now on, and keep the present one for reading; returns both.

    Raises DmpError while a rotation is on, or when the key is in the environment. A death on the way leaves one key, or
    the present one twice, or both; doing it again then is safe.
    """
    _in_files()
    present, former = data_dir / KEY_FILE, data_dir / FORMER_KEY_FILE
    key = secret_file(present)
    if former.exists() and secret_file(former) != key:
        raise DmpError("two keys are readable already; `tagbid dmp keys retire` destroys the former one")
    if not former.exists():
        os.link(present, former)
    draft = data_dir / f".{KEY_FILE}.new"
    draft.unlink(missing_ok=True)
    secret_file(draft)
    draft.replace(present)
    _sync(data_dir)
    return readable(data_dir)


def retire(data_dir: Path) -> Key:
    """Destroy the former key, and the list of who was carried; returns which it was. Raises DmpError without one."""
    _in_files()
    former = data_dir / FORMER_KEY_FILE
    if not former.exists():
        raise DmpError("no rotation is on: there is one key, and without it nobody would be known")
    gone = Key(key_id(secret_file(former)), "destroyed")
    if secret_file(data_dir / KEY_FILE) == secret_file(former):  # a rotation that died half-way: the key lives on
        former.unlink()
        return gone
    for path in (data_dir / CARRIED_FILE, former):
        if path.exists():
            with path.open("r+b") as file:
                file.write(bytes(path.stat().st_size))
                file.flush()
                os.fsync(file.fileno())
            path.unlink()
    _sync(data_dir)
    return gone


def carried(data_dir: Path) -> Iterator[tuple[Uid, Uid]]:
    """Yields (former pseudonym, new one) of users who were carried in the rotation that is on."""
    path = data_dir / CARRIED_FILE
    data = path.read_bytes() if path.exists() else b""
    for at in range(0, len(data) // 32 * 32, 32):
        yield data[at : at + 16], data[at + 16 : at + 32]


class Carrier:
    """Brings users from their former pseudonyms to the new ones, each once a process."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / CARRIED_FILE
        self._done: set[Uid] = set()

    async def carry(self, link: Link, formers: Mapping[Uid, Uid]) -> int:
        """formers: {new pseudonym: former one}; returns how many had something. Raises redis.exceptions.RedisError.

        A key that the new pseudonym has already stays where it is, and is read under both until it ends by itself. A
        death on the way leaves a copy under both, which counts contacts twice and so shows less.
        """
        fresh = {uid: former for uid, former in formers.items() if uid not in self._done}
        if not fresh:
            return 0
        commands = [(b"MGET", *keys.user_keys(former), keys.realtime_marks(former)) for former in fresh.values()]
        held = dict(zip(fresh.items(), await ask_all(link, commands), strict=True))
        moved = [pair for pair, values in held.items() if any(value is not None for value in values)]
        for uid, former in moved:
            await self._move(link, former, uid, held[uid, former])
        if moved:
            with os.fdopen(os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab") as file:
                file.write(b"".join(former + uid for uid, former in moved))
        if len(self._done) > MOST_REMEMBERED:
            self._done.clear()
        self._done |= fresh.keys()
        return len(moved)

    async def _move(self, link: Link, former: Uid, uid: Uid, values: list[bytes | None]) -> None:
        names = [*keys.user_keys(former), keys.realtime_marks(former)]
        targets = [*keys.user_keys(uid), keys.realtime_marks(uid)]
        lives = await ask_all(link, [(b"PTTL", name) for name in names])
        here = [place for place, value in enumerate(values) if value is not None]
        sets = [
            (b"SET", targets[place], values[place] or b"", b"NX", *((b"PX", lives[place]) if lives[place] > 0 else ()))
            for place in here
        ]
        done = await ask_all(link, sets)
        gone = [names[place] for place, set_ in zip(here, done, strict=True) if set_ is not None]
        await ask_all(link, [(b"DEL", name) for name in gone])


def _in_files() -> None:
    if os.environ.get(ENVIRONMENT) is not None:
        raise DmpError(
            f"the key is in {ENVIRONMENT}: to rotate, put it into {FORMER_ENVIRONMENT} and a new one in its place; to "
            f"retire the former one, take it out of the environment"
        )


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
