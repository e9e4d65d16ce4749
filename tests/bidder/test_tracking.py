"""Views, playback, conversions and encrypted prices over the HTTP of a running bidder."""

import asyncio
import hmac
import json
import os
import re
import time
from base64 import urlsafe_b64encode
from collections import deque
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest

from bidder.config import ExchangeConfig, key_bytes
from bidder.prices import PriceUnusable, decrypt, reported_micros
from bidder.tokens import text_field
from dmp import events, keys
from tests.bidder.running import CAMPAIGNS, CAPPED, IFA, body, body_of_user, running, urls
from tests.bidder.test_app import eventually
from tests.bidder.test_notices import counted, noted, spent

VIDEO = """
[[campaign]]
id = "acme"
advertiser = "acme"
adomain = "acme.example"
goal = "cpm"
price_micros = 2000000
daily_budget_micros = 1000000000
[[campaign.creatives]]
id = "acme-v"
landing_url = "https://acme.example/?c=${CLICK_ID}"
video = { duration_s = 15, files = [{ url = "https://c.example/a.mp4", mime = "video/mp4", w = 640, h = 360 }] }
"""
VIDEO_IMP = {"banner": None, "video": {"mimes": ["video/mp4"], "protocols": [13]}}
TOKEN = "advertiser-secret-0123"
ADVERTISERS = {"acme": {"token": TOKEN}, "other": {"token": TOKEN + "-other"}}
E_KEY, I_KEY = "sIxwz7yw62yrfoLGt12lIHKuYrK/S5kLuApI2BQe7Ac=", "v3fsVcMBMMHYzRhi7SpM0sdqwzvAxM6KPTu9OtVod5I="
E_KEY2, I_KEY2 = "skU7Ax_NL5pPAFyKdkfZjZz2-VhIN8bjj1rVFOaJ_5o=", "arO23ykdNqUQ5LEoQ0FVmPkBd7xB5CO89PDZlSjpFxo="
GOOGLE = "OG46wAAMCggBI0VniavN7-mNy0VTKPbB3o5CMQ=="
GOOGLE_S = 946_748_096.789


def video_body(**fields):
    return body(imp=VIDEO_IMP, **fields)


def inside(bid, start):
    """The URL of a VAST document that begins with a path."""
    return re.search(rf"<!\[CDATA\[([^\]]*{re.escape(start)}[^\]]*(?:\[ERRORCODE\])?[^\]]*)\]\]>", bid["adm"]).group(1)


def conversion(bidder, click_id, **query):
    given = "&".join(f"{name}={value}" for name, value in query.items())
    return f"{bidder.url}/conv?t={click_id}&{given}"


async def test_a_player_tells_each_point_once_and_its_errors(tmp_path, store, client):
    async with running(tmp_path, store, VIDEO) as bidder:
        bid = await bidder.a_bid(video_body())
        start = inside(bid, "e=start")
        for _ in range(3):
            assert (await bidder.get(start))[0] == 204
        assert (await bidder.get(start.replace("e=start", "e=complete")))[0] == 204
        assert (await bidder.get(start.replace("e=start", "e=error&c=402")))[0] == 204
        assert (await bidder.get(start.replace("e=start", "e=nonsense")))[0] == 204
        assert (await bidder.get(start.replace("e=start", "")))[0] == 204
        told = [(event.point, event.code) for event in noted(client) if isinstance(event, events.Progress)]
        assert told == [("start", 0), ("complete", 0), ("error", 402)]
        assert counted(bidder, "progress") == {"counted": 3, "duplicate": 2, "unknown": 2}
        assert spent(client) == 0


async def test_a_view_is_counted_once_and_answers_a_pixel(tmp_path, store, client):
    async with running(tmp_path, store, VIDEO) as bidder:
        url = inside(await bidder.a_bid(video_body()), "/view?t=")
        for _ in range(2):
            status, _, headers = await bidder.get(url)
            assert (status, headers["Content-Type"]) == (200, "image/gif")
        assert [type(event).__name__ for event in noted(client)] == ["Viewable"]


