from pathlib import Path

import pytest

from bidder import campaigns
from bidder.campaigns import is_web_address
from bidder.creatives import is_secure
from dmp import keys
from dmp.errors import ConfigError
from tests.bidder.factories import a_creative

ROOT = Path(__file__).parents[2]

GOOD = """
[[campaign]]
id = "acme-spring"
advertiser = "acme"
adomain = "acme.example"
cat = ["IAB20"]
goal = "cpc"
price_micros = 500_000
daily_budget_micros = 10_000_000
interest = "interest.travel"
start = 2030-01-01T00:00:00Z
caps = [{ limit = 3, window_s = 86_400 }]
targeting = { countries = ["USA"], tags = { "interest.travel" = 40 }, radius = [{ lat = 1, lon = 2, km = 3 }] }

[[campaign.creatives]]
id = "acme-spring-a"
w = 300
h = 250
image_url = "https://cdn.acme.example/a.png"
landing_url = "https://acme.example/"
"""


def problems(text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        campaigns.parse(text, "campaigns.toml")
    return caught.value.problems


def test_a_portfolio_is_read_with_its_defaults() -> None:
    (campaign,) = campaigns.parse(GOOD, "x").campaigns
    assert (campaign.id, campaign.goal, campaign.price_micros, campaign.status) == (
        "acme-spring",
        "cpc",
        500_000,
        "active",
    )
    assert campaign.caps[0].window_s == 86_400
    assert campaign.targeting.tags == {"interest.travel": 40}
    assert (campaign.seat, campaign.cap_without_user) == ("tagbid", "skip")
    assert campaign.creatives[0].w == 300


def test_the_digest_names_the_text() -> None:
    assert campaigns.parse(GOOD, "x").digest == campaigns.parse(GOOD, "y").digest
    assert campaigns.parse(GOOD, "x").digest != campaigns.parse(GOOD + "\n", "x").digest


def test_every_problem_of_a_file_is_told_at_once() -> None:
    text = (
        GOOD.replace("daily_budget_micros", "daily_budget_micro")
        .replace("goal = ", "status = 'on'\ngoal = ")
        .replace("limit = 3", "limit = 0")
        .replace("w = 300", "width = 300")
    )
    found = "\n".join(problems(text))
    for fragment in (
        "unknown key 'daily_budget_micro'; did you mean 'daily_budget_micros'?",
        "daily_budget_micros is missing",
        "status: Invalid enum value 'on'",
        "caps #1: limit: Expected `int` >= 1",
        "creatives acme-spring-a: unknown key 'width'",
    ):
        assert fragment in found


@pytest.mark.parametrize(
    ("old", "new", "fragment"),
    [
        ('"interest.travel" = 40', '"interest.travle" = 40', "interest.travel"),
        ('interest = "interest.travel"', 'interest = "travel-ish"', "travel-ish"),
        ('countries = ["USA"]', 'countries = ["US"]', "countries: 'US'"),
        ('cat = ["IAB20"]', 'cat = ["Travel"]', "cat: 'Travel'"),
        ("2030-01-01T00:00:00Z", "2030-01-01T00:00:00", "start needs a time zone"),
        (
            "start = 2030-01-01T00:00:00Z",
            "start = 2030-01-01T00:00:00Z\nend = 2030-01-01T00:00:00Z",
            "end is not after start",
        ),
        ('adomain = "acme.example"', 'adomain = "https://acme.example"', "is no domain"),
        ('landing_url = "https://acme.example/"', 'landing_url = "javascript:alert(1)"', "landing_url"),
        ('image_url = "https://cdn.acme.example/a.png"\n', "", "exactly one of image_url and html"),
        ('image_url = "https:', 'html = "<b>"\nimage_url = "https:', "exactly one of image_url and html"),
        ("price_micros = 500_000", "price_micros = 0", "price_micros"),
        ("price_micros = 500_000", "price_micros = 0.5", "price_micros"),
        ('goal = "cpc"', 'goal = "cpx"', "goal"),
        ("targeting = {", "targeting = { hours = [24],", "hours"),
        ("targeting = {", "targeting = { utc_offset_min = 7,", "multiple of 15"),
        ("targeting = {", 'targeting = { audiences = ["buyers"],', "audience such as acme/buyers"),
        ("targeting = {", "targeting = { zip = [1],", "unknown key 'zip'"),
        ("[[campaign.creatives]]", "[[campaign.creative]]", "creatives"),
        ("[[campaign]]", "[[campaigns]]", "unknown key 'campaigns'"),
        ('id = "acme-spring"', f'id = "{"é" * 70}"', "longer than 128 bytes"),
        ('image_url = "https:', 'secure = true\nimage_url = "http:', "an asset is plain http"),
        (GOOD, "", "no [[campaign]] table"),
        (GOOD, GOOD + GOOD, "used twice"),
        (GOOD, "a = [", "end of document"),
    ],
)
def test_a_wrong_portfolio_says_what_is_wrong(old: str, new: str, fragment: str) -> None:
    assert old in GOOD
    assert fragment in "\n".join(problems(GOOD.replace(old, new)))


def test_two_names_with_the_same_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keys, "number", lambda name: len(name))
    second = GOOD.replace("acme-spring", "acme-winter")
    assert any("share a number" in problem for problem in problems(GOOD + second))


def test_a_file_that_is_not_there_is_a_problem_too(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file: write one"):
        campaigns.load(tmp_path / "campaigns.toml")


@pytest.mark.rule("S-15")
@pytest.mark.parametrize(
    ("url", "allowed"),
    [
        ("https://shop.example/", True),
        ("http://shop.example:8080/a?b=c#d", True),
        ("//shop.example/", False),
        ("shop.example", False),
        ("javascript:alert(1)", False),
        ("data:text/html,x", False),
        ("ftp://shop.example/", False),
        ("https://", False),
        ("https://user:secret@shop.example/", False),
        ("https://shop.example@evil.example/", False),
        ("https://shop.example/\r\nSet-Cookie: a=b", False),
        ("https://shop.example/ x", False),
        ("https://shop.example\\@evil.example/", False),
        ("https://shop.example:port/", False),
        ("https://[::1/", False),
    ],
)
def test_an_address_is_http_with_a_host_and_nothing_hidden(url: str, allowed: bool) -> None:
    assert is_web_address(url) is allowed


def test_a_creative_is_secure_unless_an_asset_is_plain_http() -> None:
    assert is_secure(a_creative())
    assert not is_secure(a_creative(image_url="http://cdn.example/a.png"))
    assert not is_secure(a_creative(image_url="", html="<img src='http://cdn.example/a.png'>"))
    assert not is_secure(a_creative(image_url="", html="<img src=HTTP://cdn.example/a.png>"))
    assert is_secure(a_creative(image_url="http://cdn.example/a.png", secure=True))
    assert is_secure(a_creative(landing_url="http://shop.example/"))


def test_the_demo_portfolio_is_valid_and_varied() -> None:
    found = campaigns.load(ROOT / "loadtest" / "campaigns.toml").campaigns
    assert len(found) >= 12
    assert {campaign.goal for campaign in found} == {"cpm", "cpc"}
    assert len({(creative.w, creative.h) for campaign in found for creative in campaign.creatives}) >= 8
