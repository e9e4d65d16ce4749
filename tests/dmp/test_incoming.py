import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dmp import events, incoming
from dmp.events import CONSENT_MEASURE, CONSENT_PROFILE, CONSENT_TRAIN, Cart, Conversion, Search, View
from dmp.incoming import Taken, Unusable
from dmp.permission import Basis
from dmp.pseudonym import KeyRing
from dmp.schema import NO_UID
from dmp.tcf_rules import declare
from tests.bidder.consent_strings import VENDOR, tc

RING = KeyRing(bytes(range(32)))
NOW = 1_790_000_000_000_000
NOBODY = Basis(None, declare(()))
VENDORS = Basis(VENDOR, declare((1, 3, 4, 7, 10)))
IFA = "6d92078a-8246-4ba4-ae5b-76104861e7dc"


def an_item(**changes: Any) -> dict[str, Any]:
    item = {"kind": "view", "event_id": "e1", "id": "c-77", "id_type": "cookie", "consent": 7, **changes}
    return {name: value for name, value in item.items() if value is not ...}


def read(*items: Any, form: incoming.Format = "json", us: Basis = NOBODY) -> Taken:
    body = json.dumps(list(items)) if form == "json" else "\n".join(json.dumps(item) for item in items)
    return incoming.take(body.encode(), form, "shop", NOW, RING, us, may_link=True)


def one(us: Basis = NOBODY, **changes: Any) -> Any:
    taken = read(an_item(**changes), us=us)
    assert taken.refused == []
    return taken.events[0]


def code(**changes: Any) -> str:
    taken = read(an_item(**changes))
    assert taken.events == []
    return taken.refused[0][1].code


def test_an_item_becomes_the_event_of_its_kind_under_the_users_pseudonym() -> None:
    found = one(
        kind="cart", category="shoes", value_micros=5_000_000, time_us=NOW - 7, id=IFA.upper(), id_type="device"
    )
    assert found == Cart(
        event_id=RING.event_id("shop", "e1"),
        uid=RING.uid("device", IFA) or b"",
        time_us=NOW - 7,
        source="shop",
        consent=7,
        category="shoes",
        value_micros=5_000_000,
    )


def test_one_object_an_array_and_lines_say_the_same() -> None:
    item = an_item()
    single = incoming.take(json.dumps(item, indent=2).encode(), "json", "shop", NOW, RING, NOBODY)
    assert single == read(item) == read(item, form="ndjson")


def test_what_is_left_out_is_now_and_a_cookie() -> None:
    found = one(id_type=...)
    assert (found.time_us, found.uid) == (NOW, RING.uid("cookie", "c-77"))


def test_good_items_are_kept_and_each_bad_one_is_told_by_its_place() -> None:
    taken = read(an_item(), 7, an_item(kind="dance"), an_item(event_id="e2"), None, an_item(id=""))
    assert [event.event_id for event in taken.events] == [RING.event_id("shop", name) for name in ("e1", "e2")]
    assert [(place, why.code) for place, why in taken.refused] == [
        (1, "malformed"),
        (2, "unknown_kind"),
        (4, "malformed"),
        (5, "bad_id"),
    ]


def test_a_broken_line_costs_itself_and_a_broken_array_everything() -> None:
    good = json.dumps(an_item()).encode()
    taken = incoming.take(good + b'\n{"kind": \n\n' + good, "ndjson", "shop", NOW, RING, NOBODY)
    assert (len(taken.events), [place for place, _ in taken.refused]) == (2, [1])
    with pytest.raises(Unusable, match="one event a line"):
        incoming.take(b"[" + good + b', {"kind": ]', "json", "shop", NOW, RING, NOBODY)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"kind": ...}, "unknown_kind"),
        ({"kind": "bid"}, "unknown_kind"),
        ({"kind": ["view"]}, "unknown_kind"),
        ({"event_id": ...}, "missing_event_id"),
        ({"event_id": ""}, "missing_event_id"),
        ({"event_id": 5}, "missing_event_id"),
        ({"event_id": "x" * 513}, "too_long"),
        ({"id": ...}, "missing_id"),
        ({"id": 5}, "bad_id"),
        ({"id": "00000000-0000-0000-0000-000000000000"}, "bad_id"),
        ({"id_type": "planet"}, "unknown_id_type"),
        ({"id_type": ["cookie"]}, "unknown_id_type"),
        ({"consent": 8}, "unknown_consent"),
        ({"consent": True}, "unknown_consent"),
        ({"consent": "7"}, "unknown_consent"),
        ({"gdpr": 2}, "unknown_consent"),
        ({"gdpr_consent": 5}, "unknown_consent"),
        ({"time_us": NOW + incoming.AHEAD_US + 1}, "future"),
        ({"time_us": NOW // 1_000}, "too_old"),
        ({"time_us": float(NOW)}, "bad_time"),
        ({"category": "x" * 513}, "too_long"),
        ({"category": "a\nb"}, "bad_text"),
        ({"category": 5}, "bad_type"),
        ({"site": "jo@example.com"}, "holds_id"),
        ({"category": f"of {IFA}"}, "holds_id"),
        ({"category": "jo%40example.com"}, "holds_id"),
        ({"category": "jo\uff20example\uff0ecom"}, "holds_id"),
        ({"item": "of " + "0123456789abcdef" * 4}, "holds_id"),
        ({"other": "Y29va2llIDc="}, "bad_id"),
        ({"other": {"id": "c-8", "id_type": "planet"}}, "unknown_id_type"),
        ({"value_micros": -1}, "bad_number"),
        ({"value_micros": 10**15 + 1}, "bad_number"),
        ({"value_micros": 1.5}, "bad_type"),
        ({"value_micros": 10**30}, "bad_number"),
        ({"dwell_ms": 10**9}, "bad_number"),
        ({"kind": "crm", "gender": "secret"}, "bad_type"),
        ({"kind": "location", "lat": 91.0}, "bad_number"),
    ],
)
def test_what_is_no_event_says_why(changes: dict[str, Any], expected: str) -> None:
    assert code(**changes) == expected


