"""A planted person is erased: afterwards no key, value or file holds any form of them."""

import hashlib
import json
import re
import time
from contextlib import closing
from datetime import UTC, datetime

import msgspec
import pyarrow.parquet as pq
import pytest
import redis as redis_py

from dmp import __main__ as main
from dmp import (
    audiences,
    choosing,
    commands,
    forget,
    held,
    identity,
    ingest,
    keys,
    mapping,
    offline,
    streams,
    taxonomy,
)
from dmp.catalogue import open_catalogue
from dmp.config import DmpConfig
from dmp.engine import family_sql
from dmp.events import Bid, View, encode, read_file
from dmp.forgotten import Forgotten
from dmp.pseudonym import key_ring
from dmp.store import live_generation, open_store, read_users
from tests.dmp.factories import DAY_US
from tests.stored import encode_all

MARKER = "marker-4711-forget-me"
CSV = "user,at,action,topic\n"
SHOP = """
source = "shop"
id = [{column = "user", type = "cookie"}]
time = {column = "at", format = "epoch_us"}
kind = {column = "action", values = {pv = "view"}}
consent = {value = 7}
category = {column = "topic"}
"""


@pytest.fixture
def world(tmp_path):
    """A data directory with a store of its own, 60 users among whom MARKER left a trace in every place there is."""
    config = DmpConfig(data_dir=str(tmp_path / "var"))
    now_us = time.time_ns() // 1000
    log = tmp_path / "logs" / "shop.csv"
    log.parent.mkdir()
    people = [MARKER, *(f"other{n}" for n in range(59))]
    rows = [f"{person},{now_us - DAY_US},pv,{topic}" for person in people for topic in ("travel", "food")]
    bad = f"{MARKER},{now_us - DAY_US},wave,travel"
    log.write_text(CSV + "\n".join([*rows, bad]) + "\n")
    with (
        open_store(config) as store,
        closing(store.sync()) as client,
        closing(open_catalogue(tmp_path / "var")) as book,
    ):
        ring = key_ring(config.data_dir)
        uid, other, phone = ring.uid("cookie", MARKER), ring.uid("cookie", "other1"), ring.uid("device", MARKER)
        events = tmp_path / "events"
        ingest.ingest([log], events, mapping.parse(SHOP, "shop"), ring, now_us)
        for _ in range(2):  # two generations: the one before can be rolled back to
            offline.build(config, events, now_us, store, force=True)
        book.add_advertiser("acme", now_us)
        with choosing.asking(config, book, client, lambda: now_us) as asker:
            end_us = now_us + DAY_US
            choosing.create(config, book, client, asker, "acme", "all", "interest.travel", end_us, now_us)
        audiences.write_uids(tmp_path / "var/seeds/1.uids", [other, uid])
        edges = identity.edges_file(config.data_dir)
        identity.append(edges, [identity.Statement(identity.LINK, now_us, "cookie", uid, "device", phone)])
        client.set(keys.contacts(uid), b"\1")
        client.set(keys.realtime_marks(phone), b"x")
        client.set(keys.contact_mark(uid, "e1"), 1)
        views = [
            View(event_id=f"s{n}", uid=who, time_us=now_us, consent=7) for n, who in enumerate((uid, other, phone))
        ]
        streams.append_events(client, views, 1, now_us)
        client.xadd(keys.notices(1), {"record": encode_win(uid, now_us)})
        bids = tmp_path / "var/bidlog/bids-1-1-1.mpk"
        bids.parent.mkdir()
        bids.write_bytes(encode_all([a_bid("b1", uid, now_us), a_bid("b2", other, now_us)]))
        yield config, store, client, book, events, log, {"uid": uid, "other": other, "phone": phone, "now_us": now_us}


def a_bid(event_id, uid, now_us):
    return Bid(
        event_id=event_id, time_us=now_us, exchange="x", auction_id="a", imp_id="1", campaign="c", creative="k",
        uid=uid, price_micros=1_000,
    )  # fmt: skip


