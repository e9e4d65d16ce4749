"""Slots, slot maps and redirections by the rules of the cluster specification."""

import binascii

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from dmp import cluster as cluster_rules
from dmp import keys
from dmp.cluster import SLOTS, Node, Range, Topology, parse_slots, redirect, seeds, slot

ASKED = Node("asked.example", 7000)


@pytest.mark.parametrize(
    ("key", "crc"),
    [
        (b"123456789", 0x31C3),  # the specification's own test vector, CRC-16/XMODEM
        (b"", 0x0000),
        (b"A", 0x58E5),  # of the catalogue of parametrised CRC algorithms
    ],
)
def test_a_slot_is_the_crc16_of_the_key_modulo_16384(key, crc):
    assert slot(key) == crc % SLOTS


@pytest.mark.parametrize(
    ("key", "hashed"),
    [  # the examples of the specification, section "Hash tags"
        (b"{user1000}.following", b"user1000"),
        (b"{user1000}.followers", b"user1000"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{bar", b"foo{bar"),
        (b"foo}bar{", b"foo}bar{"),
    ],
)
def test_only_what_stands_between_the_first_braces_is_hashed(key, hashed):
    assert slot(key) == binascii.crc_hqx(hashed, 0) % SLOTS


@given(st.binary(min_size=16, max_size=16))
def test_all_keys_of_a_user_are_in_one_slot(uid):
    every = [*keys.user_keys(uid), *keys.stream_keys(uid), keys.contact_mark(uid, "e")]
    assert len({slot(key) for key in every}) == 1


def test_a_campaign_day_its_marks_and_its_notices_are_in_one_slot():
    partition = keys.money_partition("acme/spring")
    every = [keys.spend("acme/spring", 20_000), keys.money_mark("acme/spring", "x"), keys.notices(partition)]
    assert len({slot(key) for key in every}) == 1


def test_a_slot_map_says_who_serves_what():
    reply = [
        [0, 5460, [b"10.0.0.1", 7000, b"id1"], [b"10.0.0.4", 7003, b"id4", []]],
        [5461, 16383, [b"10.0.0.2", 7001, b"id2", [b"hostname", b"two.example"]]],
    ]
    one, two, four = Node("10.0.0.1", 7000), Node("10.0.0.2", 7001), Node("10.0.0.4", 7003)
    found = parse_slots(reply, ASKED)
    assert found == Topology((Range(0, 5460, one, (four,)), Range(5461, 16383, two)))
    assert (found.primaries, found.nodes) == ([one, two], [one, two, four])
    owners = found.owners()
    assert (owners[0], owners[5460], owners[5461], owners[16383], len(owners)) == (one, one, two, two, SLOTS)


def test_slots_nobody_has_are_nobodys():
    owners = parse_slots([[5, 5, [b"a", 1, b"id"]]], ASKED).owners()
    assert [n for n, owner in enumerate(owners) if owner is not None] == [5]


@pytest.mark.parametrize(
    ("said", "host"),
    [
        ([None, 7, b"id"], "asked.example"),  # "use the address you asked"
        ([b"", 7, b"id"], "asked.example"),
        ([b"?", 7, b"id", [b"ip", b"10.0.0.9"]], "10.0.0.9"),  # hostnames are preferred, this one is not set
        ([b"?", 7, b"id", []], "asked.example"),
        (["::1", 7, "id"], "::1"),
    ],
)
def test_a_node_that_does_not_tell_its_address_has_the_one_that_was_asked(said, host):
    assert parse_slots([[0, 1, said]], ASKED).primaries == [Node(host, 7)]


@pytest.mark.parametrize("reply", [None, 1, [[0]], [[0, 1]], [[0, 16384, [b"a", 1]]], [[2, 1, [b"a", 1]]], [b"x"]])
def test_what_is_no_slot_map_is_refused(reply):
    with pytest.raises(ValueError, match="CLUSTER SLOTS"):
        parse_slots(reply, ASKED)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        ("MOVED 3999 127.0.0.1:6381", cluster_rules.Redirect(3999, Node("127.0.0.1", 6381), ask=False)),
        ("ASK 1 ::1:6381", cluster_rules.Redirect(1, Node("::1", 6381), ask=True)),
        ("MOVED 1 :6381", cluster_rules.Redirect(1, Node("asked.example", 6381), ask=False)),
        ("MOVED 1 ?:6381", cluster_rules.Redirect(1, Node("asked.example", 6381), ask=False)),
        ("ERR MOVED 1 a:1", None),
        ("CLUSTERDOWN The cluster is down", None),
        ("MOVED x a:1", None),
        ("MOVED 1", None),
    ],
)
def test_an_error_may_name_another_node(error, found):
    assert redirect(error, ASKED) == found


@pytest.mark.parametrize(
    ("url", "several"),
    [
        ("redis://a:7000", ["redis://a:7000"]),
        ("rediss://u:p%2C@a:1,b:2/3", ["rediss://u:p%2C@a:1/3", "rediss://u:p%2C@b:2/3"]),
        ("redis://[::1]:7000,[::1]:7001", ["redis://[::1]:7000", "redis://[::1]:7001"]),
        ("unix:///tmp/a,b.sock?db=3", ["unix:///tmp/a,b.sock?db=3"]),
    ],
)
def test_a_url_may_name_several_nodes_to_ask_first(url, several):
    assert seeds(url) == several


def test_a_node_of_a_cluster_says_so_and_a_store_of_one_server_does_not(cluster, client):
    assert [cluster_rules.is_cluster(made) for made in (cluster.primaries[1].client, client)] == [True, False]


def test_a_real_slot_map_is_read_and_names_the_owner_of_every_key(cluster):
    one = cluster.primaries[0]
    owners = parse_slots(one.cluster("SLOTS"), Node("127.0.0.1", one.port)).owners()
    uid = bytes(range(16))
    for server in cluster.primaries:
        mine = owners[slot(keys.profile(uid, 0))] == Node("127.0.0.1", server.port)
        try:
            assert server.client.get(keys.profile(uid, 0)) is None
            assert mine
        except redis.exceptions.MovedError:
            assert not mine
