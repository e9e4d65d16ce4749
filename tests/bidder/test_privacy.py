from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import openrtb
from bidder.config import BidderConfig
from bidder.openrtb import Reason
from bidder.privacy import PrivacyDecision, decide, short_ip, strip
from dmp.schema import User
from tests.bidder.factories import a_body, a_campaign, a_request, decision

SETTINGS = BidderConfig()
PERMISSIONS = [name for name in PrivacyDecision.__struct_fields__ if name != "reasons"]


def judged(settings: BidderConfig = SETTINGS, **fields: Any) -> PrivacyDecision:
    return decide(a_request(**fields), settings)


def permitted(found: PrivacyDecision) -> set[str]:
    return {name for name in PERMISSIONS if getattr(found, name)}


def test_a_request_without_restrictive_signals_permits_everything() -> None:
    assert permitted(judged()) == set(PERMISSIONS)


@pytest.mark.rule("P-01")
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"regs": {"gdpr": 0, "coppa": 1}}, "coppa"),
        ({"regs": {"gdpr": 1}}, "gdpr"),
        ({"regs": {"gdpr": 1}, "user": {"consent": "CPXxRfAPXxRfAAfKABENB-CgAAAAAAAAAAYgAAAAAAAA"}}, "gdpr"),
        ({"regs": {"gdpr": 0, "us_privacy": "1YYN"}}, "us_privacy"),
        ({"regs": {"gdpr": 0, "gpp": "DBAA", "gpp_sid": [7]}}, "gpp"),
        ({"regs": {"gdpr": 0, "ext": {"gpc": "1"}}}, "gpc"),
        ({"device": {"geo": {"country": "USA"}, "lmt": 1}}, "lmt"),
        ({"device": {"geo": {"country": "USA"}, "dnt": 1}}, "dnt"),
        ({"device": {"geo": {"country": "USA"}, "ifa": "00000000-0000-0000-0000-000000000000"}}, "zero_ifa"),
    ],
)
def test_each_restrictive_signal_makes_the_bid_contextual(fields: dict[str, Any], reason: str) -> None:
    found = judged(**fields)
    assert reason in found.reasons
    assert permitted(found) <= {"bid", "city"}


@pytest.mark.rule("P-02")
@pytest.mark.parametrize(
    ("regs", "applies"),
    [
        ({"gdpr": 1}, True),
        ({"ext": {"gdpr": 1}}, True),
        ({"gdpr": 0, "ext": {"gdpr": 1}}, True),
        ({"gdpr": 1, "ext": {"gdpr": 0}}, True),
        ({"gdpr": 0, "ext": {"gdpr": 0}}, False),
        ({"ext": {"gdpr": 0}}, False),
        ({"gdpr": True}, True),
        ({"gdpr": 2}, True),
    ],
)
def test_gdpr_is_read_in_both_places_and_the_stricter_counts(regs: dict[str, Any], applies: bool) -> None:
    assert ("gdpr" in judged(regs=regs).reasons) is applies


@pytest.mark.rule("P-02")
@pytest.mark.parametrize("place", ["first class", "ext"])
@pytest.mark.parametrize(("name", "value"), [("us_privacy", "1YYN"), ("gpp_sid", [7]), ("coppa", 1)])
def test_other_signals_are_read_in_both_places(place: str, name: str, value: Any) -> None:
    own = {name: value} if place == "first class" else {"ext": {name: value}}
    assert not judged(regs={"gdpr": 0} | own).use_ids


@pytest.mark.rule("P-10")
@pytest.mark.parametrize(
    ("policy", "country", "applies"),
    [
        ("by_country", "DEU", True),
        ("by_country", "DE", True),
        ("by_country", "GBR", True),
        ("by_country", "CHE", True),
        ("by_country", "NOR", True),
        ("by_country", "USA", False),
        ("by_country", None, True),
        ("by_country", "??", True),
        ("always", "USA", True),
        ("never", "DEU", False),
    ],
)
def test_without_a_gdpr_flag_the_setting_decides(policy: str, country: str | None, applies: bool) -> None:
    settings = msgspec.convert({"gdpr_when_unknown": policy}, BidderConfig)
    found = judged(settings, regs=None, device={"geo": {"country": country}})
    assert ("gdpr" in found.reasons) is applies


@pytest.mark.rule("P-20")
@pytest.mark.parametrize(
    ("text", "opted_out"),
    [("1YNN", False), ("1NNN", False), ("1YN-", False), ("1---", False), ("1YYN", True), ("1NYY", True)]
    + [(bad, True) for bad in ("2YNN", "1YN", "1YNNN", "1ynn", "yes", "1XNN", "1YNX", "    ")],
)
def test_us_privacy_is_an_opt_out_by_its_third_character_or_by_being_malformed(text: str, opted_out: bool) -> None:
    assert ("us_privacy" in judged(regs={"gdpr": 0, "us_privacy": text}).reasons) is opted_out


@pytest.mark.rule("P-22")
@pytest.mark.parametrize(
    ("value", "opted_out"),
    [("1", True), (1, True), (True, True), ("yes", True), ("0", False), (0, False), (None, False)],
)
def test_global_privacy_control_is_an_opt_out_on_its_own(value: Any, opted_out: bool) -> None:
    assert ("gpc" in judged(regs={"gdpr": 0, "ext": {"gpc": value}}).reasons) is opted_out


@pytest.mark.rule("P-31")
def test_do_not_track_counts_as_limit_ad_tracking_unless_switched_off() -> None:
    fields = {"device": {"geo": {"country": "USA"}, "dnt": 1}}
    assert not judged(**fields).use_ids
    assert judged(msgspec.convert({"dnt_is_lmt": False}, BidderConfig), **fields).use_ids


