"""Impressions with a known truth."""

import io
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.events import Bid, Click, Event, Impression
from dmp.schema import User
from dmp.taxonomy import INTERESTS
from models import tag_matrix
from models.context import Ad, Context, encode_ad, encode_context
from models.dataset import Rows
from models.tag_matrix import TagMatrix, Uids

SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
DAY_US = 86_400 * SECOND_US
BORN_US = 20_000 * DAY_US
TRAVEL, SPORTS = INTERESTS[0], INTERESTS[1]
ADS = (
    Ad("travel", "t1", "acme", "IAB20", interest=TRAVEL, target_tags=(TRAVEL,)),
    Ad("sports", "s1", "goal", "IAB17", interest=SPORTS, target_tags=(SPORTS,)),
)


def uid(number: int) -> bytes:
    return number.to_bytes(16, "little")


def impressions(n: int, seed: int = 0, *, signal: bool = True, rate: float = 0.05) -> Rows:
    """n impressions a second apart. With a signal, a user interested in what the ad is about clicks six times as often
    as one who is not; the site says nothing. Without one, everybody clicks at the same rate.
    """
    rng = np.random.default_rng(seed)
    interest = rng.integers(0, 2, n)
    ad = rng.integers(0, 2, n)
    site = rng.integers(0, 20, n)
    chance = np.where(interest == ad, 12 / 7, 2 / 7) * rate if signal else np.full(n, rate)
    items = [
        (
            Context(exchange="x", domain=f"site{site[i]}.example", width=300, height=250, hour=int(i // 3600 % 24)),
            User({INTERESTS[interest[i]]: 80}),
            ADS[ad[i]],
            BORN_US + i * SECOND_US,
        )
        for i in range(n)
    ]
    clicks = (rng.random(n) < chance).astype(float)
    uids = [uid(int(u)) for u in rng.integers(0, max(1, n // 4), n)]
    return Rows(items, clicks, uids, [f"b{i}/1" for i in range(n)], True, {"impressions": n})


def over_days(rows: Rows, days: int) -> Rows:
    """The same impressions spread evenly over whole days."""
    step = days * DAY_US // len(rows)
    items = [(context, user, ad, BORN_US + i * step) for i, (context, user, ad, _) in enumerate(rows.items)]
    return msgspec.structs.replace(rows, items=items)


def bid(number: int, time_us: int, *, ad: Ad = ADS[0], user: User | None = None, logged_ad: bool = True) -> Bid:
    return Bid(
        event_id=f"b{number}", time_us=time_us, exchange="x", auction_id=f"a{number}", imp_id="1", campaign=ad.campaign,
        creative=ad.creative, advertiser=ad.advertiser, uid=uid(number), price_micros=1_000_000,
        context=encode_context(Context(exchange="x", domain=f"site{number}.example")), user=user,
        ad=encode_ad(ad) if logged_ad else b"",
    )  # fmt: skip


def notice(kind: type[Impression] | type[Click], number: int, time_us: int) -> Event:
    return kind(
        event_id=f"b{number}:{kind.__name__.lower()}", bid_id=f"b{number}", imp_id="1", time_us=time_us,
        campaign="travel", creative="t1",
    )  # fmt: skip


def tag_matrix_of(uids: Uids, tags: npt.NDArray[Any], scores: npt.NDArray[Any]) -> TagMatrix:
    """What is read of a generation with these rows, one per user and tag."""
    columns = {
        "uid": pa.Array.from_buffers(pa.binary(16), len(uids), [None, pa.py_buffer(uids.tobytes())]),
        "tag": tags.astype(np.uint32),
        "score": scores.astype(np.uint8),
    }
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return tag_matrix.read(file)
