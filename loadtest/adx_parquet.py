"""Recorded AdX-style bid requests in Parquet, one a row, as OpenRTB 2.x requests.

Columns: ts (Unix seconds), request_id, user_id, exchange, ip24 (first three bytes), user_agent, language, country
(ISO 3166-1 alpha-2), region, city, dma, postal, tz_minutes, url, imp_formats ("300x250,336x280" for each
impression), imp_positions, imp_floors, verticals with vertical_weights (page topics), blocked_advertisers,
blocked_creative_attributes, blocked_sensitive_categories, blocked_verticals.

Read into it, where the log does not say:
- floors are CPM in US dollars (all that were seen are 0; a floor above 1,000 dollars is refused as another unit);
- tz_minutes counts east for `dblclk_adx` and west for the others, as Chicago's -360 and +360 show;
- the user id is the exchange's own, `user.id`;
- numbers of AdX are translated where OpenRTB has a counterpart, else dropped; `battr` numbers of other exchanges
  are taken for OpenRTB's own.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from bidder import geo
from dmp.errors import TagbidError
from loadtest import adx

ADX = "dblclk_adx"
DEAREST_FLOOR = 1_000.0
POSITIONS = {"ABOVE_THE_FOLD": 1, "ABOVE": 1, "BELOW_THE_FOLD": 3, "BELOW": 3}

IAB_OF_INTEREST: dict[str, str] = {
    "arts": "IAB1", "entertainment": "IAB1", "music": "IAB1-6", "books": "IAB1-1", "automotive": "IAB2",
    "business": "IAB3", "careers": "IAB4", "education": "IAB5", "parenting": "IAB6", "fitness": "IAB7-1",
    "food": "IAB8", "gaming": "IAB9-30", "home": "IAB10", "law": "IAB11", "news": "IAB12", "finance": "IAB13",
    "science": "IAB15", "pets": "IAB16", "sports": "IAB17", "fashion": "IAB18", "beauty": "IAB18-1",
    "technology": "IAB19", "electronics": "IAB19", "mobile_apps": "IAB19", "travel": "IAB20", "real_estate": "IAB21",
    "shopping": "IAB22",
}  # fmt: skip
"""Interest tag -> content category (IAB Content Taxonomy 1.0) of a page about it."""

IAB_OF_SENSITIVE: dict[int, tuple[str, ...]] = {
    3: ("IAB11-4",),  # politics
    4: ("IAB14-1",),  # dating
    5: ("IAB23",),  # religion
    7: ("IAB9-30",),  # video games
    18: ("IAB7-44",),  # weight loss
    24: ("IAB7-39",),  # sexual and reproductive health
    31: ("IAB7-39", "IAB25-3"),  # references to sex
}
"""AdX ad-sensitive category -> IAB categories an advertiser may not be of."""

IAB_OF_VERTICAL: dict[int, str] = {
    10001: "IAB2", 10185: "IAB2", 13655: "IAB2", 10004: "IAB3", 10005: "IAB18-1", 10011: "IAB7", 10085: "IAB7",
    10086: "IAB7-32", 10088: "IAB7", 10453: "IAB7-41", 10457: "IAB7-44", 10508: "IAB7", 11669: "IAB7-44",
    10013: "IAB1", 10105: "IAB1", 10106: "IAB1-4", 10112: "IAB1-1", 13417: "IAB1-5", 10103: "IAB1-7", 13536: "IAB1-7",
    10020: "IAB8-9", 10139: "IAB4", 10746: "IAB4-5", 10141: "IAB5", 11491: "IAB6-4", 11020: "IAB6-2",
}  # fmt: skip
"""AdX ad-product category -> IAB category; the ids are Google's, listed are frequent ones with a clear counterpart."""

_EXPANDING = frozenset(range(13, 21))  # AdX: one id for each direction


class BadRecord(TagbidError):
    """A row that cannot be what the format says."""


class Recorded(msgspec.Struct, frozen=True):
    """offset_us: since the first row. source: the exchange it came from."""

    offset_us: int
    source: str
    request: dict[str, Any]


def read(files: Sequence[Path]) -> Iterator[Recorded]:
    """All rows in order; raises BadRecord for files that are something else."""
    import pyarrow
    import pyarrow.parquet as parquet

    first_ts: float | None = None
    for file in files:
        try:
            with parquet.ParquetFile(file) as table:
                for batch in table.iter_batches(batch_size=1_000):
                    for row in batch.to_pylist():
                        first_ts = row["ts"] if first_ts is None else first_ts
                        offset_us = round((row["ts"] - first_ts) * 1e6)
                        yield Recorded(offset_us, row["exchange"], request(row))
        except (OSError, pyarrow.ArrowInvalid) as error:
            raise BadRecord(f"{file}: {error}") from None
        except KeyError as error:
            raise BadRecord(f"{file}: not a log of bid requests, it has no column {error}") from None


