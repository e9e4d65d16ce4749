"""Erasure: every trace of a user out of the store, the files and the logs, and a proof of it (P-71).

The id goes onto the list of `dmp.forgotten` first, so that nothing makes it a user again while or after we erase.
Then the store: every key with the user's name, every stream entry about them, and the server's own log, which it
writes anew. Then the files, each by its kind: rows leave Parquet files and lists of ids, a generation's bitmaps are
made again, the identity log is rewritten; in a file that a running process appends to, and in whatever else holds the
16 bytes of the id or their text, they are overwritten where they stand, which leaves everything around them readable.
At the end all of it is searched again, and what is still found is told. Doing it twice is no error.
"""

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import redis

from dmp import audiences, bitmaps, identity, keys, offline, unsettled
from dmp.clustered import nodes
from dmp.config import DmpConfig
from dmp.errors import DmpError, StoreUnavailable
from dmp.forgotten import Forgotten, digest
from dmp.grouped import grouped
from dmp.schema import NO_UID, Uid

REWRITE_S = 600.0  # longest wait for the server to write its log anew
STREAMS = re.compile(rb"(events|notices):\{[em][0-9]+\}")
BLOCK_BYTES = 1 << 22
_SCRIPT = (Path(__file__).parent / "forget.lua").read_text()
Progress = Callable[[str, int, int], None]


class Receipt(msgspec.Struct, frozen=True):
    """What an erasure did. ids: hashes of the pseudonyms (`dmp.forgotten.digest`), as hex. keys: erased from the store.
    entries: stream entries that named them. files: {file: rows, ids or places erased in it}. left: files and keys in
    which a trace still is.
    """

    at_us: int
    ids: tuple[str, ...]
    keys: int
    entries: int
    files: dict[str, int]
    left: tuple[str, ...]
    seconds: float


def forget(
    config: DmpConfig,
    client: redis.Redis,
    uids: Sequence[Uid],
    now_us: int,
    also: Sequence[Path] = (),
    progress: Progress = lambda step, done, total: None,
) -> Receipt:
    """Erase users. also: folders outside the data directory, such as ingested events. Writes the receipt.

    Raises StoreUnavailable when the store is lost on the way, DmpError while a build runs: then do it again.
    """
    root = Path(config.data_dir)
    Forgotten(root).add(uids)
    with offline.only_build(root / "generations"):
        return _erase(config, client, uids, now_us, also, progress)


def _erase(
    config: DmpConfig, client: redis.Redis, uids: Sequence[Uid], now_us: int, also: Sequence[Path], progress: Progress
) -> Receipt:
    root, started = Path(config.data_dir), time.monotonic()
    try:
        entries = sum(_out_of_stream(client, key, uids) for key in _streams(client))
        unsettled.forget(client, config.stream.partitions, uids)
        erased = _keys_of(client, uids)
        for server in nodes(client):
            _rewrite_log(server)
    except redis.RedisError as error:
        raise StoreUnavailable(f"the tag store failed: {error}; nothing is lost: forget the id again") from None
    files: dict[str, int] = {}
    found = places(root, also)
    for done, path in enumerate(found):
        progress(path.name, done, len(found))
        try:
            changed = _out_of_file(root, path, uids)
        except (FileNotFoundError, pa.ArrowInvalid):  # moved on, or torn: `traces` finds where it is, or tells it
            continue
        if changed:
            files[str(path)] = changed
    for folder in sorted({Path(name).parent for name in files if name.endswith("tags.parquet")}):
        _bitmaps_again(folder)
    in_store = (*held_keys(client, uids), *(stream for stream in _streams(client) if _names(client, stream, uids)))
    left = (*traces(root, also, uids), *(key.decode(errors="replace") for key in in_store))
    receipt = Receipt(
        now_us,
        tuple(digest(uid).hex() for uid in uids),
        erased,
        entries,
        files,
        left,
        round(time.monotonic() - started, 3),
    )
    folder = root / "receipts"
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{now_us}-{receipt.ids[0][:12]}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(receipt), indent=1))
    return receipt


