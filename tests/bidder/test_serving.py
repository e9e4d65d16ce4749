"""What is put together when campaigns, settings and models are loaded."""

import json
from pathlib import Path

import msgspec
import pytest

from bidder import serving
from bidder.config import BidderConfig
from bidder.markup import ad_parts, most_bytes
from dmp.errors import ConfigError
from dmp.store import Store
from tests.bidder.factories import a_campaign, a_creative
from tests.bidder.running import CAMPAIGNS, body, running

HEAVY = """
[[campaign]]
id = "heavy"
advertiser = "heavy"
adomain = "heavy.example"
goal = "cpm"
price_micros = 9000000
daily_budget_micros = 1000000000
creatives = [{id = "heavy-1", w = 300, h = 250, html = "%s", landing_url = "https://heavy.example/"}]
""" % ("x" * 9_000)


def loaded(tmp_path: Path, campaigns: str, **settings: object) -> serving.Serving:
    path = tmp_path / "campaigns.toml"
    path.write_text(campaigns)
    base = {"campaigns": str(path), "models_dir": str(tmp_path / "models")}
    return serving.load(msgspec.convert(base | settings, BidderConfig), "https://bid.example")


def test_the_audit_of_an_exchange_nobody_configured_is_an_error(tmp_path: Path) -> None:
    judged = CAMPAIGNS.replace("w = 300", 'audit = { adx = "refused" }, w = 300')
    assert loaded(tmp_path, judged, exchanges={"adx": {}}).parts
    with pytest.raises(ConfigError, match=r"add \[bidder.exchanges.adx\]"):
        loaded(tmp_path, judged, exchanges={"other": {}})


async def test_pages_that_ask_for_https_get_nothing_from_a_bidder_reached_by_http(tmp_path: Path, store: Store) -> None:
    """Our pixel could not be loaded there, and with it the impression that some exchanges bill by."""
    secure = body(imp={"secure": 1})
    async with running(tmp_path, store, exchanges={"pixel": {"event_of_record": "impression"}}) as bidder:
        for exchange in ("x", "pixel"):
            assert (await bidder.bid(secure, exchange))[0] == 204
            assert (await bidder.bid(body(), exchange))[0] == 200
        assert (await bidder.metrics())['tagbid_no_bid_total{reason="secure"}'] == 2
    async with running(tmp_path, store, public_url="https://bid.example") as bidder:
        assert "https://bid.example/imp?" in (await bidder.a_bid(secure))["adm"]


async def test_an_exchange_gets_no_answer_larger_than_it_takes(tmp_path: Path, store: Store) -> None:
    """The dearest creative is too large for one exchange: it gets the next, the others get the dearest."""
    limits = {"small": {"max_answer_bytes": 4_096}, "tiny": {"max_answer_bytes": 100}}
    async with running(tmp_path, store, CAMPAIGNS + HEAVY, exchanges=limits) as bidder:
        assert (await bidder.a_bid())["cid"] == "heavy"
        status, answer = await bidder.bid(body(), "small")
        assert (status, json.loads(answer)["seatbid"][0]["bid"][0]["cid"]) == (200, "acme")
        assert len(answer) <= 4_096
        assert (await bidder.bid(body(), "tiny"))[0] == 204
        assert (await bidder.metrics())['tagbid_no_bid_total{reason="answer_size"}'] == 1


async def test_bids_an_answer_has_no_room_for_are_left_out_and_cost_nothing(tmp_path: Path, store: Store) -> None:
    limits = {"small": {"max_answer_bytes": 9_000}, "roomy": {"max_answer_bytes": 90_000}}
    three = body(imp=[{"bidfloor": 0.1}, {"bidfloor": 1.9}, {"bidfloor": 0.2}])
    async with running(tmp_path, store, exchanges=limits) as bidder:
        status, answer = await bidder.bid(three, "small")
        assert (status, len(answer) <= 9_000) == (200, True)
        bids = [bid["impid"] for seat in json.loads(answer)["seatbid"] for bid in seat["bid"]]
        assert "2" in bids, "the dearest is kept"
        assert len(bids) < 3
        metrics = await bidder.metrics()
        assert metrics["tagbid_bids_left_out_total"] == 3 - len(bids)
        held = bidder.service.budgets.accounts()[0].pending
        assert held == sum(round(bid["price"] * 1000) for s in json.loads(answer)["seatbid"] for bid in s["bid"])
        status, answer = await bidder.bid(three, "roomy")
        assert len([bid for seat in json.loads(answer)["seatbid"] for bid in seat["bid"]]) == 3


@pytest.mark.parametrize(
    "creative",
    [
        {},
        {"image_url": "", "html": "<b>x</b>" * 200},
        {
            "image_url": "",
            "video": {
                "duration_s": 15,
                "files": [{"url": "https://c.example/v.mp4", "mime": "video/mp4", "w": 640, "h": 360}],
            },
        },
        {"image_url": "", "native": {"titles": ["Sale", "A longer title"], "data": {"desc": ["x" * 100]}}},
    ],
)
def test_what_a_bid_takes_at_most_is_more_than_its_markup(creative: dict[str, object]) -> None:
    part = ad_parts(a_campaign(), a_creative(**creative), "https://bid.example")
    longest = max([sum(map(len, pieces)) for pieces in part.documents.values()], default=0)
    assert longest + 1_000 < most_bytes(part) < longest + 12_000


def test_what_a_bid_takes_at_most_holds_its_notice_and_its_longest_list_of_categories() -> None:
    """Both are told only to requests that ask for them."""

    def size(**fields: object) -> int:
        return most_bytes(ad_parts(a_campaign(**fields), a_creative(), "https://bid.example"))

    plain = size(cat=["IAB9"])
    told = {"behalf": "a" * 100, "paid": "b" * 90}
    assert (
        size(cat=["IAB9"], dsa=told) - plain
        == len(
            '"ext":{"dsa":{"behalf":"","paid":"","adrender":0,'
            '"transparency":[{"domain":"bid.example","dsaparams":[1,3]}]}},'
        )
        + 190
    )
    many = [f"{n}" for n in range(100, 200)]
    assert size(cat=["IAB9"], cat_in={"7": many}) - plain == len(json.dumps(many, separators=(",", ":"))) - len(
        '["IAB9"]'
    )
