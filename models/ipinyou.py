"""Training rows from the iPinYou log of won impressions (columns: `Parquet` below), for models of real clicks.

One source at a time: each was sampled in its own way, so pooled click rates mean nothing. Left out, because they
give the label or the sampling away: bid and paying price, landing page, time and hour (the sampling rate moves with
the hour), and the users' segments of every source but FH (elsewhere click rows have none, so that having segments
would mean "not clicked"). Without time, rows are judged by folds (`Rows.timed` is False).
Click rates are those of the samples: a model of FH or NEM ranks and is calibrated within its sample only.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dmp import taxonomy
from dmp.errors import BadEvents
from dmp.schema import MAX_SCORE, User
from models.context import Ad, Context
from models.dataset import Rows
from models.features import Row

Source = Literal["FH", "DLF", "NEM", "DC"]
FEN_MICROS = 10_000  # 1 fen = 0.01 CNY
WITH_SEGMENTS = frozenset({"FH"})

IMPRESSIONS = "impressions.parquet"
SEGMENTS = "user_profile_tags.parquet"
_COLUMNS = [
    "source", "advertiser", "click", "bid_id", "user_id", "user_agent", "region", "city", "exchange", "domain",
    "slot_id", "slot_width", "slot_height", "slot_visibility", "slot_floor", "creative", "user_tags",
]  # fmt: skip
_POSITION = {"FirstView": 1, "SecondView": 3, "ThirdView": 3, "FourthView": 3, "FifthView": 3}
_INTEREST = {2259: "interest.parenting", 2821: "interest.fashion", 2997: "interest.mobile_apps"}

Families = Callable[[str], tuple[str, str, int]]
"""User agent -> (os, browser, OpenRTB device type), as the bidder names them."""


def rows(folder: Path, source: Source, families: Families | None = None) -> Rows:
    """Impressions of one source in `folder` (`ipinyou_log`). families: reads raw user agents; None leaves them out.

    Segments become tags of full score through `dmp.taxonomy.find`; sensitive and unnamed ones are left out.
    Raises BadEvents when the folder does not hold the log or the source has no row.
    """
    try:
        table = pq.read_table(folder / IMPRESSIONS, columns=_COLUMNS, filters=[("source", "=", source)])
        names = {line["id"]: line["name"] for line in pq.read_table(folder / SEGMENTS).to_pylist()}
    except (OSError, pa.ArrowException) as error:
        raise BadEvents(f"{folder} does not hold the iPinYou log: {error}") from None
    if not len(table):
        raise BadEvents(f"{folder / IMPRESSIONS} has no row of source {source!r}; it has FH, DLF, NEM and DC")
    tags = _standard(names)
    lines = table.to_pylist()
    items = [_row(line, tags if source in WITH_SEGMENTS else None, families) for line in lines]
    clicks = np.array([float(line["click"]) for line in lines])
    return Rows(
        items=items,
        clicks=clicks,
        uids=[None] * len(items),
        keys=[f"{source}/{line['user_id'] or line['bid_id'] or number}" for number, line in enumerate(lines)],
        timed=False,
        counts={"impressions": len(items), "clicks": int(clicks.sum())},
    )


def _standard(names: Mapping[int, str]) -> dict[int, int]:
    """Segment id -> standard tag, sensitive tags left out."""
    found = {segment: taxonomy.find(name) for segment, name in names.items()}
    return {segment: tag for segment, tag in found.items() if tag is not None and not taxonomy.BY_ID[tag].sensitive}


def _row(line: Mapping[str, Any], tags: Mapping[int, int] | None, families: Families | None) -> Row:
    os, browser, device = families(line["user_agent"] or "") if families else ("", "", 0)
    context = Context(
        exchange="" if line["exchange"] is None else f"ipinyou-{line['exchange']}",
        domain=line["domain"] or "",
        tagid=line["slot_id"] or "",
        width=line["slot_width"],
        height=line["slot_height"],
        position=_POSITION.get(line["slot_visibility"], -1),
        device_type=device,
        os=os,
        browser=browser,
        country="CHN",
        region=str(line["region"]),
        city=str(line["city"]),
        floor_micros=(line["slot_floor"] or 0) * FEN_MICROS,
    )
    interest = taxonomy.tag_id(_INTEREST[line["advertiser"]])
    ad = Ad(
        campaign=str(line["advertiser"]),
        creative=line["creative"],
        advertiser=str(line["advertiser"]),
        interest=interest,
        target_tags=(interest,),
    )
    user = None if tags is None else User({tags[s]: MAX_SCORE for s in line["user_tags"] or () if s in tags})
    return context, user, ad, 0
