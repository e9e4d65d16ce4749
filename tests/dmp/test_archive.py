import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pyarrow.parquet as pq
import pytest
import redis
from typer.testing import CliRunner

from dmp import archive, events, keys, offline, streams
from dmp.archive import AnotherArchiver, opened
from dmp.config import DmpConfig
from dmp.events import Crm, Location, Purchase, Search, View
from dmp.schema import NO_UID
from dmp.store import Store
from tests.dmp.factories import NOW_US, act, user

PARTITIONS = 4


def acts(n: int, first: int = 0) -> list[Any]:
    """n different events of 7 users, an hour apart, of three kinds."""
    kinds = (View, Search, Purchase)
    return [
        msgspec.structs.replace(act(i % 7, kinds[i % 3], days_ago=(i % 30) / 24), event_id=f"e{i}")
        for i in range(first, first + n)
    ]


def archived(folder: Path) -> list[dict[str, Any]]:
    return [row for path in sorted(folder.rglob("*.parquet")) for row in pq.ParquetFile(path).read().to_pylist()]


def ids(folder: Path) -> Counter[str]:
    return Counter(row["event_id"] for row in archived(folder))


def append(client: redis.Redis, happened: list[Any]) -> None:
    streams.append_events(client, happened, PARTITIONS, NOW_US)


def drain(folder: Path, client: redis.Redis) -> archive.State:
    """One whole run of an archiver."""
    with opened(folder, client, PARTITIONS) as opening:
        while opening.read(1):
            pass
        opening.flush()
        return opening.state


def test_every_event_is_archived_as_it_is(tmp_path: Path, client: redis.Redis) -> None:
    given = [
        *acts(50),
        Location(event_id="l", uid=user(1), time_us=NOW_US, lat=48.14, lon=None, consent=7),
        Crm(event_id="c", uid=NO_UID, time_us=NOW_US, gender="f", birth_year=1980),
    ]
    append(client, given)
    assert drain(tmp_path, client).events == 52
    found = {row["event_id"]: msgspec.convert(row, events.Event) for row in archived(tmp_path)}
    assert found == {event.event_id: event for event in given}


def test_files_lie_by_kind_and_hour_of_the_event(tmp_path: Path, client: redis.Redis) -> None:
    noon = 1_790_000_000_000_000 // archive.HOUR_US * archive.HOUR_US
    for time_us in (noon - 1, noon):
        happened = [View(event_id=str(time_us), uid=user(1), time_us=time_us)]
        streams.append_events(client, happened, PARTITIONS, now_us=noon)
    drain(tmp_path, client)
    # 1,790,000,000 s is 2026-09-21 14:13:20 UTC.
    places = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*.parquet")}
    assert places == {"kind=view/date=2026-09-21/hour=13", "kind=view/date=2026-09-21/hour=14"}


def test_a_later_run_goes_on_where_the_last_one_ended(tmp_path: Path, client: redis.Redis) -> None:
    append(client, acts(20))
    drain(tmp_path, client)
    append(client, acts(20, first=20))
    assert drain(tmp_path, client).events == 40
    assert drain(tmp_path, client).batch == 2  # with nothing new nothing is written
    assert ids(tmp_path) == Counter(f"e{i}" for i in range(40))


def test_an_entry_goes_when_it_is_archived_and_processed(tmp_path: Path, client: redis.Redis) -> None:
    streams.ensure_groups(client, PARTITIONS)
    for _ in range(1_000):
        append(client, [act(1)] * 3)
    key = keys.events(keys.event_partition(user(1), PARTITIONS))
    drain(tmp_path, client)
    assert client.xlen(key) == 1_000  # archived, but not processed
    ((_, entries),) = client.xreadgroup(streams.TAGS, "a", {key: ">"}, count=10_000)
    client.xack(key, streams.TAGS, *(entry for entry, _ in entries))
    append(client, [act(1)])
    drain(tmp_path, client)
    assert client.xlen(key) < 200  # whole nodes go; the last one stays


def test_only_one_archiver_writes_a_folder(tmp_path: Path, client: redis.Redis) -> None:
    with opened(tmp_path, client, PARTITIONS), pytest.raises(AnotherArchiver), opened(tmp_path, client, PARTITIONS):
        pass


@pytest.mark.rule("P-71")
def test_who_was_forgotten_meanwhile_gets_into_no_file(tmp_path: Path, client: redis.Redis) -> None:
    linked = events.pack_ids([("cookie", user(3)), ("email", user(1))])
    append(client, [act(1, event_id="a"), act(2, event_id="b"), act(3, event_id="c", ids=linked)])
    with opened(tmp_path, client, PARTITIONS, {user(1)}) as opening:
        while opening.read(1):
            pass
        opening.flush()
    found = {row["event_id"]: (row["uid"], row["consent"], row["ids"]) for row in archived(tmp_path)}
    assert found == {"a": (NO_UID, 0, b""), "b": (user(2), 7, b""), "c": (NO_UID, 0, b"")}


def put(client: redis.Redis, partition: int, *records: bytes, name: str = "*") -> None:
    client.xadd(keys.events(partition), {str(n): record for n, record in enumerate(records)}, id=name)


