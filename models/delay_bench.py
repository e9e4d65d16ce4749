"""Delayed conversions on a planted world: soft labels against three ways to do without them, judged on matured truth.

Clicks of a month, some campaigns only in its last days; conversions are seen once their delay is over. The world is the
one place where it is known what a young click will turn out to be. Baselines: leave out clicks younger than three days
(most conversions have come, and the new campaigns keep some clicks), call every click without a conversion a negative,
and fake-negative weighting (each click a negative at once, each conversion a positive when it comes, r / (1 - r) is
served; Ktena et al., RecSys 2019). Judged on fresh clicks of the last days' mix.
"""

from collections.abc import Callable, Iterator, Mapping

import lightgbm as lgb
import msgspec
import numpy as np
import numpy.typing as npt

from models import delay
from models.delay import Labels
from models.evaluate import losses
from models.figures import Figure, Options, mean_se

Floats = npt.NDArray[np.float64]

PART = "delay"
ROWS = 60_000
SEEDS = 10
DAY_S = 86_400.0
DAYS = 30
NEW_DAYS = 5  # age of the youngest third of the campaigns
YOUNG_DAYS = 3
VERTICALS = ("shops", "loans")
MEAN_DELAY_S = {"shops": 8 * 3_600.0, "loans": 5 * DAY_S}
CAMPAIGNS = 18


class Clicks(msgspec.Struct, frozen=True):
    """n clicks. X: float64 (n, 5), the first column the campaign. delay_s: of the conversion, inf for never; known now
    only where `delay_s <= age_s`. q: the true probability.
    """

    X: Floats
    campaign: list[str]
    vertical: list[str]
    age_s: Floats
    delay_s: Floats
    q: Floats


def planted(n: int, seed: int, *, fresh: bool = False) -> Clicks:
    """Clicks of `DAYS` days; fresh: of this moment instead, all campaigns running."""
    rng = np.random.default_rng((seed, fresh))
    laws = np.random.default_rng(seed)
    effect = laws.normal(-2.6, 0.7, CAMPAIGNS)
    campaign = rng.integers(0, CAMPAIGNS, n)
    vertical = [VERTICALS[c % 2] for c in campaign.tolist()]
    start_days = np.where(np.arange(CAMPAIGNS) % 3 == 0, NEW_DAYS, DAYS)[campaign]
    age_s = np.zeros(n) if fresh else rng.random(n) * start_days * DAY_S
    X = rng.normal(size=(n, 5))
    X[:, 0] = campaign
    q = 1 / (1 + np.exp(-(effect[campaign] + 0.8 * X[:, 1] + 0.5 * X[:, 2] - 0.4 * X[:, 1] * X[:, 3])))
    mean_s = np.array([MEAN_DELAY_S[v] for v in vertical]) * np.exp(laws.normal(0, 0.3, CAMPAIGNS))[campaign]
    delay_s = np.where(rng.random(n) < q, np.minimum(rng.exponential(mean_s), 0.99 * delay.WINDOW_S), np.inf)
    return Clicks(X, [f"c{c}" for c in campaign.tolist()], vertical, age_s, delay_s, q)


def figures(options: Options) -> Iterator[Figure]:
    """Log loss on matured truth, and soft labels less each baseline, over `SEEDS` worlds."""
    found: dict[str, list[float]] = {}
    n = options.size(ROWS)
    for seed in range(options.seed, options.seed + SEEDS):
        test = planted(n, seed, fresh=True)
        truth = np.isfinite(test.delay_s).astype(np.float64)
        for name, q in predictions(planted(n, seed), test, seed).items():
            found.setdefault(name, []).append(float(losses(truth, q).mean()))
        found.setdefault("the true probabilities", []).append(float(losses(truth, test.q).mean()))
    about = {"worlds": SEEDS, "clicks": n}
    for name, values in found.items():
        value, se = mean_se(values)
        yield Figure(
            part=PART, data="planted", metric=f"log loss on matured truth, {name}", value=value, se=se, about=about
        )
    for name in BASELINES:
        value, se = mean_se(a - b for a, b in zip(found[name], found["soft labels"], strict=True))
        yield Figure(
            part=PART, data="planted", metric=f"log loss saved by soft labels against: {name}", value=value, se=se,
            goal="> 2 standard errors", met=value > 2 * se, about=about,
        )  # fmt: skip


def predictions(train: Clicks, test: Clicks, seed: int = 1) -> dict[str, Floats]:
    """Every method's conversion rates of the test clicks."""
    converted = train.delay_s <= train.age_s

    def fitted(labels: Labels) -> lgb.Booster:
        return _booster(train.X[labels.rows], labels.label, labels.weight, seed)

    last: list[lgb.Booster] = []

    def em_step(labels: Labels) -> Floats:
        last[:] = [fitted(labels)]
        return np.asarray(last[0].predict(train.X))

    delays = delay.fit(np.where(converted, train.delay_s, np.nan), train.age_s, train.campaign, train.vertical)
    delay.learn(em_step, converted, delay.elapsed(delays, train.campaign, train.vertical, train.age_s))
    found = {"soft labels": np.asarray(last[0].predict(test.X))}
    for name, label in BASELINES.items():
        p = np.asarray(fitted(label(train, converted)).predict(test.X))
        found[name] = p / np.maximum(1 - p, 1e-6) if name == FAKE_NEGATIVES else p
    return {name: np.clip(q, 1e-6, 1 - 1e-6) for name, q in found.items()}


def _plain(rows: npt.NDArray[np.intp], converted: delay.Bools) -> Labels:
    return Labels(rows, converted[rows].astype(np.float64), np.ones(len(rows)))


def _fake_negatives(converted: delay.Bools) -> Labels:
    seen = np.flatnonzero(converted)
    n = len(converted)
    label = np.concatenate((np.zeros(n), np.ones(len(seen))))
    return Labels(np.concatenate((np.arange(n), seen)), label, np.ones(len(label)))


FAKE_NEGATIVES = "fake-negative weighting"
BASELINES: Mapping[str, Callable[[Clicks, delay.Bools], Labels]] = {
    "drop young": lambda clicks, seen: _plain(np.flatnonzero(clicks.age_s >= YOUNG_DAYS * DAY_S), seen),
    "call it negative": lambda clicks, seen: _plain(np.arange(len(seen)), seen),
    FAKE_NEGATIVES: lambda _, seen: _fake_negatives(seen),
}


def _booster(X: Floats, label: Floats, weight: Floats, seed: int) -> lgb.Booster:
    params = {
        "objective": "binary", "num_leaves": 15, "learning_rate": 0.08, "min_data_in_leaf": 200, "lambda_l2": 5.0,
        "cat_smooth": 20.0, "seed": seed, "num_threads": 1, "deterministic": True, "verbose": -1,
    }  # fmt: skip
    return lgb.train(params, lgb.Dataset(X, label, weight=weight, categorical_feature=[0]), 80)
