import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from dmp import audiences, codec, keys, realtime
from dmp.catalogue import Upload
from dmp.limits import Rates
from dmp.optout import set_marks
from dmp.schema import Tag
from dmp.store import Store
from dmp.taxonomy import tag_id
from tests.bidder.consent_strings import tc
from tests.dmp.doors import RING, Door, open_door

NOTHING: dict[str, Any] = {"status": "ok", "longterm": {}, "realtime": {}, "audiences": []}


@pytest.fixture
async def door(tmp_path: Path, store: Store) -> AsyncIterator[Door]:
    client = store.sync()
    client.set(keys.GENERATION, 3)
    for name, score in (("ann", 80), ("bob", 20)):
        uid = uid_of(name)
        client.set(keys.profile(uid, 0), codec.encode_profile(3, [Tag(tag_id("interest.travel"), score, 20_000, 1)]))
        raised = realtime.encode(realtime.Parts(raised={tag_id("interest.beauty"): 2**32 - 1}))
        client.set(keys.realtime(uid), raised)
    client.close()
    async with open_door(tmp_path, store) as opened:
        for owner in ("shop", "rival"):
            opened.catalogue.add_audience(owner, "vip", Upload(1, 0, 1, 1, "seeds/x"), 5.0, False, 1)
        audiences.add_members(opened.client, "shop/vip", [uid_of("ann")], 0)
        audiences.add_members(opened.client, "rival/vip", [uid_of("ann")], 0)
        yield opened


def uid_of(name: str) -> bytes:
    uid = RING.uid("cookie", name)
    assert uid is not None
    return uid


async def ask(door: Door, key: str, *ids: Any) -> tuple[int, Any]:
    body = json.dumps({"ids": [{"id": one, "gdpr": 0} if isinstance(one, str) else one for one in ids]})
    headers = {"Authorization": f"Bearer {key}"}
    status, answer, _ = await door.ask("POST", "/v1/tags:lookup", body, headers)
    return status, json.loads(answer)


async def test_everything_known_of_users_in_the_order_asked(door: Door) -> None:
    status, told = await ask(door, door.key("tags"), "bob", "stranger", "ann", "bob")
    beauty = {"interest.beauty": 100}
    bob = {"status": "ok", "longterm": {"interest.travel": 20}, "realtime": beauty, "audiences": []}
    ann = {"status": "ok", "longterm": {"interest.travel": 80}, "realtime": beauty, "audiences": ["vip"]}
    assert (status, told["users"]) == (200, [bob, NOTHING, ann, bob])


@pytest.mark.rule("S-20")
@pytest.mark.parametrize("field", ["longterm", "realtime", "audiences"])
async def test_a_scope_opens_its_field_only(door: Door, field: str) -> None:
    _, told = await ask(door, door.key(f"tags.{field}"), "ann")
    assert told["users"][0].keys() == {"status", field}
    assert told["users"][0][field]


@pytest.mark.rule("S-20")
@pytest.mark.parametrize("scope", ["seeds", "events", "tag", "tagsx"])
async def test_a_key_needs_the_scope(door: Door, scope: str) -> None:
    assert (await ask(door, door.key(scope), "ann"))[0] == 403
    assert (await ask(door, "tb_nobody", "ann"))[0] == 401


@pytest.mark.rule("S-21")
async def test_a_tenant_sees_its_own_audiences_only(door: Door) -> None:
    audiences.add_members(door.client, "rival/vip", [uid_of("bob")], 0)
    _, told = await ask(door, door.key("tags.audiences"), "bob")
    assert told["users"] == [{"status": "ok", "audiences": []}]
    _, told = await ask(door, door.key("tags.audiences", owner="rival"), "bob")
    assert told["users"] == [{"status": "ok", "audiences": ["vip"]}]


