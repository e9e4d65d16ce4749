"""Ids that nobody may keep, sent through every door of the DMP, and then looked for everywhere (P-64)."""

import json
import logging
import time
from hashlib import md5, sha1, sha256
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import redis

from dmp import archive, browser
from dmp.acts import understanding
from dmp.config import DmpConfig
from dmp.store import Store
from dmp.stream import Entry, Processor
from dmp.streams import parse_id
from tests.dmp.doors import Door, open_door

COOKIE, IFA, EMAIL, PHONE = (
    "canary-cookie-5512",
    "ca9a4700-1111-4222-8333-c0ffee5512aa",
    "canary@example.com",
    "+4917055125512",
)
EVENT, IP, ADDRESS, OURS = "canary-event-5512", "198.51.100.213", "5512 Canary Lane", "Canary5512Canary5512AA"
RAW = [COOKIE, IFA, EMAIL, PHONE, EVENT, IP, ADDRESS, OURS]
TRACES = [
    form.encode()
    for raw in RAW
    for form in (raw, raw.upper(), raw.lower(), *(digest(raw.encode()).hexdigest() for digest in (md5, sha1, sha256)))
]


def traces(data: bytes) -> list[bytes]:
    return [form for form in TRACES if form in data]


def everything(client: redis.Redis) -> bytes:
    """All keys and values of the store."""
    found = []
    for key in client.scan_iter(count=1_000):
        found += [key, client.dump(key) or b""]
    for partition in range(DmpConfig().stream.partitions):
        found.append(repr(client.xrange(f"events:{{e{partition}}}")).encode())
    return b"\n".join(found)


async def through_every_door(door: Door) -> list[bytes]:
    """Every answer but the one that sends our own id on."""
    events, tags = door.key("events.link"), door.key("tags")
    whole: dict[str, Any] = {"kind": "view", "event_id": EVENT, "consent": 7, "ip": IP, "address": ADDRESS}
    items = [
        {**whole, "id": COOKIE},
        {
            **whole,
            "id": IFA,
            "id_type": "device",
            "ids": [{"id": EMAIL, "id_type": "email"}, {"id": PHONE, "id_type": "phone"}],
        },
        {**whole, "id": COOKIE, "consent": 0},
        {**whole, "id": COOKIE, "category": EMAIL},
        {**whole, "id": COOKIE, "site": f"https://{COOKIE}@shop.example/{EMAIL}?u={COOKIE}"},
        {**whole, "id": COOKIE, "kind": "search", "query": f"parcel of {IFA}"},
        {**whole, "id": [COOKIE]},
        {**whole, "id": COOKIE, "kind": COOKIE},
        {**whole, "id": COOKIE, "time_us": COOKIE},
        {**whole, "id": COOKIE, "kind": "crm", "gender": COOKIE},
        {**whole, "id": COOKIE, "unknown": EMAIL, "uid": COOKIE},
    ]
    answers = []
    _, told, _ = await door.send(*items, key=events)
    answers.append(json.dumps(told).encode())
    for body in (f'[{{"id": "{COOKIE}"'.encode(), COOKIE.encode()):
        answers += [(await door.ask("POST", "/v1/events", body, {"Authorization": f"Bearer {events}"}))[1]]
    question = {"ids": [{"id": COOKIE, "gdpr": 0}, {"id": EMAIL, "id_type": "email", "gdpr": 0}, {"id": IFA}]}
    for body in (json.dumps(question).encode(), f'{{"ids": "{COOKIE}"}}'.encode()):
        answers += [(await door.ask("POST", "/v1/tags:lookup", body, {"Authorization": f"Bearer {tags}"}))[1]]
    cookie = {"Cookie": f"{browser.COOKIE}={OURS}"}
    for query in (
        f"id={COOKIE}&gdpr=0",
        f"category={EMAIL}&gdpr=0",
        f"event_id={EVENT}&gdpr=1",
        f"gdpr_consent={COOKIE}",
    ):
        answers += [(await door.ask("GET", f"/v1/pixel.gif?source=shop&kind=view&{query}", headers=cookie))[1]]
    for path in (
        f"/v1/sync/exchange?gdpr=0&uid={COOKIE}",
        f"/v1/sync/{COOKIE}",
        f"/{COOKIE}",
        f"/v1/pixel.gif?source={COOKIE}",
    ):
        answers += [(await door.ask("GET", path, headers=cookie))[1]]
    return answers


@pytest.mark.rule("P-60")
@pytest.mark.rule("P-64")
async def test_no_door_keeps_or_tells_a_raw_id(tmp_path: Path, store: Store, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with open_door(tmp_path, store) as door:
        answers = await through_every_door(door)
        taken = door.stream()
        assert len(taken) > 6
        processor = Processor(door.client, understanding({}), 3_600)
        for partition in range(DmpConfig().stream.partitions):
            entries: Any = door.client.xrange(f"events:{{e{partition}}}")
            processor.apply(
                [Entry(name, parse_id(name.decode())[0], tuple(fields.values())) for name, fields in entries],
                int(time.time()),
            )
        with archive.opened(tmp_path / "events", door.client, DmpConfig().stream.partitions) as opened:
            while opened.read(1):
                pass
            opened.flush()
        stored = everything(door.client)
        assert b"rt:{" in stored
    assert not [found for answer in answers if (found := traces(answer))]
    assert traces(stored) == []
    assert traces(repr(taken).encode()) == []
    logged = "\n".join(record.getMessage() + (record.exc_text or "") for record in caplog.records)
    assert traces(logged.encode()) == []
    assert_no_traces_in_files(tmp_path)


def assert_no_traces_in_files(folder: Path) -> None:
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.suffix == ".parquet" for path in files)
    for path in files:
        assert traces(path.read_bytes()) == [], path
        if path.suffix == ".parquet":
            assert traces(repr(pq.ParquetFile(path).read().to_pylist()).encode()) == [], path
