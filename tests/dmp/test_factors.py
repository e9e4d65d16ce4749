import numpy as np
import pyarrow as pa
import pytest

from dmp import factors, preference_trial
from dmp.engine import DuckEngine
from dmp.errors import BadEvents
from dmp.factors import Taste, learn, learn_items, space_from
from dmp.preference import fold_in, preference_match, unpack
from dmp.preference_trial import Act, drifting, evaluate, last_days
from tests.dmp.factories import NOW_US, user


def groups(people=120, seed=0):
    """People of two kinds, who like things 0-9 or 10-19."""
    rng = np.random.default_rng(seed)
    rows = [(p, 10 * (p % 2) + int(i), 1.0) for p in range(people) for i in rng.choice(10, 4, replace=False)]
    person, item, weight = (np.array(column) for column in zip(*sorted(rows), strict=True))
    return Taste(person, item, weight.astype(np.float32))


def loss(taste, items, x, y):
    """Equation 3 of Hu, Koren, Volinsky, with alpha 40 and lambda .05."""
    wanted = np.zeros((len(x), items))
    sure = np.ones_like(wanted)
    wanted[taste.person, taste.item] = 1
    sure[taste.person, taste.item] += 40 * taste.weight
    return (sure * (wanted - x @ y.T) ** 2).sum() + 0.05 * ((x**2).sum() + (y**2).sum())


def test_each_turn_lowers_the_loss_of_the_paper():
    taste = groups()
    losses = []
    for turns in (1, 2, 4, 8):
        y = learn_items(taste, 20, turns)
        losses.append(loss(taste, 20, factors._solved(taste, y, 120), y))
    assert losses == sorted(losses, reverse=True)


def test_a_step_is_the_minimum_for_its_side():
    taste = groups()
    y = learn_items(taste, 20, 2)
    x = factors._solved(taste, y, 120)
    best = loss(taste, 20, x, y)
    rng = np.random.default_rng(0)
    for _ in range(20):
        assert loss(taste, 20, x + rng.normal(0, 1e-2, x.shape), y) > best


def test_what_the_same_people_like_points_the_same_way():
    space = space_from(groups(), np.arange(20))
    mine = fold_in(space, [(1, 1.0), (2, 1.0)])
    same = [preference_match(mine, space.factors[i] / np.linalg.norm(space.factors[i])) for i in range(3, 10)]
    other = [preference_match(mine, space.factors[i] / np.linalg.norm(space.factors[i])) for i in range(10, 20)]
    assert min(same) > max(other) + 0.3


def test_too_few_people_teach_nothing():
    assert space_from(groups(people=40), np.arange(20)) is None
    nobody = Taste(np.zeros(0, int), np.zeros(0, int), np.zeros(0, np.float32))
    assert space_from(nobody, np.arange(0)) is None


def test_items_are_learnt_from_a_sample_when_people_are_many(monkeypatch):
    taste = factors.sampled(groups(), 10)
    assert np.unique(taste.person).tolist() == list(range(10))
    assert len(taste.item) == 40
    monkeypatch.setattr(factors, "LEARN_PEOPLE", 60)
    assert len(space_from(groups(), np.arange(20)).rows) == 20


def test_everybody_with_a_taste_gets_the_vector_that_folds_it_in():
    taste = groups()
    with DuckEngine() as engine:
        engine.table("params", pa.table({"now_us": pa.array([NOW_US])}))
        engine.table(
            "labels",
            pa.table(
                {
                    "label": [f"c{n}" for n in range(20)],
                    "tag": pa.array(range(20), pa.uint32()),
                    "share": [1.0] * 20,
                    "half_life_us": [30 * 86_400_000_000] * 20,
                    "ttl_us": [180 * 86_400_000_000] * 20,
                }
            ),
        )
        engine.table(
            "events",
            pa.table(
                {
                    "uid": pa.array([user(int(p)) for p in taste.person], pa.binary(16)),
                    "category": [f"c{i}" for i in taste.item],
                    "kind": ["search"] * len(taste.item),
                    "time_us": [NOW_US] * len(taste.item),
                    "weight": [1.0] * len(taste.item),
                }
            ),
        )
        space, vectors = learn(engine, NOW_US)
    assert set(vectors) == {user(n) for n in range(120)}
    liked = [(int(i), float(np.log(4))) for i in taste.item[taste.person == 7]]  # ln(1 + a search)
    assert preference_match(unpack(vectors[user(7)]), fold_in(space, liked)) > 0.999


def test_all_at_once_everybody_gets_what_one_by_one_would_give():
    taste = groups()
    uneven = taste.item % 4 != taste.person % 3
    taste = Taste(taste.person[uneven], taste.item[uneven], np.linspace(0.1, 4, uneven.sum()).astype(np.float32))
    space = space_from(groups(), np.arange(20))
    found = factors.tastes(space, taste, 130)
    assert not found[120:].any()
    for person in range(120):
        rows = taste.person == person
        one = fold_in(space, list(zip(taste.item[rows].tolist(), taste.weight[rows].tolist(), strict=True)))
        if one is None:
            assert not found[person].any()
        else:
            assert found[person] == pytest.approx(one, abs=2e-3)


# What preferences foretell


def test_in_a_world_of_moods_the_mix_foretells_more_than_either_part_and_than_popularity():
    acts = drifting(250, seed=3)
    told = evaluate(acts, last_days(acts, 2))
    for worse in ("long", "popularity", "tfidf"):
        assert told.mix_over[worse].low > 0
        assert told.ndcg_mix_over[worse].low > 0
    assert told.recall["mix"].low < told.recall["mix"].mean < told.recall["mix"].high


def test_where_everybody_acts_by_chance_nothing_is_foretold():
    rng = np.random.default_rng(1)
    day = preference_trial.DAY_US
    acts = {
        p: [Act(int(t), int(i), 1.0) for t, i in zip(np.sort(rng.integers(0, 10 * day, 40)), rng.integers(0, 200, 40),
                                                    strict=True)]
        for p in range(250)
    }  # fmt: skip
    told = evaluate(acts, last_days(acts, 1))
    assert told.recall["mix"].low < 20 / 200 < told.recall["mix"].high + 0.02
    assert told.mix_over["popularity"].low < 0.02


def test_recall_and_ndcg_are_what_their_definitions_say():
    ranking = np.arange(20)
    assert preference_trial._recall(ranking, {0, 3, 50}) == pytest.approx(2 / 3)
    best = 1 + 1 / np.log2(3) + 0.5
    assert preference_trial._ndcg(ranking, {0, 3, 50}) == pytest.approx((1 + 1 / np.log2(5)) / best)


def test_too_few_people_say_nothing():
    acts = drifting(10)
    with pytest.raises(BadEvents, match="people acted"):
        evaluate(acts, last_days(acts, 1))
