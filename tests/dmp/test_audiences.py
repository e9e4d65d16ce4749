import os
import struct
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmp import audiences, codec, keys
from dmp.errors import CorruptRecord
from dmp.store import Store, read_users

ANNA, BORIS = b"\x01" * 16, b"\xff" * 16
LATER = 4_000_000_000  # 2096: within 32 bits, after 2038
SPRING = "acme/spring"


def record(client: redis.Redis, uid: bytes) -> list[tuple[int, int]]:
    return codec.decode_audiences(client.get(keys.audiences(uid)) or b"\x01")


def test_a_member_is_seen_in_the_users_one_read(client: redis.Redis) -> None:
    assert audiences.add_members(client, SPRING, [ANNA, BORIS], LATER) == 2
    anna, boris = read_users(client, [ANNA, BORIS], now_s=LATER - 1)
    assert anna.audiences == boris.audiences == {keys.number(SPRING)}
    (anna,) = read_users(client, [ANNA], now_s=LATER)
    assert anna.audiences == set()


def test_adding_again_changes_the_end_and_nothing_else(client: redis.Redis) -> None:
    audiences.add_members(client, SPRING, [ANNA], LATER)
    assert audiences.add_members(client, SPRING, [ANNA], LATER + 5) == 1
    assert record(client, ANNA) == [(keys.number(SPRING), LATER + 5)]


def test_a_key_lives_as_long_as_its_longest_membership(client: redis.Redis) -> None:
    audiences.add_members(client, "acme/long", [ANNA], LATER + 100)
    audiences.add_members(client, "acme/short", [ANNA], LATER)
    assert client.expiretime(keys.audiences(ANNA)) == LATER + 100
    audiences.add_members(client, "acme/for-good", [ANNA], 0)
    audiences.add_members(client, "acme/another", [ANNA], LATER)
    assert client.expiretime(keys.audiences(ANNA)) == -1


def test_ended_memberships_go_when_the_record_is_next_written(client: redis.Redis) -> None:
    client.set(keys.audiences(ANNA), codec.encode_audiences([(7, 1_000), (8, LATER), (9, 0)]))
    audiences.add_members(client, SPRING, [ANNA], LATER)
    assert record(client, ANNA) == [(8, LATER), (9, 0), (keys.number(SPRING), LATER)]


def test_a_full_record_takes_no_more_and_still_renews(client: redis.Redis) -> None:
    full = [(n, LATER) for n in range(audiences.MAX_MEMBERSHIPS)]
    client.set(keys.audiences(ANNA), codec.encode_audiences(full))
    assert audiences.add_members(client, SPRING, [ANNA, BORIS], LATER) == 1
    assert record(client, ANNA) == full
    client.set(keys.audiences(ANNA), codec.encode_audiences([*full[1:], (keys.number(SPRING), LATER)]))
    assert audiences.add_members(client, SPRING, [ANNA], 0) == 1
    assert len(record(client, ANNA)) == audiences.MAX_MEMBERSHIPS


@pytest.mark.parametrize("stored", [b"\x02", b"\x02" + bytes(8), b"\x01" + bytes(7)])
def test_a_record_of_another_version_is_left_alone(client: redis.Redis, stored: bytes) -> None:
    client.set(keys.audiences(ANNA), stored)
    with pytest.raises(CorruptRecord):
        audiences.add_members(client, SPRING, [ANNA], LATER)
    assert client.get(keys.audiences(ANNA)) == stored


def test_a_restarted_store_that_forgot_the_script_still_takes_members(client: redis.Redis) -> None:
    audiences.add_members(client, SPRING, [ANNA], LATER)
    client.script_flush()
    assert audiences.add_members(client, SPRING, [BORIS], LATER) == 1


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    writes=st.lists(
        st.tuples(st.sampled_from(["a/1", "a/2", "b/1"]), st.sampled_from([0, LATER, LATER + 9])), max_size=9
    )
)
def test_any_order_of_writes_leaves_each_audience_once_with_its_last_end(
    store: Store, writes: list[tuple[str, int]]
) -> None:
    client = store.sync()
    client.delete(keys.audiences(ANNA))
    for audience, ends in writes:
        audiences.add_members(client, audience, [ANNA], ends)
    found = record(client, ANNA)
    client.close()
    assert sorted(found) == sorted((keys.number(audience), ends) for audience, ends in dict(writes).items())


def test_numbers_use_all_32_bits(client: redis.Redis) -> None:
    """Lua counts in doubles; a number above 2^31 must come back as it went in."""
    high = next(f"acme/{n}" for n in range(100) if keys.number(f"acme/{n}") >= 2**31)
    audiences.add_members(client, high, [ANNA], LATER)
    raw = client.get(keys.audiences(ANNA))
    assert raw == b"\x01" + struct.pack("<II", keys.number(high), LATER)


@pytest.mark.rule("P-65")
@pytest.mark.parametrize(
    ("size", "told"),
    [
        (0, 0),
        (1, 0),
        (49, 0),
        (50, 50),
        (99, 99),
        (100, 100),
        (104, 100),
        (105, 110),
        (1_949, 1_900),
        (99_500, 100_000),
    ],
)
def test_sizes_are_told_with_two_digits_and_as_0_below_50(size: int, told: int) -> None:
    assert audiences.told(size) == told


@pytest.mark.rule("P-65")
@given(part=st.integers(0, 10**7), extra=st.integers(0, 10**7))
def test_a_match_rate_follows_from_the_sizes_as_told(part: int, extra: int) -> None:
    rate = audiences.told_rate(part, part + extra)
    assert 0 <= rate <= 1
    assert rate == audiences.told_rate(audiences.told(part), audiences.told(part + extra))


@pytest.mark.rule("S-22")
@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a b", "a\n", "-a", "é", "a" * 65, "aud:{x}", "x\0"])
def test_a_name_that_could_reach_a_path_or_key_is_refused(name: str) -> None:
    with pytest.raises(audiences.BadName):
        audiences.audience_id("acme", name)
    with pytest.raises(audiences.BadName):
        audiences.audience_id(name, "spring")


def test_uids_written_are_read_back_and_a_torn_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "seeds" / "x.uids"
    uids = [bytes([n % 256, n // 256]) + bytes(14) for n in range(audiences.BATCH + 1)]
    assert audiences.write_uids(path, iter(uids)) == len(uids)
    assert list(audiences.read_uids(path)) == uids
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CorruptRecord):
        list(audiences.read_uids(path))


def test_a_write_that_fails_leaves_no_file(tmp_path: Path) -> None:
    def broken() -> object:
        yield ANNA
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        audiences.write_uids(tmp_path / "x.uids", broken())  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.rule("P-70")
def test_files_no_audience_refers_to_are_swept_after_an_hour(tmp_path: Path) -> None:
    for name in ("seeds/kept.uids", "seeds/lost.uids", "members/lost.uids"):
        audiences.write_uids(tmp_path / name, [ANNA])
        os.utime(tmp_path / name, (1_000, 1_000))
    kept = frozenset({"seeds/kept.uids"})
    assert audiences.sweep(tmp_path, kept, 1_000 + audiences.GRACE_S) == 0
    assert audiences.sweep(tmp_path, kept, 1_001 + audiences.GRACE_S) == 2
    assert [path.name for path in (tmp_path / "seeds").iterdir()] == ["kept.uids"]
