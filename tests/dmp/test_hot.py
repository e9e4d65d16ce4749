import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pytest
import redis
from typer.testing import CliRunner

from dmp import keys, taxonomy, trends
from dmp.hot import MIN_HISTORY_TILES, MIN_USERS, TILE_US, breakouts, find, robust_z
from dmp.offline import write_events
from dmp.store import Store
from tests.dmp.factories import NOW_US, act, user

NOW = NOW_US // TILE_US * TILE_US + 5
TILE = NOW // TILE_US - 1  # the last whole hour
TRAVEL = taxonomy.tag_id("interest.travel")


@pytest.mark.parametrize(
    ("n", "before", "z"),
    [
        (100, [10] * 30, 90 / 10**0.5),  # no spread: what counting scatters
        (100, [0] * 30, 100.0),
        (30, [0, 20] * 15, 20 / (1.4826 * 10)),  # median 10, every one 10 away
        (10, [10] * 29 + [10_000], 0.0),  # an old burst says nothing
    ],
)
def test_z_is_the_distance_from_the_median_in_robust_deviations(n: int, before: list[int], z: float) -> None:
    assert robust_z(n, np.array(before, dtype=np.float64)) == pytest.approx(z, abs=0.01)


def counted(*rows: tuple[str, int, int, int]) -> pa.Table:
    return pa.Table.from_pylist([dict(zip(("topic", "tile", "n", "users"), row, strict=True)) for row in rows])


def a_history(topic: str, n: int = 4) -> list[tuple[str, int, int, int]]:
    return [(topic, TILE - back, n, n) for back in range(1, MIN_HISTORY_TILES + 2)]


def test_a_topic_that_breaks_out_is_told_with_its_time() -> None:
    (found,) = breakouts(counted(*a_history("travel"), ("travel", TILE, 200, 123)), TILE)
    assert (found.topic, found.tag, found.n, found.usual, found.users) == ("travel", TRAVEL, 200, 4.0, 120)
    assert (found.since_us, found.until_us) == (TILE * TILE_US, (TILE + 3) * TILE_US)


@pytest.mark.rule("P-65")
def test_nothing_is_told_of_few_users() -> None:
    for users, told in ((MIN_USERS - 1, 0), (MIN_USERS, 1)):
        assert len(breakouts(counted(*a_history("x"), ("x", TILE, 5_000, users)), TILE)) == told


def test_without_a_day_of_history_nothing_breaks_out() -> None:
    rows = [("x", TILE - back, 1, 1) for back in range(1, MIN_HISTORY_TILES)]
    assert breakouts(counted(*rows, ("x", TILE, 5_000, 900)), TILE) == []
    assert breakouts(counted(), TILE) == []


def test_a_steady_topic_a_daily_rhythm_and_noise_do_not_break_out() -> None:
    rng = np.random.default_rng(1)
    rows = []
    for topic in range(200):
        for back in range(7 * 24):
            rate = 80 * (1 + 0.8 * np.sin(2 * np.pi * (TILE - back) / 24)) if topic % 2 else 80
            rows.append((f"t{topic}", TILE - back, int(rng.poisson(rate)), 60))
    assert breakouts(counted(*rows), TILE) == []


def an_archive(folder: Path) -> None:
    """A day and a half of two topics; one of them, in three spellings, breaks out among the users 0 to 1,199."""
    folder.mkdir()
    hour = 1 / 24
    ago = (NOW - TILE * TILE_US) / 86_400_000_000 - hour / 2  # the middle of the last whole hour
    usual = [
        act(n, days_ago=ago + back * hour, category=c)
        for back in range(36)
        for n in range(4)
        for c in ("Travel", "food")
    ]
    burst = [act(n, days_ago=ago, category=("travel", "Travel", "TRAVEL")[n % 3]) for n in range(1_200)]
    silent = [act(n, days_ago=ago, category="secret", consent=0) for n in range(900)]
    few = [act(n, days_ago=ago, category="about jo") for n in range(40) for _ in range(50)]
    write_events(
        folder / "a.parquet", [msgspec.structs.replace(e, time_us=e.time_us - NOW_US + NOW) for e in usual + burst]
    )
    write_events(
        folder / "b.parquet", [msgspec.structs.replace(e, time_us=e.time_us - NOW_US + NOW) for e in silent + few]
    )