def event_folders(config: DmpConfig) -> list[Path]:
    """Where the event files lie that the generations on this machine were built from."""
    found: set[Path] = set()
    for manifest in Path(config.data_dir).glob("generations/*/manifest.json"):
        inputs = msgspec.json.decode(manifest.read_bytes()).get("inputs", ())
        found |= {path.parent for name in inputs if (path := Path(name)).is_file()}
    return sorted(found)


def traces(root: Path, also: Iterable[Path], uids: Sequence[Uid]) -> Iterator[str]:
    """Every file that still holds an id, as bytes or as text; Parquet is searched by its columns.

    Torn Parquet is told as well: whoever writes it, or died while doing so, may have put the id in.
    """
    for path in (*places(root, also), *_server_files(root)):
        try:
            found = _rows_naming(path, uids) if is_parquet(path) else next(hits(path, uids), None) is not None
        except FileNotFoundError:
            continue
        except pa.ArrowInvalid:
            found = True
        if found:
            yield str(path)


def _streams(client: redis.Redis) -> Iterator[bytes]:
    return (key for key in client.scan_iter(count=10_000, _type="stream") if STREAMS.fullmatch(key))


def _out_of_stream(client: redis.Redis, stream: bytes, uids: Sequence[Uid]) -> int:
    """Take users out of a stream (`forget.lua`): nothing of what they did, of what an ad cost all but who they are."""
    if not _names(client, stream, uids):
        return 0
    how = "blank" if stream.startswith(b"notices") else "drop"
    return int(client.eval(_SCRIPT, 2, stream, keys.rewritten(stream), how, *uids))


def _names(client: redis.Redis, stream: bytes, uids: Sequence[Uid]) -> bool:
    pages: Any = client.xrange  # its stub allows for texts and for entries without fields
    first = b"-"
    while page := pages(stream, first, b"+", count=1_000):
        if any(uid in value for _, fields in page for value in fields.values() for uid in uids):
            return True
        first = b"(" + page[-1][0]
    return False


def held_keys(client: redis.Redis, uids: Sequence[Uid]) -> list[bytes]:
    """Every key of the store that is named after a user."""
    names = [keys.text(uid) for uid in uids]
    return [key for key in client.scan_iter(count=10_000) if any(name in key for name in names)]


def _keys_of(client: redis.Redis, uids: Sequence[Uid]) -> int:
    found = held_keys(client, uids)
    return int(client.delete(*found)) if found else 0


def _rewrite_log(client: redis.Redis) -> None:
    """Have the server write its append-only file anew, from what it holds now, and wait for it."""
    if not client.info("persistence").get("aof_enabled"):
        return
    deadline = time.monotonic() + REWRITE_S
    asked = False
    while True:
        state = client.info("persistence")
        busy = state["aof_rewrite_in_progress"] or state["aof_rewrite_scheduled"] or state["rdb_bgsave_in_progress"]
        if not busy and asked:
            return
        if not busy:  # one that was under way already began before the keys went
            client.bgrewriteaof()
            asked = True
        if time.monotonic() > deadline:
            raise DmpError("the tag store does not finish rewriting its log; look at its log, then forget the id again")
        time.sleep(0.02)


def places(root: Path, also: Iterable[Path]) -> list[Path]:
    """Every file that could hold an id, but for the server's own."""
    found = {path.resolve() for folder in (root, *also) for path in _files(folder)}
    store = (root / "store").resolve()
    return sorted(path for path in found if store not in path.parents)


def _server_files(root: Path) -> list[Path]:
    return [path for path in _files(root / "store") if "appendonly" in path.name]


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def is_parquet(path: Path) -> bool:
    """By its first bytes, whatever its name."""
    with path.open("rb") as file:
        return file.read(4) == b"PAR1"


