"""Bids x impressions x clicks x conversions -> training frames, day by day, within bounded memory; resumable.

    <cache>/events/<log file>-<size>.parquet    records of one bid log file as columns, transcoded once
    <cache>/days/<day>-<inputs>.parquet         one day of bids as a frame (`models.frames.SCHEMA`)

Every log file is read once, even as others are added; a day is joined again only when what it is made of has changed,
which its name tells. DuckDB does the joins and spills to disk beyond `MEMORY`; Python sees `BATCH` rows at a time.

What a row may know: context, user and ad are those the bid log recorded at the request, so nothing later is in them.
Labels: the first click within `click_wait_us` of its impression. A conversion is attributed to the bid it names; else
to the person's last click on the campaign within 7 days before it, else to the last view within 1 day, which is a
viewable impression where viewability is measured at all (decision science 5). Conversions of one order count once, the
earliest. Rows that are not ripe for clicks are left out; what may still convert is for soft labels. Impressions of
machines are left out or weigh less, by the rules of `models.invalid`.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any

import duckdb
import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmp import events
from dmp.errors import BadEvents
from dmp.events import Bid, Click, Impression, Viewable
from dmp.schema import User
from models import features, frames, invalid
from models.context import decode_ad, decode_context
from models.dataset import CLICK_WAIT_US, Rows
from models.features import Row
from models.frames import DAY_US, Frame

MEMORY = "1GB"
BATCH = 20_000
VERSION = 5  # of what a cached file holds
CLICK_WINDOW_US, VIEW_WINDOW_US = 7 * DAY_US, DAY_US

EVENTS = pa.schema(
    [
        ("kind", pa.string()),
        ("bid_id", pa.string()),
        ("imp_id", pa.string()),
        ("time_us", pa.int64()),
        ("uid", pa.binary()),
        ("campaign", pa.string()),
        ("creative", pa.string()),
        ("chance", pa.float64()),
        ("context", pa.binary()),
        ("user", pa.binary()),
        ("ad", pa.binary()),
        ("ip", pa.string()),
        ("place", pa.string()),
    ]
)
CONVERSIONS = pa.schema(
    [
        ("event_id", pa.string()),
        ("uid", pa.binary()),
        ("time_us", pa.int64()),
        ("campaign", pa.string()),
        ("bid_id", pa.string()),
        ("order_id", pa.string()),
        ("value_micros", pa.int64()),
    ]
)
_user_encoder = msgspec.msgpack.Encoder()
_user_decoder = msgspec.msgpack.Decoder(User)


class Log(msgspec.Struct, frozen=True):
    """What training reads. frame: rows in order of time. counts: what was read and left out. until_us: when it ends."""

    frame: Frame
    counts: dict[str, int]
    until_us: int


def frame_of(
    bidlog: Path,
    cache: Path,
    archive: Path | None = None,
    *,
    click_wait_us: int = CLICK_WAIT_US,
    until_us: int | None = None,
    tell: Callable[[str, int, int], None] = lambda _what, _done, _of: None,
) -> Log:
    """The frame of all `*.mpk` files of a folder, and of the archive's conversions when there is one.

    archive: folder of `tagbid dmp archive` (`kind=conversion/...`). until_us: now; default the youngest event.
    tell: called with what is being done, how much of it is done, and how much there is.

    Raises BadEvents when a file is damaged, nothing was shown, or a bid's context or ad cannot be read.
    """
    logs = sorted(bidlog.glob("*.mpk"))
    if not logs:
        raise BadEvents(f"{bidlog}: no *.mpk bid log files; run the bidder first or name its bidlog directory")
    for n, path in enumerate(logs):
        tell("reading", n, len(logs))
        transcode(path, cache / "events")
    wanted = [_transcoded(path, cache / "events") for path in logs]
    with duckdb.connect() as database:
        database.execute(f"SET memory_limit = '{MEMORY}'")
        database.execute(f"SET temp_directory = '{cache / 'spill'}'")
        database.execute("SET preserve_insertion_order = false")
        database.execute("SET threads = 1")
        judged = _views(database, wanted, _conversion_files(archive), click_wait_us)
        counts, ripe_us = _counted(database, click_wait_us, until_us)
        counts |= {f"invalid_{code}": n for code, n in judged.items()}
        days = [day for (day,) in database.execute("SELECT DISTINCT day FROM shown ORDER BY day").fetchall()]
        paths = []
        for n, day in enumerate(days):
            tell("joining", n, len(days))
            paths.append(_day(database, day, cache / "days", ripe_us, click_wait_us))
    frame = frames.on_disk([path for path in paths if path is not None])
    counts["unripe"] = counts["joined"] - len(frame)
    del counts["joined"]
    if not len(frame):
        told = ", ".join(f"{n:,} {name.replace('_', ' ')}" for name, n in counts.items() if n) or "none was shown"
        raise BadEvents(
            f"{bidlog}: no impression to learn from yet ({told}); one counts {click_wait_us // 1_000_000:,} s after it "
            f"was shown (`models.click_wait_s`), so wait that long after the first"
        )
    _forget(cache / "days", paths)
    return Log(frame, counts, ripe_us + click_wait_us)


def transcode(path: Path, into: Path) -> Path:
    """One bid log file as columns; nothing is done when that was done before."""
    out = _transcoded(path, into)
    if out.exists():
        return out
    into.mkdir(parents=True, exist_ok=True)
    draft = out.with_suffix(".part")
    with pq.ParquetWriter(draft, EVENTS, compression="zstd") as writer:
        for batch in _batches(_records(path)):
            writer.write_table(pa.Table.from_pylist(batch, EVENTS))
    draft.replace(out)
    return out


def _transcoded(path: Path, into: Path) -> Path:
    return into / f"{path.stem}-{path.stat().st_size}-v{VERSION}.parquet"


def _records(path: Path) -> Iterator[dict[str, Any]]:
    for event in events.read_file(path):
        if isinstance(event, Bid):
            yield {
                "kind": "bid",
                "bid_id": event.event_id,
                "imp_id": event.imp_id,
                "time_us": event.time_us,
                "uid": event.uid,
                "campaign": event.campaign,
                "creative": event.creative,
                "chance": event.chance,
                "context": event.context,
                "user": None if event.user is None else _user_encoder.encode(event.user),
                "ad": event.ad,
                "ip": event.ip or None,
                "place": _place(event),
            }
        elif isinstance(event, Impression | Viewable | Click):
            yield {
                "kind": events.kind_of(type(event)),
                "bid_id": event.bid_id,
                "imp_id": event.imp_id,
                "time_us": event.time_us,
                "uid": event.uid,
                "campaign": event.campaign,
            }


def _place(bid: Bid) -> str:
    """Where it was shown, as one text; without its context, its exchange."""
    try:
        context = decode_context(bid.context)
    except msgspec.DecodeError:  # told of where the row is made
        return bid.exchange
    return "\0".join(features.place_key(context))


def _batches(records: Iterator[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    for record in records:
        batch.append(record)
        if len(batch) == BATCH:
            yield batch
            batch = []
    yield batch


def _conversion_files(archive: Path | None) -> list[str]:
    return [] if archive is None else sorted(map(str, archive.glob("kind=conversion/**/*.parquet")))


def _views(
    database: duckdb.DuckDBPyConnection, logs: Sequence[Path], conversions: list[str], wait_us: int
) -> dict[str, int]:
    """Tables and views the days are joined from: shown (an impression with its bid), clicked, attributed.

    Returns how many impressions each rule of `models.invalid` holds for.
    """
    database.read_parquet([str(path) for path in logs]).create_view("events")
    if conversions:
        database.read_parquet(conversions, union_by_name=True, hive_partitioning=False).create_view("reported")
    else:
        database.register("reported", CONVERSIONS.empty_table())
    database.execute(f"""
        CREATE TABLE seen AS
            SELECT bid_id, imp_id, min(time_us) AS shown_us FROM events WHERE kind = 'impression' GROUP BY ALL;
        CREATE TABLE pressed AS
            SELECT bid_id, imp_id, min(time_us) AS clicked_us, count(*) AS presses
            FROM events WHERE kind = 'click' GROUP BY ALL;
        CREATE TABLE viewed AS
            SELECT bid_id, imp_id, min(time_us) AS viewed_us FROM events WHERE kind = 'viewable' GROUP BY ALL;
        CREATE TABLE met AS
            SELECT b.bid_id, b.imp_id, b.time_us // {DAY_US} AS day, b.uid, b.campaign, b.ip, b.place, s.shown_us,
                c.clicked_us AS pressed_us, coalesce(c.presses, 0) AS presses
            FROM (SELECT bid_id, imp_id, min(time_us) AS time_us, any_value(uid) AS uid, any_value(ip) AS ip,
                      any_value(place) AS place, any_value(campaign) AS campaign
                  FROM events WHERE kind = 'bid' GROUP BY ALL) AS b
            JOIN seen AS s USING (bid_id, imp_id) LEFT JOIN pressed AS c USING (bid_id, imp_id);
    """)  # noqa: S608 - only integers of our own are put in
    found = invalid.judge(database)
    dropped = ", ".join(f"'{code}'" for code, rule in invalid.RULES.items() if rule.severity == "drop")
    weights = " ".join(f"WHEN '{code}' THEN {rule.weight}" for code, rule in invalid.RULES.items())
    database.execute(f"""
        CREATE TABLE shown AS
            SELECT bid_id, imp_id, day, uid, campaign, shown_us,
                CASE WHEN pressed_us - shown_us <= {min(wait_us, invalid.LATE_US)} THEN pressed_us END AS clicked_us,
                coalesce(pressed_us - shown_us > {wait_us}, false) AS late,
                CAST(CASE code {weights} ELSE 1 END AS DOUBLE) AS weight
            FROM met LEFT JOIN invalid USING (bid_id, imp_id)
            WHERE code IS NULL OR code NOT IN ({dropped});
        CREATE TABLE orders AS
            SELECT event_id, campaign, bid_id, uid, time_us, value_micros FROM reported
            QUALIFY row_number() OVER (
                PARTITION BY campaign, CASE WHEN order_id = '' THEN event_id ELSE order_id END
                ORDER BY time_us, event_id) = 1;
        CREATE TABLE touches AS
            SELECT bid_id, imp_id, uid, campaign, clicked_us AS time_us, true AS click
            FROM shown WHERE clicked_us IS NOT NULL
            UNION ALL SELECT bid_id, imp_id, uid, campaign, coalesce(viewed_us, shown_us), false
            FROM shown LEFT JOIN viewed USING (bid_id, imp_id)
            WHERE viewed_us IS NOT NULL OR NOT EXISTS (FROM viewed);
        CREATE TABLE attributed AS
            SELECT bid_id, imp_id, converted_us, value_micros FROM (
                SELECT t.bid_id, t.imp_id, o.time_us AS converted_us, o.value_micros,
                    row_number() OVER (
                        PARTITION BY o.event_id
                        ORDER BY t.click DESC, t.time_us DESC, t.bid_id) AS place
                FROM orders AS o JOIN touches AS t
                    ON t.campaign = o.campaign AND t.time_us < o.time_us
                    AND CASE WHEN o.bid_id <> '' THEN t.bid_id = o.bid_id ELSE t.uid = o.uid END
                    AND o.time_us - t.time_us <= CASE WHEN t.click THEN {CLICK_WINDOW_US} ELSE {VIEW_WINDOW_US} END)
            WHERE place = 1
            QUALIFY row_number() OVER (PARTITION BY bid_id, imp_id ORDER BY converted_us) = 1;
    """)  # noqa: S608 - as above, and codes of our own
    return found


def _counted(
    database: duckdb.DuckDBPyConnection, click_wait_us: int, until_us: int | None
) -> tuple[dict[str, int], int]:
    """What there is, and the time before which an impression is ripe."""

    def one(query: str) -> int:
        return int(database.execute(query).fetchall()[0][0] or 0)

    counts = {
        "bids": one("SELECT count(DISTINCT (bid_id, imp_id)) FROM events WHERE kind = 'bid'"),
        "impressions": one("SELECT count(*) FROM seen"),
        "clicks": one("SELECT count(*) FROM pressed"),
        "orphans": one("SELECT (SELECT count(*) FROM seen) - (SELECT count(*) FROM met)"),
        "late_clicks": one("SELECT count(*) FROM shown WHERE late"),
        "unseen_clicks": one("SELECT count(*) FROM pressed ANTI JOIN seen USING (bid_id, imp_id)"),
        "conversions": one("SELECT count(*) FROM orders"),
        "attributed": one("SELECT count(*) FROM attributed"),
        "joined": one("SELECT count(*) FROM shown"),
    }
    youngest_us = one("SELECT max(time_us) FROM events") if until_us is None else until_us
    return counts, youngest_us - click_wait_us


_QUERY = """
    SELECT s.bid_id, s.imp_id, b.time_us, s.uid, s.shown_us, s.clicked_us, a.converted_us, a.value_micros,
        b.chance, s.weight, b.context, b."user", b.ad, b.campaign, b.creative
    FROM shown AS s
    JOIN (SELECT * FROM events WHERE kind = 'bid' AND time_us // {day_us} = {day}
          QUALIFY row_number() OVER (PARTITION BY bid_id, imp_id ORDER BY time_us) = 1) AS b USING (bid_id, imp_id)
    LEFT JOIN attributed AS a USING (bid_id, imp_id)
    WHERE s.day = {day} AND s.shown_us <= {ripe_us}
    ORDER BY b.time_us, s.bid_id, s.imp_id
