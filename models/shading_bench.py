"""What shading earns in first-price auctions: on a planted market and on logged prices.

The share of a clairvoyant's surplus, sum (v - b) [b >= m] / sum max(v - m, 0), of the learnt landscape, against the one
constant share of the value that would have earned most on the training part, found with all its prices even where
the landscape is not told them. On the planted market the bidder that knows the law of the prices, though not the
prices, is printed beside it: nobody can do better. Logged prices (iPinYou) come without values of ours, so values are
drawn, log-normal around the prices' median: what is real is how prices follow from place, size and hour.
"""

import math
from collections.abc import Iterator, Sequence

import lightgbm as lgb
import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq

from models import ipinyou, landscape, landscape_fit, landscape_train
from models.context import Context
from models.figures import Figure, Options, jackknife, mean_se
from models.landscape_fit import ABOVE, BELOW, EXACT, Kinds

Floats = npt.NDArray[np.float64]

PART = "shading"
GOAL = 0.60
ROWS = 60_000
WORLDS = 5  # planted ones
SITES = 200
SIZES = ((300, 250), (728, 90), (160, 600))
SPREADS = (0.25, 0.4, 0.6)
START_SHARE = 0.85  # of the value bid while there is no landscape: what outcomes are censored at
VALUE_SPREAD = 0.7
SOURCES: tuple[ipinyou.Source, ...] = ("DLF", "FH", "NEM")


class Market(msgspec.Struct, frozen=True):
    """n first-price auctions in order of time. m: the least bid that wins, CPM micros. mu, spread: the law of ln m
    where it is known, else empty. value: what each is worth to us, CPM micros.
    """

    name: str
    contexts: list[Context]
    m: Floats
    value: Floats
    mu: Floats
    spread: Floats


def planted(n: int, seed: int) -> Market:
    """Ln m is normal: around 14, an effect of the site (sd .6) and of the hour; its spread depends on the size."""
    rng = np.random.default_rng(seed)
    effect = rng.normal(0, 0.6, SITES)
    site, size, hour = rng.integers(0, SITES, n), rng.integers(0, len(SIZES), n), rng.integers(0, 24, n)
    mu = 14 + effect[site] + 0.3 * np.sin(hour / 24 * 2 * np.pi)
    spread = np.array(SPREADS)[size]
    contexts = [
        Context(exchange="x", domain=f"s{s}.example", width=SIZES[k][0], height=SIZES[k][1], hour=h, at=1)
        for s, k, h in zip(site.tolist(), size.tolist(), hour.tolist(), strict=True)
    ]
    value = np.exp(rng.normal(14.3, VALUE_SPREAD, n))
    return Market("planted", contexts, np.exp(mu + spread * rng.normal(size=n)), value, mu, spread)


def logged(options: Options, source: ipinyou.Source) -> Market:
    """Won impressions of one source and what was paid for them; free ones count as a hundredth of a fen."""
    folder = options.data / "ipinyou_log"
    rows = ipinyou.rows(folder, source)
    paid = pq.read_table(folder / ipinyou.IMPRESSIONS, columns=["pay_price"], filters=[("source", "=", source)])
    m = np.maximum(paid["pay_price"].to_numpy().astype(np.float64), 0.01) * ipinyou.FEN_MICROS
    n = options.size(len(m))
    rng = np.random.default_rng(options.seed)
    value = np.median(m) * np.exp(rng.normal(0.3, VALUE_SPREAD, n))
    empty = np.empty(0)
    return Market(f"ipinyou_log/{source}", [context for context, *_ in rows.items[:n]], m[:n], value, empty, empty)


def figures(options: Options) -> Iterator[Figure]:
    """Shares of the clairvoyant's surplus, with prices told and hidden, against the best constant share."""
    worlds = [planted(options.size(ROWS), options.seed + n) for n in range(options.seeds or WORLDS)]
    for told in (True, False):
        yield from over_worlds([list(of_market(world, told=told, seed=options.seed)) for world in worlds])
    for source in SOURCES:
        for told in (True, False):
            yield from of_market(logged(options, source), told=told, seed=options.seed)


