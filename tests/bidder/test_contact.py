import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from bidder import contact
from bidder.campaigns import FrequencyCap
from bidder.contact import HOUR_US, over_cap
from dmp import keys
from dmp.codec import MAX_CONTACTS, decode_contacts, encode_contacts
from dmp.schema import Contact
from dmp.store import Store

UID = bytes(range(16))
NOW_US = 500_000 * HOUR_US + 1_800_000_000  # half past


@pytest.mark.parametrize(("shown", "capped"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_user_at_the_frequency_cap_is_not_bid_on(shown: int, capped: bool) -> None:
    contacts = [Contact(7, 500_000, shown)] if shown else []
    assert over_cap([FrequencyCap(3, 86_400)], contacts, NOW_US) is capped


@pytest.mark.parametrize(
    ("hour", "counts"),
    [(500_000, True), (499_999, True), (499_998, False)],  # 12:30 less one hour is 11:30: the hour from 11 on counts
)
def test_the_partial_first_hour_of_a_window_counts_in_full(hour: int, counts: bool) -> None:
    assert over_cap([FrequencyCap(1, 3_600)], [Contact(7, hour, 1)], NOW_US) is counts


def test_every_cap_must_hold() -> None:
    caps = [FrequencyCap(2, 3_600), FrequencyCap(5, 86_400)]
    spread = [Contact(7, 500_000 - hour, 1) for hour in range(5)]
    assert over_cap(caps, spread, NOW_US)
    assert not over_cap(caps, spread[:4:3], NOW_US)


@given(
    st.lists(st.integers(NOW_US - 3 * 86_400_000_000, NOW_US), max_size=30),
    st.integers(1, 5),
    st.sampled_from([60, 3_600, 7_200, 86_400, 90_000]),
)
def test_a_cap_is_never_exceeded_in_any_rolling_window(times_us: list[int], limit: int, window_s: int) -> None:
    """Against exact times: whenever the exact window is full, the counters say so."""
    counted: dict[int, int] = {}
    for time_us in times_us:
        counted[time_us // HOUR_US] = counted.get(time_us // HOUR_US, 0) + 1
    contacts = [Contact(7, hour, count) for hour, count in counted.items()]
    exact = sum(NOW_US - window_s * 1_000_000 < time_us for time_us in times_us)
    if exact >= limit:
        assert over_cap([FrequencyCap(limit, window_s)], contacts, NOW_US)


async def count(
    store: Store, event: str, scopes: list[int], now_us: int = NOW_US, keep_s: int = contact.KEEP_S
) -> bool:
    connection = store.aio()
    try:
        return await contact.record(connection, UID, scopes, now_us, keys.contact_mark(UID, event), 3_600, keep_s)
    finally:
        await connection.aclose()


def held(client: redis.Redis) -> list[Contact]:
    data = client.get(keys.contacts(UID))
    return sorted(decode_contacts(data), key=lambda c: (c.scope, c.hour)) if data else []  # type: ignore[arg-type]


async def test_an_impression_counts_once_per_scope_however_often_it_is_told(store: Store, client: redis.Redis) -> None:
    assert await count(store, "e1", [7, 8])
    assert not await count(store, "e1", [7, 8])
    assert await count(store, "e2", [7])
    assert held(client) == [Contact(7, 500_000, 2), Contact(8, 500_000, 1)]


async def test_hours_are_counted_apart_and_old_ones_are_forgotten(store: Store, client: redis.Redis) -> None:
    await count(store, "e1", [7], NOW_US - 30 * HOUR_US)
    await count(store, "e2", [7], NOW_US - HOUR_US)
    await count(store, "e3", [7], NOW_US, keep_s=86_400)
    assert held(client) == [Contact(7, 499_999, 1), Contact(7, 500_000, 1)]


async def test_record_and_mark_have_a_time_to_live(store: Store, client: redis.Redis) -> None:
    await count(store, "e1", [7], keep_s=86_400)
    assert 86_400 < client.ttl(keys.contacts(UID)) <= 86_400 + 3_600  # type: ignore[operator]
    assert 0 < client.ttl(keys.contact_mark(UID, "e1")) <= 3_600  # type: ignore[operator]


async def test_a_full_record_lets_impressions_count_longer_never_shorter(store: Store, client: redis.Redis) -> None:
    full = [Contact(7, 499_900 + hour, 1) for hour in range(MAX_CONTACTS)]
    client.set(keys.contacts(UID), encode_contacts(full))
    await count(store, "e1", [7])
    found = held(client)
    assert len(found) == MAX_CONTACTS
    assert sum(c.count for c in found) == MAX_CONTACTS + 1
    assert found[0] == Contact(7, 499_901, 2)


async def test_when_every_scope_has_one_entry_the_oldest_contact_is_forgotten(
    store: Store, client: redis.Redis
) -> None:
    full = [Contact(100 + i, 499_900 + i, 1) for i in range(MAX_CONTACTS)]
    client.set(keys.contacts(UID), encode_contacts(full))
    await count(store, "e1", [7])
    found = held(client)
    assert len(found) == MAX_CONTACTS
    assert Contact(7, 500_000, 1) in found
    assert full[0] not in found


async def test_a_record_of_an_unknown_version_is_left_alone(store: Store, client: redis.Redis) -> None:
    client.set(keys.contacts(UID), b"\x09later")
    with pytest.raises(redis.RedisError, match="unknown version"):
        await count(store, "e1", [7])
    assert client.get(keys.contacts(UID)) == b"\x09later"
    assert client.get(keys.contact_mark(UID, "e1")) is None
