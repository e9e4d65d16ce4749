"""From the bid log to a published price landscape: who won at what price, learnt, judged on the latest part, gated.

What one bid tells of m, the least bid that wins: a second-price win, the price paid; a loss with its price told, that
price; a loss to a higher bid, m >= b; a first-price win, m <= b; a loss to the floor, the floor where it was above our
bid, else m >= b. Other losses (blocked, late, malformed) tell nothing. A price told that contradicts the outcome is
dropped and counted. Bids nobody told us about count as lost, because wins are always told and leaving out losses would
make winning look cheap; but not the latest ones, whose notices may still come, and not in exchanges that tell of nearly
all losses, where a notice got lost.
"""

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

import lightgbm as lgb
import msgspec
import numpy as np
import numpy.typing as npt

from dmp import events
from dmp.errors import BadEvents
from dmp.events import Bid, Loss, Win
from models import artefacts, features, landscape, landscape_fit
from models.context import Context, decode_context
from models.evaluate import auc, losses
from models.figures import jackknife
from models.landscape import KIND, Manifest, segment
from models.landscape_fit import ABOVE, BELOW, EXACT, Fit, Kinds

Floats = npt.NDArray[np.float64]

LOST_TO_HIGHER, BELOW_FLOOR, BELOW_DEAL_FLOOR = 102, 100, 101  # OpenRTB 3.0, List: Loss Reason Codes
FIRST_PRICE_WINS = 200  # wins of an exchange before it is believed to charge something else than it says
MIXED = 0.98  # median of paid / bid below which an exchange does not charge the bid
MIN_ROWS = 1_000
NEARLY_ALL = 0.9  # share of the bids not won of which an exchange tells, from which on the others are left out
SETTLED = 0.99  # share of the notices that come within the time after which a bid without one is believed
MIN_CATEGORY_ROWS = 20
GATE_Z = 1.64
GATE_CALIBRATION = (0.85, 1.15)


class Observations(msgspec.Struct, frozen=True):
    """n bids in order of time; all arrays line up. Money in CPM micro-USD.

    contexts; quality: mean ln click probability as known at the bid. y: ln of what is known of m, kind: what that is
    (`landscape_fit.EXACT`, ABOVE, BELOW). bid, value. won: 1.0 or 0.0. ratio: paid / bid of wins with a price told,
    else NaN. second: whether the auction said second price. counts: what was read and left out.
    """

    contexts: list[Context]
    quality: Floats
    y: Floats
    kind: Kinds
    bid: Floats
    value: Floats
    won: Floats
    ratio: Floats
    second: npt.NDArray[np.bool_]
    time_us: npt.NDArray[np.int64]
    counts: dict[str, int]

    @property
    def segments(self) -> list[str]:
        return [segment(c.exchange, c.width, c.height) for c in self.contexts]


class Report(msgspec.Struct, frozen=True):
    """What training came to. version: None when not published. refused: why the gate said no, "" when it did not."""

    version: str | None
    refused: str
    metrics: dict[str, float]
    counts: dict[str, int]
    paid: dict[str, float]
    first: list[str]


Key = tuple[str, str]
"""Bid id and imp id."""


class Gathered(msgspec.Struct, frozen=True):
    """A bid log by what was bid for. wins: price paid, CPM micros, 0 where nobody told. told_us: when the first notice
    of each came. newest_us: of all.
    """

    bids: dict[Key, Bid]
    wins: dict[Key, int]
    lost: dict[Key, Loss]
    clicked: set[Key]
    told_us: dict[Key, int]
    newest_us: int


