"""What real logs tell about their users, as events and tags the DMP takes: recorded requests, and segments of a DSP.

A recorded request says which pages a user saw and what they are about: that is a view event per topic. The
segments of the iPinYou log are tags already; they are mapped through the taxonomy's aliases and imported as they
are. The logs are years old: they are read as if their last moment were now, because tags fade.
"""

import datetime
from collections import Counter
from pathlib import Path

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from dmp import taxonomy
from dmp.errors import TagbidError
from dmp.events import CONSENT_ALL
from dmp.generations import TAG_COLUMNS
from dmp.pseudonym import KeyRing
from dmp.schema import MAX_SCORE, SOURCES
from loadtest import adx

DAY_US = 86_400_000_000
REQUESTS = Path("bid_requests/requests.parquet")
IMPRESSIONS = Path("ipinyou_log/impressions.parquet")
SEGMENTS = Path("ipinyou_log/user_profile_tags.parquet")


class MissingData(TagbidError):
    """A folder of real logs lacks files the demo plays."""

    def __init__(self, folder: Path, missing: list[Path]) -> None:
        lines = "\n".join(f"  - {path}" for path in missing)
        super().__init__(
            f"{folder} does not hold the real logs the demo plays; missing:\n{lines}\n"
            f"name the folder that has them (make demo DATA=DIR), or run `make demo` without DATA for a simulated world"
        )


class Imported(msgspec.Struct, frozen=True):
    """Tags of another system. tags: `TAG_COLUMNS`. unmapped: {segment: users} without a standard tag. sensitive:
    {segment: users} left out because their tag is sensitive.
    """

    tags: pa.Table
    users: int
    unmapped: dict[str, int]
    sensitive: dict[str, int]


def check(folder: Path, files: tuple[Path, ...]) -> None:
    """Raises MissingData naming every absent file."""
    if missing := [folder / file for file in files if not (folder / file).is_file()]:
        raise MissingData(folder, missing)


def page_views(requests: Path, first: int, exchange: str, ring: KeyRing, now_us: int, out: Path) -> int:
    """Write the first requests of a recorded stream as view events; returns how many events.

    One event for each interest of the page that is not sensitive, one without a category where there is none.
    exchange: the bidder's name for where the requests come from; it is part of the user id, as in `user.id` of a
    request.
    """
    columns = ["ts", "request_id", "user_id", "url", "verticals", "vertical_weights"]
    rows = pq.read_table(requests, columns=columns).to_pylist()
    shift_us = now_us - round(rows[-1]["ts"] * 1e6)
    events: dict[str, list[object]] = {
        name: [] for name in ("event_id", "kind", "uid", "time_us", "consent", "source", "category")
    }
    for row in rows[:first]:
        uid = ring.uid("exchange", f"{exchange}:{row['user_id']}") if row["user_id"] else None
        if uid is None:
            continue
        found = adx.interests(row["verticals"] or (), row["vertical_weights"] or ())
        for interest in [name for name in found if not taxonomy.BY_NAME[name].sensitive] or [""]:
            values = (
                f"{row['request_id']}:{interest}",
                "view",
                uid,
                round(row["ts"] * 1e6) + shift_us,
                CONSENT_ALL,
                exchange,
                interest,
            )
            for column, value in zip(events.values(), values, strict=True):
                column.append(value)
    out.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema(
        [
            ("event_id", pa.string()),
            ("kind", pa.string()),
            ("uid", pa.binary(16)),
            ("time_us", pa.int64()),
            ("consent", pa.int32()),
            ("source", pa.string()),
            ("category", pa.string()),
        ]
    )
    pq.write_table(pa.table(events, schema=schema), out)
    return len(events["uid"])


def segments(folder: Path, ring: KeyRing, now_us: int) -> Imported:
    """The iPinYou users' segments as tags, full score, on the day they were last seen with them.

    Rows without a user id, or without segments, tell nothing. Segment ids without a name stay unmapped.
    """
    names = {row["id"]: row["name"] for row in pq.read_table(folder / SEGMENTS).to_pylist()}
    log = pq.read_table(folder / IMPRESSIONS, columns=["user_id", "user_tags", "ts"])
    log = log.filter(pc.and_(pc.is_valid(log["user_id"]), pc.is_valid(log["user_tags"])))
    last_day = max(map(_day, log["ts"].to_pylist()))
    today = now_us // DAY_US
    found: dict[tuple[bytes, int], int] = {}
    unmapped: Counter[str] = Counter()
    sensitive: Counter[str] = Counter()
    users = set()
    for row in log.to_pylist():
        uid = ring.uid("exchange", f"ipinyou:{row['user_id']}")
        if uid is None:
            continue
        users.add(uid)
        for segment in row["user_tags"]:
            tag = taxonomy.find(names[segment]) if segment in names else None
            if tag is None:
                unmapped[names.get(segment, f"segment {segment}")] += 1
            elif taxonomy.BY_ID[tag].sensitive:
                sensitive[names[segment]] += 1
            else:
                day = today - (last_day - _day(row["ts"]))
                found[uid, tag] = max(day, found.get((uid, tag), 0))
    ordered = sorted(found.items())
    tags = pa.table(
        {
            "uid": [uid for (uid, _), _ in ordered],
            "tag": [tag for (_, tag), _ in ordered],
            "score": [MAX_SCORE] * len(ordered),
            "as_of_day": [day for _, day in ordered],
            "source": [SOURCES.index("import")] * len(ordered),
        },
        schema=TAG_COLUMNS,
    )
    return Imported(tags, len(users), dict(unmapped.most_common()), dict(sensitive.most_common()))


def _day(ts: int) -> int:
    """Days since 1970-01-01 of a local time yyyymmddHHMMSSmmm."""
    text = str(ts)
    return (datetime.date(int(text[:4]), int(text[4:6]), int(text[6:8])) - datetime.date(1970, 1, 1)).days
