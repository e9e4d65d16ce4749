import numpy as np
import pyarrow as pa
import pytest

from dmp import association
from dmp.association import CROSS_SELL, rules, vertical
from dmp.engine import DuckEngine
from dmp.family_columns import NOTES
from dmp.taxonomy import tag_id
from tests.dmp.factories import NOW_US, user

TRAVEL, BOOKS, HEALTH, PETS = (tag_id(f"interest.{name}") for name in ("travel", "books", "health", "pets"))
MAKEUP = tag_id("interest.beauty.makeup")
TODAY = 20_000


def baskets(*counts):
    """(buyer, item) of (how many people, what each of them bought)."""
    pairs, person = [], 0
    for people, items in counts:
        for _ in range(people):
            pairs += [(person, item) for item in items]
            person += 1
    return tuple(np.array(pairs).T)


def test_support_confidence_and_lift_are_what_their_definitions_say():
    found = rules(*baskets((40, [TRAVEL, BOOKS]), (10, [TRAVEL]), (50, [PETS])))
    by = {(rule.of, rule.then): rule for rule in found}
    assert set(by) == {(TRAVEL, BOOKS), (BOOKS, TRAVEL)}
    there, back = by[TRAVEL, BOOKS], by[BOOKS, TRAVEL]
    assert (there.support, there.confidence, there.lift, there.together) == pytest.approx((0.4, 0.8, 2.0, 40))
    assert (back.support, back.confidence, back.lift, back.together) == pytest.approx((0.4, 1.0, 2.0, 40))
    assert [rule.confidence for rule in found] == [1.0, 0.8]


def test_what_is_bought_together_by_few_is_no_rule():
    assert not rules(*baskets((19, [TRAVEL, BOOKS]), (200, [PETS])))
    assert rules(*baskets((20, [TRAVEL, BOOKS]), (200, [PETS])))


@pytest.mark.parametrize("seed", range(10))
def test_independent_purchases_make_no_rule(seed):
    rng = np.random.default_rng(seed)
    buyer, item = np.nonzero(rng.random((3_000, len(CROSS_SELL))) < rng.uniform(0.05, 0.4, len(CROSS_SELL)))
    assert not rules(buyer, np.array(list(CROSS_SELL))[item])


def test_a_thing_does_not_lead_to_its_own_kind_nor_to_a_sensitive_one():
    assert vertical(MAKEUP) == tag_id("interest.beauty")
    assert vertical(tag_id("intent.beauty.skincare")) == tag_id("interest.beauty")
    assert vertical(tag_id("demographic.gender.male")) is None
    assert not rules(*baskets((50, [MAKEUP, tag_id("interest.beauty")]), (50, [PETS])))
    found = rules(*baskets((50, [HEALTH, TRAVEL]), (50, [PETS])))
    assert [(rule.of, rule.then) for rule in found] == [(HEALTH, TRAVEL)]


def tagged(rows):
    """The family's tags of purchases (user, label's tag, days ago)."""
    labels = {tag: f"l{tag}" for _, tag, _ in rows}
    with DuckEngine() as engine:
        engine.table("params", pa.table({"now_us": pa.array([NOW_US])}))
        engine.table("labels", pa.table({"label": list(labels.values()), "tag": pa.array(list(labels), pa.uint32())}))
        engine.table(
            "events",
            pa.table(
                {
                    "uid": pa.array([user(n) for n, _, _ in rows], pa.binary(16)),
                    "category": [labels[tag] for _, tag, _ in rows],
                    "time_us": [NOW_US - int(days * 86_400_000_000) for _, _, days in rows],
                    "kind": ["purchase"] * len(rows),
                    "weight": [1.0] * len(rows),
                }
            ),
        )
        return association.tags(engine, NOW_US)


def test_who_bought_the_one_and_not_the_other_is_told_to_want_it():
    both = [(n, tag, 3) for n in range(60) for tag in (MAKEUP, TRAVEL)]
    one = [(100, MAKEUP, 5), (101, MAKEUP, 5), (101, MAKEUP, 190), (102, PETS, 1), (103, MAKEUP, 181)]
    other = [(n, PETS, 3) for n in range(200, 260)]
    made = tagged(both + one + other)
    found = {(row["uid"], row["tag"]): (row["score"], row["as_of_day"]) for row in made.to_pylist()}
    assert found == {(user(n), tag_id("cross_sell.travel")): (97, TODAY - 5) for n in (100, 101)}  # 60 of 62
    assert b"interest.beauty.makeup -> interest.travel" in made.schema.metadata[NOTES]


def test_without_purchases_there_is_nothing_to_offer():
    assert len(tagged([(1, PETS, 200)])) == 0
