import io
from contextlib import suppress

import msgpack
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import events
from dmp.errors import BadEvents
from dmp.events import Bid, Click, Crm, Location, Loss, Purchase, Search, View, Win
from dmp.schema import Contact, User
from tests.stored import encode_all

UID = bytes(range(16))
FIRST = View(event_id="e1", uid=UID, time_us=1_700_000_000_000_000, category="travel", dwell_ms=1_200)
BID = Bid(
    event_id="b1", time_us=1, exchange="adx", auction_id="a", imp_id="1", campaign="c", creative="k", uid=UID,
    price_micros=2_500_000, pctr=0.01, vector=b"\x00" * 8,
    user=User({7: 50}, frozenset({3}), (Contact(1, 2, 3),)),
)  # fmt: skip
ALL = [
    FIRST,
    Search(event_id="e2", uid=UID, time_us=2, query="flüge"),
    Purchase(event_id="e3", uid=UID, time_us=3, value_micros=-5, order_id="o"),
    Crm(event_id="e4", uid=UID, time_us=4, gender="f", birth_year=1990),
    Location(event_id="e5", uid=UID, time_us=5, lat=48.1, lon=11.5),
    BID,
    Win(event_id="b1:win", bid_id="b1", imp_id="1", time_us=6, campaign="c", creative="k", price_micros=7),
    Click(event_id="b1:click", bid_id="b1", imp_id="1", time_us=7, campaign="c", creative="k", uid=UID),
    Loss(event_id="b1:loss", bid_id="b1", imp_id="1", time_us=8, campaign="c", creative="k", reason=102),
]


def test_every_kind_reads_back_as_written():
    assert list(events.read(io.BytesIO(encode_all(ALL)))) == ALL
    assert [events.decode(events.encode(event)) for event in ALL] == ALL


def test_any_messagepack_reader_reads_our_bytes():
    unpacker = msgpack.Unpacker(io.BytesIO(encode_all(ALL)), raw=False, strict_map_key=False)
    plain = list(unpacker)
    assert [record["kind"] for record in plain] == [
        "view", "search", "purchase", "crm", "location", "bid", "win", "click", "loss"
    ]  # fmt: skip
    assert plain[0] == {
        "kind": "view", "event_id": "e1", "uid": UID, "time_us": 1_700_000_000_000_000, "category": "travel",
        "dwell_ms": 1_200,
    }  # fmt: skip


def test_the_kinds_are_the_stored_names():
    assert events.KINDS == (
        "view", "search", "cart", "purchase", "install", "location", "app_use", "crm", "conversion",
        "bid", "win", "billing", "impression", "click", "loss", "viewable", "progress",
    )  # fmt: skip


def test_bytes_of_the_first_release_are_read_with_defaults_for_what_came_later():
    bid = {
        "kind": "bid", "event_id": "b", "time_us": 1, "exchange": "x", "auction_id": "a", "imp_id": "1",
        "campaign": "c", "creative": "k", "price_micros": 9,
    }  # fmt: skip
    read = events.decode(msgpack.packb(bid))
    assert isinstance(read, Bid)
    assert (read.user, read.model, read.currency, read.at, read.arm, read.ad) == (None, "", "USD", 2, "", b"")
    view = events.decode(
        bytes.fromhex("84a46b696e64a476696577a86576656e745f6964a165a3756964c402abcda774696d655f757301")
    )
    assert view == View(event_id="e", uid=b"\xab\xcd", time_us=1)


def test_fields_of_a_later_release_are_ignored():
    later = msgspec.msgpack.encode({**msgspec.to_builtins(FIRST, builtin_types=(bytes,)), "new": [1, {"a": 2}]})
    assert events.decode(later) == FIRST


@pytest.mark.parametrize(
    "record",
    [
        {"kind": "view", "uid": UID, "time_us": 1},
        {"kind": "view", "event_id": "e", "uid": "text", "time_us": 1},
        {"kind": "view", "event_id": "e", "uid": UID, "time_us": 1.5},
        {"kind": "teleport", "event_id": "e", "uid": UID, "time_us": 1},
        {"kind": "crm", "event_id": "e", "uid": UID, "time_us": 1, "gender": "x"},
        ["view"],
        7,
    ],
)
def test_a_record_that_is_no_event_is_refused(record):
    with pytest.raises(BadEvents):
        events.decode(msgpack.packb(record))


@given(st.integers(0, 400), st.integers(1, 7))
def test_a_torn_end_is_the_end_and_all_before_it_is_read(cut, chunk):
    whole = [events.encode(event) for event in ALL[:4]]
    data = b"".join(whole)[:cut]
    complete = 0
    while sum(map(len, whole[: complete + 1])) <= len(data) and complete < 4:
        complete += 1

    class Trickle(io.BytesIO):
        def read(self, size=-1):
            return super().read(chunk)

    assert list(events.read(Trickle(data))) == ALL[:complete]


@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=3))
def test_events_with_changed_bytes_give_events_or_bad_events(changes):
    data = bytearray(encode_all(ALL))
    for at, byte in changes:
        data[at % len(data)] = byte
    with suppress(BadEvents):
        for event in events.read(io.BytesIO(data)):
            assert isinstance(event, msgspec.Struct)


def test_text_that_is_no_utf8_and_endless_nesting_are_refused():
    for broken in (
        b"\x84\xa4kind\xa4view\xa8event_id\xa1\xff\xa3uid\xc4\x00\xa7time_us\x01",
        b"\x85\xa4kind\xa4view\xa8event_id\xa1e\xa3uid\xc4\x00\xa7time_us\x01\xa1x" + b"\x91" * 100_000 + b"\xc0",
    ):
        for read in (events.decode, lambda data: list(events.read(io.BytesIO(data)))):
            with pytest.raises(BadEvents):
                read(broken)


@given(st.binary(max_size=200))
def test_any_bytes_give_events_or_bad_events(data):
    try:
        for event in events.read(io.BytesIO(data)):
            assert isinstance(event, msgspec.Struct)
    except BadEvents:
        pass


def test_records_larger_than_a_read_and_across_its_border_arrive_whole():
    big = [View(event_id="x" * n, uid=UID, time_us=n) for n in (1, 700_000, 1_048_576, 3_000_000, 5)]
    assert list(events.read(io.BytesIO(encode_all(big)))) == big


def test_a_broken_file_is_named(tmp_path):
    path = tmp_path / "bids.mpk"
    path.write_bytes(events.encode(FIRST) + b"\xc1\xc1")
    read = events.read_file(path)
    assert next(read) == FIRST
    with pytest.raises(BadEvents, match=r"bids\.mpk"):
        next(read)


def test_an_event_that_states_no_consent_has_none():
    plain = msgpack.packb({"kind": "view", "event_id": "e", "uid": UID, "time_us": 1})
    assert events.decode(plain).consent == 0


def test_a_broken_length_does_not_pass_the_rest_of_a_file_off_as_a_torn_end():
    rest = events.encode(FIRST) * (6 * 1024**2 // len(events.encode(FIRST)))
    read = events.read(io.BytesIO(events.encode(FIRST) + b"\xdb\xff\xff\xff\xff" + rest))  # text of 4 GB
    assert next(read) == FIRST
    with pytest.raises(BadEvents, match="no end within"):
        next(read)