@pytest.mark.rule("S-12")
@pytest.mark.parametrize(
    "kind", ["win", "billing", "loss", "impression", "click", "viewable", "progress", "conversion", "postback"]
)
async def test_a_hundred_copies_of_any_notice_from_ten_clients_count_once(tmp_path, store, client, kind):
    async with running(tmp_path, store, VIDEO, advertisers=ADVERTISERS) as bidder:
        bid = await bidder.a_bid(video_body())
        click = inside(bid, "/click?t=")
        (click_id,) = parse_qs(urlsplit(click).query)["t"]
        url = {
            "win": bid["nurl"],
            "billing": bid["burl"],
            "loss": bid["lurl"],
            "impression": inside(bid, "/imp?t="),
            "click": click,
            "viewable": inside(bid, "/view?t="),
            "progress": inside(bid, "e=midpoint"),
            "conversion": conversion(bidder, click_id, o="A-1"),
            "postback": f"{bidder.url}/postback/acme?t={click_id}&o=A-1",
        }[kind].replace("${AUCTION_PRICE}", "1.5")

        async def ten_times():
            async with aiohttp.ClientSession() as http:
                statuses = set()
                for _ in range(10):
                    secret = {"Authorization": f"Bearer {TOKEN}"} if kind == "postback" else {}
                    async with http.get(url, allow_redirects=False, headers=secret) as answer:
                        statuses.add(answer.status)
                return statuses

        statuses = await asyncio.gather(*(ten_times() for _ in range(10)))
        assert len(set().union(*statuses)) == 1
        assert len(noted(client)) == 1


async def test_a_click_hands_its_id_to_the_landing_page_and_a_pixel_brings_it_back(tmp_path, store, client):
    async with running(tmp_path, store, VIDEO, rates={"USD": 1.0, "EUR": 1.1}) as bidder:
        click = inside(await bidder.a_bid(video_body(device={"ifa": IFA})), "/click?t=")
        status, _, headers = await bidder.get(click)
        assert status == 302
        (click_id,) = parse_qs(urlsplit(headers["Location"]).query)["c"]
        for value in ("12.50", "99"):  # the same order told again, with another value
            status, _, headers = await bidder.get(conversion(bidder, click_id, v=value, cur="EUR", o="order-1"))
            assert (status, headers["Content-Type"]) == (200, "image/gif")
        assert (await bidder.get(conversion(bidder, click_id, v="3", o="order-2")))[0] == 200
        found = [event for event in noted(client) if isinstance(event, events.Conversion)]
        assert [(event.order_id, event.value_micros) for event in found] == [
            ("order-1", 13_750_000),
            ("order-2", 3_000_000),
        ]
        assert {event.campaign for event in found} == {"acme"}
        assert found[0].uid == bidder.service.ring.uid("device", IFA)


async def test_without_an_order_a_click_converts_once(tmp_path, store, client):
    async with running(tmp_path, store, VIDEO) as bidder:
        (click_id,) = parse_qs(urlsplit(inside(await bidder.a_bid(video_body()), "/click?t=")).query)["t"]
        for _ in range(3):
            await bidder.get(conversion(bidder, click_id))
        assert len(noted(client)) == 1


@pytest.mark.rule("P-60")
@pytest.mark.parametrize("order", ["ann@shop.example", "o-1 ann%2540shop.example", IFA])
async def test_an_order_id_that_names_a_person_is_not_kept(tmp_path, store, client, order):
    async with running(tmp_path, store, VIDEO) as bidder:
        bid = await bidder.a_bid(video_body(device={"ifa": IFA, "geo": {"country": "USA"}}))
        (click_id,) = parse_qs(urlsplit(inside(bid, "/click?t=")).query)["t"]
        for _ in range(2):
            await bidder.get(conversion(bidder, click_id, o=order))
        (found,) = noted(client)
        assert (found.order_id, "order" in found.event_id) == ("", False)


@pytest.mark.parametrize(
    ("query", "result"),
    [
        ({"v": "-1"}, "bad_value"),
        ({"v": "1e9", "cur": "XTS"}, "bad_value"),
        ({"v": "nan"}, "bad_value"),
        ({"v": "999999999999"}, "bad_value"),
        ({"t": "forged"}, "forged"),
    ],
)
async def test_a_conversion_nobody_can_book_is_counted_and_kept_out(tmp_path, store, client, query, result):
    async with running(tmp_path, store, VIDEO) as bidder:
        (click_id,) = parse_qs(urlsplit(inside(await bidder.a_bid(video_body()), "/click?t=")).query)["t"]
        assert (await bidder.get(conversion(bidder, query.pop("t", click_id), **query)))[0] == 200
        assert noted(client) == []
        assert (await bidder.metrics())[f'tagbid_conversions_total{{result="{result}"}}'] == 1


