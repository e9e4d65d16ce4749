import json

import numpy as np
import pyarrow as pa
import pytest

from dmp import clusters
from dmp.clusters import NAMES, group, named, separation
from dmp.engine import DuckEngine
from dmp.family_columns import NOTES
from dmp.taxonomy import BY_ID, tag_id
from tests.dmp.factories import NOW_US, user

INTERESTS = [tag_id(f"interest.{n}") for n in ("travel", "books", "pets", "gaming", "food", "music", "news", "sports")]


def people(kinds, each=150, noise=0.1, seed=0):
    """Scores 0..1: `each` people of each kind, who hold that kind's two columns and few others."""
    rng = np.random.default_rng(seed)
    held = (rng.random((kinds * each, 8)) < noise) * rng.uniform(0.2, 1, (kinds * each, 8))
    for kind in range(kinds):
        held[kind * each : (kind + 1) * each, 2 * kind : 2 * kind + 2] = rng.uniform(0.6, 1, (each, 2))
    return held.astype(np.float32)


@pytest.mark.parametrize("kinds", [3, 4])
def test_as_many_clusters_are_found_as_there_are_kinds_of_people(kinds):
    cluster, gap = group(people(kinds))
    assert len(set(cluster)) == kinds
    assert gap > 0.2
    for kind in range(kinds):
        _, counts = np.unique(cluster[kind * 150 : (kind + 1) * 150], return_counts=True)
        assert counts.max() >= 145


@pytest.mark.parametrize("seed", range(3))
def test_people_who_hold_tags_by_chance_are_no_groups(seed):
    rng = np.random.default_rng(seed)
    held = (rng.random((500, 8)) < rng.uniform(0.2, 0.6, 8)) * rng.uniform(0.2, 1, (500, 8))
    assert group(held[held.any(axis=1)].astype(np.float32)) is None


def test_tags_that_differ_between_clusters_are_told_by_their_effect():
    held = people(2, noise=0)
    held[:, 7] = np.random.default_rng(1).random(len(held))
    found = separation(held, np.repeat([0, 1], 150))
    assert set(found) == {0, 1, 2, 3}
    assert min(found.values()) > 0.7


def test_a_cluster_keeps_the_name_that_most_of_its_members_had():
    cluster = np.array([0] * 10 + [1] * 10 + [2] * 4)
    before = np.array([5] * 8 + [2] * 2 + [2] * 9 + [-1] + [-1] * 4)
    assert named(cluster, before).tolist() == [5, 2, 0]


def test_one_old_cluster_that_falls_apart_leaves_its_name_to_the_larger_part():
    name = named(np.array([0] * 9 + [1] * 5), np.full(14, 3))
    assert name[0] == 3
    assert name[1] == 0


def test_without_earlier_names_the_largest_comes_first():
    assert named(np.array([0] * 2 + [1] * 5 + [2] * 3), np.full(10, -1)).tolist() == [2, 0, 1]


def tagged(held, before=()):
    """The family's tags for people holding interests, and who was in which cluster before."""
    rows = [(n, INTERESTS[c], int(100 * held[n, c])) for n, c in zip(*np.nonzero(held > 0.01), strict=True)]
    tag = [NAMES[name] for _, name in before]
    with DuckEngine() as engine:
        engine.table(
            "tags",
            pa.table(
                {
                    "uid": pa.array([user(int(n)) for n, _, _ in rows], pa.binary(16)),
                    "tag": pa.array([t for _, t, _ in rows], pa.uint32()),
                    "score": pa.array([s for _, _, s in rows], pa.uint8()),
                    "as_of_day": pa.array([20_000] * len(rows), pa.int32()),
                }
            ),
        )
        uids = pa.array([user(n) for n, _ in before], pa.binary(16))
        engine.table("before", pa.table({"uid": uids, "tag": pa.array(tag, pa.uint32())}))
        return clusters.tags(engine, NOW_US)


def test_everybody_gets_the_name_of_their_cluster_and_the_clusters_their_tags():
    made = tagged(people(3), before=[(n, 9) for n in range(150)])
    assert len(made) == 450
    of = {row["uid"]: row["tag"] for row in made.to_pylist()}
    assert [of[user(n)] for n in range(150)].count(NAMES[9]) >= 145
    notes = json.loads(made.schema.metadata[NOTES])
    assert notes["k"] == 3
    defining = set(notes["clusters"][BY_ID[NAMES[9]].name]["defined_by"])
    assert defining == {"interest.travel", "interest.books"}


def test_the_same_people_are_grouped_the_same_way_again():
    assert tagged(people(3, each=70)).equals(tagged(people(3, each=70)))


def test_few_people_or_none_are_not_grouped():
    assert len(tagged(people(3, each=60))) == 0
    assert len(tagged(np.zeros((0, 8)))) == 0
