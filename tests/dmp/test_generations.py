from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from dmp import codec, generations, keys, offline
from dmp.codec import Profile
from dmp.config import DmpConfig
from dmp.generations import bodies, drift
from dmp.grouped import grouped
from dmp.schema import Tag
from dmp.store import generation_folder, live_generation
from tests.dmp.factories import NOW_US, tags_table, user

USERS = range(8)
populations = st.dictionaries(
    st.sampled_from(USERS), st.dictionaries(st.integers(1, 3), st.integers(1, 3), min_size=1, max_size=2)
)


class Died(Exception):
    """The publisher was stopped from outside."""


def seen_at(client, generation):
    """{user: tags} as a reader that holds `generation` sees them."""
    found = {}
    for n in USERS:
        banks = client.mget(keys.profile(user(n), 0), keys.profile(user(n), 1))
        if tags := codec.decode_user((*banks, None, None, None), generation, 0).tags:
            found[n] = tags
    return found


def test_readers_see_exactly_their_generation_through_builds_deaths_and_rollbacks(store, client, monkeypatch):
    monkeypatch.setattr(generations, "CHUNK_USERS", 2)

    class Life(RuleBasedStateMachine):
        def __init__(self):
            super().__init__()
            client.flushall()
            self.folder = TemporaryDirectory()
            self.config = DmpConfig(data_dir=self.folder.name)
            self.tags = {0: {}}
            self.live = 0
            self.parents = {}
            self.restorable = False

        def teardown(self):
            self.folder.cleanup()

        def publish(self, users, die_at=None):
            calls = 0

            def progress(step, done, total):
                nonlocal calls
                calls += 1
                assert seen_at(client, self.live) == self.tags[self.live]
                if calls == die_at:
                    raise Died

            return offline.publish_tags(self.config, tags_table(users), NOW_US, store, "test", progress)

        def published(self, made, users):
            self.tags[made.number] = users
            self.parents[made.number] = self.live
            self.restorable = generation_folder(self.config, self.live).exists()
            self.live = made.number

        @rule(users=populations)
        def build(self, users):
            before, made = self.live, self.publish(users)
            assert made.number > before
            assert made.parent == before
            self.published(made, users)

        @rule(users=populations, die_at=st.integers(1, 4))
        def die(self, users, die_at):
            try:
                made = self.publish(users, die_at)
            except Died:
                self.restorable = False
            else:
                self.published(made, users)

        @precondition(lambda self: self.restorable)
        @rule()
        def roll_back(self):
            self.live = self.parents[self.live]
            assert offline.rollback(self.config, store) == self.live
            self.restorable = False

        @precondition(lambda self: self.live)
        @rule()
        def lose_the_folders(self):
            for path in sorted(Path(self.config.data_dir, "generations").rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            self.restorable = False

        @invariant()
        def the_live_generation_is_what_was_built(self):
            assert live_generation(client) == self.live
            assert seen_at(client, self.live) == self.tags[self.live]

        @invariant()
        def the_one_before_is_still_there_for_late_readers_and_rollback(self):
            if self.restorable:
                before = self.parents[self.live]
                assert seen_at(client, before) == self.tags[before]

    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=30, stateful_step_count=12, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


def test_bodies_are_the_profile_records_of_the_codec_in_order_of_user_and_tag():
    tags = grouped(tags_table({2: {9: 1, 300_000: 2}, 1: {5: 100}}))
    vector = bytes(range(128))
    records = {
        uid: codec.profile_head(7, n, len(body) > 8 * n) + body for uid, n, body in bodies(tags, {user(1): vector})
    }
    assert list(records) == [user(1), user(2)]
    assert codec.decode_profile(records[user(1)]) == Profile(7, (Tag(5, 100, 20_000, 4),), vector)
    assert codec.decode_profile(records[user(2)]) == Profile(7, (Tag(9, 1, 20_000, 4), Tag(300_000, 2, 20_000, 4)))


def test_no_tags_have_no_bodies():
    assert list(bodies(grouped(tags_table({})))) == []


def test_a_new_vector_alone_is_a_change_and_sixteen_tags_are_none(client):
    """Sixteen tags take as many bytes as a vector: what a record holds must not be told by its length."""
    many, few = tags_table({1: dict.fromkeys(range(1, 18), 0)}), tags_table({1: {1: 0}})
    vector = bytes(128)
    generations.publish(client, grouped(many), 1, 0)
    assert generations.publish(client, grouped(many), 2, 1).unchanged == 1
    assert generations.publish(client, grouped(few), 3, 1, vectors={user(1): vector}).written == 1
    seen = codec.visible(*client.mget(keys.profile(user(1), 0), keys.profile(user(1), 1)), 3)
    assert codec.decode_profile(seen) == Profile(3, (Tag(1, 0, 20_000, 4),), vector)


@pytest.mark.parametrize(
    ("before", "now", "moved"),
    [
        (None, {1: {5: 1}}, 0.0),
        ({1: {5: 1}}, {2: {5: 9}}, 0.0),  # the same histogram: scores and users do not matter
        ({1: {5: 1}}, {1: {6: 1}}, 1.0),
        ({1: {5: 1, 6: 1}}, {1: {5: 1}}, 0.5),  # (1/2, 1/2) against (1, 0)
        ({1: {5: 1, 6: 1}, 2: {5: 1, 6: 1}}, {1: {5: 1}, 2: {5: 1, 6: 1, 7: 1}}, 0.25),  # (1/2,1/2,0), (1/2,1/4,1/4)
        ({1: {5: 1}}, {}, 0.0),
    ],
)
def test_drift_is_half_the_change_of_the_tags_shares(before, now, moved):
    assert drift(None if before is None else tags_table(before), tags_table(now)) == pytest.approx(moved)