@pytest.mark.rule("P-16")
@pytest.mark.parametrize(
    ("signals", "status"),
    [
        ({}, "no_consent"),
        ({"gdpr": 1}, "no_consent"),
        ({"gdpr": 0}, "ok"),
        ({"gdpr": 1, "gdpr_consent": tc(consent=(1, 4))}, "ok"),
        ({"gdpr": 1, "gdpr_consent": tc(consent=(1, 3))}, "no_consent"),
        ({"gdpr": 0, "gdpr_consent": tc(consent=())}, "no_consent"),
        ({"gdpr": 0, "us_privacy": "1YYN"}, "no_consent"),
        ({"gdpr": 0, "us_privacy": "1YNN", "gpp_sid": [2]}, "ok"),
        ({"gdpr": 0, "gpp_sid": [2, 7]}, "no_consent"),
    ],
)
async def test_nobody_is_looked_up_who_does_not_allow_it(door: Door, signals: dict[str, Any], status: str) -> None:
    _, told = await ask(door, door.key("tags"), {"id": "ann", **signals})
    assert told["users"][0]["status"] == status
    assert (told["users"][0] == {"status": "no_consent"}) == (status == "no_consent")


@pytest.mark.rule("P-32")
async def test_who_opted_out_is_told_as_a_stranger(door: Door) -> None:
    set_marks(door.client, uid_of("ann"), {keys.OPTED_OUT})
    audiences.add_members(door.client, "shop/vip", [uid_of("ann")], 0)
    _, told = await ask(door, door.key("tags"), "ann")
    assert told["users"] == [NOTHING]


async def test_what_is_no_id_is_told_so(door: Door) -> None:
    _, told = await ask(door, door.key("tags"), {"id": "null", "gdpr": 0}, {"id": "x", "id_type": "email", "gdpr": 0})
    assert told["users"] == [{"status": "bad_id"}] * 2


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"ids": 1}', b'{"ids": [{"id": "a", "id_type": "planet"}]}', b'{"ids": [{"id": 5}]}']
)
async def test_what_is_no_question_is_refused(door: Door, body: bytes) -> None:
    headers = {"Authorization": f"Bearer {door.key('tags')}"}
    assert (await door.ask("POST", "/v1/tags:lookup", body, headers))[0] == 400


async def test_a_hundred_ids_are_one_read_and_more_are_refused(door: Door) -> None:
    names = [f"user{n}" for n in range(100)]
    key = door.key("tags")
    assert (await ask(door, key, "warm"))[0] == 200
    before = door.client.info("commandstats")["cmdstat_mget"]["calls"]
    status, told = await ask(door, key, *names)
    assert (status, told["users"]) == (200, [NOTHING] * 100)
    assert door.client.info("commandstats")["cmdstat_mget"]["calls"] - before == 100
    assert (await ask(door, key, *names, "one more"))[0] == 400


async def test_one_users_broken_record_keeps_nobody_else_from_being_told(door: Door) -> None:
    door.client.set(keys.realtime(uid_of("bob")), b"\x63" * 60)
    key = door.key("tags.longterm")
    status, told = await ask(door, key, "ann", "bob", "stranger")
    ann, stranger = {"status": "ok", "longterm": {"interest.travel": 80}}, {"status": "ok", "longterm": {}}
    assert (status, told["users"]) == (200, [ann, {"status": "unavailable"}, stranger])
    assert (await ask(door, key, "bob"))[0] == 503


async def test_a_store_that_is_silent_is_told(door: Door) -> None:
    key = door.key("tags.longterm")
    assert (await ask(door, key, "ann"))[0] == 200
    door.client.client_pause(1_800)
    status, told = await ask(door, key, "ann")
    assert (status, told["error"]) == (503, "store_unavailable")
    while (await ask(door, key, "ann"))[0] != 200:
        pass


@pytest.mark.rule("S-26")
async def test_a_key_has_a_rate(tmp_path: Path, store: Store) -> None:
    async with open_door(tmp_path, store, Rates(machine_per_s=0.01, machine_burst=1)) as door:
        key = door.key("tags")
        assert [(await ask(door, key, "ann"))[0] for _ in range(2)] == [200, 429]
