"""How well preferences foretell: recall@20 and NDCG@20 of the next day's items, with confidence intervals.

The clock stands at the end of a day: the long-term vectors know all before that day (the nightly build), the session
is what the person did on it, and what is foretold is what they do on the day after. Arms: *popularity* (what all did
most), *tfidf* (the person's own items by term frequency and inverse document frequency, the vector space model),
*long* (long-term vector), *short* (session alone), *mix* (both, as served: `dmp.preference.instant`), *mix_solve* (the
session folded in by the factorisation's own step). Differences are paired by person, intervals bootstrapped.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from dmp import factors
from dmp.engine import DuckEngine, family_sql
from dmp.errors import BadEvents
from dmp.preference import Floats, Space, fold_in, instant
from dmp.preference import session as session_of

TOP = 20
DAY_US = 86_400_000_000
HALF_LIFE_DAYS = 30.0
RESAMPLES = 1_000
MIN_PEOPLE = 30
WEIGHTS = {"view": 1.0, "search": 3.0, "cart": 5.0, "purchase": 8.0}
ARMS = ("popularity", "tfidf", "long", "short", "mix_solve", "mix")

Ints = npt.NDArray[np.int64]


class Act(NamedTuple):
    """One act on an item. weight: of its kind."""

    time_us: int
    item: int
    weight: float


class Measured(msgspec.Struct, frozen=True):
    """A mean over people with its 95 % interval."""

    mean: float
    low: float
    high: float


class Evaluation(msgspec.Struct, frozen=True):
    """people: who acted on both days and before. recall, ndcg: {arm: at 20}. mix_over, ndcg_mix_over: {arm: what mix
    has more of it}.
    """

    people: int
    items: int
    days: int
    recall: dict[str, Measured]
    ndcg: dict[str, Measured]
    mix_over: dict[str, Measured]
    ndcg_mix_over: dict[str, Measured]


def evaluate(acts: dict[int, list[Act]], days: list[int], seed: int = 0) -> Evaluation:
    """acts: {person: acts in order of time}. days: to foretell, each from the day before it (days since 1970 UTC).

    Raises BadEvents with too few people to say anything.
    """
    scores: dict[str, list[tuple[float, float]]] = {arm: [] for arm in ARMS}
    items = 0
    for day in days:
        night = (day - 1) * DAY_US
        learnt = _learn(acts, night)
        if learnt is None:
            continue
        space, popular, idf = learnt
        items = max(items, len(space.rows))
        for history, session, wanted in _people(acts, day, space):
            found = _ranked(space, popular, idf, history, session, day * DAY_US)
            for arm, ranking in found.items():
                scores[arm].append((_recall(ranking, wanted), _ndcg(ranking, wanted)))
    n = len(scores["mix"])
    if n < MIN_PEOPLE:
        raise BadEvents(f"{n} people acted before, on and after a day; {MIN_PEOPLE} are needed to say anything")
    rng = np.random.default_rng(seed)
    picks = rng.integers(0, n, (RESAMPLES, n))
    recall, ndcg = ({arm: np.array([s[i] for s in scores[arm]]) for arm in ARMS} for i in (0, 1))
    others = [arm for arm in ARMS if arm != "mix"]
    return Evaluation(
        people=n,
        items=items,
        days=len(days),
        recall={arm: _measured(recall[arm], picks) for arm in ARMS},
        ndcg={arm: _measured(ndcg[arm], picks) for arm in ARMS},
        mix_over={arm: _measured(recall["mix"] - recall[arm], picks) for arm in others},
        ndcg_mix_over={arm: _measured(ndcg["mix"] - ndcg[arm], picks) for arm in others},
    )


def _measured(values: npt.NDArray[np.float64], picks: Ints) -> Measured:
    means = values[picks].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Measured(round(float(values.mean()), 5), round(float(low), 5), round(float(high), 5))


def _learn(acts: dict[int, list[Act]], night: int) -> tuple[Space, Floats, Floats] | None:
    """(space, popularity, idf) of all acts before a moment; popularity and idf by row of the space."""
    rows: list[tuple[int, int, float]] = []
    for n, (_, done) in enumerate(sorted(acts.items())):
        held = _history(done, night)
        rows += [(n, item, weight) for item, weight in held.items()]
    if not rows:
        return None
    person, named, weight = (np.array(column) for column in zip(*rows, strict=True))
    names, item = np.unique(named, return_inverse=True)
    space = factors.space_from(factors.Taste(person, item, weight.astype(np.float32)), names)
    if space is None:
        return None
    people = Counter(named.tolist())
    held_by = np.array([people[name] for name in sorted(space.rows, key=space.rows.__getitem__)], np.float32)
    return space, held_by, np.log(len(np.unique(person)) / held_by)


def _history(done: list[Act], night: int) -> dict[int, float]:
    """{item: ln(1 + decayed weight)} of acts before a moment, as `dmp/sql/taste.sql` has it."""
    sums: dict[int, float] = {}
    for act in done:
        if act.time_us < night:
            age_days = (night - act.time_us) / DAY_US
            sums[act.item] = sums.get(act.item, 0.0) + act.weight * 0.5 ** (age_days / HALF_LIFE_DAYS)
    return {item: float(np.log1p(total)) for item, total in sums.items()}


def _people(
    acts: dict[int, list[Act]], day: int, space: Space
) -> Iterator[tuple[dict[int, float], list[Act], set[int]]]:
    """(history, session, rows wanted) of everybody who acted before, on the day before, and on the day itself."""
    for done in acts.values():
        history = _history(done, (day - 1) * DAY_US)
        session = [act for act in done if (day - 1) * DAY_US <= act.time_us < day * DAY_US]
        wanted = {space.rows[act.item] for act in done if act.time_us // DAY_US == day and act.item in space.rows}
        if history and session and wanted:
            yield history, session, wanted


def _ranked(
    space: Space, popular: Floats, idf: Floats, history: dict[int, float], session: list[Act], now_us: int
) -> dict[str, Ints]:
    """{arm: rows of its `TOP` items, the best first}; ties in order of rows."""
    recent, n = session_of([(act.item, act.weight, act.time_us) for act in session], now_us)
    long = fold_in(space, list(history.items()))
    own = np.zeros(len(popular), np.float32)
    for item, weight in history.items():
        if item in space.rows:
            own[space.rows[item]] = weight * idf[space.rows[item]]
    vectors = {
        "long": long,
        "short": fold_in(space, recent, "mean"),
        "mix_solve": instant(space, long, recent, n, "solve"),
        "mix": instant(space, long, recent, n),
    }
    scores = {"popularity": popular, "tfidf": own}
    scores |= {arm: popular * 0 if v is None else space.factors @ v for arm, v in vectors.items()}
    return {arm: np.argsort(-score, kind="stable")[:TOP] for arm, score in scores.items()}


def _recall(ranking: Ints, wanted: set[int]) -> float:
    return len(wanted & set(ranking.tolist())) / len(wanted)


def _ndcg(ranking: Ints, wanted: set[int]) -> float:
    """Binary relevance: sum of 1 / log2(place + 1) over the best such sum (Jarvelin, Kekalainen, TOIS 2002)."""
    gain = 1 / np.log2(np.arange(2, TOP + 2))
    hits = np.array([row in wanted for row in ranking.tolist()], float)
    return float((gain[: len(hits)] * hits).sum() / gain[: min(TOP, len(wanted))].sum())


def acts_of(source: Path, now_us: int, by: Literal["item", "category"]) -> dict[int, list[Act]]:
    """Acts of event files, as a build would use them. by: the column that names what is liked."""
    from dmp import offline, tagging  # they load what a build needs

    with DuckEngine() as engine:
        tagging.scan(engine, offline.event_files(source), now_us)
        tagging.weighed(engine, now_us)
        rows = engine.sql(family_sql("acts"))
    found: dict[int, list[Act]] = {}
    people: dict[bytes, int] = {}
    items: dict[str, int] = {}
    for uid, time_us, named, kind in zip(*(rows[c].to_pylist() for c in ("uid", "time_us", by, "kind")), strict=True):
        if named:
            act = Act(time_us, items.setdefault(named, len(items)), WEIGHTS.get(kind, 1.0))
            found.setdefault(people.setdefault(uid, len(people)), []).append(act)
    return found


def last_days(acts: dict[int, list[Act]], n: int) -> list[int]:
    """The last n days on which anybody acted."""
    return sorted({act.time_us // DAY_US for done in acts.values() for act in done})[-n:]


def drifting(people: int, days: int = 20, seed: int = 0) -> dict[int, list[Act]]:
    """A world of 300 items in 15 groups: everybody has two groups they like for good, and often one of the moment that
    holds for a few days. Half of what they do is of each kind while such a mood lasts.
    """
    rng = np.random.default_rng(seed)
    within = 1 / np.arange(1, 21) ** 0.7
    within /= within.sum()
    acts: dict[int, list[Act]] = {}
    for person in range(people):
        liked = rng.choice(15, 2, replace=False)
        mood, left = -1, 0
        done = []
        for day in range(days):
            if left == 0:
                mood, left = (int(rng.integers(15)), int(rng.integers(2, 6))) if rng.random() < 0.6 else (-1, 2)
            left -= 1
            for _ in range(rng.poisson(4)):
                group = mood if mood >= 0 and rng.random() < 0.5 else int(rng.choice(liked))
                at = int((20_000 + day) * DAY_US + rng.integers(DAY_US))
                done.append(Act(at, group * 20 + int(rng.choice(20, p=within)), 1.0))
        acts[person] = sorted(done)
    return acts
