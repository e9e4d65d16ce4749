"""Audiences: their life, what may be told about their size, and who is in them.

    pending -> expanding -> live -> expired
            -> refused  <-

*pending*: a seed was uploaded. *expanding*: a worker holds a lease on it; when the worker dies, the lease runs
out and another takes over. *live*: every member is written. *refused*: nothing could be learnt, `message` says why.

What the worker decided is written down (`members_file`) before the first member is stored. A worker that takes
over finds it and writes the same members again, so an interrupted expansion never mixes two answers. A bidder
sees a membership as soon as it is written; `live` promises that all are.

A name freed by an expired or refused audience may be used again: old memberships carry their own end.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import msgspec
import redis

from dmp import codec, keys
from dmp.errors import CorruptRecord, DmpError
from dmp.schema import Uid

State = Literal["pending", "expanding", "live", "expired", "refused"]
MAX_MEMBERSHIPS = 127  # 1 KiB of record: what one user's read may cost the bid path
UID_BYTES = 16
BATCH = 2_000  # users per round trip: some 10 ms of work for the store, its other clients wait no longer
FLOOR_SEED = 200  # P-65: nothing is learnt from fewer matched users, whatever the settings say
WARN_SEED = 1_000
GRACE_S = 3_600
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_SCRIPT = (Path(__file__).parent / "audiences.lua").read_text()


class BadName(DmpError):
    """An advertiser or audience is named in a way that could not be typed into a campaign file."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name[:80]!r} is no name: use 1 to 64 of the letters A-Z a-z, digits, '_', '-' and '.', "
            f"starting with a letter or digit"
        )


class Audience(msgspec.Struct, frozen=True):
    """One row of the catalogue, as its owner's work sees it; sizes are exact here and are told through `told`.

    number: `dmp.keys.number(id)`, what the store holds. rows, invalid, distinct, matched: of the upload. share_pct:
    per cent of the known users the expansion may have. include_seed: whether the seed's own users are members
    too. seed_file, members_file: under the data directory. report: what the learner measured. *_us: microseconds UTC.
    """

    id: str
    advertiser: str
    name: str
    number: int
    state: State
    message: str
    rows: int
    invalid: int
    distinct: int
    matched: int
    members: int
    share_pct: float
    include_seed: bool
    seed_file: str
    members_file: str
    report: dict[str, Any]
    attempts: int
    created_us: int
    changed_us: int
    expires_us: int


def check_name(name: str) -> str:
    """The name, unchanged; raises BadName."""
    if _NAME.fullmatch(name) is None:
        raise BadName(name)
    return name


def audience_id(advertiser: str, name: str) -> str:
    return f"{check_name(advertiser)}/{check_name(name)}"


def told(size: int) -> int:
    """A size as anyone but the operator may see it: two digits, and 0 below 50 (P-65).

    >>> [told(n) for n in (0, 49, 50, 96, 149, 1_249, 1_251, 99_600)]
    [0, 0, 50, 96, 150, 1200, 1300, 100000]
    """
    if size < 50:
        return 0
    unit: int = 10 ** (len(str(size)) - 2)
    return (size + unit // 2) // unit * unit


def told_rate(part: int, whole: int) -> float:
    """Share of `part` in `whole`, from the sizes as told and with two decimals: it gives no more away than they do.

    >>> told_rate(1_249, 1_251), told_rate(49, 1_000), told_rate(0, 0)
    (0.92, 0.0, 0.0)
    """
    whole_told = told(whole)
    return round(min(1.0, told(part) / whole_told), 2) if whole_told else 0.0


def add_members(client: redis.Redis, audience: str, uids: Iterable[Uid], expires_s: int) -> int:
    """Make users members of an audience until the unix second `expires_s` (0 = for good); returns how many are.

    Atomic per user and safe to repeat. Users already in MAX_MEMBERSHIPS audiences are left out and not counted.
    Raises CorruptRecord on a record of an unknown version, before which some users may have been added.
    """
    number, members = keys.number(audience), 0
    add = client.register_script(_SCRIPT)
    for batch in batches(uids):
        client.script_load(_SCRIPT)  # a restarted store has forgotten it; a pipeline cannot ask per command
        pipe = client.pipeline(transaction=False)
        for uid in batch:
            pipe.evalsha(add.sha, 1, keys.audiences(uid), number, expires_s, MAX_MEMBERSHIPS)
        for uid, result in zip(batch, pipe.execute(), strict=True):
            if result == -2:
                raise CorruptRecord(f"audience record of user {keys.text(uid).decode()} is of an unknown version")
            members += result >= 0
    return members


def rearranged(record: bytes | None, wanted: Mapping[int, int], now_s: int) -> tuple[bytes, int]:
    """(a user's audience record, unix second it ends or 0 for never) once it says what is wanted; b"" when it does.

    wanted: {audience number: unix second the user leaves it, which may be past}; other memberships stay until they end.
    Of more than MAX_MEMBERSHIPS none is added.
    """
    held = [] if record is None else codec.decode_audiences(record)
    wanted = {number: ends_s for number, ends_s in wanted.items() if ends_s > now_s or number in dict(held)}
    if all(dict(held).get(number) == ends_s for number, ends_s in wanted.items()):
        return b"", 0
    kept = [(number, ends_s) for number, ends_s in held if number not in wanted and (not ends_s or ends_s > now_s)]
    lasting = sorted((number, ends_s) for number, ends_s in wanted.items() if ends_s > now_s)
    new = [*kept, *lasting[: max(0, MAX_MEMBERSHIPS - len(kept))]]
    ends = [ends_s for _, ends_s in new]
    return codec.encode_audiences(new), 0 if 0 in ends else max(ends, default=now_s + 1)


def batches(uids: Iterable[Uid]) -> Iterator[list[Uid]]:
    """The uids in lists of at most BATCH."""
    rest = iter(uids)
    while batch := list(islice(rest, BATCH)):
        yield batch


def write_uids(path: Path, uids: Iterable[Uid]) -> int:
    """Write 16-byte uids one after the other; the file appears whole and on disk, or not at all. Returns how many."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    written = 0
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            for batch in batches(uids):
                written += file.write(b"".join(batch))
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    finally:
        draft.unlink(missing_ok=True)
    return written // UID_BYTES


def read_uids(path: Path) -> Iterator[Uid]:
    """The uids of a `write_uids` file, in constant memory."""
    with path.open("rb") as file:
        while block := file.read(UID_BYTES * BATCH):
            if len(block) % UID_BYTES:
                raise CorruptRecord(f"{path} is not a file of {UID_BYTES}-byte user ids")
            yield from (block[at : at + UID_BYTES] for at in range(0, len(block), UID_BYTES))


def sweep(data_dir: Path, kept: frozenset[str], now_s: float) -> int:
    """Remove seed and member files that no audience refers to; returns how many.

    kept: `Catalogue.files()`, read just before. An hour's grace covers files whose catalogue row is being written.
    """
    removed = 0
    for name in ("seeds", "members"):
        for path in (data_dir / name).glob("*"):
            if str(path.relative_to(data_dir)) not in kept and now_s - path.stat().st_mtime > GRACE_S:
                path.unlink(missing_ok=True)
                removed += 1
    return removed
