"""The cluster's blocking client does what the one-server client does, moves of slots included."""

import pytest
import redis

from dmp import clustered, forget, generations, keys, offline, optout, store, streams, unsettled
from dmp.audiences import add_members
from dmp.cluster import slot
from dmp.clustered import node, nodes
from dmp.codec import encode_profile
from dmp.config import CollectConfig, DmpConfig
from dmp.pressure import Pressure
from dmp.schema import Tag
from dmp.store import check_durability
from dmp.taxonomy import tag_id
from tests.dmp.factories import NOW_US, act, tags_table, user

TRAVEL = tag_id("interest.travel")


@pytest.fixture
def client(cluster):
    made = cluster.store.sync()
    yield made
    made.close()


def test_what_answers_decides_which_client_it_is(cluster, store_server):
    assert isinstance(cluster.store.sync(), clustered.Client)
    assert isinstance(store_server.sync(), redis.Redis)
    assert not store.Store("redis://127.0.0.1:1").clustered


def test_a_pipeline_goes_to_every_node_and_its_replies_come_in_order(client, cluster):
    many = [b"key-%d" % n for n in range(300)]
    assert len({cluster.owner(slot(key)).port for key in many}) == 3
    pipe = client.pipeline(transaction=False)
    for n, key in enumerate(many):
        pipe.set(key, n)
    assert pipe.execute() == [True] * 300
    for key in many:
        pipe.get(key)
    assert pipe.execute() == [b"%d" % n for n in range(300)]


def test_a_refused_command_is_raised_or_told_in_its_place(client):
    client.set("a", 1)
    pipe = client.pipeline(transaction=False)
    pipe.lpush("a", 1)
    pipe.set("b", 2)
    found = pipe.execute(raise_on_error=False)
    assert isinstance(found[0], redis.exceptions.ResponseError)
    assert found[1] is True
    pipe.lpush("a", 1)
    with pytest.raises(redis.exceptions.ResponseError, match="WRONGTYPE"):
        pipe.execute()


def test_a_pipeline_without_a_key_is_refused(client):
    pipe = client.pipeline(transaction=False)
    pipe.execute_command("PING")
    with pytest.raises(redis.exceptions.RedisClusterException, match="names no key"):
        pipe.execute()


def test_users_are_read_with_their_tags_from_all_nodes(client):
    client.set(keys.GENERATION, 1)
    for n in range(50):
        client.set(keys.profile(user(n), 0), encode_profile(1, [Tag(TRAVEL, n, 20_000, 1)]))
    found = store.read_users(client, [user(n) for n in range(50)], 1)
    assert [one.tags for one in found] == [{TRAVEL: n} for n in range(50)]
    assert store.read_profile(client, user(7)).tags[0].score == 7
    assert store.forget(client, user(7)) == 1


def test_marks_and_memberships_are_written_atomically_where_the_user_is(client):
    for n in range(20):
        optout.set_marks(client, user(n), {keys.OPTED_OUT})
        assert optout.marks_in(client.get(keys.audiences(user(n)))) == {keys.OPTED_OUT}
    optout.clear_marks(client, user(3), {keys.OPTED_OUT})
    assert client.get(keys.audiences(user(3))) is None
    assert add_members(client, "acme/a", [user(n) for n in range(20)], 2**31) == 20


def test_a_flip_of_the_generation_is_atomic(client):
    assert store.flip(client, 5, 0)
    assert not store.flip(client, 6, 0)
    assert store.live_generation(client) == 5


def test_pressure_counts_the_streams_of_all_nodes_and_asks_all_for_their_memory(client):
    for partition in range(8):
        client.xadd(keys.events(partition), {"0": b"x"})
    pressure = Pressure(DmpConfig(collect=CollectConfig(max_backlog=4)))
    pressure.look(client)
    assert (pressure.backlog, pressure.wait_s) == (8, 60)
    nodes(client)[1].config_set("maxmemory", 1)
    try:
        calm = Pressure(DmpConfig())
        calm.look(client)
        assert calm.wait_s == 60, "one full node is enough"
    finally:
        nodes(client)[1].config_set("maxmemory", 0)


def test_every_node_must_promise_what_is_wanted(client):
    check_durability(client, "everysec")
    with pytest.raises(store.StoreUnavailable, match="appendfsync"):
        check_durability(client, "always")


def test_a_slot_that_moves_is_followed(own_cluster):
    client = own_cluster.store.sync()
    key, other = keys.realtime(user(1)), keys.realtime(user(2))
    client.set(key, b"before")
    number = slot(key)
    source = own_cluster.owner(number)
    target = next(server for server in own_cluster.primaries if server is not source)
    own_cluster.begin_move(number, source, target)
    own_cluster.end_move(number, source, target)
    pipe = client.pipeline(transaction=False)
    pipe.get(key)
    pipe.set(other, b"x")
    assert pipe.execute() == [b"before", True]
    assert node(client, key).get(key) == b"before", "learnt from the redirection"
    client.close()


def test_generations_are_published_and_rolled_back_over_all_nodes(client, cluster, tmp_path):
    config = DmpConfig(data_dir=str(tmp_path), redis_url=cluster.url)
    first, second = ({n: {TRAVEL: score} for n in range(40)} for score in (20, 70))
    del second[5]

    def told():
        return {n: dict(one.tags) for n, one in enumerate(store.read_users(client, [user(n) for n in range(40)], 1))}

    offline.publish_tags(config, tags_table(first), NOW_US, cluster.store, "test")
    assert told() == first
    made = offline.publish_tags(config, tags_table(second), NOW_US, cluster.store, "test")
    assert (made.users, made.gone) == (39, 1)
    assert told() == second | {5: {}}
    assert generations.holders(client) == {user(n) for n in range(40)}
    offline.rollback(config, cluster.store)
    assert told() == first


@pytest.mark.rule("P-71")
def test_who_is_forgotten_is_gone_from_every_node(client, cluster, tmp_path):
    config = DmpConfig(data_dir=str(tmp_path), redis_url=cluster.url)
    for n in range(20):
        client.set(keys.realtime(user(n)), b"x")
        unsettled.add(client, n % 8, [user(n)])
    streams.append_events(client, [act(n) for n in range(20)], 8, NOW_US)
    receipt = forget.forget(config, client, [user(n) for n in range(10)], NOW_US)
    assert (receipt.keys, receipt.entries, receipt.left) == (10, 1, ()), "all events were one entry"
    assert client.exists(*(keys.realtime(user(n)) for n in range(20))) == 10
    assert sum(len(unsettled.waiting(client, p)) for p in range(8)) == 10
