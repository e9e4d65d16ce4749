"""Real user tags of the iPinYou log all the way: raw log -> events -> standard tags -> generation -> profile."""

from collections import defaultdict
from contextlib import closing

import pyarrow.parquet as pq
import pytest

from dmp import explain, ingest, mapping, offline, taxonomy
from dmp.config import DmpConfig
from dmp.pseudonym import key_ring
from tests.dmp.factories import DAY_US

AFTER_US = 16_010 * DAY_US  # 2013-11-01, days after the log's last impression


@pytest.mark.timeout(300)
def test_users_of_the_ipinyou_log_get_their_tags_with_the_rule_that_made_them(shared, tmp_path, store):
    folder = shared / "data" / "ipinyou_log"
    if not folder.is_dir():
        pytest.skip("needs ../shared/data/ipinyou_log")
    config = DmpConfig(data_dir=str(tmp_path / "var"))
    ring = key_ring(config.data_dir)
    report = ingest.ingest(
        [folder / "impressions.parquet"], tmp_path / "events", mapping.load("ipinyou"), ring, AFTER_US
    )
    assert report.events > 10_000
    made = offline.build(config, tmp_path / "events", AFTER_US, store)
    # Of what the log says of people, at most a tenth is no standard tag (sensitive ones are known, and withheld).
    named = {row["id"]: row["name"] for row in pq.read_table(folder / "user_profile_tags.parquet").to_pylist()}
    unknown = {name for name in named.values() if taxonomy.find(name) is None}
    assert len(named) >= 44
    assert len(unknown) <= 0.1 * len(named)
    assert {label for label in made.unmapped if not label.isdigit()} <= unknown  # numbers: segments without a name

    said = defaultdict(set)
    impressions = pq.read_table(folder / "impressions.parquet", columns=["user_id", "user_tags", "ts"])
    for row in impressions.to_pylist():
        if row["user_id"] and row["user_tags"]:
            said[row["user_id"]] |= {named[tag] for tag in row["user_tags"] if tag in named}
    people = sorted(
        (user for user, names in said.items() if len(names) >= 5), key=lambda user: (-len(said[user]), user)
    )
    with closing(store.sync()) as client:
        for user in people[:20]:
            found = explain.explain(config, client, ring.uid("cookie", user), AFTER_US)
            tags = {tag.tag: tag for tag in found.tags}
            meant = {taxonomy.BY_ID[tag] for name in said[user] if (tag := taxonomy.find(name)) is not None}
            expected = {tag.name for tag in meant if not tag.sensitive and tag.kind == "score"}
            assert expected
            assert expected <= tags.keys()
            for name in expected:
                assert tags[name].rule.startswith("dmp/sql/")
                assert 1 <= tags[name].weight <= 100
                assert tags[name].as_of.startswith("2013-")