"""


def _day(database: duckdb.DuckDBPyConnection, day: int, cache: Path, ripe_us: int, wait_us: int) -> Path | None:
    """The frame file of one day; None when nothing of it is ripe."""
    names = """SELECT bid_id, imp_id, shown_us, clicked_us, weight, converted_us, value_micros
        FROM shown LEFT JOIN attributed USING (bid_id, imp_id)"""
    found = database.execute(
        f"SELECT count(*), bit_xor(hash(t)) FROM ({names} WHERE day = {day} AND shown_us <= {ripe_us}) AS t"  # noqa: S608
    ).fetchall()[0]
    if not found[0]:
        return None
    inputs = blake2b(
        f"{VERSION} {invalid.VERSION} {features.SIGNATURE} {found} {wait_us}".encode(), digest_size=8
    ).hexdigest()
    path = cache / f"{day}-{inputs}.parquet"
    if path.exists():
        return path
    cache.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".part")
    reader = database.sql(_QUERY.format(day=day, day_us=DAY_US, ripe_us=ripe_us)).to_arrow_reader(BATCH)
    with pq.ParquetWriter(draft, frames.SCHEMA, compression="zstd") as writer:
        gathered: list[pa.Table] = []
        for batch in reader:
            gathered.append(_table(pa.Table.from_batches([batch])))
            if sum(map(len, gathered)) >= frames.PART_ROWS:
                writer.write_table(pa.concat_tables(gathered))
                gathered = []
        if gathered:
            writer.write_table(pa.concat_tables(gathered))
    draft.replace(path)
    return path


def _table(batch: pa.Table) -> pa.Table:
    """Joined rows as a frame's columns, features by `models.features`."""
    lines = batch.to_pylist()
    items: list[Row] = []
    for line in lines:
        try:
            context = decode_context(line["context"])
            user = None if line["user"] is None else _user_decoder.decode(line["user"])
            ad = decode_ad(line["ad"]) if line["ad"] else None
        except msgspec.DecodeError as error:
            raise BadEvents(f"bid {line['bid_id']}: it cannot be read: {error}") from None
        if ad is None:
            raise BadEvents(f"bid {line['bid_id']} of {line['campaign']}/{line['creative']} was logged without its ad")
        items.append((context, user, ad, line["time_us"]))
    keys = [f"{line['bid_id']}/{line['imp_id']}" for line in lines]
    clicked = np.array([line["clicked_us"] is not None for line in lines], dtype=np.float64)
    table = frames.table_of(Rows(items, clicked, [line["uid"] for line in lines], keys, True, {}))
    for name in ("shown_us", "clicked_us", "converted_us", "value_micros", "chance", "weight"):
        values = pa.array([line[name] or 0 for line in lines], table.schema.field(name).type)
        table = table.set_column(table.schema.get_field_index(name), name, values)
    return table


def _forget(cache: Path, kept: Sequence[Path | None]) -> None:
    """Delete days that are no longer what the log says."""
    for path in cache.glob("*"):
        if path not in kept:
            path.unlink()
    shutil.rmtree(cache.parent / "spill", ignore_errors=True)