@pytest.mark.rule("S-01")
async def test_a_server_needs_its_secret_and_reaches_only_its_own_clicks(tmp_path, store, client):
    async with running(tmp_path, store, VIDEO, advertisers=ADVERTISERS) as bidder:
        bid = await bidder.a_bid(video_body())
        (click_id,) = parse_qs(urlsplit(inside(bid, "/click?t=")).query)["t"]
        (server,) = parse_qs(urlsplit(bid["burl"]).query)["t"]

        async def told(advertiser, token, text):
            url = f"{bidder.url}/postback/{advertiser}?t={text}&v=5&o=77"
            async with bidder.http.post(url, headers={"Authorization": f"Bearer {token}"}) as answer:
                return answer.status

        assert await told("acme", "wrong", click_id) == 401
        assert await told("nobody", TOKEN, click_id) == 401
        assert await told("other", TOKEN + "-other", click_id) == 403
        assert await told("acme", TOKEN, server) == 403
        assert noted(client) == []
        assert await told("acme", TOKEN, click_id) == 204
        assert await told("acme", TOKEN, click_id) == 204
        assert [event.value_micros for event in noted(client)] == [5_000_000]


@pytest.mark.rule("S-13")
@pytest.mark.parametrize(
    ("limit", "believed"), [("", 1_000_000_000), ("max_pixel_value_micros = 3_000_000_000\n", 3 * 10**9)]
)
async def test_a_browser_is_believed_only_so_much_and_a_server_more(tmp_path, store, client, limit, believed):
    """Anybody may call the pixel with any value, and values are what models learn from."""
    campaigns = VIDEO.replace("goal =", f"{limit}goal =", 1)
    async with running(tmp_path, store, campaigns, advertisers=ADVERTISERS) as bidder:
        (click_id,) = parse_qs(urlsplit(inside(await bidder.a_bid(video_body()), "/click?t=")).query)["t"]
        await bidder.get(conversion(bidder, click_id, v="999.5", o="1"))
        await bidder.get(conversion(bidder, click_id, v="5000", o="2"))
        url = f"{bidder.url}/postback/acme?t={click_id}&v=5000&o=3"
        async with bidder.http.post(url, headers={"Authorization": f"Bearer {TOKEN}"}) as answer:
            assert answer.status == 204
        assert [event.value_micros for event in noted(client)] == [999_500_000, believed, 5 * 10**9]
        assert (await bidder.metrics())["tagbid_conversion_values_cut_total"] == 1


async def test_a_test_bid_converts_into_nothing(tmp_path, store, client):
    async with running(tmp_path, store, VIDEO) as bidder:
        (click_id,) = parse_qs(urlsplit(inside(await bidder.a_bid(video_body(test=1)), "/click?t=")).query)["t"]
        await bidder.get(conversion(bidder, click_id, v="5"))
        assert noted(client) == []


@pytest.mark.rule("S-14")
@pytest.mark.parametrize(
    ("keys", "text", "micros"),
    [
        ((E_KEY, I_KEY), GOOGLE, 1_200_000),
        ((E_KEY, I_KEY), GOOGLE.rstrip("="), 1_200_000),
        ((E_KEY2, I_KEY2), "YWJjMTIzZGVmNDU2Z2hpN7fhCuPemCce_6msaw", 100),
        ((E_KEY2, I_KEY2), "YWJjMTIzZGVmNDU2Z2hpN7fhCuPemCAWJRxOgA", 1_900),
        ((E_KEY2, I_KEY2), "YWJjMTIzZGVmNDU2Z2hpN7fhCuPemC32prpWWw", 2_700),
    ],
)
def test_the_public_vectors_of_google_decrypt(keys, text, micros):
    assert decrypt(text, *map(key_bytes, keys)).micros == micros


