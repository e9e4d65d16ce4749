"""What an advertiser asks of the places it is shown in, over the HTTP of a running bidder, told by its metrics."""

import json
from pathlib import Path
from typing import Any

import pytest

from dmp.store import Store
from tests.bidder.factories import a_body
from tests.bidder.running import running

CAMPAIGN = """
[[campaign]]
id = "acme"
advertiser = "acme"
adomain = "acme.example"
goal = "cpm"
price_micros = 2000000
daily_budget_micros = 1000000000
creatives = [{id = "acme-1", w = 300, h = 250, image_url = "https://cdn.example/a.png", landing_url = "https://acme.example/"}]
targeting = { %s }
"""
MUNICH, FREISING = {"lat": 48.137, "lon": 11.575}, {"lat": 48.403, "lon": 11.749}
SQUARE = "polygons = [[[48.0, 11.4], [48.0, 11.8], [48.25, 11.8], [48.25, 11.4]]]"


def page(**site: Any) -> dict[str, Any]:
    return {"site": {"domain": "news.example"} | site}


def place(geo: dict[str, float]) -> dict[str, Any]:
    return {"device": {"geo": {"country": "USA", "type": 1} | geo}}


@pytest.mark.parametrize(
    ("targeting", "taken", "refused", "reason"),
    [
        ('keywords = ["travel"]', page(keywords="Hotels,Travel"), page(keywords="cars"), "keyword"),
        ('keywords = ["travel"]', page(search="cheap flights"), page(search="tyres"), "keyword"),
        ('keywords = ["travel"]', page(kwarray=["旅游"]), page(), "keyword"),
        (
            'not_keywords = ["crash"]',
            page(keywords="planes"),
            page(page="https://news.example/plane-crash/1"),
            "keyword",
        ),
        ('not_keywords = ["crash"]', page(), page(content={"title": "The crash of 1929"}), "keyword"),
        ('domains = ["news.example"]', page(domain="www.sport.news.example"), page(domain="blog.example"), "inventory"),
        ('not_domains = ["tabloid.example"]', page(), page(domain="m.tabloid.example"), "inventory"),
        ('apps = ["com.good"]', {"site": None, "app": {"bundle": "com.good"}}, page(), "inventory"),
        ('not_apps = ["com.bad"]', page(), {"site": None, "app": {"bundle": "com.bad"}}, "inventory"),
        ('categories = ["IAB20"]', page(pagecat=["IAB20-3"]), page(cat=["IAB9"]), "category"),
        ('not_categories = ["IAB25"]', page(cat=["IAB9"]), page(sectioncat=["IAB25-3"]), "category"),
        ("radius = [{ lat = 48.14, lon = 11.58, km = 10 }]", place(MUNICH), place(FREISING), "geo"),
        (SQUARE, place(MUNICH), place(FREISING), "geo"),
        (SQUARE, place(MUNICH), {}, "geo"),
    ],
)
async def test_an_ad_stands_only_where_its_campaign_lets_it(
    tmp_path: Path, store: Store, targeting: str, taken: dict[str, Any], refused: dict[str, Any], reason: str
) -> None:
    async with running(tmp_path, store, CAMPAIGN % targeting, app_hold_s=120) as bidder:
        assert (await bidder.bid(json.dumps(a_body(**taken)).encode()))[0] == 200
        assert (await bidder.bid(json.dumps(a_body(**refused)).encode()))[0] == 204
        assert (await bidder.metrics())[f'tagbid_no_bid_total{{reason="{reason}"}}'] == 1


def chain(asi: str, sid: str) -> dict[str, Any]:
    return {"source": {"schain": {"complete": 1, "ver": "1.0", "nodes": [{"asi": asi, "sid": sid, "hp": 1}]}}}


@pytest.fixture
def supply(tmp_path: Path) -> dict[str, Any]:
    """Local files as the operator would keep them."""
    ads, sellers = tmp_path / "ads", tmp_path / "sellers"
    ads.mkdir()
    sellers.mkdir()
    (ads / "news.example.txt").write_text("# ads.txt\nssp.example, pub-1, DIRECT, abc\nssp.example, pub-2, RESELLER\n")
    listed = [{"seller_id": "pub-1", "seller_type": "PUBLISHER"}, {"seller_id": "pub-3", "seller_type": "BOTH"}]
    (sellers / "ssp.example.json").write_text(json.dumps({"version": "1.0", "sellers": listed}))
    (tmp_path / "centres.txt").write_text("192.0.2.0/24  # a cloud\n")
    return {
        "ads_txt_dir": str(ads),
        "sellers_json_dir": str(sellers),
        "datacenter_networks": str(tmp_path / "centres.txt"),
        "blocked_sellers": ["bad.example"],
        "refuse_missing_ids": True,
    }


@pytest.mark.parametrize(
    ("request_fields", "reason"),
    [
        (chain("ssp.example", "pub-1"), None),
        (chain("SSP.example", "pub-1"), None),
        (chain("unknown.example", "x") | page(domain="other.example"), None),
        (chain("ssp.example", "pub-2"), "schain_node"),  # sold by nobody in sellers.json
        (chain("ssp.example", "pub-3"), "ads_txt"),  # a seller, but not of this publisher
        (chain("bad.example", "x"), "schain_node"),
        ({"source": {"pchain": "bad.example:7"}}, "schain_node"),
        ({"source": {"schain": {"complete": 0, "nodes": [{"asi": "ssp.example", "sid": "pub-1"}]}}}, "schain"),
        ({"device": {"ip": "192.0.2.77", "ua": "Mozilla/5.0"}}, "datacenter"),
        ({"device": {"ip": "198.51.100.7", "ua": "Mozilla/5.0 (compatible; Googlebot/2.1)"}}, "crawler"),
        ({"device": {}, "user": None}, "suspect"),
    ],
)
async def test_supply_and_traffic_are_checked_against_the_operators_files(
    tmp_path: Path, store: Store, supply: dict[str, Any], request_fields: dict[str, Any], reason: str | None
) -> None:
    somebody = {"device": {"ip": "198.51.100.7", "ua": "Mozilla/5.0", "geo": {"country": "USA"}}}
    async with running(tmp_path, store, CAMPAIGN % "", **supply) as bidder:
        status, _ = await bidder.bid(json.dumps(a_body(**somebody | request_fields)).encode())
        assert status == (200 if reason is None else 204)
        if reason is not None:
            assert (await bidder.metrics())[f'tagbid_no_bid_total{{reason="{reason}"}}'] == 1
