"""Access: everything that is held about a user, as one JSON document (P-72)."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from dmp import events, forget, keys, realtime, store, taxonomy
from dmp.catalogue import Catalogue
from dmp.config import DmpConfig
from dmp.errors import BadEvents
from dmp.schema import Uid


def export(
    config: DmpConfig, catalogue: Catalogue, client: redis.Redis, uids: Sequence[Uid], also: Sequence[Path], now_s: int
) -> dict[str, Any]:
    """What the store and the files hold about the ids of one person. also: folders outside the data directory."""
    return {
        "ids": [keys.text(uid).decode() for uid in uids],
        "store": [_in_store(catalogue, client, uid, now_s) for uid in uids],
        "files": {str(path): rows for path in forget.places(Path(config.data_dir), also) if (rows := _in(path, uids))},
    }


def _in_store(catalogue: Catalogue, client: redis.Redis, uid: Uid, now_s: int) -> dict[str, Any]:
    (user,) = store.read_users(client, [uid], now_s)
    profile = store.read_profile(client, uid)
    names = {audience.number: audience.id for audience in catalogue.all_audiences()}
    names |= {keys.OPTED_OUT: "(opted out)", keys.CHILD: "(known child)"}
    return {
        "user": keys.text(uid).decode(),
        "tags": [
            {"tag": taxonomy.tag_name(tag.tag), "score": tag.score, "as_of_day": tag.as_of_day}
            for tag in (profile.tags if profile else ())
        ],
        "audiences": sorted(names.get(number, f"audience {number:08x}") for number in user.audiences),
        "contacts": msgspec.to_builtins(user.contacts),
        "vector": user.vector.hex(),
        "realtime": _plain(realtime.parts(user.realtime)) if user.realtime else None,
        "keys": sorted(key.decode() for key in forget.held_keys(client, [uid])),
    }


def _in(path: Path, uids: Sequence[Uid]) -> list[Any]:
    """The records of one file that name a user; for a file of another kind, how often it does."""
    if forget.is_parquet(path):
        try:
            return list(_rows(path, uids))
        except pa.ArrowInvalid:  # torn by a writer that died, or is at it
            return [{"unreadable": path.stat().st_size}]
    hits = sum(1 for _ in forget.hits(path, uids))
    if not hits or path.suffix != ".mpk":
        return [{"mentions": hits}] if hits else []
    try:
        return [_plain(record) for record in events.read_file(path) if getattr(record, "uid", None) in uids]
    except BadEvents:
        return [{"mentions": hits}]


def _rows(path: Path, uids: Sequence[Uid]) -> Iterator[Any]:
    with pq.ParquetFile(path) as file:
        names = forget.binary_columns(file.schema_arrow)
        if names:
            for batch in file.iter_batches():
                rows = pa.Table.from_batches([batch])
                mask = forget.naming(rows.select(names), uids)
                if pc.any(mask).as_py():
                    yield from map(_plain, rows.filter(mask).to_pylist())


def _plain(value: Any) -> Any:
    """As JSON can say it; bytes as hex."""
    match value:
        case bytes():
            return value.hex()
        case msgspec.Struct():
            return _plain({"kind": type(value).__name__.lower(), **msgspec.structs.asdict(value)})
        case dict():
            return {str(key): _plain(one) for key, one in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_plain(one) for one in value]
        case _:
            return value