@pytest.mark.rule("S-14")
@pytest.mark.parametrize(
    ("text", "why"),
    [
        (GOOGLE[:20] + "A" + GOOGLE[21:], "undecryptable"),
        ("YWJjMTIzZGVmNDU2Z2hpN7fhCuPemCce_6msaw", "undecryptable"),
        (GOOGLE[:-4], "not encrypted"),
        ("1.25", "not encrypted"),
        ("", "empty"),
        ("${AUCTION_PRICE}", "unexpanded"),
        ("%%WINNING_PRICE%%", "unexpanded"),
    ],
)
def test_a_price_that_is_not_soundly_encrypted_is_none(text, why):
    with pytest.raises(PriceUnusable, match=why):
        decrypt(text, key_bytes(E_KEY), key_bytes(I_KEY))


def an_exchange(**fields):
    return ExchangeConfig(price_encryption_key=E_KEY, price_integrity_key=I_KEY, **fields)


@pytest.mark.parametrize(
    ("exchange", "text", "cpm_micros"),
    [
        (an_exchange(price_encoding="google", price_unit="micros_cpi"), GOOGLE, 1_200_000_000),
        (an_exchange(price_encoding="google", price_unit="micros_cpm"), GOOGLE, 1_200_000),
        (an_exchange(), "5", 5_000_000),
        (an_exchange(price_unit="micros_cpm"), "5000000", 5_000_000),
        (an_exchange(price_unit="micros_cpi"), "5000", 5_000_000),
    ],
)
def test_an_exchange_has_its_own_unit_of_prices(exchange, text, cpm_micros):
    assert reported_micros(text, exchange, GOOGLE_S) == cpm_micros


@pytest.mark.rule("S-14")
@pytest.mark.parametrize("now_s", [GOOGLE_S + 86_401, GOOGLE_S - 301])
def test_an_old_price_cannot_be_replayed(now_s):
    with pytest.raises(PriceUnusable, match="stale"):
        reported_micros(GOOGLE, an_exchange(price_encoding="google"), now_s)


def encrypted(cpm_micros, iv_s):
    """As Google does it: IV of the time and eight random bytes, pad, signature."""
    iv = int(iv_s).to_bytes(4) + bytes(4) + os.urandom(8)
    price = cpm_micros.to_bytes(8)
    pad = hmac.digest(key_bytes(E_KEY), iv, "sha1")
    sealed = bytes(a ^ b for a, b in zip(price, pad, strict=False))
    return urlsafe_b64encode(iv + sealed + hmac.digest(key_bytes(I_KEY), price + iv, "sha1")[:4]).decode()


@pytest.mark.rule("S-14")
@pytest.mark.parametrize("record", ["impression", "billing"])
async def test_an_encrypted_price_is_good_for_one_bid(tmp_path, store, client, record):
    """Whoever may call the URLs, a page for one, could else pay every impression with the lowest price it ever saw."""
    google = {
        "price_encoding": "google", "price_unit": "micros_cpm", "event_of_record": record,
        "price_encryption_key": E_KEY, "price_integrity_key": I_KEY,
    }  # fmt: skip
    async with running(tmp_path, store, exchanges={"g": google}) as bidder:
        low, own = (encrypted(micros, time.time()) for micros in (100_000, 1_500_000))
        first, second = [await bidder.a_bid(exchange="g") for _ in range(2)]
        for _ in range(2):
            await bidder.get(urls(first, low)[record])
        assert spent(client) == 100
        for text in (low, low.rstrip("="), low.replace("-", "+").replace("_", "%2F")):
            await bidder.get(urls(second, text)[record])
        assert spent(client) == 100
        await bidder.get(urls(second, own)[record])
        assert spent(client) == 1_600
        assert counted(bidder, record) == {"counted": 2, "duplicate": 3, "quarantined": 1}
        assert all(86_000 < client.ttl(mark) <= 86_700 for mark in client.keys("price:*"))
        assert len(client.keys("price:*")) == 2


@pytest.mark.rule("S-16")
@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("MS41", 1_500_000),
        ("MS4yNQ==", 1_250_000),
        ("MS4yNQ", 1_250_000),
        ("", None),
        ("${AUCTION_PRICE:B64}", None),
        ("1.5", None),
        ("15", None),
        ("LTE", None),
        ("bmFu", None),
        ("____", None),
    ],
)
def test_a_price_in_base64_is_read_and_nothing_else_is_taken_for_one(text, micros):
    exchange = ExchangeConfig(price_encoding="base64")
    if micros is not None:
        assert reported_micros(text, exchange, 0.0) == micros
        return
    with pytest.raises(PriceUnusable):
        reported_micros(text, exchange, 0.0)