def gather(bidlog: Path, notices: Iterable[events.Event] = (), since_us: int = 0) -> Gathered:
    """All bids of a folder's `*.mpk` files with their notices. Raises BadEvents where there are no such files.

    since_us: files that were last written before are not read.
    """
    paths = sorted(bidlog.glob("*.mpk"))
    if not paths:
        raise BadEvents(f"{bidlog}: no *.mpk bid log files; run the bidder first or name its bidlog directory")
    paths = [path for path in paths if path.stat().st_mtime_ns // 1000 >= since_us]
    bids: dict[Key, Bid] = {}
    wins: dict[Key, int] = {}
    lost: dict[Key, Loss] = {}
    clicked: set[Key] = set()
    told_us: dict[Key, int] = {}
    newest_us = 0
    for source in (*map(events.read_file, paths), notices):
        for event in source:
            newest_us = max(newest_us, event.time_us)
            if isinstance(event, Win | events.Billing | events.Impression | Loss):
                told_us.setdefault((event.bid_id, event.imp_id), event.time_us)
            if isinstance(event, Bid):
                bids.setdefault((event.event_id, event.imp_id), event)
            elif isinstance(event, Win | events.Billing):
                key = event.bid_id, event.imp_id
                wins[key] = wins.get(key) or event.price_micros
            elif isinstance(event, events.Impression):
                wins.setdefault((event.bid_id, event.imp_id), 0)
            elif isinstance(event, Loss):
                lost.setdefault((event.bid_id, event.imp_id), event)
            elif isinstance(event, events.Click):
                clicked.add((event.bid_id, event.imp_id))
    return Gathered(bids, wins, lost, clicked, told_us, newest_us)


def observations(bidlog: Path, notices: Iterable[events.Event] = (), since_us: int = 0) -> Observations:
    """All bids of a folder's `*.mpk` files with what became of them. Raises BadEvents when nothing can be learnt.

    since_us: bids from then on.
    """
    log = gather(bidlog, notices, since_us)
    bids = {key: bid for key, bid in log.bids.items() if bid.time_us >= since_us} if since_us else log.bids
    wins, lost, told_us = log.wins, log.lost, log.told_us
    delays = [time_us - bids[key].time_us for key, time_us in told_us.items() if key in bids]
    settled_us = log.newest_us - (float(np.quantile(delays, SETTLED)) if delays else 0.0)
    telling = _telling(bids, wins, lost, settled_us)
    counts = Counter(bids=len(bids), wins=len(wins), losses=len(lost))
    rows = []
    for key, bid in sorted(bids.items(), key=lambda item: (item[1].time_us, item[0])):
        if bid.currency != "USD":
            counts["other_currency"] += 1
            continue
        if key not in told_us and (bid.time_us > settled_us or bid.exchange in telling):
            counts["too_young" if bid.time_us > settled_us else "outcome_unknown"] += 1
            continue
        found = known_of(bid, wins.get(key), lost.get(key), counts)
        if found is not None:
            rows.append((bid, *found, wins.get(key)))
    if not rows:
        raise BadEvents(f"{bidlog}: no bid whose outcome says anything about prices, only {dict(counts)}")
    contexts = [decode_context(bid.context) if bid.context else Context() for bid, *_ in rows]
    return Observations(
        contexts=contexts,
        quality=np.array([bid.quality or math.nan for bid, *_ in rows]),
        y=np.log([m for _, m, _, _ in rows]),
        kind=np.array([kind for _, _, kind, _ in rows], dtype=np.int8),
        bid=np.array([float(bid.price_micros) for bid, *_ in rows]),
        value=np.array([float(bid.worth_micros or bid.value_micros) for bid, *_ in rows]),
        won=np.array([float(paid is not None) for *_, paid in rows]),
        ratio=np.array([paid / bid.price_micros if paid else math.nan for bid, _, _, paid in rows]),
        # An exchange found out by the last landscape is bid in as first price, and has to be found out again.
        second=np.array(
            [bid.at == 2 or (c.at == 2 and bid.shading != "") for (bid, *_), c in zip(rows, contexts, strict=True)]
        ),
        time_us=np.array([bid.time_us for bid, *_ in rows], dtype=np.int64),
        counts=dict(counts),
    )


def _telling(
    bids: Mapping[Key, Bid],
    wins: Container[Key],
    lost: Container[Key],
    settled_us: float,
) -> set[str]:
    """The exchanges that tell of nearly all losses, by their bids that are no longer young."""
    told, all_of = Counter[str](), Counter[str]()
    for key, bid in bids.items():
        if key not in wins and bid.time_us <= settled_us:
            all_of[bid.exchange] += 1
            told[bid.exchange] += key in lost
    return {exchange for exchange, n in all_of.items() if told[exchange] >= NEARLY_ALL * n}


def known_of(bid: Bid, paid: int | None, loss: Loss | None, counts: Counter[str]) -> tuple[float, int] | None:
    """(what is known of m, its kind); None when the outcome tells nothing."""
    price = float(bid.price_micros)
    if price <= 0:
        return None
    if paid is not None:
        if bid.at == 2 and paid > 0:
            return min(float(paid), price), EXACT
        return price, BELOW
    if loss is None or loss.reason in (0, LOST_TO_HIGHER):
        told = 0 if loss is None else loss.min_to_win_micros
        if not told:
            return price, ABOVE
        if told < price:
            counts["contradicted"] += 1
            return None
        return float(told), EXACT
    if loss.reason in (BELOW_FLOOR, BELOW_DEAL_FLOOR):
        return (float(bid.floor_micros), EXACT) if bid.floor_micros > price else (price, ABOVE)
    counts["other_losses"] += 1
    return None


def vocabulary(contexts: Iterable[Context], least: int = MIN_CATEGORY_ROWS) -> dict[str, list[str | int]]:
    """Codes by falling frequency (ties by value), for values seen in at least `least` rows."""
    counted: list[Counter[str | int]] = [Counter() for _ in landscape.CATEGORICAL]
    for context in contexts:
        for counter, fact in zip(counted, landscape.facts(context), strict=True):
            counter[fact] += 1
    return {
        name: [
            value
            for value, n in sorted(counter.items(), key=lambda item: (-item[1], str(item[0])))[
                : features.MAX_CATEGORIES
            ]
            if n >= least and value not in ("", 0)
        ]
        for name, counter in zip(landscape.CATEGORICAL, counted, strict=True)
    }


def matrix(known: dict[str, list[str | int]], contexts: Iterable[Context], quality: Floats) -> Floats:
    """float64 (n, len(landscape.NAMES)), by the function serving uses."""
    codes = tuple({value: float(code) for code, value in enumerate(known[name])} for name in landscape.CATEGORICAL)
    return np.array(
        [landscape.values(codes, context, q) for context, q in zip(contexts, quality.tolist(), strict=True)]
    ).reshape(-1, len(landscape.NAMES))


def charged(data: Observations) -> tuple[dict[str, float], list[str]]:
    """(exchanges that charge a share of a first-price bid, exchanges that say second price and charge the bid)."""
    paid: dict[str, float] = {}
    first: list[str] = []
    exchanges = np.array([context.exchange for context in data.contexts])
    for exchange in np.unique(exchanges).tolist():
        for second in (False, True):
            told = data.ratio[(exchanges == exchange) & (data.second == second)]
            told = told[~np.isnan(told)]
            if len(told) < FIRST_PRICE_WINS:
                continue
            median = float(np.median(told))
            if second and median >= MIXED:
                first.append(exchange)
            elif not second and median < MIXED:
                paid[exchange] = median
    return paid, first


def train(data: Observations, root: Path, *, now_us: int, force: bool = False, threads: int = 1) -> Report:
    """Fit on the first three quarters, judge on the rest, publish when the gate agrees (or `force`)."""
    if len(data.y) < MIN_ROWS:
        refused = f"{len(data.y)} bids with a known outcome, {MIN_ROWS} are needed"
        return Report(None, refused, {}, data.counts, {}, [])
    paid, first = charged(data)
    data = _truly_first(data, first)
    cut = len(data.y) * 3 // 4
    known = vocabulary(data.contexts[:cut])
    X = matrix(known, data.contexts, data.quality)
    segments = data.segments
    fit = landscape_fit.fit(X[:cut], data.y[:cut], data.kind[:cut], segments[:cut], threads=threads)
    booster = lgb.Booster(model_str=fit.text)
    metrics, raw = judge(data, X, segments, fit, booster, cut)
    refused = refusal(metrics)
    if refused and not force:
        return Report(None, refused, metrics, data.counts, paid, first)
    golden = X[: min(200, len(X))]
    files = {
        "model.txt": fit.text.encode(),
        "golden.bin": artefacts.golden(golden, np.asarray(booster.predict(golden, raw_score=True))),
    }
    manifest = Manifest(
        format=artefacts.FORMAT, kind=KIND, version="", signature=landscape.SIGNATURE, created_us=now_us,
        from_us=int(data.time_us[0]), to_us=int(data.time_us[-1]), rows=len(data.y), metrics=metrics, base=fit.base,
        vocabulary=known, spreads=fit.spreads,
        ratios=landscape_fit.ratios(data.y, data.kind, data.value, segments),
        chances=landscape_fit.chances(raw, data.won[cut:], segments[cut:]),
        paid=paid, first=first, parent=artefacts.current(root, KIND) or "", sha256=artefacts.hashes(files),
        forced=bool(refused),
    )  # fmt: skip
    version, files["manifest.json"] = artefacts.seal(manifest, now_us)
    artefacts.publish(
        root, KIND, version, files, lambda folder: landscape.read(folder, version), (version, manifest.parent)
    )
    return Report(version, refused, metrics, data.counts, paid, first)


def _truly_first(data: Observations, first: list[str]) -> Observations:
    """A win where the bid is charged says m <= b, whatever the exchange calls its auctions."""
    theirs = np.isin([context.exchange for context in data.contexts], first) & (data.won > 0)
    kind = np.where(theirs, np.int8(BELOW), data.kind)
    return msgspec.structs.replace(data, kind=kind, y=np.where(theirs, np.log(data.bid), data.y))


def judge(
    data: Observations, X: Floats, segments: list[str], fit: Fit, booster: lgb.Booster, cut: int
) -> tuple[dict[str, float], Floats]:
    """Metrics on rows from `cut` on, and the probabilities of winning there; baseline: one log-normal for everything.

    test_rows; win_log_loss, win_auc, win_calibration (predicted / observed); anlp: mean negative log density of ln m
    where it is known exactly; nll_gain, nll_gain_se: censored log likelihood per row above the baseline's.
    """
    y, kind, won = data.y[cut:], data.kind[cut:], data.won[cut:]
    mu: Floats = fit.base + np.asarray(booster.predict(X[cut:], raw_score=True))
    flat_mu, flat_spread = landscape_fit.marginal(data.y[:cut], data.kind[:cut])
    spread = landscape_fit.spread_of(fit.spreads, segments[cut:], flat_spread)
    ours = landscape_fit.negative_log_likelihood(y, kind, mu, spread)
    flat = landscape_fit.negative_log_likelihood(y, kind, np.full(len(y), flat_mu), flat_spread)
    # Neighbours in time are often of one user or page, so the error is that of blocks, not of rows.
    gain, gain_se = jackknife(np.column_stack((flat - ours, np.ones(len(y)))), lambda sums: sums[0] / sums[1])
    raw = np.array([landscape.phi(z) for z in ((np.log(data.bid[cut:]) - mu) / spread).tolist()])
    metrics = {"test_rows": float(len(y)), "nll": float(ours.mean()), "nll_gain": gain, "nll_gain_se": gain_se}
    exact = kind == EXACT
    if exact.any():
        metrics["anlp"] = float(ours[exact].mean())
    metrics["win_log_loss"] = float(losses(won, raw).mean())
    ranked = auc(won, raw)
    if ranked is not None:
        metrics["win_auc"], metrics["win_auc_se"] = ranked
        metrics["win_calibration"] = float(raw.sum() / won.sum())
    return metrics, raw


def refusal(metrics: dict[str, float]) -> str:
    """Why a landscape must not be published, "" when it may."""
    if not metrics["nll_gain"] > GATE_Z * metrics["nll_gain_se"]:
        return (
            f"log likelihood above one log-normal for everything is {metrics['nll_gain']:+.4f} +- "
            f"{metrics['nll_gain_se']:.4f} per bid, not above {GATE_Z} standard errors"
        )
    calibration = metrics.get("win_calibration")
    low, high = GATE_CALIBRATION
    if calibration is not None and not low <= calibration <= high:
        return f"predicted over observed wins is {calibration:.3f}, not in [{low}, {high}]"
    return ""
