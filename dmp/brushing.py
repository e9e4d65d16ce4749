"""Orders that were never meant and acts of machines: how likely each is fake, before any tag is made of it.

Rules look at each order, an isolation forest at all features of an order together, and a pruning of the graph of
buyers and sellers at groups (`dmp.dense_block`). Each finding has a code, a severity and a version, so that history
can be judged again. Findings of one order add up as independent evidence: P(fake) = 1 - product of (1 - p). An
event counts for 1 - P(fake); one that is almost surely fake (`DROP`) is left out.

Every rule is careful about what looks alike and is honest: parcel lockers and carrier networks share an address among
many buyers, but not of one seller; a sale is a burst of buyers who are known and looked around; a subscription comes
at even gaps, for one thing. A rule whose columns a log does not have says nothing. Not looked at, because events do
not tell: delivery, refunds, the texts of reviews.
"""

from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from dmp.dense_block import dense_blocks
from dmp.engine import Engine, family_sql
from dmp.family_columns import WEIGHT_COLUMNS

Floats = npt.NDArray[np.float64]
Codes = npt.NDArray[np.int64]

DAY_US = 86_400_000_000
HOUR_US = 3_600_000_000
VERSION = 1
DROP = 0.9  # P(fake) from which an event is left out
SHARERS = 5  # buyers of one seller behind one address or network: more than a family
FOREST_ORDERS = 50_000  # the forest learns from so many at most
FOREST_SHARE = 0.005  # of the orders, the oddest, that the forest speaks of
MIN_ORDERS = 200  # too few to know what is usual


class Rule(msgspec.Struct, frozen=True):
    """One reason to doubt. p: how likely an order is fake of which only this is known. version: of its condition."""

    code: str
    severity: Literal["drop", "score"]
    p: float
    what: str
    version: int = VERSION


RULES: tuple[Rule, ...] = (
    Rule("B01", "score", 0.8, "several buyers of one seller share an address that sends little elsewhere"),
    Rule("B02", "score", 0.7, "several buyers of one seller share a network that buys little elsewhere"),
    Rule("B03", "score", 0.35, "bought without having looked around, where buyers usually do"),
    Rule("B04", "score", 0.15, "the buyer's first day"),
    Rule("B05", "score", 0.4, "a burst against the seller's own usual hour"),
    Rule("B06", "score", 0.6, "a price far off what the item costs others"),
    Rule("B07", "drop", 0.95, "orders of different things at even gaps, as by a script"),
    Rule("B08", "score", 0.3, "the same buyer again and again at one seller"),
    Rule("B09", "drop", 0.95, "of a group of buyers and sellers that trade densely among themselves"),
    Rule("B10", "score", 0.15, "among the oddest orders in all features together"),
    Rule("X01", "drop", 1.0, "faster than a person can act"),
    Rule("X02", "drop", 1.0, "acts at even gaps, as by a script"),
    Rule("X03", "score", 0.8, "active round the clock"),
)
BY_CODE = {rule.code: rule for rule in RULES}


class Orders(NamedTuple):
    """Columns of `dmp/sql/orders.sql`, in order of buyer and time; texts as codes, -1 for ""."""

    buyer: Codes
    seller: Codes
    item: Codes
    address: Codes
    ip: Codes
    time_us: Codes
    value: Floats
    browsed: Codes
    first_us: Codes


def weights(engine: Engine, now_us: int) -> pa.Table:
    """What the events of the table `cleaned` count for (`WEIGHT_COLUMNS`), those that count in full left out."""
    orders = engine.sql(family_sql("orders"))
    found = judge(columns(orders))
    doubt, reason = combined(found, len(orders))
    odd = np.flatnonzero(doubt > 0)
    told = orders.select(["source", "event_id"]).take(pa.array(odd))
    told = told.append_column("weight", pa.array(np.where(doubt >= DROP, 0.0, 1 - doubt)[odd]))
    told = told.append_column("reason", pa.array(reason[odd], pa.string()))
    return pa.concat_tables([told.cast(WEIGHT_COLUMNS), _machines(engine)])


def columns(orders: pa.Table) -> Orders:
    return Orders(
        buyer=_codes(orders["uid"]),
        seller=_codes(orders["seller"]),
        item=_codes(orders["item"]),
        address=_codes(orders["address"]),
        ip=_codes(orders["ip"]),
        time_us=orders["time_us"].to_numpy(),
        value=orders["value_micros"].to_numpy().astype(np.float64),
        browsed=orders["browsed"].to_numpy().astype(np.int64),
        first_us=orders["first_us"].to_numpy(),
    )


