import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dmp import keys, pressure
from dmp.config import CollectConfig, DmpConfig
from dmp.limits import Rates
from dmp.optout import set_marks
from dmp.schema import NO_UID
from dmp.store import Store
from tests.bidder.consent_strings import tc
from tests.dmp.doors import COLLECT, RING, Door, open_door

Item = dict[str, Any]


def an_item(n: int = 1, **changes: Any) -> Item:
    return {"kind": "view", "event_id": f"e{n}", "id": f"c-{n}", "consent": 7, "category": "shoes", **changes}


@pytest.fixture
async def door(tmp_path: Path, store: Store) -> AsyncIterator[Door]:
    async with open_door(tmp_path, store) as opened:
        yield opened


async def test_events_are_in_the_stream_when_they_are_acknowledged(door: Door) -> None:
    status, told, _ = await door.send(*(an_item(n) for n in range(100)), key=door.key("events"))
    assert (status, told) == (202, {"accepted": 100, "refused": []})
    assert {event.uid for event in door.stream()} == {RING.uid("cookie", f"c-{n}") for n in range(100)}
    assert {event.source for event in door.stream()} == {"shop"}


async def test_good_events_are_kept_and_bad_ones_told_by_place(door: Door) -> None:
    status, told, _ = await door.send(an_item(1), {"kind": "dance"}, an_item(2), key=door.key("events"))
    assert (status, told["accepted"]) == (202, 2)
    assert [(one["index"], one["error"]) for one in told["refused"]] == [(1, "unknown_kind")]
    assert len(door.stream()) == 2


async def test_a_body_without_a_good_event_is_refused(door: Door) -> None:
    status, told, _ = await door.send({"kind": "dance"}, key=door.key("events"))
    assert (status, told["error"], told["accepted"]) == (400, "no_event", 0)
    assert told["refused"][0]["error"] == "unknown_kind"


async def test_a_sender_is_told_how_many_events_lost_their_ids_for_want_of_a_permission(door: Door) -> None:
    given = [an_item(1), an_item(2, consent=None), an_item(3, consent=None, gdpr=0), an_item(4, consent=2)]
    status, told, _ = await door.send(*given, key=door.key("events"))
    assert (status, told) == (202, {"accepted": 4, "refused": [], "anonymous": 3})
    assert [event.uid for event in door.stream()].count(NO_UID) == 3


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("lines", [False, True])
async def test_lines_and_gzip_say_the_same(door: Door, packed: bool, lines: bool) -> None:
    items = [an_item(1), an_item(2)]
    body = b"\n".join(json.dumps(item).encode() for item in items) if lines else json.dumps(items).encode()
    headers = {"Content_Type": "application/x-ndjson" if lines else "application/json"}
    if packed:
        body, headers["Content_Encoding"] = gzip.compress(body), "gzip"
    assert (await door.send(key=door.key("events"), body=body, **headers))[:2] == (202, {"accepted": 2, "refused": []})


async def test_one_event_needs_no_array(door: Door) -> None:
    body = json.dumps(an_item()).encode()
    assert (await door.send(key=door.key("events"), body=body))[1]["accepted"] == 1


@pytest.mark.rule("S-20")
@pytest.mark.parametrize(("scopes", "status"), [(("seeds",), 403), (("tags",), 403), (("events", "seeds"), 202)])
async def test_a_key_needs_the_scope(door: Door, scopes: tuple[str, ...], status: int) -> None:
    assert (await door.send(an_item(), key=door.key(*scopes)))[0] == status


@pytest.mark.parametrize(("scope", "errors"), [("events", ["may_not_link"]), ("events.link", [])])
async def test_linking_ids_needs_a_scope_of_its_own(door: Door, scope: str, errors: list[str]) -> None:
    _, told, _ = await door.send(an_item(1), an_item(2, ids=[{"id": "d-1", "id_type": "login"}]), key=door.key(scope))
    assert [one["error"] for one in told["refused"]] == errors
    assert [bool(event.ids) for event in sorted(door.stream(), key=lambda event: event.ids)][-1] is not bool(errors)


@pytest.mark.rule("S-20")
async def test_without_a_key_nothing_is_taken_and_a_revoked_one_is_out_within_a_second(door: Door) -> None:
    assert (await door.send(an_item(), key="tb_nobody"))[0] == 401
    key = door.key("events")
    assert (await door.send(an_item(), key=key))[0] == 202
    door.catalogue.revoke_keys("shop", key, 2)
    async with asyncio.timeout(1):
        while (await door.send(an_item(), key=key))[0] != 401:
            pass


@pytest.mark.rule("P-32")
@pytest.mark.parametrize("mark", [keys.OPTED_OUT, keys.CHILD])
async def test_of_who_opted_out_the_event_is_kept_without_an_id(door: Door, mark: int) -> None:
    uid = RING.uid("cookie", "c-1")
    assert uid is not None
    set_marks(door.client, uid, {mark})
    assert (await door.send(an_item(1), an_item(2), key=door.key("events")))[0] == 202
    by_id = {event.event_id: event for event in door.stream()}
    gone, other = (by_id[RING.event_id("shop", name)] for name in ("e1", "e2"))
    assert (gone.uid, gone.consent, gone.category) == (NO_UID, 0, "shoes")
    assert (other.uid, other.consent) == (RING.uid("cookie", "c-2"), 7)


async def test_a_refusal_that_cannot_be_read_is_a_refusal(door: Door) -> None:
    uid = RING.uid("cookie", "c-1")
    assert uid is not None
    door.client.set(keys.audiences(uid), b"\xffof another release")
    assert (await door.send(an_item(1), key=door.key("events")))[0] == 202
    assert door.stream()[0].uid == NO_UID


