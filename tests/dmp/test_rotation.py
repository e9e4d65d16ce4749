"""P-61: keys have ids, two are readable, and a key that is destroyed takes the links of its data with it."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from dmp import codec, identity, keys, optout, persons, realtime, rotation
from dmp.__main__ import app
from dmp.codec import encode_profile
from dmp.config import IdentityConfig
from dmp.errors import DmpError
from dmp.forgotten import Forgotten
from dmp.lookup import Lookup
from dmp.pseudonym import KeyRing, key_ring
from dmp.realtime import Parts
from dmp.rotation import carried, readable, retire, rotate
from dmp.schema import NO_UID, Contact, Tag
from dmp.taxonomy import tag_id
from tests.dmp import doors
from tests.dmp.doors import open_door

pytestmark = pytest.mark.rule("P-61")
TRAVEL, MUSIC = tag_id("interest.travel"), tag_id("interest.music")


@pytest.fixture(autouse=True)
def no_key_in_the_environment(monkeypatch):
    monkeypatch.delenv("TAGBID_PSEUDONYM_KEY", raising=False)
    monkeypatch.delenv("TAGBID_PSEUDONYM_FORMER_KEY", raising=False)


def everything_in(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_two_keys_are_readable_while_a_rotation_is_on_and_the_newer_one_writes(tmp_path):
    before = key_ring(tmp_path)
    (only,) = readable(tmp_path)
    new, former = rotate(tmp_path)
    assert (only.use, former.id, former.use, new.use) == ("writes", only.id, "read only", "writes")
    assert new.id != former.id
    ring = key_ring(tmp_path)
    old, uid = before.uid("cookie", "c-1"), ring.uid("cookie", "c-1")
    assert uid != old
    assert (ring.former_of(uid), ring.former("cookie", "c-1")) == (old, old)
    assert (before.rotating, before.former_of(old), before.former("cookie", "c-1")) == (False, None, None)
    with pytest.raises(DmpError, match="two keys are readable already"):
        rotate(tmp_path)
    for name in ("pseudonym.key", "pseudonym.former.key"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_a_retired_key_is_nowhere_any_more(tmp_path):
    key_ring(tmp_path)
    secret = (tmp_path / "pseudonym.key").read_bytes()
    _, former = rotate(tmp_path)
    (tmp_path / rotation.CARRIED_FILE).write_bytes(bytes(range(32)))
    assert list(carried(tmp_path)) == [(bytes(range(16)), bytes(range(16, 32)))]
    assert retire(tmp_path).id == former.id
    assert secret not in everything_in(tmp_path)
    assert list(carried(tmp_path)) == []
    assert [key.use for key in readable(tmp_path)] == ["writes"]
    assert not key_ring(tmp_path).rotating
    with pytest.raises(DmpError, match="no rotation is on"):
        retire(tmp_path)


def test_a_rotation_that_died_half_way_is_done_again_or_taken_back(tmp_path):
    uid = key_ring(tmp_path).uid("cookie", "c-1")
    (tmp_path / "pseudonym.former.key").hardlink_to(tmp_path / "pseudonym.key")
    assert key_ring(tmp_path).uid("cookie", "c-1") == uid
    retire(tmp_path)
    assert key_ring(tmp_path).uid("cookie", "c-1") == uid, "the key that writes is not destroyed"
    (tmp_path / "pseudonym.former.key").hardlink_to(tmp_path / "pseudonym.key")
    (tmp_path / ".pseudonym.key.new").write_bytes(b"half")
    new, former = rotate(tmp_path)
    assert new.id != former.id
    assert key_ring(tmp_path).former("cookie", "c-1") == uid


def test_a_key_in_the_environment_is_rotated_there(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_PSEUDONYM_KEY", "02" * 32)
    with pytest.raises(DmpError, match="TAGBID_PSEUDONYM_FORMER_KEY"):
        rotate(tmp_path)
    monkeypatch.setenv("TAGBID_PSEUDONYM_FORMER_KEY", "01" * 32)
    ring = key_ring(tmp_path)
    assert ring.former("cookie", "c-1") == KeyRing(b"\x01" * 32).uid("cookie", "c-1")
    assert len(readable(tmp_path)) == 2


@pytest.mark.rule("P-71")
def test_who_was_forgotten_stays_so_under_the_new_key_also_when_the_former_is_gone(tmp_path):
    ring = key_ring(tmp_path)
    Forgotten(tmp_path).add([ring.uid("cookie", "c-1")])
    rotate(tmp_path)
    assert key_ring(tmp_path).uid("cookie", "c-1") is None
    retire(tmp_path)
    assert key_ring(tmp_path).uid("cookie", "c-1") is None
    assert key_ring(tmp_path).uid("cookie", "c-2") is not None


def test_what_is_known_under_two_pseudonyms_is_read_as_one():
    now_h = 500_000
    mine = [encode_profile(2, [Tag(TRAVEL, 5, 1, 1)]), None, codec.encode_audiences([(7, 0)]),
            codec.encode_contacts([Contact(1, now_h, 2)]), b"newer"]  # fmt: skip
    older = [encode_profile(9, [Tag(MUSIC, 5, 1, 1)]), b"bank", codec.encode_audiences([(8, 0)]),
             codec.encode_contacts([Contact(1, now_h, 3)]), b"older"]  # fmt: skip
    both = codec.joined(mine, older)
    assert (both[0], both[1], both[4]) == (mine[0], None, b"newer")
    assert codec.decode_audiences(both[2]) == [(7, 0), (8, 0)]
    assert codec.decode_contacts(both[3]) == (Contact(1, now_h, 2), Contact(1, now_h, 3))
    assert codec.joined([None] * 5, older) == older
    assert codec.joined(mine, [None] * 5) == mine


@pytest.fixture
def rotated(tmp_path):
    """(ring before, ring after) a rotation."""
    before = key_ring(tmp_path)
    rotate(tmp_path)
    return before, key_ring(tmp_path)


def put_profile(client, uid, tag=TRAVEL):
    client.set(keys.GENERATION, 1)
    client.set(keys.profile(uid, 0), encode_profile(1, [Tag(tag, 60, 20_000, 1)]), ex=5_000)


async def read(lookup, uid):
    done = asyncio.get_running_loop().create_future()
    assert lookup.get(uid, time.monotonic() + 5, done.set_result)
    return await done


async def test_a_bid_finds_a_user_under_the_former_pseudonym(store, client, rotated):
    before, ring = rotated
    old = before.uid("cookie", "c-1")
    put_profile(client, old)
    lookup = Lookup(store.url)
    await lookup.start()
    lookup.former_of = ring.former_of
    assert (await read(lookup, ring.uid("cookie", "c-1"))).tags == {TRAVEL: 60}
    optout.set_marks(client, old, {keys.OPTED_OUT})
    assert (await read(lookup, ring.uid("cookie", "c-1"))).audiences == {keys.OPTED_OUT}
    lookup.former_of = None
    assert (await read(lookup, ring.uid("cookie", "c-1"))).audiences == set(), "without a rotation one read is made"
    client.set(keys.audiences(old), b"\xff")
    lookup.former_of = ring.former_of
    assert await read(lookup, ring.uid("cookie", "c-1")) is None, "what cannot be read may be a refusal"
    await lookup.close()


async def test_an_event_carries_the_user_to_the_new_pseudonym(store, client, rotated, tmp_path, monkeypatch):
    before, ring = rotated
    monkeypatch.setattr(doors, "RING", ring)
    old, uid = before.uid("cookie", "c-1"), ring.uid("cookie", "c-1")
    put_profile(client, old)
    record = realtime.encode(Parts(nonce=bytes(8), newest_us=1))
    client.set(keys.realtime(old), record, px=9_000_000)
    client.set(keys.contacts(old), codec.encode_contacts([Contact(1, 2, 3)]))
    client.set(keys.contacts(uid), codec.encode_contacts([Contact(1, 9, 1)]))
    async with open_door(tmp_path, store) as door:
        key, item = door.key("events", "tags"), {"kind": "view", "event_id": "e", "id": "c-1", "consent": 7}
        asked = json.dumps({"ids": [{"id": "c-1", "gdpr": 0}]}).encode()
        _, told, _ = await door.ask("POST", "/v1/tags:lookup", asked, {"Authorization": f"Bearer {key}"})
        assert json.loads(told)["users"][0]["longterm"] == {"interest.travel": 60}, "before, it is read under both"
        assert (await door.send(item, key=key))[0] == 202
        assert [event.uid for event in door.stream()] == [uid]
    assert client.get(keys.realtime(uid)) == record
    assert 8_900_000 < client.pttl(keys.realtime(uid)) <= 9_000_000
    assert 4_900 < client.ttl(keys.profile(uid, 0)) <= 5_000
    assert client.exists(*keys.user_keys(old)) == 1, "its contacts, which the new one has others of"
    assert codec.decode_contacts(client.get(keys.contacts(uid))) == (Contact(1, 9, 1),)
    assert list(carried(tmp_path)) == [(old, uid)]


@pytest.mark.rule("P-73")
@pytest.mark.parametrize("already", [False, True])
async def test_a_refusal_under_the_former_key_holds(store, client, rotated, tmp_path, monkeypatch, already):
    before, ring = rotated
    monkeypatch.setattr(doors, "RING", ring)
    optout.set_marks(client, before.uid("cookie", "c-1"), {keys.OPTED_OUT})
    if already:
        client.set(keys.audiences(ring.uid("cookie", "c-1")), codec.encode_audiences([(7, 0)]))
    async with open_door(tmp_path, store) as door:
        await door.send({"kind": "view", "event_id": "e", "id": "c-1", "consent": 7}, key=door.key("events"))
        assert [event.uid for event in door.stream()] == [NO_UID]


async def test_who_was_not_carried_is_nobodys_once_the_key_is_destroyed(store, client, rotated, tmp_path):
    before, ring = rotated
    put_profile(client, before.uid("cookie", "c-1"))
    retire(tmp_path)
    after = key_ring(tmp_path)
    lookup = Lookup(store.url)
    await lookup.start()
    lookup.former_of = after.former_of
    assert (await read(lookup, after.uid("cookie", "c-1"))).tags == {}
    await lookup.close()
    assert after.uid("cookie", "c-1") == ring.uid("cookie", "c-1")


def test_a_build_reads_the_older_events_of_who_was_carried_as_theirs(rotated, tmp_path):
    before, ring = rotated
    old, uid = before.uid("cookie", "c-1"), ring.uid("cookie", "c-1")
    (tmp_path / rotation.CARRIED_FILE).write_bytes(old + uid)
    shared = persons.sharing(identity.replay(persons._carried(tmp_path), IdentityConfig()))
    assert set(shared["uid"].to_pylist()) == {old, uid}
    assert len(shared["person"].unique()) == 1
    assert len(persons._carried(tmp_path / "nowhere")) == 0


@pytest.mark.rule("P-71")
def test_the_commands(tmp_path, store, client):
    config = tmp_path / "tagbid.toml"
    config.write_text(f'[dmp]\ndata_dir = "{tmp_path}/var"\nredis_url = "{store.url}"\n')

    def run(*arguments):
        ran = CliRunner().invoke(app, [*arguments, "--config", str(config)])
        assert ran.exit_code == 0, ran.output
        return ran.stdout

    put_profile(client, key_ring(tmp_path / "var").uid("cookie", "c-1"))
    (only,) = json.loads(run("keys", "list", "--json"))
    new, former = json.loads(run("keys", "rotate", "--json"))
    assert (former["id"], len(json.loads(run("keys", "list", "--json")))) == (only["id"], 2)
    assert json.loads(run("profile", "c-1", "--json"))["tags"] == {"interest.travel": 60}
    run("opt-out", "c-1")
    ring = key_ring(tmp_path / "var")
    for uid in (ring.uid("cookie", "c-1"), ring.former("cookie", "c-1")):
        assert optout.marks_in(client.get(keys.audiences(uid))) == {keys.OPTED_OUT}
    run("forget", "c-1")
    assert client.keys("aud:*") == []
    assert former["id"] in run("keys", "retire", "--yes")
    assert [one["id"] for one in json.loads(run("keys", "list", "--json"))] == [new["id"]]
