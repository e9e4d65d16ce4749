"""A planted market: prices whose law is known, and what a bidder gets to know of them."""

from pathlib import Path

import msgspec
import numpy as np

from dmp import events
from dmp.events import Bid, Loss, Win
from models.context import Context, encode_context
from tests.stored import encode_all

SITES = 40
SIZES = ((300, 250), (728, 90))
SPREAD = {(300, 250): 0.3, (728, 90): 0.7}
DAY_US = 20_000 * 86_400_000_000


class Market(msgspec.Struct, frozen=True):
    """n auctions. m: what wins, CPM micro-USD; mu: its true median, ln."""

    contexts: list[Context]
    m: np.ndarray
    mu: np.ndarray
    spread: np.ndarray


def a_market(n: int, seed: int = 1) -> Market:
    """ln m is normal around 14 plus an effect of the site (sd .6) and of the hour; spread .3 or .7 by size."""
    rng = np.random.default_rng(seed)
    effect = np.random.default_rng(99).normal(0, 0.6, SITES)
    site, size, hour = rng.integers(0, SITES, n), rng.integers(0, 2, n), rng.integers(0, 24, n)
    mu = 14 + effect[site] + 0.3 * np.sin(hour / 24 * 2 * np.pi)
    spread = np.where(size == 0, 0.3, 0.7)
    contexts = [
        Context(exchange="x", domain=f"s{s}.example", width=SIZES[k][0], height=SIZES[k][1], hour=int(h), at=1)
        for s, k, h in zip(site.tolist(), size.tolist(), hour.tolist(), strict=True)
    ]
    return Market(contexts, np.exp(mu + spread * rng.normal(size=n)), mu, spread)


def bids_of(market: Market, seed: int = 2) -> np.ndarray:
    """What a bidder without a landscape bids: values around the market's middle, .85 of them."""
    return 0.85 * np.exp(np.random.default_rng(seed).normal(14.3, 0.6, len(market.m)))


def a_log(folder: Path, market: Market, told: float = 0.5, at: int = 1, factor: float = 1.0) -> Path:
    """A bid log of such a bidder. told: share of losses whose price is told. factor: paid / bid of a win."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    records: list[events.Event] = []
    for i, (context, m, bid) in enumerate(zip(market.contexts, market.m, bids_of(market), strict=True)):
        common = {"bid_id": f"b{i}", "imp_id": "1", "campaign": "c", "creative": "k", "exchange": "x"}
        records.append(
            Bid(
                event_id=f"b{i}", time_us=DAY_US + i, exchange="x", auction_id=f"a{i}", imp_id="1", campaign="c",
                creative="k", price_micros=int(bid), value_micros=int(bid / 0.85), at=at,
                context=encode_context(context),
            )
        )  # fmt: skip
        if bid >= m:
            paid = int(bid * factor) if at == 1 else int(m)
            records.append(Win(event_id=f"b{i}:win", time_us=DAY_US + i, price_micros=paid, **common))
        else:
            price = int(m) + 1 if rng.random() < told else 0
            loss = Loss(event_id=f"b{i}:loss", time_us=DAY_US + i, reason=102, min_to_win_micros=price, **common)
            records.append(loss)
    (folder / "bids-1.mpk").write_bytes(encode_all(records))
    return folder