def _codes(column: pa.ChunkedArray) -> Codes:
    coded = pc.dictionary_encode(column).combine_chunks()
    coded = coded if isinstance(coded, pa.DictionaryArray) else coded.chunk(0)
    codes = coded.indices.to_numpy(zero_copy_only=False).astype(np.int64)
    empty = [n for n, value in enumerate(coded.dictionary.to_pylist()) if value in ("", None)]
    return np.where(np.isin(codes, empty), -1, codes)


def judge(orders: Orders) -> dict[str, npt.NDArray[np.bool_]]:
    """{code: which orders it speaks of}; nothing of a log with too few orders to know what is usual."""
    if len(orders.time_us) < MIN_ORDERS:
        return {}
    sold = orders.seller >= 0
    features = {
        "address": _crowd(orders.address, orders.seller, orders.buyer),
        "ip": _crowd(orders.ip, orders.seller, orders.buyer),
        "age_days": (orders.time_us - orders.first_us) / DAY_US,
        "browsed": np.log1p(orders.browsed),
        "burst": _burst(orders.seller, orders.time_us),
        "price": _price_off(orders.item, orders.value),
        "uneven": _unevenness(orders),
        "pair": _pair_orders(orders),
    }
    # First days and purchases without a look around say something only where they are the exception.
    looks = (orders.browsed == 0).mean() < 0.3
    known = (features["age_days"] < 1).mean() < 0.3
    block = np.zeros(len(sold), bool)
    block[sold] = dense_blocks(orders.buyer[sold], orders.seller[sold])
    return {
        "B01": features["address"] >= SHARERS,
        "B02": features["ip"] >= SHARERS,
        "B03": (orders.browsed == 0) & looks,
        "B04": (features["age_days"] < 1) & known,
        "B05": features["burst"] >= 6,
        "B06": features["price"] >= 8,
        "B07": features["uneven"] < 0.05,
        "B08": features["pair"] >= 10,
        "B09": block,
        "B10": _oddest(np.column_stack([np.minimum(column, 1e6) for column in features.values()])),
    }


def combined(found: dict[str, npt.NDArray[np.bool_]], n: int) -> tuple[Floats, npt.NDArray[np.object_]]:
    """(P(fake), codes joined by "+") of n orders. Findings that only odd honest orders have alone stay below 1/2."""
    honest = np.ones(n)
    reason = np.full(n, "", object)
    for code, which in found.items():
        honest[which] *= 1 - BY_CODE[code].p
        reason[which] += np.where(reason[which] == "", code, "+" + code)
    return 1 - honest, reason


def _crowd(place: Codes, seller: Codes, buyer: Codes) -> Floats:
    """Distinct buyers of the order's seller behind its place, where at least half of the place's orders are that
    seller's; 0 for a place or seller that is not told.
    """
    n = np.zeros(len(place))
    told = np.flatnonzero((place >= 0) & (seller >= 0))
    if not len(told):
        return n
    both = _joint(place[told], seller[told])
    buyers = np.bincount(np.unique(np.stack([both, buyer[told]]), axis=1)[0], minlength=both.max() + 1)
    share = np.bincount(both)[both] / np.bincount(place[told])[place[told]]
    n[told] = np.where(share >= 0.5, buyers[both], 0)
    return n


def _joint(a: Codes, b: Codes) -> Codes:
    """One code for each pair of codes, 0.. without gaps."""
    codes: Codes = np.unique(a * (int(b.max()) + 1) + b, return_inverse=True)[1].astype(np.int64)
    return codes


def _burst(seller: Codes, time_us: Codes) -> Floats:
    """Robust z of the seller's orders in this hour: (n - median) / (1.48 MAD + 1) over all hours since its first.

    Hours without an order count, so a seller that sells now and then has a median of 0. 0 below 10 orders an hour.
    """
    hour = time_us // HOUR_US
    slot = _joint(seller + 1, hour - hour.min())
    count = np.bincount(slot)
    _, first = np.unique(slot, return_index=True)
    of, at = seller[first], hour[first]
    z = np.zeros(len(count))
    for one in np.unique(of[count >= 10]):
        mine = of == one
        whole = np.zeros(int(hour.max() - at[mine].min()) + 1)
        whole[at[mine] - at[mine].min()] = count[mine]
        middle = np.median(whole)
        spread = 1.48 * np.median(np.abs(whole - middle))
        z[mine] = np.where(count[mine] >= 10, (count[mine] - middle) / (spread + 1), 0) if one >= 0 else 0
    return z[slot]