def no_events() -> list[bytes]:
    """Records that are no event, or none that a column can hold."""
    good = act(1)
    changes: list[dict[str, Any]] = [
        {"uid": b"short"}, {"time_us": -1}, {"time_us": 2**63}, {"value_micros": 2**64 - 1}, {"ids": b"odd"},
    ]  # fmt: skip
    bad = [events.encode(msgspec.structs.replace(good, **change)) for change in changes]
    win = events.Win(event_id="w", bid_id="b", imp_id="1", time_us=NOW_US, campaign="c", creative="d")
    return [b"", b"\xff" * 9, b"text", events.encode(win), *bad]


def test_records_that_are_no_events_are_kept_aside_counted_and_stop_nothing(
    tmp_path: Path, client: redis.Redis
) -> None:
    bad = no_events()
    for record in bad:
        put(client, 0, events.encode(act(1, event_id="a")), record, events.encode(act(1, event_id="b")))
    n = len(bad)
    state = drain(tmp_path, client)
    assert (state.events, state.broken) == (2 * n, n)
    assert ids(tmp_path) == {"a": n, "b": n}
    (aside,) = (tmp_path / archive.QUARANTINE).iterdir()
    rows = pq.ParquetFile(aside).read().to_pylist()
    assert [(row["record"], row["place"]) for row in rows] == [(record, 1) for record in bad]
    assert all(row["why"] for row in rows)
    assert client.xpending(keys.events(0), streams.ARCHIVE)["pending"] == 0
    assert drain(tmp_path, client) == state


def test_entries_of_a_store_that_was_replaced_are_archived_whatever_its_clock(
    tmp_path: Path, client: redis.Redis
) -> None:
    put(client, 0, events.encode(act(1, event_id="before")), name="9999999999999-5")
    drain(tmp_path, client)
    client.delete(keys.events(0))
    put(client, 0, events.encode(act(1, event_id="after")))
    assert drain(tmp_path, client).events == 2
    assert ids(tmp_path) == {"before": 1, "after": 1}


def test_after_a_store_lost_its_last_entries_new_ones_are_archived_and_old_ones_not_again(
    tmp_path: Path, client: redis.Redis
) -> None:
    put(client, 0, events.encode(act(1, event_id="kept")), name="9999999999000-0")
    drain(tmp_path, client)
    last = archive.State(1, {0: "9999999999999-0"}, (), 2)  # one more, which the store has no more
    (tmp_path / archive.STATE).write_bytes(msgspec.json.encode(last))
    with opened(tmp_path, client, PARTITIONS) as opening:
        put(client, 0, events.encode(act(1, event_id="new")))
        opening.read(1)
        assert opening.flush() == 1
    assert ids(tmp_path) == {"kept": 1, "new": 1}


class Died(BaseException):
    """A kill, as far as the files are concerned: nothing after it is done."""


@pytest.fixture
def dying(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Let the n-th from now of all calls that write to disk or store die, before it or after it."""
    left = [0]

    def fragile(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise Died
            result = real(*arguments, **named)
            left[0] -= 1
            if left[0] == 0:
                raise Died
            return result

        return call

    for owner, name in ((os, "fsync"), (Path, "replace"), (pq, "write_table"), (redis.Redis, "xreadgroup")):
        monkeypatch.setattr(owner, name, fragile(getattr(owner, name)))
    monkeypatch.setattr(archive.Archive, "_acknowledge", fragile(archive.Archive._acknowledge))
    return lambda n: left.__setitem__(0, n)


def test_a_death_at_any_step_loses_nothing_and_writes_nothing_twice(
    tmp_path: Path, client: redis.Redis, dying: Callable[[int], None]
) -> None:
    appended, deaths = 0, 0
    for step in range(1, 1_000):
        folder = tmp_path / "archive"
        append(client, acts(6, first=appended))
        appended += 6
        dying(step)
        try:
            drain(folder, client)
        except Died:
            deaths += 1
        else:
            break
    dying(0)
    assert deaths > 20
    drain(folder, client)
    assert ids(folder) == Counter(f"e{i}" for i in range(appended))
    assert not (folder / archive.STAGING).exists() or not list((folder / archive.STAGING).rglob("*.part"))


def test_the_build_reads_the_archive(tmp_path: Path, store: Store, client: redis.Redis) -> None:
    config = DmpConfig(data_dir=str(tmp_path / "data"), redis_url=store.url)
    append(client, [act(n, View, category="travel") for n in range(3) for _ in range(4)])
    drain(tmp_path / "events", client)
    (tmp_path / "events" / archive.STAGING / "000009").mkdir(parents=True)
    (tmp_path / "events" / archive.STAGING / "000009" / "0.parquet.part").write_bytes(b"half")
    assert offline.build(config, tmp_path / "events", NOW_US, store).users == 3


def test_the_command_archives_once(tmp_path: Path, store: Store, client: redis.Redis) -> None:
    from dmp.__main__ import app

    streams.append_events(client, acts(30), DmpConfig().stream.partitions, NOW_US)
    (tmp_path / "tagbid.toml").write_text(f'[dmp]\ndata_dir = "{tmp_path}/data"\nredis_url = "{store.url}"\n')
    ran = CliRunner().invoke(app, ["archive", "--once", "--json", "--config", str(tmp_path / "tagbid.toml")])
    assert ran.exit_code == 0, ran.output
    assert msgspec.json.decode(ran.stdout)["archived"] == 30
    assert ids(tmp_path / "data" / "events") == Counter(f"e{i}" for i in range(30))
