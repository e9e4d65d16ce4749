import json

from bidder.answer import Sent, response
from bidder.markup import ad_parts, for_imp, url_parts
from loadtest.auction import fill
from tests.bidder.factories import a_campaign, a_creative, a_request

URL = "https://bid.example"
URLS = url_parts(URL)


def a_bid(campaign=None, creative=None, **fields):
    campaign = campaign or a_campaign()
    parts = ad_parts(campaign, creative or campaign.creatives[0], URL)
    adm, tail = for_imp(parts, a_request().imp[0])
    return Sent(
        **{
            "bid_id": b"AAECAwQFBgcICQoL",
            "imp_id": "1",
            "price_micros": 1_250_000,
            "server": b"SERVER",
            "browser": b"BROWSER",
            "seat": parts.seat,
            "adm": adm,
            "tail": tail,
            "exp_s": 120,
        }
        | fields
    )


def answer(*bids, request_id="r1", currency="USD"):
    return json.loads(response(request_id, bids, currency, URLS))


def test_a_bid_has_every_field_an_exchange_checks():
    campaign = a_campaign(cat=["IAB20-3", "IAB1"], attr=[3])
    creative = a_creative(id="acme-1", attr=(1,), iurl="https://cdn.example/s.png", language="en", bundle="com.x")
    found = answer(a_bid(campaign, creative, deal="d1"))
    assert {key: found[key] for key in ("id", "bidid", "cur")} == {
        "id": "r1",
        "bidid": "AAECAwQFBgcICQoL",
        "cur": "USD",
    }
    (seat,) = found["seatbid"]
    assert seat["seat"] == "tagbid"
    (bid,) = seat["bid"]
    adm = bid.pop("adm")
    assert "click?t=BROWSER" in adm
    assert "imp?t=BROWSER" in adm
    assert bid == {
        "id": "AAECAwQFBgcICQoL",
        "impid": "1",
        "price": 1.25,
        "nurl": "https://bid.example/win?t=SERVER&p=${AUCTION_PRICE}",
        "burl": "https://bid.example/bill?t=SERVER&p=${AUCTION_PRICE}",
        "lurl": "https://bid.example/loss?t=SERVER&l=${AUCTION_LOSS}&p=${AUCTION_MIN_TO_WIN}",
        "adomain": ["acme.example"],
        "crid": "acme-1",
        "cid": "acme",
        "cat": ["IAB20-3", "IAB1"],
        "cattax": 1,
        "attr": [1, 3],
        "w": 300,
        "h": 250,
        "mtype": 1,
        "iurl": "https://cdn.example/s.png",
        "language": "en",
        "bundle": "com.x",
        "exp": 120,
        "dealid": "d1",
    }
    assert fill(bid["burl"], {"AUCTION_PRICE": "0.9"}) == "https://bid.example/bill?t=SERVER&p=0.9"


def test_what_is_not_known_is_left_out():
    (bid,) = answer(a_bid(a_campaign(cat=[])))["seatbid"][0]["bid"]
    assert not {"cat", "cattax", "attr", "iurl", "language", "bundle", "dealid"} & set(bid)


def test_prices_are_exact_decimals():
    body = response("r1", [a_bid(price_micros=1)], "USD", URLS)
    assert b'"price":0.000001,' in body
    assert b'"price":100.000000,' in response("r1", [a_bid(price_micros=100_000_000)], "USD", URLS)


def test_bids_are_grouped_by_seat_and_no_seat_is_empty():
    other = a_campaign(id="other", seat='s"2')
    found = answer(a_bid(), a_bid(other, imp_id="2", bid_id=b"B"), a_bid(imp_id="3", bid_id=b"C"), currency="EUR")
    assert [(s["seat"], [b["impid"] for b in s["bid"]]) for s in found["seatbid"]] == [
        ("tagbid", ["1", "3"]),
        ('s"2', ["2"]),
    ]
    assert found["cur"] == "EUR"


def test_ids_of_the_request_come_back_as_they_were():
    strange = 'a"\\\u2028\ud7ff\n</script>'
    found = answer(a_bid(imp_id=strange, deal=strange), request_id=strange)
    assert found["id"] == strange
    bid = found["seatbid"][0]["bid"][0]
    assert (bid["impid"], bid["dealid"]) == (strange, strange)