def encode_win(uid, now_us):
    from dmp.events import Win

    return encode(Win(event_id="b1:win", bid_id="b1", imp_id="1", time_us=now_us, campaign="c", creative="k", uid=uid))


def every_value(client):
    """(key, all bytes under it) of the whole store."""
    for key in client.scan_iter():
        kind = client.type(key)
        if kind == b"string":
            yield key, client.get(key)
        elif kind == b"stream":
            yield key, b"".join(value for _, fields in client.xrange(key) for value in fields.values())
        elif kind == b"hash":
            yield key, b"".join(k + v for k, v in client.hgetall(key).items())
        elif kind == b"zset":
            yield key, b"".join(client.zrange(key, 0, -1))
        else:
            raise AssertionError(f"{key!r} is a {kind!r}: search it too")


def found_anywhere(client, folders, uids):
    """Where any form of an id is: raw text, pseudonym bytes, base64, hex; Parquet cell by cell."""
    forms = [MARKER.encode(), *(form for uid in uids for form in (uid, keys.text(uid), uid.hex().encode()))]
    places = [key for key, value in every_value(client) if any(form in key + value for form in forms)]
    for folder in folders:
        for path in folder.rglob("*"):
            if not path.is_file():
                continue
            data = path.read_bytes()
            if data[:4] == b"PAR1":
                cells = (cell for column in pq.read_table(path).columns for cell in column.to_pylist())
                data = b"\n".join(cell if isinstance(cell, bytes) else str(cell).encode() for cell in cells)
            if any(form in data for form in forms):
                places.append(path)
    return places


def forgotten(config, client, events, who):
    return forget.forget(config, client, [who["uid"], who["phone"]], who["now_us"], [events])


@pytest.mark.rule("P-71")
def test_no_trace_is_left_in_any_key_value_or_file(world, tmp_path):
    config, _, client, _, events, _, who = world
    folders, ids = (tmp_path / "var", events), (who["uid"], who["phone"])
    kinds = {place.suffix if hasattr(place, "suffix") else place[:4] for place in found_anywhere(client, folders, ids)}
    assert {".parquet", ".pq", ".uids", ".mpk", ".bin", ".aof", b"prof", b"aud:", b"fc:{", b"seen", b"even"} <= kinds
    receipt = forgotten(config, client, events, who)
    assert receipt.left == ()
    assert found_anywhere(client, folders, ids) == []
    assert receipt.keys >= 4
    assert receipt.entries == 2
    assert json.loads(next((tmp_path / "var/receipts").iterdir()).read_bytes())["ids"] == list(receipt.ids)