@pytest.mark.rule("P-16")
async def test_a_tc_string_decides_what_an_event_may_do(door: Door) -> None:
    strings = {"e1": tc(consent=(1, 3, 4)), "e2": tc(consent=(1, 4))}
    items = [an_item(event_id=name, gdpr=1, gdpr_consent=text) for name, text in strings.items()]
    await door.send(*items, key=door.key("events"))
    found = {event.event_id: (event.consent, event.uid != NO_UID) for event in door.stream()}
    assert found == {RING.event_id("shop", "e1"): (1, True), RING.event_id("shop", "e2"): (0, False)}


@pytest.mark.rule("S-02")
@pytest.mark.parametrize(
    ("body", "headers", "status", "error"),
    [
        (b"[", {}, 400, "malformed"),
        (b"[]", {}, 400, "no_event"),
        (b"", {}, 400, "no_event"),
        (b"x" * 2_000, {}, 413, "too_large"),
        (b"{}", {"Content_Type": "application/x-www-form-urlencoded"}, 415, "unsupported"),
        (b"{}", {"Content_Encoding": "br"}, 415, "unsupported"),
        (b"no gzip", {"Content_Encoding": "gzip"}, 400, "bad_gzip"),
        (gzip.compress(b"{}", mtime=0)[:-4], {"Content_Encoding": "gzip"}, 400, "bad_gzip"),
        (gzip.compress(b"{}", mtime=0) * 2, {"Content_Encoding": "gzip"}, 400, "bad_gzip"),
        (gzip.compress(b" " * 1_000_000, mtime=0), {"Content_Encoding": "gzip"}, 413, "too_large"),
    ],
)
async def test_what_cannot_be_read_is_refused(
    tmp_path: Path, store: Store, body: bytes, headers: dict[str, str], status: int, error: str
) -> None:
    async with open_door(tmp_path, store, collect=CollectConfig(max_body_bytes=1_024)) as door:
        got, told, _ = await door.send(key=door.key("events"), body=body, **headers)
        assert (got, told["error"]) == (status, error)
        assert door.stream() == []


@pytest.mark.rule("S-02")
async def test_a_bomb_is_not_unpacked(tmp_path: Path, store: Store) -> None:
    bomb = gzip.compress(gzip.compress(b" " * 100_000_000))
    big = CollectConfig(max_body_bytes=512 * 1024**2)
    async with open_door(tmp_path, store, collect=big) as door:
        plain = gzip.compress(b" " * 100_000_000)
        assert len(bomb) < len(plain)
        assert (await door.send(key=door.key("events"), body=plain, Content_Encoding="gzip"))[0] == 413


@pytest.mark.rule("S-03")
async def test_a_body_that_drips_is_cut_off(tmp_path: Path, store: Store) -> None:
    async with open_door(tmp_path, store, Rates(body_s=0.2)) as door:

        async def drip() -> AsyncIterator[bytes]:
            for _ in range(100):
                yield b" "
                await asyncio.sleep(0.05)

        headers = {"Authorization": f"Bearer {door.key('events')}"}
        status, told, _ = await door.ask("POST", "/v1/events", drip(), headers)
        assert (status, json.loads(told)["error"]) == (408, "stalled")


async def test_events_without_a_user_are_spread_over_the_partitions(door: Door) -> None:
    await door.send(*(an_item(n, consent=0) for n in range(200)), key=door.key("events"))
    assert all(door.client.xlen(keys.events(p)) for p in range(DmpConfig().stream.partitions))


@pytest.mark.rule("S-26")
async def test_a_source_has_a_rate_of_its_own(tmp_path: Path, store: Store) -> None:
    slow = Rates(machine_per_s=0.01, machine_burst=2)
    async with open_door(tmp_path, store, slow) as door:
        key = door.key("events")
        answers = [await door.send(an_item(n), key=key) for n in range(3)]
        assert [status for status, _, _ in answers] == [202, 202, 429]
        assert int(answers[2][2]["Retry-After"]) >= 1
        assert len(door.stream()) == 2


async def test_senders_wait_while_events_are_not_worked_off(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pressure, "LOOK_S", 0.0)
    async with open_door(tmp_path, store, collect=msgspec.structs.replace(COLLECT, max_backlog=1)) as door:
        key = door.key("events")
        assert (await door.send(an_item(1), an_item(2), an_item(3), an_item(4), key=key))[0] == 202
        status, told, headers = await door.send(an_item(5), key=key)
        assert (status, told["error"]) == (429, "busy")
        assert 1 <= int(headers["Retry-After"]) <= 60
        door.client.flushall()
        assert (await door.send(an_item(5), key=key))[0] == 202


async def test_a_store_short_of_memory_takes_no_more(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pressure, "LOOK_S", 0.0)
    used = int(door.client.info("memory")["used_memory"])
    door.client.config_set("maxmemory", used + 1_000)
    try:
        status, told, headers = await door.send(an_item(), key=door.key("events"))
    finally:
        door.client.config_set("maxmemory", 0)
    assert (status, told["error"], headers["Retry-After"]) == (429, "busy", "60")


async def test_what_the_store_did_not_acknowledge_is_not_accepted(door: Door) -> None:
    door.client.config_set("maxmemory", 1)  # from now on it refuses every write
    try:
        status, told, headers = await door.send(an_item(), key=door.key("events"))
    finally:
        door.client.config_set("maxmemory", 0)
    assert (status, told["error"], headers["Retry-After"]) == (503, "store_unavailable", "5")
    assert door.stream() == []
