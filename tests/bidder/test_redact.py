import msgspec
import pytest

from bidder.config import BidderConfig
from bidder.privacy import PrivacyDecision, decide, policy
from bidder.reasons import Reason
from bidder.redact import permitted, short_ip, strip
from dmp.schema import User
from dmp.taxonomy import tag_id
from tests.bidder.consent_strings import gpp, us
from tests.bidder.factories import a_campaign, a_request, decision

POLICY = policy(BidderConfig())


def test_what_is_not_allowed_is_gone_before_anything_reads_the_request() -> None:
    device = {
        "ip": "203.0.113.77",
        "ipv6": "2001:db8:85a3:8d3:1319:8a2e:370:7348",
        "ifa": "6d92078a-8246-4ba4-ae5b-76104861e7dc",
        "geo": {"country": "USA", "region": "NY", "city": "New York", "lat": 40.712776, "lon": -74.005974},
    }
    request = a_request(device=device, user={"id": "u", "buyeruid": "b"}, regs={"gdpr": 1})
    view = strip(request, decide(request, POLICY))
    assert view.user is None
    assert view.device is not None
    assert view.device.ifa is None
    assert (view.device.ip, view.device.ipv6) == ("203.0.113.0", "2001:db8:85a3:800::")
    assert view.device.geo is not None
    assert (view.device.geo.lat, view.device.geo.lon, view.device.geo.city) == (40.71, -74.01, "New York")
    assert strip(view, decide(view, POLICY)) == view


@pytest.mark.rule("P-30")
def test_a_child_has_no_place_finer_than_a_region() -> None:
    geo = {"country": "USA", "region": "NY", "city": "New York", "lat": 40.7, "lon": -74.0, "utcoffset": -300}
    request = a_request(device={"geo": geo}, regs={"coppa": 1, "gdpr": 0})
    view = strip(request, decide(request, POLICY))
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
    assert strip(request, decide(request, POLICY)) is request


@pytest.mark.parametrize("text", [None, "", "not an address", "300.1.1.1"])
def test_what_is_no_address_is_dropped(text: str | None) -> None:
    assert short_ip(text) is None


def test_permitted_ids_may_still_come_with_a_rounded_place() -> None:
    place = {"country": "USA", "lat": 40.712776, "lon": -74.005974}
    request = a_request(device={"geo": place, "ifa": "i", "ip": "203.0.113.77"}, user={"id": "u", "geo": place})
    view = strip(request, PrivacyDecision(precise_geo=False))
    assert view.device is not None
    assert view.user is not None
    assert (view.device.ifa, view.device.ip, view.user.id) == ("i", "203.0.113.77", "u")
    for geo in (view.device.geo, view.user.geo):
        assert geo is not None
        assert (geo.lat, geo.lon) == (40.71, -74.01)


@pytest.mark.rule("P-21")
def test_limits_on_sensitive_data_take_the_tags_marked_sensitive_away() -> None:
    user = User(tags={tag_id("interest.politics"): 90, tag_id("interest.travel"): 80})
    assert permitted(user, PrivacyDecision()) is user
    limited = permitted(user, PrivacyDecision(sensitive=False))
    assert limited is not None
    assert limited.tags == {tag_id("interest.travel"): 80}
    assert permitted(user, PrivacyDecision(personalise=False)) is None
    plain = User(tags={tag_id("interest.travel"): 80})
    assert permitted(plain, PrivacyDecision(sensitive=False)) is plain


@pytest.mark.rule("P-21")
def test_a_campaign_for_a_sensitive_tag_does_not_see_a_user_who_limited_its_use() -> None:
    user = User(tags={tag_id("interest.politics"): 90, tag_id("interest.travel"): 80})
    limited = a_request(regs={"gdpr": 0, "gpp": gpp({7: us(7, sensitive=1)}), "gpp_sid": [7]})
    for name, reason in (("interest.politics", Reason.TAGS), ("interest.travel", Reason.BID)):
        campaign = a_campaign(targeting={"tags": {name: 50}})
        assert decision(a_request(), campaign, user=user).reason is Reason.BID
        assert decision(limited, campaign, user=user).reason is reason