def _out_of_file(root: Path, path: Path, uids: Sequence[Uid]) -> int:
    """Take users out of a file; returns how many rows, ids or places that were."""
    if path == identity.edges_file(root).resolve():
        return identity.forget(identity.edges_file(root), uids)
    if is_parquet(path):
        return _out_of_parquet(path, uids)
    if path.suffix == ".uids":
        held = list(audiences.read_uids(path))
        kept = [uid for uid in held if uid not in uids]
        if len(kept) < len(held):
            audiences.write_uids(path, kept)
        return len(held) - len(kept)
    if path.name in (bitmaps.UIDS_FILE, bitmaps.BITS_FILE, bitmaps.INDEX_FILE):
        return 0  # made again from the tags
    return _overwrite(path, uids)


def naming(rows: pa.Table, uids: Sequence[Uid]) -> pa.Array:
    """Which rows name a user in any binary column, alone or packed with others."""
    mask = pa.array([False] * len(rows))
    for column in rows.columns:
        if pa.types.is_fixed_size_binary(column.type) and column.type.byte_width == len(NO_UID):
            hit = pc.is_in(column, pa.array(uids, column.type))
        else:
            plain = column.cast(pa.large_binary())
            hit = pc.match_substring(plain, uids[0])
            for uid in uids[1:]:
                hit = pc.or_kleene(hit, pc.match_substring(plain, uid))
        mask = pc.or_(mask, pc.fill_null(hit, False))
    return mask


def binary_columns(schema: pa.Schema) -> list[str]:
    """Columns that may hold ids."""
    types = pa.types
    wanted = (types.is_fixed_size_binary, types.is_binary, types.is_large_binary)
    return [field.name for field in schema if any(kind(field.type) for kind in wanted)]


def _rows_naming(path: Path, uids: Sequence[Uid]) -> int:
    with pq.ParquetFile(path) as file:
        names = binary_columns(file.schema_arrow)
        if not names:
            return 0
        batches = file.iter_batches(columns=names)
        return sum(pc.sum(naming(pa.Table.from_batches([batch]), uids)).as_py() or 0 for batch in batches)


def _out_of_parquet(path: Path, uids: Sequence[Uid]) -> int:
    found = _rows_naming(path, uids)
    if found:
        draft = path.with_name(path.name + ".draft")
        with pq.ParquetFile(path) as file, pq.ParquetWriter(draft, file.schema_arrow, compression="zstd") as out:
            names = binary_columns(file.schema_arrow)
            for batch in file.iter_batches():
                rows = pa.Table.from_batches([batch], schema=file.schema_arrow)
                out.write_table(rows.filter(pc.invert(naming(rows.select(names), uids))))
        draft.chmod(path.stat().st_mode)
        with draft.open("rb") as file:
            os.fsync(file.fileno())
        draft.rename(path)
    return found


def _forms(uid: Uid) -> tuple[bytes, ...]:
    """How an id may stand in a file: its bytes, its text in keys, its hex."""
    return uid, keys.text(uid), uid.hex().encode()


def hits(path: Path, uids: Sequence[Uid]) -> Iterator[tuple[int, bytes]]:
    """(place, what stands there) of every trace in a file."""
    forms = [form for uid in uids for form in _forms(uid)]
    pattern = re.compile(b"|".join(map(re.escape, forms)))
    overlap = max(map(len, forms)) - 1
    at, tail = 0, b""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            data = tail + block
            for hit in pattern.finditer(data):
                if hit.end() > len(tail):  # else it was found in the block before
                    yield at - len(tail) + hit.start(), hit[0]
            at += len(block)
            tail = data[-overlap:]


def _overwrite(path: Path, uids: Sequence[Uid]) -> int:
    """Replace every trace by as many zeros, in place: a process may be appending to this very file."""
    found = list(hits(path, uids))
    if found:
        descriptor = os.open(path, os.O_WRONLY)
        try:
            for place, what in found:
                os.pwrite(descriptor, (b"\0" if what in uids else b"0") * len(what), place)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    return len(found)


def _bitmaps_again(folder: Path) -> None:
    """A generation's bitmaps from its tags as they are now."""
    index = folder / bitmaps.INDEX_FILE
    if index.exists():
        day = msgspec.json.decode(index.read_bytes(), type=bitmaps.Index).as_of_day
        bitmaps.make(folder, grouped(pq.read_table(folder / "tags.parquet")), day * bitmaps.DAY_US)