def _price_off(item: Codes, value: Floats) -> Floats:
    """Robust z of the log price within the item, at least doubled or halved; 0 for items of fewer than ten orders."""
    off = np.zeros(len(item))
    order = np.argsort(item, kind="stable")
    starts = np.flatnonzero(np.diff(item[order], prepend=-2))
    for rows in np.split(order, starts[1:]):
        if item[rows[0]] < 0 or len(rows) < 10:
            continue
        price = np.log(np.maximum(value[rows], 1))
        far = np.abs(price - np.median(price))
        off[rows] = np.where(far >= np.log(2), far / (1.48 * np.median(far) + 0.05), 0)
    return off


def _unevenness(orders: Orders) -> Floats:
    """Spread of the buyer's gaps between orders against their mean; 1 for fewer than six orders or three items.

    orders: in order of buyer and time.
    """
    uneven = np.ones(len(orders.buyer))
    starts = np.flatnonzero(np.diff(orders.buyer, prepend=-2))
    for start, end in zip(starts, np.append(starts[1:], len(uneven)), strict=True):
        if end - start < 6:
            continue
        different = max(len(np.unique(orders.item[start:end])), len(np.unique(orders.seller[start:end])))
        gaps = np.diff(orders.time_us[start:end])
        if different >= 3 and gaps.mean() > 0:
            uneven[start:end] = gaps.std() / gaps.mean()
    return uneven


def _pair_orders(orders: Orders) -> Floats:
    """Orders of the same buyer at the same seller, where those are most of the buyer's orders; 0 elsewhere."""
    n = np.zeros(len(orders.buyer))
    told = np.flatnonzero(orders.seller >= 0)
    if len(told):
        pair = _joint(orders.buyer[told], orders.seller[told])
        count = np.bincount(pair)[pair]
        n[told] = np.where(count >= 0.8 * np.bincount(orders.buyer)[orders.buyer[told]], count, 0)
    return n


def _oddest(features: Floats) -> npt.NDArray[np.bool_]:
    """The orders an isolation forest (Liu, Ting, Zhou, ICDM 2008) needs the fewest cuts to set apart."""
    from sklearn.ensemble import IsolationForest  # takes a second to load, which only a build should wait for

    rng = np.random.default_rng(0)
    learn = rng.choice(len(features), min(FOREST_ORDERS, len(features)), replace=False)
    forest = IsolationForest(n_estimators=100, max_samples=256, random_state=0).fit(features[learn])
    normal = forest.score_samples(features)
    odd: npt.NDArray[np.bool_] = normal < np.quantile(normal, FOREST_SHARE)
    return odd


def _machines(engine: Engine) -> pa.Table:
    """What the acts of users count for on days on which a machine acts in their name."""
    days = engine.sql(family_sql("pace"))
    found = machine_days(
        *(days[name].to_numpy() for name in ("in_ten_minutes", "same_gap", "gaps", "hours", "moments"))
    )
    here = pa.array(np.flatnonzero(found != ""))
    weight = {rule.code: 0.0 if rule.severity == "drop" else 1 - rule.p for rule in RULES}
    told = found[found != ""]
    kept = days.select(["uid", "day"]).take(here)
    kept = kept.append_column("weight", pa.array([weight[code] for code in told], pa.float64()))
    engine.table("machine_days", kept.append_column("reason", pa.array(told, pa.string())))
    return engine.sql(family_sql("machine_acts")).cast(WEIGHT_COLUMNS)


def machine_days(
    in_ten_minutes: Codes, same_gap: Codes, gaps: Codes, hours: Codes, moments: Codes
) -> npt.NDArray[np.object_]:
    """The code of a rule for each day of a user (columns of `dmp/sql/pace.sql`), "" for a person's day.

    Ten minutes of an act every two seconds is no person's pace, and logs of whole seconds can still tell it.
    """
    fast = in_ten_minutes >= 300
    even = (gaps >= 30) & (same_gap >= 0.8 * gaps)
    tireless = (hours >= 23) & (moments >= 100)
    return np.select([fast, even, tireless], ["X01", "X02", "X03"], "").astype(object)