def test_no_refusal_repeats_the_senders_text() -> None:
    secret = "canary-4711"
    for name in ("kind", "event_id", "id_type", "consent", "gdpr", "time_us", "category", "gender", "value_micros"):
        for value in (secret, secret + "@example.com", [secret], {"a": secret}, secret + "\n"):
            for _, why in read(an_item(kind="crm", **{name: value}) if name != "kind" else an_item(kind=value)).refused:
                assert secret not in why.detail
                assert secret not in why.code


@pytest.mark.rule("P-60")
def test_a_raw_uid_or_an_unknown_field_is_not_taken_over() -> None:
    found = one(uid="abcdabcdabcdabcd", source="somebody else", email="jo@example.com")
    assert found == one()


@pytest.mark.rule("P-60")
def test_an_events_id_is_kept_as_a_digest_of_its_own_source() -> None:
    taken = incoming.take(json.dumps(an_item()).encode(), "json", "rival", NOW, RING, NOBODY)
    assert taken.events[0].event_id != one().event_id
    assert len(one(event_id="x" * 512).event_id) == 32


@pytest.mark.rule("P-60")
def test_further_ids_of_the_person_become_pseudonyms() -> None:
    found = one(ids=[{"id": "jo@example.com", "id_type": "email"}, {"id": "c-77"}])
    cookie, email = RING.uid("cookie", "c-77"), RING.uid("email", "jo@example.com")
    assert (found.uid, events.unpack_ids(found.ids)) == (cookie, [("cookie", cookie), ("email", email)])
    assert one(ids=[]).ids == b""
    assert one(ids=[{"id": "jo@example.com", "id_type": "email"}], consent=0).ids == b""


@pytest.mark.parametrize("ids", ["AAAA", 5, [5], [{"id": "null"}], [{"id": "a", "id_type": "x"}], [{"id": "a"}] * 8])
def test_further_ids_that_are_none_are_refused(ids: Any) -> None:
    assert code(ids=ids) in ("bad_id", "unknown_id_type")


def test_only_who_may_link_ids_may_name_several() -> None:
    body = json.dumps([an_item(), an_item(ids=[{"id": "c-77"}]), an_item(ids=[])]).encode()
    taken = incoming.take(body, "json", "shop", NOW, RING, NOBODY)
    assert len(taken.events) == 2
    assert [(place, why.code) for place, why in taken.refused] == [(1, "may_not_link")]


@pytest.mark.rule("P-60")
def test_addresses_become_marks() -> None:
    found = one(ip="192.0.2.7", address="1 High St.")
    assert (found.ip, found.address) == (RING.mark("ip", "192.0.2.7"), RING.mark("address", "1 high st"))


@pytest.mark.rule("P-31")
def test_degrees_are_rounded() -> None:
    found = one(kind="location", lat=48.137430, lon=11.575490)
    assert (found.lat, found.lon) == (48.14, 11.58)


@pytest.mark.parametrize(
    ("site", "kept"),
    [
        ("https://User:pw@Shop.example:8443/a?mail=1", "shop.example"),
        ("shop.example/basket/17", "shop.example"),
        ("com.example.App", "com.example.App"),
        ("shop.example?mail=jo", "shop.example"),
        ("shop.example#jo", "shop.example"),
    ],
)
def test_a_page_is_kept_as_its_host(site: str, kept: str) -> None:
    assert one(site=site).site == kept


@pytest.mark.rule("P-60")
def test_whom_an_act_pays_heed_to_is_kept_as_a_pseudonym_and_only_with_permission() -> None:
    friend = {"id": "c-8", "id_type": "login"}
    assert one(other=friend).other == RING.uid("login", "c-8")
    assert one(other=friend, consent=CONSENT_MEASURE).other == b""


@pytest.mark.rule("P-32")
def test_an_event_loses_what_names_somebody_who_may_not_be_known() -> None:
    event = one(other={"id": "c-8"}, ids=[{"id": "c-9"}], ip="192.0.2.7")
    own, further, other = (RING.uid("cookie", name) or b"" for name in ("c-77", "c-9", "c-8"))
    assert incoming.persons(event) == {own, further, other}
    assert incoming.without(event, {NO_UID}) == event
    only_other = incoming.without(event, {other})
    assert (only_other.other, only_other.uid, only_other.ids) == (b"", own, event.ids)
    for gone in (own, further):
        left = incoming.without(event, {gone})
        assert (left.uid, left.ids, left.other, left.ip, left.consent) == (NO_UID, b"", b"", "", 0)


