"""What is remembered of pages, readers and banners changes no decision, whoever asked, for whatever campaigns."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.campaigns import Campaign
from bidder.decide import Decision, decide
from bidder.openrtb import Request
from bidder.pages import page_of
from bidder.privacy import PrivacyDecision
from bidder.readers import reader_of
from bidder.rulebook import REMEMBERED_BYTES
from bidder.snapshot import Snapshot
from bidder.view import view
from dmp.schema import User
from models.context import Reader
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request, a_snapshot
from tests.bidder.test_targeting import portfolios, requests, users

QUARTER_US = 900_000_000
Asked = tuple[Request, User | None, int]
asked = st.lists(st.tuples(requests(), users, st.integers(0, 7 * 24 * 4)), min_size=1, max_size=4)


def decided(snapshot: Snapshot, asked: Asked) -> Decision:
    request, user, quarters = asked
    return decide(request, PrivacyDecision(), user, snapshot, NOW_US + quarters * QUARTER_US, EXCHANGE, "x")


@given(portfolios(), portfolios(), asked)
def test_what_is_remembered_decides_as_what_is_asked_for_the_first_time(
    campaigns: list[Campaign], later: list[Campaign], asked: list[Asked]
) -> None:
    fresh = [decided(a_snapshot(*campaigns), one) for one in asked]
    warm = a_snapshot(*campaigns)
    for _ in range(2):
        assert [decided(warm, one) for one in asked] == fresh
    # The campaigns change, and the requests come back to another snapshot.
    changed = a_snapshot(*later)
    for one in asked:
        assert decided(changed, one) == decided(a_snapshot(*later), one)
    assert [decided(warm, one) for one in asked] == fresh


@pytest.mark.parametrize(
    ("device", "reader"),
    [
        ({}, Reader(0, "", "", 0, "", "", "", "", -1, -1)),
        (
            {"ua": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Version/17.0 Mobile Safari/604.1"},
            Reader(4, "ios", "safari", 0, "", "", "", "", -1, -1),
        ),
        (
            {"ua": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0)", "os": "Android", "devicetype": 5, "connectiontype": 2},
            Reader(5, "android", "", 2, "", "", "", "", -1, -1),
        ),
        (
            {"os": "Android", "sua": {"platform": {"brand": "Windows"}}, "language": "EN-us"},
            Reader(0, "windows", "", 0, "en", "", "", "", -1, -1),
        ),
        (
            {"langb": "de-DE", "geo": {"country": "us", "region": "US-ca", "city": "Los Angeles", "utcoffset": -480}},
            Reader(0, "", "", 0, "de", "USA", "USA-CA", "USA-los angeles", 4, 0),  # noon UTC is 04:00 there
        ),
    ],
)
def test_a_reader_is_device_place_and_clock_in_one_spelling(device: dict[str, Any], reader: Reader) -> None:
    for _ in range(2):  # read, then remembered
        assert view(a_request(device=device), None, NOW_US, EXCHANGE, "x").reader == reader


def test_readers_that_differ_in_one_thing_are_not_taken_for_each_other() -> None:
    one = {"os": "iOS", "devicetype": 4, "language": "en", "connectiontype": 2}
    here = {"country": "USA", "region": "CA", "city": "Fresno"}
    devices = [one | {"geo": here}]
    devices += [one | {"geo": here} | other for other in ({"os": "x"}, {"devicetype": 5}, {"language": "de"})]
    devices += [one | {"geo": here | other} for other in ({"country": "DEU"}, {"region": "NY"}, {"city": "Napa"})]
    found = [reader_of(a_request(device=device).device, 5) for device in devices]
    found.append(reader_of(a_request(device=devices[0]).device, 6))
    assert len(set(found)) == len(found)


@pytest.mark.parametrize(
    ("place", "domain", "bundle", "categories"),
    [
        ({"site": {"domain": "WWW.News.example"}}, "news.example", "", ()),
        ({"site": {"page": "https://www.news.example:443/a?b"}}, "news.example", "", ()),
        ({"site": {"domain": "https://news.example/x", "page": "https://other.example/"}}, "news.example", "", ()),
        (
            {"site": {"domain": "a.example", "cat": ["IAB1"], "sectioncat": ["IAB2"], "pagecat": ["IAB3"]}},
            "a.example", "", ("IAB3", "IAB2", "IAB1"),
        ),
        ({"site": None, "app": {"bundle": "App.One", "cat": ["IAB9"]}}, "", "App.One", ("IAB9",)),
        ({"site": None, "dooh": {"domain": "screens.example."}}, "screens.example", "", ()),
        ({"site": None}, "", "", ()),
    ],
)  # fmt: skip
def test_a_page_is_a_domain_or_a_bundle_and_its_categories(
    place: dict[str, Any], domain: str, bundle: str, categories: tuple[str, ...]
) -> None:
    for _ in range(2):
        page = page_of(a_request(**place))
        assert (page.domain, page.bundle, page.categories) == (domain, bundle, categories)
        assert page.category == (categories[0] if categories else "")


def test_a_sender_of_ever_new_pages_fills_no_memory() -> None:
    snapshot = a_snapshot(*(a_campaign(id=f"c{i}", targeting={"domains": ["a.example"]}) for i in range(100)))
    long = "x" * 4_000
    for i in range(REMEMBERED_BYTES // 4_000 + 500):
        page = page_of(a_request(site={"domain": f"{i}{long}.example"}))
        assert snapshot.index.by_page[page] == 0
    held = sum(len(page.domain) for page in snapshot.index.by_page)
    assert REMEMBERED_BYTES // 2 < held <= REMEMBERED_BYTES
