"""Off-policy estimates on Open Bandit (Saito et al., arXiv 2008.07146): one policy's click rate from another's log.

`random` shows every item alike; `bts` (Thompson sampling) is asked about. Its choices do not depend on the user but
change with time, so what is compared is its mix of items per position over the whole log: shares of what it
showed, not clicks, of which the estimate sees none. The rate it really had is in the same data.
"""

import math
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from dmp.errors import BadEvents
from models import offpolicy
from models.figures import Figure, Options

Floats = npt.NDArray[np.float64]

PART = "offpolicy"
FOLDS = 5
SHRINK = 200.0
"""Impressions a position's mean counts for in an item's predicted click rate."""
Z95 = 1.96


def figures(options: Options) -> Iterator[Figure]:
    """SNIPS and doubly robust per campaign, and over both, against the click rate `bts` had."""
    path = options.data / "open_bandit" / "logs.parquet"
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        raise BadEvents(f"{path} cannot be read ({error}); name the folder that holds open_bandit/") from None
    for campaign in ("men", "women"):
        yield from campaign_figures(table.filter(pa.compute.equal(table["campaign"], campaign)), campaign, options.seed)


def campaign_figures(table: pa.Table, campaign: str, seed: int) -> Iterator[Figure]:
    """The figures of one campaign's log (columns policy, item_id, position, click, propensity_score)."""
    logged, shown = (table.filter(pa.compute.equal(table["policy"], policy)) for policy in ("random", "bts"))
    items = int(pa.compute.max(table["item_id"]).as_py()) + 1
    share = _shares(_column(shown, "item_id"), _column(shown, "position"), items)
    item, position, clicks = (_column(logged, name) for name in ("item_id", "position", "click"))
    propensities = logged["propensity_score"].to_numpy().astype(np.float64)
    target = share[position, item]
    # The target is per position, the log a mix of positions: both policies fill all three alike.
    predicted, expected = _cross_fitted(clicks, item, position, share, seed)
    rate = float(_column(shown, "click").mean())
    rate_se = math.sqrt(rate * (1 - rate) / len(shown))
    reward = clicks.astype(np.float64)
    for name, estimate in (
        ("SNIPS", offpolicy.snips(reward, propensities, target)),
        ("doubly robust", offpolicy.doubly_robust(reward, propensities, target, predicted, expected)),
    ):
        off = abs(estimate.value - rate)
        yield Figure(
            part=PART,
            data=f"open_bandit/{campaign}",
            metric=f"click rate of bts by {name}",
            value=estimate.value,
            se=estimate.se,
            goal=f"95 % interval holds the rate it had, {rate:.5f} ± {rate_se:.5f}",
            met=off <= Z95 * math.hypot(estimate.se, rate_se),
            about={
                "observed": rate,
                "observed_se": rate_se,
                "within_its_own_interval": bool(off <= Z95 * estimate.se),
                "effective": estimate.effective,
                "rows": estimate.rows,
                "clicks": int(clicks.sum()),
                "random_rate": float(clicks.mean()),
            },
        )


def _column(table: pa.Table, name: str) -> npt.NDArray[np.int64]:
    return np.asarray(table[name].to_numpy(), dtype=np.int64)


def _shares(item: npt.NDArray[np.int64], position: npt.NDArray[np.int64], items: int) -> Floats:
    """float64 (positions + 1, items): how often an item stood at a position, rows of used positions sum to 1."""
    counts = np.zeros((int(position.max()) + 1, items))
    np.add.at(counts, (position, item), 1)
    shares: Floats = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return shares


def _cross_fitted(
    clicks: npt.NDArray[np.int64],
    item: npt.NDArray[np.int64],
    position: npt.NDArray[np.int64],
    share: Floats,
    seed: int,
) -> tuple[Floats, Floats]:
    """Predictions (of the logged item, of the policy's mix) per row from a model of the other folds: an item's click
    rate, shrunk to that of its position.
    """
    fold = np.random.default_rng(seed).integers(0, FOLDS, len(clicks))
    predicted, expected = np.empty(len(clicks)), np.empty(len(clicks))
    for k in range(FOLDS):
        train, test = fold != k, fold == k
        shown, clicked = np.zeros(share.shape), np.zeros(share.shape)
        np.add.at(shown, (position[train], item[train]), 1)
        np.add.at(clicked, (position[train], item[train]), clicks[train])
        mean = clicked.sum(axis=1, keepdims=True) / np.maximum(shown.sum(axis=1, keepdims=True), 1)
        model = (clicked + SHRINK * mean) / (shown + SHRINK)
        predicted[test] = model[position[test], item[test]]
        expected[test] = (share * model).sum(axis=1)[position[test]]
    return predicted, expected