def tags_of(n: int) -> pa.Table:
    """2,000 users, all with one tag; the first n with another one, too."""
    pets, sports = taxonomy.tag_id("interest.pets"), taxonomy.tag_id("interest.sports")
    rows = [(user(i), sports) for i in range(2_000)] + [(user(i), pets) for i in range(n)]
    return pa.table(
        {"uid": pa.array([u for u, _ in rows], pa.binary(16)), "tag": pa.array([t for _, t in rows], pa.uint32())}
    )


@pytest.mark.rule("P-65")
def test_what_broke_out_when_and_among_whom(tmp_path: Path) -> None:
    an_archive(tmp_path / "events")
    (found,) = find(tmp_path / "events", NOW, tags_of(1_000), 1_000)
    assert (found.topic, found.users, found.since_us) == ("travel", 1_200, TILE * TILE_US)
    # 1,000 of its 1,200 users have pets (83 %), 1,000 of all 2,000 (50 %): 67 % more; sports have all of both.
    assert found.among == {"interest.pets": 67}
    (withheld,) = find(tmp_path / "events", NOW, tags_of(1_000), 1_201)
    assert withheld.among == {}


def test_hot_topics_lie_in_the_store_until_they_are_over(client: redis.Redis) -> None:
    one = trends.Hot("travel", TRAVEL, 9.0, 90, 4.0, 80, NOW - 10, 2**31 * 1_000_000)
    trends.publish(client, [one], NOW)
    assert trends.published(client) == [one]
    assert client.expiretime(keys.HOT) == 2**31
    trends.publish(client, [], NOW)
    assert trends.published(client) == []


def test_the_command_tells_and_publishes(tmp_path: Path, store: Store, client: redis.Redis, monkeypatch: Any) -> None:
    from dmp.__main__ import app

    an_archive(tmp_path / "events")
    monkeypatch.setattr("dmp.hot_commands.time.time_ns", lambda: NOW * 1_000)
    (tmp_path / "tagbid.toml").write_text(f'[dmp]\ndata_dir = "{tmp_path}"\nredis_url = "{store.url}"\n')
    ran = CliRunner().invoke(app, ["hot", "--json", "--config", str(tmp_path / "tagbid.toml")])
    assert ran.exit_code == 0, ran.output
    assert [one["topic"] for one in msgspec.json.decode(ran.stdout)] == ["travel"]


def test_that_nothing_is_hot_is_told_for_two_hours_and_silence_after(client: redis.Redis) -> None:
    over = trends.Hot("travel", TRAVEL, 9.0, 90, 4.0, 80, NOW - 10, NOW)
    trends.publish(client, [over], 2**31 * 1_000_000)
    assert client.get(keys.HOT) == b"[]"
    assert client.expiretime(keys.HOT) == 2**31 + 7_200


def test_the_command_watches_until_it_is_stopped(tmp_path: Path, store: Store, client: redis.Redis) -> None:
    """It waits for the first events; a record that goes is there again at the next look; SIGTERM ends it in order."""
    folder = tmp_path / "events"
    folder.mkdir()
    write_events(tmp_path / "whole", [act(1)])
    (tmp_path / "tagbid.toml").write_text(f'[dmp]\ndata_dir = "{tmp_path}"\nredis_url = "{store.url}"\n')
    command = [sys.executable, "-m", "dmp", "hot", "--watch", "--every", "1", "--json"]
    command += ["--config", str(tmp_path / "tagbid.toml")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert "waiting" in process.stderr.readline()
            (tmp_path / "whole").rename(folder / "a.parquet")
            for _ in range(2):
                assert process.stdout.readline() == "[]\n"
                assert client.getdel(keys.HOT) == b"[]"
        finally:
            process.terminate()
        assert process.wait(10) == 0