@pytest.mark.rule("P-04")
def test_a_consent_string_of_any_length_or_content_is_no_permission_and_no_error() -> None:
    for consent in ("", "x", "\u2028", "C" * 20_000):
        assert not judged(regs={"gdpr": 1}, user={"consent": consent}).use_ids
    assert not judged(regs={"gdpr": 0, "gpp": "D" * 20_000, "gpp_sid": [99]}).use_ids


SIGNALS: list[tuple[str, list[Any]]] = [
    ("regs.coppa", [0, 1]),
    ("regs.gdpr", [0, 1]),
    ("regs.ext.gdpr", [0, 1]),
    ("regs.us_privacy", ["1YNN", "1YYN", "junk"]),
    ("regs.ext.us_privacy", ["1YNN", "1YYN"]),
    ("regs.gpp_sid", [[2], [7]]),
    ("regs.ext.gpc", ["0", "1"]),
    ("device.lmt", [0, 1]),
    ("device.dnt", [0, 1]),
    ("device.ifa", ["0000-0000", "6d92078a-8246-4ba4-ae5b-76104861e7dc"]),
    ("user.consent", ["C", "x" * 9_000]),
]
RESTRICTIVE = [
    ("regs.coppa", 1),
    ("regs.gdpr", 1),
    ("regs.ext.gdpr", 1),
    ("regs.us_privacy", "1NYN"),
    ("regs.ext.us_privacy", "?"),
    ("regs.gpp_sid", [8]),
    ("regs.ext.gpc", "1"),
    ("device.lmt", 1),
    ("device.dnt", True),
    ("device.ifa", "0-0"),
]


def put(body: dict[str, Any], path: str, value: Any) -> None:
    *trail, last = path.split(".")
    for step in trail:
        body = body.setdefault(step, {})
    body[last] = value


@pytest.mark.rule("P-03")
@given(
    st.lists(st.sampled_from(SIGNALS).flatmap(lambda s: st.tuples(st.just(s[0]), st.sampled_from(s[1])))),
    st.sampled_from(RESTRICTIVE),
    st.sampled_from(["by_country", "always", "never"]),
    st.sampled_from(["USA", "DEU", None]),
)
def test_adding_a_restrictive_signal_never_widens_any_permission(
    signals: list[tuple[str, Any]], added: tuple[str, Any], policy: str, country: str | None
) -> None:
    settings = msgspec.convert({"gdpr_when_unknown": policy}, BidderConfig)
    body = a_body(regs={}, device={"geo": {"country": country}}, user={})
    for path, value in signals:
        put(body, path, value)
    before = decide(openrtb.decode(msgspec.json.encode(body)), settings)
    put(body, *added)
    after = decide(openrtb.decode(msgspec.json.encode(body)), settings)
    assert permitted(after) <= permitted(before)


def test_what_is_not_allowed_is_gone_before_anything_reads_the_request() -> None:
    device = {
        "ip": "203.0.113.77",
        "ipv6": "2001:db8:85a3:8d3:1319:8a2e:370:7348",
        "ifa": "6d92078a-8246-4ba4-ae5b-76104861e7dc",
        "geo": {"country": "USA", "region": "NY", "city": "New York", "lat": 40.712776, "lon": -74.005974},
    }
    request = a_request(device=device, user={"id": "u", "buyeruid": "b"}, regs={"gdpr": 1})
    view = strip(request, decide(request, SETTINGS))
    assert view.user is None
    assert view.device is not None
    assert view.device.ifa is None
    assert (view.device.ip, view.device.ipv6) == ("203.0.113.0", "2001:db8:85a3:800::")
    assert view.device.geo is not None
    assert (view.device.geo.lat, view.device.geo.lon, view.device.geo.city) == (40.71, -74.01, "New York")
    assert strip(view, decide(view, SETTINGS)) == view


@pytest.mark.rule("P-30")
def test_a_child_has_no_place_finer_than_a_region() -> None:
    geo = {"country": "USA", "region": "NY", "city": "New York", "lat": 40.7, "lon": -74.0, "utcoffset": -300}
    request = a_request(device={"geo": geo}, regs={"coppa": 1, "gdpr": 0})
    view = strip(request, decide(request, SETTINGS))
    assert view.device is not None
    assert msgspec.to_builtins(view.device.geo) == {
        "country": "USA",
        "region": "NY",
        "utcoffset": -300,
        "city": None,
        "lat": None,
        "lon": None,
    }


def test_a_permitted_request_is_passed_on_as_it_is() -> None:
    request = a_request(user={"id": "u"})
    assert strip(request, decide(request, SETTINGS)) is request


@pytest.mark.parametrize("text", [None, "", "not an address", "300.1.1.1"])
def test_what_is_no_address_is_dropped(text: str | None) -> None:
    assert short_ip(text) is None


@pytest.mark.rule("P-50")
def test_a_contextual_bid_uses_no_tag_and_no_capped_campaign_bids_unless_it_says_so() -> None:
    request = a_request(regs={"gdpr": 1})
    member = User(tags={}, audiences=frozenset(), contacts=())
    capped = {"caps": [{"limit": 3, "window_s": 3600}]}
    assert decision(request, a_campaign(**capped), user=member).reason is Reason.NO_USER
    assert decision(request, a_campaign(**capped, cap_without_user="bid"), user=member).reason is Reason.BID
    assert (
        decision(request, a_campaign(targeting={"tags": {"interest.travel": 1}}), user=member).reason is Reason.NO_USER
    )
    assert decision(request, a_campaign(), user=member).reason is Reason.BID
