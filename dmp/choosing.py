"""Audiences chosen by an expression: from the live generation's bitmaps to users a campaign can target.

An audience is settled in three steps that a death in between cannot spoil: its members are written to a file, the
catalogue gets a row that names the file and is leased to us, every member's record in the store is written, and then
the audience is live. If we die before the last step the lease runs out, and `tagbid models expand` stores the same
members again.
"""

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import redis
from pyroaring import BitMap

from dmp import audiences, bitmaps, keys, store
from dmp.audiences import Audience, audience_id, told
from dmp.bitmaps import Bitmaps
from dmp.catalogue import Catalogue
from dmp.config import DmpConfig
from dmp.errors import DmpError
from dmp.expression import Member
from dmp.generations import TAG_COLUMNS
from dmp.grouped import grouped
from dmp.insight import OPERATOR, Asker

LEASE_US = 600_000_000
SECOND_US = 1_000_000


class UnknownAudience(DmpError):
    """There is no such live audience, or it is another advertiser's: the two look the same (S-21)."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no live audience {name}; `tagbid dmp audience list` shows those there are")


def bitmaps_of(config: DmpConfig, client: redis.Redis) -> tuple[int, Bitmaps]:
    """The live generation and its bitmaps, made now if the build that wrote it did not; close them when done.

    Raises DmpError when the live generation's files are not on this machine.
    """
    generation = store.live_generation(client)
    folder = store.generation_folder(config, generation)
    if not (folder / "tags.parquet").exists():
        missing = f"generation {generation} was not built on this machine" if generation else "there are no user tags"
        raise DmpError(f"{missing}: run `tagbid dmp build EVENTS` first")
    if not (folder / bitmaps.INDEX_FILE).exists():
        made = msgspec.json.decode((folder / "manifest.json").read_bytes())["created_us"]
        bitmaps.make(folder, grouped(pq.read_table(folder / "tags.parquet", schema=TAG_COLUMNS)), made)
    return generation, Bitmaps(folder)


@contextmanager
def asking(
    config: DmpConfig, catalogue: Catalogue, client: redis.Redis, clock: Callable[[], int], tenant: str = OPERATOR
) -> Iterator[Asker]:
    """Somebody who asks about the live generation. tenant: an advertiser, who knows its own audiences only."""
    generation, index = bitmaps_of(config, client)
    held: dict[str, BitMap] = {}

    def members(member: Member) -> BitMap:
        name = f"{member.advertiser}/{member.name}"
        found = catalogue.audience(member.advertiser, member.name) if tenant in (OPERATOR, member.advertiser) else None
        if found is None or found.state != "live" or 0 < found.expires_us <= clock():
            raise UnknownAudience(name)
        if name not in held:
            held[name] = index.numbers(audiences.read_uids(Path(config.data_dir) / found.members_file))
        return held[name]

    log = Path(config.data_dir) / "insight" / tenant / f"{generation}.jsonl"
    try:
        yield Asker(tenant, generation, index, members, log, clock, config.min_insight)
    finally:
        index.close()


def create(
    config: DmpConfig,
    catalogue: Catalogue,
    client: redis.Redis,
    asker: Asker,
    advertiser: str,
    name: str,
    text: str,
    expires_us: int,
    now_us: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Audience:
    """Make the users an expression means a live audience until `expires_us`; campaigns can name it at the next bid.

    Raises BadExpression, TooFewUsers (below 50), BadName, AlreadyThere, UnknownAdvertiser.
    """
    users, said = asker.users(text)
    number = keys.number(audience_id(advertiser, name))
    worker = secrets.token_hex(8)
    members_file = f"members/{number:08x}-{worker}.uids"
    path = Path(config.data_dir) / members_file
    audiences.write_uids(path, asker.bitmaps.uids(users))
    try:
        report = {"expression": text, "generation": asker.generation, "users": told(said)}
        catalogue.add_chosen(advertiser, name, members_file, said, report, expires_us, worker, now_us, LEASE_US)
    except DmpError:
        path.unlink()
        raise

    def storing() -> Iterator[bytes]:
        for done, batch in enumerate(audiences.batches(audiences.read_uids(path))):
            progress(done * audiences.BATCH, len(users))
            yield from batch

    audiences.add_members(client, f"{advertiser}/{name}", storing(), expires_us // SECOND_US)
    catalogue.make_live(f"{advertiser}/{name}", worker, said, now_us)
    progress(len(users), len(users))
    found = catalogue.audience(advertiser, name)
    assert found is not None  # noqa: S101 - made live above
    return found