@pytest.mark.rule("P-71")
def test_torn_files_and_what_comes_into_a_stream_meanwhile_are_told(world, tmp_path, monkeypatch):
    config, _, client, _, events, _, who = world
    torn = events / ".staging" / "7" / "0.parquet.part"
    torn.parent.mkdir(parents=True)
    torn.write_bytes(next(events.rglob("*.parquet")).read_bytes()[:200])
    late = keys.events(3)
    rewrite = forget._rewrite_log

    def meanwhile(store):
        rewrite(store)
        store.xadd(late, {"0": b"of " + who["uid"]})

    monkeypatch.setattr(forget, "_rewrite_log", meanwhile)
    left = forgotten(config, client, events, who).left
    assert {str(torn.resolve()), late.decode()} <= set(left)
    held.export(config, world[3], client, [who["uid"]], [events], who["now_us"] // 1_000_000)
    monkeypatch.undo()
    torn.unlink()
    assert forgotten(config, client, events, who).left == ()


@pytest.mark.rule("P-71")
def test_everybody_else_keeps_everything(world, tmp_path):
    config, _, client, book, events, _, who = world
    before = read_users(client, [who["other"]], who["now_us"] // 1_000_000)
    forgotten(config, client, events, who)
    assert read_users(client, [who["other"]], who["now_us"] // 1_000_000) == before
    assert len(pq.read_table(tmp_path / "var/generations/2/tags.parquet", columns=["uid"])["uid"].unique()) == 59
    assert list(audiences.read_uids(tmp_path / "var/seeds/1.uids")) == [who["other"]]
    first, second = read_file(tmp_path / "var/bidlog/bids-1-1-1.mpk")
    assert (first.event_id, first.uid, first.price_micros) == ("b1", bytes(16), 1_000)  # the money stays
    assert second == a_bid("b2", who["other"], who["now_us"])
    (entry,) = client.xrange(keys.events(0))
    assert msgspec.msgpack.decode(next(iter(entry[1].values())))["event_id"] == "s1"
    with choosing.asking(config, book, client, lambda: who["now_us"]) as asker:
        assert asker.size("audience:acme/all").users == 59


@pytest.mark.rule("P-71")
def test_old_logs_do_not_bring_anybody_back(world, tmp_path):
    config, store, client, _, events, log, who = world
    forgotten(config, client, events, who)
    ring = key_ring(config.data_dir)
    assert ring.uid("cookie", MARKER) is None
    again = tmp_path / "again"
    report = ingest.ingest([log], again, mapping.parse(SHOP, "shop"), ring, who["now_us"])
    assert (report.events, sum(report.bad.values())) == (2 * 59, 3)
    offline.build(config, again, who["now_us"], store, force=True)
    assert found_anywhere(client, (tmp_path / "var", again), (who["uid"], who["phone"])) == []


@pytest.mark.rule("P-71")
def test_event_files_from_a_backup_do_not_either(world, tmp_path):
    config, store, client, _, events, _, who = world
    backup = {path: path.read_bytes() for path in events.glob("*.parquet")}
    forgotten(config, client, events, who)
    for path, data in backup.items():
        path.write_bytes(data)
    made = offline.build(config, events, who["now_us"], store, force=True)
    assert made.users == 59
    assert read_users(client, [who["uid"]], who["now_us"] // 1_000_000)[0].tags == {}
    assert found_anywhere(client, (tmp_path / "var",), (who["uid"],)) == []


@pytest.mark.rule("P-71")
def test_forgetting_again_succeeds(world):
    config, _, client, _, events, _, who = world
    forgotten(config, client, events, who)
    again = forgotten(config, client, events, who)
    assert (again.keys, again.entries, again.files, again.left) == (0, 0, {}, ())
    assert len(Forgotten(config.data_dir)) == 2


@pytest.mark.rule("P-71")
def test_the_generation_before_can_still_be_rolled_back_to_without_them(world):
    config, store, client, _, events, _, who = world
    forgotten(config, client, events, who)
    assert offline.rollback(config, store) == live_generation(client) == 1
    users = read_users(client, [who["uid"], who["other"]], who["now_us"] // 1_000_000)
    assert users[0].tags == {}
    assert taxonomy.tag_id("interest.travel") in users[1].tags


def test_consumers_keep_their_places_and_what_they_owe(world):
    """Of three entries read one is acknowledged, two are owed, one of them the user's; the fourth is yet to come."""
    config, _, client, _, events, _, who = world
    stream = keys.events(1)
    told = [View(event_id=f"t{n}", uid=who[of], time_us=1, consent=7) for n, of in enumerate(("other", "uid", "other"))]
    ids = [client.xadd(stream, {b"0": encode(event)}) for event in told]
    client.xgroup_create(stream, "tags", id="0")
    client.xreadgroup("tags", "me", {stream: ">"})
    client.xack(stream, "tags", ids[0])
    both = {b"0": encode(msgspec.structs.replace(told[1], event_id="t3")), b"1": encode(told[2])}
    ids.append(client.xadd(stream, both))
    forgotten(config, client, events, who)
    assert client.xrange(stream) == [
        (ids[0], {b"0": encode(told[0])}),
        (ids[2], {b"0": encode(told[2])}),
        (ids[3], {b"1": encode(told[2])}),  # a record keeps its place in the entry, which is its position
    ]
    owed = client.xpending_range(stream, "tags", "-", "+", 10)
    assert [(entry["message_id"], entry["consumer"], entry["times_delivered"]) for entry in owed] == [
        (ids[2], b"me", 1)
    ]
    ((_, entries),) = client.xreadgroup("tags", "me", {stream: ">"})
    assert [entry for entry, _ in entries] == [ids[3]]
    assert client.xinfo_stream(stream)["last-generated-id"] == ids[3]


def test_a_store_lost_on_the_way_is_told_and_a_second_try_finishes(world, monkeypatch):
    config, _, client, _, events, _, who = world

    def lost(*_):
        raise redis_py.exceptions.ConnectionError("gone")

    with monkeypatch.context() as patch:
        patch.setattr(client, "delete", lost)
        with pytest.raises(forget.StoreUnavailable, match="again"):
            forgotten(config, client, events, who)
    assert key_ring(config.data_dir).uid("cookie", MARKER) is None  # already nobody's user
    assert forgotten(config, client, events, who).left == ()


@pytest.mark.rule("P-72")
def test_an_export_holds_what_every_place_holds(world):
    config, _, client, book, events, _, who = world
    found = held.export(config, book, client, [who["uid"], who["phone"]], [events], who["now_us"] // 1_000_000)
    cookie, _ = found["store"]
    assert "interest.travel" in {tag["tag"] for tag in cookie["tags"]}
    assert cookie["audiences"] == ["acme/all"]
    kinds = {re.sub(r".*\.", ".", name) for name in found["files"]}
    assert {".parquet", ".pq", ".uids", ".mpk"} <= kinds
    rows = [row for name, rows in found["files"].items() if name.startswith(str(events)) for row in rows]
    assert {row["category"] for row in rows if "category" in row} == {"travel", "food"}
    assert json.loads(json.dumps(found))


@pytest.mark.rule("P-71")
def test_the_command_forgets_a_person_with_all_their_ids_and_says_so(world, tmp_path, capsys, monkeypatch):
    config, _, client, _, events, _, who = world
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TAGBID_DMP_DATA_DIR", config.data_dir)

    def run(*arguments):
        status = commands.run(main.app, "tagbid dmp", list(arguments))
        said = capsys.readouterr()
        return status, said.out, said.err

    assert "interest.travel" in run("profile", MARKER)[1]
    explained = json.loads(run("profile", MARKER, "--json")[1])["explained"]
    (travel,) = (tag for tag in explained if tag["tag"] == "interest.travel")
    assert (travel["source"], travel["rule"], travel["half_life_days"]) == ("interest", "dmp/sql/interest.sql", 30)
    assert travel["rule_sha256"] == hashlib.sha256(family_sql("interest").encode()).hexdigest()
    assert travel["as_of"] == datetime.fromtimestamp((who["now_us"] - DAY_US) / 1e6, UTC).date().isoformat()
    assert len(json.loads(run("export", MARKER)[1])["ids"]) == 2
    status, said, _ = run("forget", MARKER, "--json")  # the event files are found by the builds' manifests
    assert (status, json.loads(said)["left"]) == (0, [])
    assert found_anywhere(client, (tmp_path / "var", events), (who["uid"], who["phone"])) == []
    assert "was forgotten" in run("profile", MARKER)[2]
    verified = run("audit", "verify")
    assert "2 entries, none changed" in verified[1], verified
    log = tmp_path / "var" / "audit.jsonl"
    log.write_text(log.read_text().replace("export", "exporT"))
    status, _, said = run("audit", "verify")
    assert (status, "line 1" in said) == (2, True)