def over_worlds(found: Sequence[Sequence[Figure]]) -> Iterator[Figure]:
    """Figures of several worlds as one each: their mean, with the error between worlds.

    found: per world, in the order `of_market` gives them.
    """
    for n, of_all in enumerate(zip(*found, strict=True)):
        value, se = mean_se([figure.value for figure in of_all])
        first = of_all[0]
        met = None if first.met is None else value > 2 * se if n else value >= GOAL
        yield msgspec.structs.replace(
            first,
            metric="that less the best constant share of the value" if n else first.metric,
            data=f"{first.data}, {len(found)} worlds",
            value=value,
            se=se,
            met=met,
            about=first.about | {"worlds": [figure.value for figure in of_all], "se_within": [f.se for f in of_all]},
        )


def of_market(market: Market, *, told: bool, seed: int = 1) -> Iterator[Figure]:
    """Train on the first two thirds, judge on the rest. told: whether each auction's m becomes known afterwards."""
    n = len(market.m)
    cut = n * 2 // 3
    y, kind = _outcomes(market, told=told)
    known = landscape_train.vocabulary(market.contexts[:cut])
    X = landscape_train.matrix(known, market.contexts, np.full(n, math.nan))
    segments = [landscape.segment(c.exchange, c.width, c.height) for c in market.contexts]
    fit = landscape_fit.fit(X[:cut], y[:cut], kind[:cut], segments[:cut], seed=seed)
    mu = fit.base + np.asarray(lgb.Booster(model_str=fit.text).predict(X[cut:], raw_score=True))
    _, flat = landscape_fit.marginal(y[:cut], kind[:cut])
    spread = landscape_fit.spread_of(fit.spreads, segments[cut:], flat)
    value, m = market.value[cut:], market.m[cut:]
    ours = _gains(value, _best_bids(value, mu, spread), m)
    everything = np.zeros(cut, dtype=np.int8) + np.int8(EXACT)
    share = landscape_fit.best_ratio(np.log(market.m[:cut]), everything, market.value[:cut])
    constant = _gains(value, value * share, m)
    most = np.maximum(value - m, 0)
    about = {"rows": n - cut, "trained_on": cut, "prices": "told" if told else "hidden", "constant_share": share}
    exact_nll = float(landscape_fit.negative_log_likelihood(np.log(m), np.zeros(len(m), np.int8), mu, spread).mean())
    if len(market.mu):
        law = _gains(value, _best_bids(value, market.mu[cut:], market.spread[cut:]), m)
        about["share_of_whoever_knows_the_law"] = float(law.sum() / most.sum())
    about["anlp_of_ln_m"] = exact_nll
    data = f"{market.name}, prices {'told' if told else 'hidden'}"
    reached, se = jackknife(np.column_stack((ours, most)), _ratio)
    yield Figure(
        part=PART, data=data, metric="share of the clairvoyant's surplus", value=reached, se=se,
        goal=f">= {GOAL}" if told else "", met=reached >= GOAL if told else None, about=about,
    )  # fmt: skip
    better, se = jackknife(np.column_stack((ours - constant, most)), _ratio)
    yield Figure(
        part=PART, data=data, metric=f"that less the share of bidding {share:.0%} of the value", value=better, se=se,
        goal="> 2 standard errors", met=better > 2 * se, about=about,
    )  # fmt: skip


def _outcomes(market: Market, *, told: bool) -> tuple[Floats, Kinds]:
    """(y, kind) as a bidder of `START_SHARE` of the value learns them."""
    if told:
        return np.log(market.m), np.zeros(len(market.m), dtype=np.int8) + np.int8(EXACT)
    bid = START_SHARE * market.value
    return np.log(bid), np.where(bid >= market.m, BELOW, ABOVE).astype(np.int8)


def _best_bids(value: Floats, mu: Floats, spread: Floats) -> Floats:
    columns = (value.tolist(), mu.tolist(), spread.tolist())
    return np.array([min(v, landscape.optimum(v, c, s)) for v, c, s in zip(*columns, strict=True)])


def _gains(value: Floats, bid: Floats, m: Floats) -> Floats:
    return np.where(bid >= m, value - bid, 0.0)


def _ratio(sums: Sequence[float]) -> float:
    return sums[0] / sums[1]