async def test_an_exchange_with_its_own_macro_finds_it_in_every_url(tmp_path, store, client):
    exchanges = {"x": {"price_macro": "%%WINNING_PRICE%%", "price_unit": "micros_cpi"}}
    async with running(tmp_path, store, exchanges=exchanges) as bidder:
        status, answer = await bidder.bid(body())
        assert status == 200
        assert b"${AUCTION_PRICE}" not in answer
        bid = json.loads(answer)["seatbid"][0]["bid"][0]
        assert bid["burl"].endswith("&p=%%WINNING_PRICE%%")
        await bidder.get(bid["burl"].replace("%%WINNING_PRICE%%", "1500"))
        assert spent(client) == 1_500


@pytest.mark.parametrize(
    ("budget", "before", "result", "total"), [(6_000, 3, "over_budget", 6_000), (60_000, 3, "counted", 8_000)]
)
async def test_a_bill_after_its_hold_is_paid_only_out_of_what_is_free(
    tmp_path, store, client, budget, before, result, total
):
    """A CPM of 2.00 costs 2,000 micros an impression."""
    async with running(tmp_path, store, CAMPAIGNS.replace("1000000000", str(budget))) as bidder:
        names = b"".join(map(text_field, ("x", "1", "acme", "acme-1", "USD")))

        def bill(number, age_s):
            issued_s = bidder.service.budgets.now_s() - age_s
            token, _ = bidder.service.signer.pair(number.to_bytes(12), issued_s, 60, 2_000_000, names, None)
            return f"{bidder.url}/bill?t={token.decode()}&p=2.0"

        for number in range(before):
            await bidder.get(bill(number, age_s=0))
        assert (await bidder.get(bill(99, age_s=61)))[0] == 204
        assert spent(client) == total
        told = counted(bidder, "billing")
        assert told == ({"counted": before + 1} if result == "counted" else {"counted": before, result: 1})
        assert len(noted(client, field=b"q")) == (result == "over_budget")


@pytest.mark.parametrize("age_s", [0, 61])
async def test_bills_of_a_paused_campaign_are_booked_within_its_budget_and_counted(tmp_path, store, client, age_s):
    """The money was spent before it was paused; a budget of 6,000 micros holds three impressions."""
    paused = CAMPAIGNS.replace("1000000000", '6000\nstatus = "paused"')
    async with running(tmp_path, store, paused + CAPPED) as bidder:
        for number in range(4 if age_s else 3):
            names = b"".join(map(text_field, ("x", "1", "acme", "acme-1", "USD")))
            issued_s = bidder.service.budgets.now_s() - age_s
            token, _ = bidder.service.signer.pair(number.to_bytes(12), issued_s, 60, 2_000_000, names, None)
            assert (await bidder.get(f"{bidder.url}/bill?t={token.decode()}&p=2.0"))[0] == 204
        assert spent(client) == 6_000
        assert counted(bidder, "billing") == ({"counted": 3, "over_budget": 1} if age_s else {"counted": 3})
        metrics = await bidder.metrics()
    assert metrics["tagbid_bills_of_paused_total"] == 3
    assert metrics['tagbid_campaign_total{campaign="acme",step="billed"}'] == 3


