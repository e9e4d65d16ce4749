"""Click models on real logs against hashed logistic regression: a part of `tagbid models bench`.

iPinYou impressions one source at a time, with what leaks left out (`models.ipinyou`); Open Bandit with item, position,
user features and affinity as the models see ads and users. All clicks are judged once, by folds over users.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from bidder import useragent
from dmp.errors import BadEvents
from dmp.schema import User
from models import ipinyou, response
from models.context import Ad, Context
from models.dataset import Rows
from models.features import Row
from models.figures import Figure, Options
from models.response import TooFewClicks

PART = "clicks"
SOURCES: tuple[ipinyou.Source, ...] = ("FH", "NEM", "DC")
"""DLF has five clicks."""
_ITEM_TAG = 1_000_000  # tags of their own for the items of Open Bandit, away from the taxonomy


def figures(options: Options) -> Iterator[Figure]:
    """Per data set: log-loss gain of our model over hashed logistic regression, and what either is worth."""
    for source in SOURCES:
        rows = ipinyou.rows(options.data / "ipinyou_log", source, useragent.families)
        yield from judge(rows, f"ipinyou_log/{source}", options)
    yield from judge(open_bandit(options.data / "open_bandit"), "open_bandit", options)


def judge(rows: Rows, data: str, options: Options) -> Iterator[Figure]:
    """The figures of one data set, nothing when it holds too few clicks to learn from."""
    try:
        report = response.train(rows, Path("unused"), now_us=0, threads=1, seed=options.seed, publish=False)
    except TooFewClicks as error:
        yield Figure(
            part=PART, data=data, metric="clicks", value=float(rows.clicks.sum()), se=0, about={"why": str(error)}
        )
        return
    about = {"rows": report.rows, "clicks": report.clicks, "folds": report.folds, "trees": report.trees}
    gain, base, metrics = report.over_logistic, report.over_base, report.metrics
    yield Figure(
        part=PART, data=data, metric="log-loss gain over hashed logistic regression", value=gain.value, se=gain.se,
        goal="at least -1 standard error", met=gain.value >= -gain.se, about=about,
    )  # fmt: skip
    yield Figure(
        part=PART, data=data, metric="log-loss gain over the constant rate", value=base.value, se=base.se, about=about
    )
    if metrics.auc is not None and metrics.auc_se is not None:
        yield Figure(part=PART, data=data, metric="AUC", value=metrics.auc, se=metrics.auc_se, about=about)


def open_bandit(folder: Path) -> Rows:
    """Both policies' logs: items are creatives, affinity to the shown item is the interest score of the pair."""
    try:
        lines = pq.read_table(folder / "logs.parquet").to_pylist()
        items = pq.read_table(folder / "items.parquet").to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise BadEvents(f"{folder} does not hold the Open Bandit log: {error}") from None
    kinds = {(item["campaign"], item["item_id"]): item for item in items}
    found: list[Row] = []
    for line in lines:
        item = kinds[line["campaign"], line["item_id"]]
        affinity = {_ITEM_TAG + i: round(100 * score) for i, score in enumerate(line["affinity"]) if score > 0}
        tag = _ITEM_TAG + line["item_id"]
        context = Context(
            exchange=line["policy"],
            position=line["position"],
            region=line["user_feature_0"],
            city=line["user_feature_1"],
            language=line["user_feature_2"],
            os=line["user_feature_3"],
            hour=line["timestamp"].hour,
            weekday=line["timestamp"].weekday(),
        )
        ad = Ad(
            line["campaign"], f"{line['campaign']}-{line['item_id']}", item["item_feature_1"], item["item_feature_2"],
            interest=tag, target_tags=(tag,),
        )  # fmt: skip
        found.append((context, User(affinity), ad, 0))
    clicks = np.array([float(line["click"]) for line in lines])
    return Rows(
        items=found,
        clicks=clicks,
        uids=[None] * len(lines),
        keys=[f"open_bandit/{i}" for i in range(len(lines))],
        timed=False,
        counts={"impressions": len(lines), "clicks": int(clicks.sum())},
    )