@pytest.mark.rule("P-16")
@pytest.mark.parametrize("consent", [0, CONSENT_MEASURE, CONSENT_TRAIN])
def test_without_consent_to_profile_the_event_is_kept_without_ids(consent: int) -> None:
    found = one(consent=consent, ip="192.0.2.7", address="1 High St", id=..., category="shoes")
    assert (found.uid, found.ip, found.address, found.category, found.consent) == (NO_UID, "", "", "shoes", consent)
    assert isinstance(found, View)


@pytest.mark.rule("P-16")
def test_a_conversion_may_be_joined_where_measuring_is_allowed() -> None:
    found = one(kind="conversion", consent=CONSENT_MEASURE)
    assert isinstance(found, Conversion)
    assert found.uid == RING.uid("cookie", "c-77")


@pytest.mark.rule("P-16")
@pytest.mark.parametrize(
    ("us", "signals", "expected"),
    [
        (VENDORS, {"consent": ...}, 0),
        (VENDORS, {"consent": 3}, 3),
        (VENDORS, {"consent": 7, "gdpr": 0}, 7),
        (VENDORS, {"consent": 7, "gdpr": 1}, 0),
        (VENDORS, {"consent": 7, "us_privacy": "1NNN", "gpp_sid": [2]}, 7),
        (VENDORS, {"consent": 7, "us_privacy": "1YYN"}, 0),
        (VENDORS, {"consent": 7, "us_privacy": ["1YNN"]}, 0),
        (VENDORS, {"consent": 7, "gpp_sid": [8]}, 0),
        (VENDORS, {"consent": 7, "gpp_sid": 8}, 0),
        (VENDORS, {"consent": ..., "gdpr_consent": tc(consent=(1, 3, 4))}, CONSENT_PROFILE),
        (VENDORS, {"consent": 7, "gdpr_consent": tc(consent=(1, 3, 4, 7))}, CONSENT_PROFILE | CONSENT_MEASURE),
        (VENDORS, {"consent": 2, "gdpr": 1, "gdpr_consent": tc(consent=(1, 3, 4, 7, 10))}, CONSENT_MEASURE),
        (VENDORS, {"consent": ..., "gdpr": 1, "gdpr_consent": tc(consent=(1, 4, 7, 10))}, 6),
        (VENDORS, {"consent": 7, "gdpr": 0, "gdpr_consent": tc(consent=(1, 4))}, 0),
        (VENDORS, {"consent": 7, "gdpr_consent": tc()[:40]}, 0),
        (VENDORS, {"consent": 7, "gdpr_consent": "C" * 9_000}, 0),
        (NOBODY, {"consent": 7, "gdpr": 1, "gdpr_consent": tc(consent=(1, 3, 4, 7, 10))}, 0),
    ],
)
def test_the_strictest_signal_decides_what_an_event_may_be_used_for(
    us: Basis, signals: dict[str, Any], expected: int
) -> None:
    found = one(us, **signals)
    assert found.consent == expected
    assert (found.uid != NO_UID) == bool(expected & CONSENT_PROFILE)


def test_a_clock_a_little_ahead_is_set_to_ours() -> None:
    assert one(time_us=NOW + incoming.AHEAD_US).time_us == NOW


def test_too_many_items_are_refused_whole() -> None:
    with pytest.raises(Unusable, match="1,000"):
        read(*[1] * 1_001)


def test_search_keeps_its_query() -> None:
    found = one(kind="search", query="running shoes 跑鞋")
    assert isinstance(found, Search)
    assert found.query == "running shoes 跑鞋"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
_NAMES = st.sampled_from(
    ["kind", "event_id", "id", "id_type", "consent", "gdpr", "gdpr_consent", "time_us", "category"]
)


@given(st.lists(_JSON | st.dictionaries(_NAMES | st.sampled_from(sorted(incoming.RANGES)), _JSON), max_size=4))
def test_anything_is_an_event_or_is_refused_and_events_can_be_stored(items: list[Any]) -> None:
    taken = read(*items)
    assert len(taken.events) + len(taken.refused) == len(items)
    for event in taken.events:
        assert events.decode(events.encode(event)) == event


@given(st.binary(max_size=200), st.sampled_from(["json", "ndjson"]))
def test_any_bytes_are_read_or_refused(body: bytes, form: incoming.Format) -> None:
    try:
        taken = incoming.take(body, form, "shop", NOW, RING, NOBODY)
    except Unusable:
        return
    assert taken.events == []


def test_deep_nesting_is_no_event() -> None:
    deep = b'{"kind":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    assert incoming.take(deep, "json", "shop", NOW, RING, NOBODY).refused[0][1].code == "malformed"
    with pytest.raises(Unusable):
        incoming.take(b"[" + deep + b"]", "json", "shop", NOW, RING, NOBODY)