async def test_a_late_bill_of_a_campaign_nobody_knows_any_more_is_booked(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        names = b"".join(map(text_field, ("x", "1", "gone", "gone-1", "USD")))
        issued_s = bidder.service.budgets.now_s() - 61
        token, _ = bidder.service.signer.pair(bytes(12), issued_s, 60, 2_000_000, names, None)
        assert (await bidder.get(f"{bidder.url}/bill?t={token.decode()}&p=2.0"))[0] == 204
        assert client.hget(keys.spend("gone", issued_s // 86_400), "spent") == b"2000"


@pytest.mark.rule("S-12")
async def test_one_click_has_no_more_conversions_than_it_may(tmp_path, store, client):
    """A click id is known to whoever clicked: order ids made up for it must not fill the store or the reports."""
    async with running(tmp_path, store, VIDEO, advertisers=ADVERTISERS, conversions_per_click=5) as bidder:
        bid = await bidder.a_bid(video_body())
        (click_id,) = parse_qs(urlsplit(inside(bid, "/click?t=")).query)["t"]

        async def pixels(first):
            return [(await bidder.get(conversion(bidder, click_id, o=f"made-up-{first + i}")))[0] for i in range(10)]

        assert {status for found in await asyncio.gather(*map(pixels, range(0, 50, 10))) for status in found} == {200}
        assert len(noted(client)) == 5
        assert client.dbsize() < 40
        told = (await bidder.metrics())['tagbid_conversions_total{result="too_many"}']
        assert told == 45
        url, headers = f"{bidder.url}/postback/acme?t={click_id}&o=", {"Authorization": f"Bearer {TOKEN}"}
        known = next(event.order_id for event in noted(client)) or "made-up-0"
        for order, status in (("new", 409), (known, 204)):
            async with bidder.http.post(url + order, headers=headers) as answer:
                assert answer.status in (status, 409) if order != "new" else answer.status == status


async def test_a_bill_after_its_loss_is_paid_only_out_of_what_is_free(tmp_path, store, client):
    """The loss gave the money back, and other bids have it now: an exchange that tells both cannot overspend."""
    budget = 6_000
    async with running(tmp_path, store, CAMPAIGNS.replace("1000000000", str(budget))) as bidder:
        bills = []

        async def bid_and_lose():
            status, answer = await bidder.bid(body(at=2))
            if status == 200:
                told = urls(json.loads(answer)["seatbid"][0]["bid"][0], "2.0")
                await bidder.get(told["loss"])
                bills.append(told["billing"])
            return len(bills) == 2 * budget // 2_000

        await eventually(bid_and_lose)
        for bill in bills:
            assert (await bidder.get(bill))[0] == 204
        assert spent(client) <= budget
        assert counted(bidder, "billing").get("over_budget", 0) >= 3


@pytest.mark.parametrize("price", ["9e99", "999999999999"])
async def test_a_price_beyond_any_bid_is_no_error(tmp_path, store, client, price):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        for kind in ("loss", "win"):
            address = found[kind].rpartition("&p=")[0] + f"&p={price}"
            assert (await bidder.get(address))[0] == 204
        assert [event.min_to_win_micros for event in noted(client)] == [0]
        assert len(noted(client, field=b"q")) == 1


async def test_what_is_told_while_what_was_deferred_is_booked_is_booked_too(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        kept = bidder.service.notices
        kept.deferred = deque(maxlen=1)
        tokens = []
        for _ in range(2):
            address = urls(await bidder.a_bid())["impression"]
            tokens.append(kept._signer.read(parse_qs(urlsplit(address).query)["t"][0]))
        kept.deferred.append(("impression", tokens[0], {"p": "1"}))
        booking = asyncio.create_task(kept.book_deferred())
        await asyncio.sleep(0)  # it waits for the store now
        kept.deferred.append(("impression", tokens[1], {"p": "1"}))
        await booking
        assert {event.bid_id for event in noted(client)} == {token.bid_id for token in tokens}


async def test_a_screen_many_see_costs_its_multiple(tmp_path, store, client):
    """2.50 CPM x 30.3 = 0.07575 (implementation guide, 7.9.4)."""
    async with running(
        tmp_path, store, CAMPAIGNS.replace("price_micros = 2000000", "price_micros = 2500000")
    ) as bidder:
        bid = await bidder.a_bid(body(imp={"qty": {"multiplier": 30.3}}, at=2))
        assert bid["price"] == 2.5
        await bidder.get(urls(bid, "2.5")["billing"])
        assert spent(client) == 75_750


async def test_a_loss_price_that_cannot_be_trusted_is_not_kept(tmp_path, store, client):
    async with running(tmp_path, store, exchanges={"x": {"loss_price": "ignore"}, "y": {}}) as bidder:
        for exchange in ("x", "y"):
            await bidder.get(urls(await bidder.a_bid(body_of_user(), exchange))["loss"])
        assert [(event.reason, event.min_to_win_micros) for event in noted(client)] == [(102, 0), (102, 2_500_000)]
