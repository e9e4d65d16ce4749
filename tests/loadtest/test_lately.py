"""What people do now, through a collector and a stream of their own processes."""

import time
from pathlib import Path

import pytest

from dmp import realtime
from dmp.pseudonym import KeyRing
from dmp.taxonomy import tag_id
from loadtest import behaviour, lately, stage, world
from loadtest.lately import Sent
from loadtest.stage import Stage
from loadtest.world import VERTICALS, WorldConfig

KEY = bytes(range(32))


@pytest.mark.timeout(300)
def test_every_act_sent_is_in_its_users_record_and_its_way_is_timed(tmp_path: Path) -> None:
    earth = world.build(WorldConfig(seed=3, users=150, sites=60, wishers=0.5))
    now_us = time.time_ns() // 1000
    acts = behaviour.lately(earth, now_us)
    uids = behaviour.uids_of(earth, KeyRing(KEY))
    on = Stage(tmp_path / "data", KEY, tmp_path / "campaigns.toml", tmp_path / "models")
    told: list[int] = []
    with stage.store(on) as store:
        sent = lately.send(on, earth, acts, uids, told.append)
        records = lately.records(store.sync(), uids)
    assert sent.events == sum(told) == len(acts.user)
    assert sent.latency_us
    for user, uid in enumerate(uids):
        n = int((acts.user == user).sum())
        assert (realtime.parts(records[uid]).events if uid in records else 0) == n
    wisher = next(user for user, wish in enumerate(earth.people.wish) if wish >= 0)
    tags = realtime.realtime_tags(records[uids[wisher]], now_us)
    assert tags[tag_id(f"interest.{VERTICALS[earth.people.wish[wisher]][0]}")] > 0


def test_percentiles_are_of_the_probes() -> None:
    assert Sent(1, 1.0, ()).percentile(50) is None
    assert Sent(3, 1.0, (10, 20, 90)).percentile(50) == 20