def request(row: Mapping[str, Any]) -> dict[str, Any]:
    """One row as a request; what is null is left out."""
    adx_numbers = row["exchange"] == ADX
    attributes = row["blocked_creative_attributes"] or []
    battr = _attributes(attributes) if adx_numbers else sorted(set(attributes))
    imps = [
        _imp(str(number), *offer, battr)
        for number, offer in enumerate(
            zip(row["imp_formats"], row["imp_positions"], row["imp_floors"], strict=True), start=1
        )
    ]
    location = {
        "country": geo.country(row["country"]),
        "region": row["region"],
        "city": row["city"],
        "metro": None if row["dma"] is None else str(row["dma"]),
        "zip": row["postal"],
        "utcoffset": _utc_offset(row["tz_minutes"], west=not adx_numbers),
        "type": 2,  # from the IP address
    }
    device = {
        "ua": None if row["user_agent"] is None else row["user_agent"].replace(",gzip(gfe)", ""),
        "ip": None if row["ip24"] is None else f"{row['ip24']}.0",
        "language": row["language"],
        "geo": _present(location),
    }
    found = {
        "id": row["request_id"],
        "imp": imps,
        "site": _site(row),
        "device": _present(device),
        "user": _present({"id": row["user_id"]}),
        "at": 2,
        "cur": ["USD"],
        "badv": row["blocked_advertisers"],
        "bcat": _categories(row["blocked_sensitive_categories"] or [], row["blocked_verticals"] or [])
        if adx_numbers
        else None,
    }
    return _present(found) | {"site": found["site"]}


def _imp(number: str, formats: str, position: str, floor: float, battr: list[int]) -> dict[str, Any]:
    if not 0 <= floor <= DEAREST_FLOOR or not math.isfinite(floor):
        raise BadRecord(f"imp_floors: {floor} is no CPM in dollars")
    sizes = [[int(side) for side in size.split("x")] for size in formats.split(",") if size]
    banner = {
        "format": [{"w": width, "h": height} for width, height in sizes],
        "pos": POSITIONS.get(position),
        "battr": battr,
    }
    return {"id": number, "banner": _present(banner), "bidfloor": floor, "bidfloorcur": "USD"}


def _site(row: Mapping[str, Any]) -> dict[str, Any]:
    """The page; an empty object when the exchange hid it, since these are all web requests."""
    interests = adx.interests(row["verticals"] or [], row["vertical_weights"] or [])
    ordered = sorted(interests, key=lambda name: (-interests[name], name))
    categories = [IAB_OF_INTEREST[name.partition(".")[2]] for name in ordered]
    url = row["url"]
    host = urlsplit(url).hostname if url else None
    site = {
        "domain": host.removeprefix("www.") if host else None,
        "page": url,
        "cat": list(dict.fromkeys(categories)),
    }
    return _present(site)


def _attributes(blocked: Iterable[int]) -> list[int]:
    """AdX excludable attributes as OpenRTB `battr` (AdCOM creative attributes).

    1 is text ads (12), 28 rolling over to expand (5), all eight directions of expanding are all expandables (3-5).

    >>> _attributes([1, 7, 28]), _attributes(range(13, 21))
    ([5, 12], [3, 4, 5])
    """
    ids = set(blocked)
    found = {12} if 1 in ids else set()
    found |= {5} if 28 in ids else set()
    found |= {3, 4, 5} if ids >= _EXPANDING else set()
    return sorted(found)


def _categories(sensitive: Iterable[int], verticals: Iterable[int]) -> list[str]:
    found = {category for number in sensitive for category in IAB_OF_SENSITIVE.get(number, ())}
    found |= {IAB_OF_VERTICAL[number] for number in verticals if number in IAB_OF_VERTICAL}
    return sorted(found)


def _utc_offset(minutes: int | None, west: bool) -> int | None:
    """Minutes east of UTC; clocks on earth lie between UTC-12 and UTC+14."""
    if minutes is None:
        return None
    east = -minutes if west else minutes
    return east if -720 <= east <= 840 else None


def _present(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, "", [], {})}
