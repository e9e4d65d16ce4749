import json

import numpy as np
import pyarrow as pa
import pytest

from dmp import influence
from dmp.engine import DuckEngine
from dmp.family_columns import NOTES
from dmp.influence import FOLLOWER, LEADER, page_rank
from tests.dmp.factories import NOW_US, user


def test_rank_flows_to_those_who_are_heeded():
    # Two heed each other, a third heeds the first: the fixed point of r = .05 + .85 (flow), by hand.
    rank = page_rank(np.array([0, 1, 2]), np.array([1, 0, 0]), 3)
    third = 0.05
    first = (0.05 + 0.85 * 0.05 + 0.85 * third) / (1 - 0.85**2)  # r0 = .05 + .85 (r1 + r2), r1 = .05 + .85 r0
    assert rank == pytest.approx([first, 0.05 + 0.85 * first, third])
    assert rank.sum() == pytest.approx(1)


def test_who_heeds_nobody_spreads_rank_evenly():
    rank = page_rank(np.array([0]), np.array([1]), 2)
    # r0 = .075 + .85 r1 / 2 and r0 + r1 = 1
    assert rank[0] == pytest.approx((0.075 + 0.425) / 1.425)


def tagged(ties, actors=None):
    """{user: tag} of ties (who, whom)."""
    actors = {a for pair in ties for a in pair} if actors is None else actors
    with DuckEngine() as engine:
        engine.table(
            "events",
            pa.table(
                {
                    "uid": pa.array([user(a) for a, _ in ties] + [user(a) for a in actors], pa.binary(16)),
                    "other": pa.array([user(b) for _, b in ties] + [b""] * len(actors), pa.binary()),
                    "time_us": [NOW_US] * (len(ties) + len(actors)),
                    "weight": [1.0] * (len(ties) + len(actors)),
                }
            ),
        )
        made = influence.tags(engine, NOW_US)
    return {int.from_bytes(row["uid"]): row["tag"] for row in made.to_pylist()}, made


def crowd(seed=0, people=400):
    rng = np.random.default_rng(seed)
    return [(a, int(b)) for a in range(people) for b in rng.choice(people, 3, replace=False) if a != b]


def test_whom_many_heed_leads_and_who_only_heeds_follows():
    star = [(a, 1_000) for a in range(100)] + [(2_000, b) for b in range(5)]
    found, made = tagged(crowd() + star)
    assert found[1_000] == LEADER
    assert found[2_000] == FOLLOWER
    assert [n for n, tag in found.items() if tag == LEADER] == [1_000]
    assert json.loads(made.schema.metadata[NOTES])["leaders"] == 1


@pytest.mark.parametrize("seed", range(5))
def test_in_a_graph_by_chance_nobody_leads(seed):
    found, _ = tagged(crowd(seed))
    assert LEADER not in found.values()


def test_heeding_somebody_often_is_one_tie():
    found, made = tagged(crowd() + [(7, 1_000)] * 100)
    assert 1_000 not in found
    assert made.schema.metadata is not None


def test_who_never_acted_gets_no_tag():
    found, _ = tagged(crowd() + [(a, 1_000) for a in range(100)], actors=range(400))
    assert 1_000 not in found


def test_without_declared_relations_there_is_no_influence():
    assert tagged([], actors=range(3))[0] == {}
