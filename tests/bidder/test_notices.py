import asyncio
import signal
from contextlib import suppress
from urllib.parse import parse_qs, urlsplit

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.prices import PriceUnusable, price_micros
from bidder.tokens import text_field
from dmp import events, keys
from dmp.codec import decode_contacts
from dmp.config import DmpConfig
from dmp.store import open_store
from tests.bidder.running import CAMPAIGNS, CAPPED, IFA, body, body_of_user, running, urls


def noted(client, campaign="acme", field=b"e"):
    """Events in the stream of a campaign's partition."""
    stream = client.xrange(keys.notices(keys.money_partition(campaign)))
    return [events.decode(entry[field]) for _, entry in stream if field in entry]


def spent(client, campaign="acme"):
    (key,) = client.keys(keys.spend(campaign, 0)[:-1] + b"*")
    return int(client.hget(key, "spent") or 0)


def counted(bidder, kind):
    counts = bidder.service.metrics
    text = counts.expose()
    return {
        line.split('result="')[1].split('"')[0]: int(line.rpartition(" ")[2])
        for line in text.splitlines()
        if line.startswith("tagbid_notices_total{") and f'kind="{kind}"' in line and not line.endswith(" 0")
    }


@pytest.mark.parametrize(
    ("text", "micros"),
    [
        ("1.25", 1_250_000),
        ("0", 0),
        ("0.0000004", 0),
        (".5", 500_000),
        ("2.", 2_000_000),
        ("1e-2", 10_000),
        ("+3", 3_000_000),
    ],
)
def test_a_price_is_read_exactly(text, micros):
    assert price_micros(text) == micros


@pytest.mark.rule("S-16")
@pytest.mark.parametrize(
    "text",
    [
        *("", "${AUCTION_PRICE}", "%24%7BAUCTION_PRICE%7D", "-1", "-0.0", "nan", "inf", "1e999999", "1,5", "0x10"),
        *("1_000", "\u0661", "abc", "99999999999999999999", "YWJj", "1.5 2"),
    ],
)
def test_what_is_no_price_is_never_booked(text):
    with pytest.raises(PriceUnusable):
        price_micros(text)


@given(st.text(max_size=40))
def test_no_text_breaks_the_price(text):
    with suppress(PriceUnusable):
        assert price_micros(text) >= 0


async def test_billing_spends_the_clearing_price_and_the_record_is_in_the_stream(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid(body_of_user()), "1.5")
        assert (await bidder.get(found["billing"]))[:2] == (204, b"")
        (event,) = noted(client)
        assert isinstance(event, events.Billing)
        assert (event.campaign, event.creative, event.imp_id, event.exchange) == ("acme", "acme-1", "1", "x")
        assert event.price_micros == 1_500_000
        assert event.event_id == f"{event.bid_id}:billing"
        assert event.uid == bidder.service.ring.uid("device", IFA)
        assert spent(client) == 1_500


async def test_a_win_tells_the_price_and_spends_nothing(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        assert (await bidder.get(found["win"]))[0] == 204
        assert [type(event).__name__ for event in noted(client)] == ["Win"]
        assert spent(client) == 0


async def test_notices_come_as_get_and_as_post(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        assert (await bidder.get(found["billing"], "POST"))[0] == 204
        assert spent(client) == 1_500


@pytest.mark.parametrize("record", ["billing", "impression", "win"])
async def test_only_the_event_of_record_spends(tmp_path, store, client, record):
    async with running(tmp_path, store, exchanges={"x": {"event_of_record": record}}) as bidder:
        found = urls(await bidder.a_bid(body_of_user()))
        for kind in {"win", "billing", "impression"} - {record}:
            await bidder.get(found[kind])
        assert spent(client) == 0
        await bidder.get(found[record])
        assert spent(client) == 1_500
        (contact,) = decode_contacts(client.get(keys.contacts(bidder.service.ring.uid("device", IFA))))
        assert contact.count == 1


@pytest.mark.rule("S-12")
async def test_a_hundred_copies_from_ten_clients_count_once(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid(body_of_user()))

        async def copies():
            async with aiohttp.ClientSession() as http:
                for _ in range(10):
                    async with http.get(found["billing"]) as answer:
                        assert answer.status == 204

        await asyncio.gather(*(copies() for _ in range(10)))
        assert len(noted(client)) == 1
        assert spent(client) == 1_500
        assert counted(bidder, "billing") == {"counted": 1, "duplicate": 99}
        (contact,) = decode_contacts(client.get(keys.contacts(bidder.service.ring.uid("device", IFA))))
        assert contact.count == 1


async def test_a_capped_campaign_stops_after_its_cap(tmp_path, store):
    async with running(tmp_path, store, CAPPED) as bidder:
        for _ in range(2):
            await bidder.get(urls(await bidder.a_bid(body_of_user()))["billing"])
        assert (await bidder.bid(body_of_user()))[0] == 204
        assert (await bidder.bid(body_of_user("11111111-8246-4ba4-ae5b-76104861e7dc")))[0] == 200


@pytest.mark.rule("P-16")
async def test_contacts_are_not_counted_without_the_permission_to(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        names = b"".join(map(text_field, ("x", "1", "acme", "acme-1", "USD")))
        token, _ = bidder.service.signer.pair(
            bytes(12), bidder.service.budgets.now_s(), 120, 2_000_000, names, bytes(16), counts_contact=False
        )
        assert (await bidder.get(f"{bidder.url}/bill?t={token.decode()}&p=1.5"))[0] == 204
        assert spent(client) == 1_500
        assert not client.exists(keys.contacts(bytes(16)))


@pytest.mark.rule("S-13")
@pytest.mark.parametrize("price", ["2.000001", "1e9", "-1", "nan", "", "${AUCTION_PRICE}"])
async def test_a_price_that_cannot_be_is_quarantined(tmp_path, store, client, price):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid(), price)
        assert (await bidder.get(found["billing"]))[0] == 204
        assert noted(client) == []
        assert len(noted(client, field=b"q")) == 1
        assert spent(client) == 0
        assert counted(bidder, "billing") == {"quarantined": 1}


async def test_the_true_price_is_still_booked_after_one_that_could_not_be(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        bid = await bidder.a_bid()
        await bidder.get(urls(bid, "${AUCTION_PRICE}")["billing"])
        await bidder.get(urls(bid, "1")["billing"])
        assert spent(client) == 1_000


async def test_a_quality_render_counts_as_nothing(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid(), "AUDIT")
        for kind in ("win", "billing", "impression"):
            assert (await bidder.get(found[kind]))[0] in (200, 204)
        assert noted(client) == []
        assert spent(client) == 0


async def test_a_test_request_is_answered_and_never_billed(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid(body(test=1)))
        assert (await bidder.get(found["billing"]))[0] == 204
        assert noted(client) == []
        assert all(account.pending == 0 for account in bidder.service.budgets.accounts())


async def test_a_loss_tells_why_and_frees_the_money(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        assert bidder.service.budgets.accounts()[0].pending == 1_700  # 2 dollars by our share of a first price
        assert (await bidder.get(found["loss"]))[0] == 204
        (event,) = noted(client)
        assert (event.reason, event.min_to_win_micros) == (102, 2_500_000)
        assert bidder.service.budgets.accounts()[0].pending == 0


@pytest.mark.rule("S-10")
@pytest.mark.parametrize("path", ["win", "bill", "loss", "imp", "click"])
@pytest.mark.parametrize("token", ["", "?t=", "?t=abc", "?t=" + "A" * 3000, "?t=%00%ff", "?t[]=1"])
async def test_forged_tokens_are_refused_shortly(tmp_path, store, client, path, token):
    async with running(tmp_path, store) as bidder:
        status, text, _ = await bidder.get(f"{bidder.url}/{path}{token}")
        assert status == 403
        assert len(text) < 100
        assert noted(client) == []


async def test_what_the_page_sees_cannot_settle_the_price(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        (token,) = parse_qs(urlsplit(found["impression"]).query)["t"]
        assert (await bidder.get(f"{bidder.url}/bill?t={token}&p=0.01"))[0] == 403
        (token,) = parse_qs(urlsplit(found["billing"]).query)["t"]
        assert (await bidder.get(f"{bidder.url}/click?t={token}"))[0] == 403
        assert spent(client) == 0


@pytest.mark.rule("S-11")
async def test_a_late_notice_is_counted_as_late_and_not_billed(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        bidder.service.budgets._offset_s = 86_402
        assert (await bidder.get(found["billing"]))[0] == 204
        assert (await bidder.get(found["click"]))[0] == 302
        assert counted(bidder, "billing") == {"late": 1}
        assert counted(bidder, "click") == {"counted": 1}
        bidder.service.budgets._offset_s = 30 * 86_400 + 2
        assert (await bidder.get(found["click"]))[0] == 302  # a person is waiting
        assert counted(bidder, "click") == {"counted": 1, "late": 1}
        assert spent(client) == 0


@pytest.mark.rule("S-11")
async def test_a_token_from_the_future_is_refused_beyond_the_skew_of_clocks(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        bidder.service.budgets._offset_s = -290
        assert (await bidder.get(found["win"]))[0] == 204
        bidder.service.budgets._offset_s = -310
        assert (await bidder.get(found["billing"]))[0] == 403


@pytest.mark.rule("S-15")
async def test_a_click_goes_to_the_landing_page_and_nowhere_a_url_says(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        for extra in (
            "",
            "&url=https://evil.example",
            "&r=//evil.example",
            "&t=x",
            "%0d%0aLocation:%20https://evil.example",
        ):
            status, _, headers = await bidder.get(found["click"] + extra)
            if status == 302:
                assert headers["Location"] == "https://acme.example/?a=1"
                assert headers["Cache-Control"] == "no-store"
            else:
                assert status == 403
        assert [type(event).__name__ for event in noted(client)] == ["Click"]


async def test_an_impression_is_a_picture_that_is_not_kept(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        found = urls(await bidder.a_bid())
        status, picture, headers = await bidder.get(found["impression"])
        assert (status, headers["Content-Type"], headers["Cache-Control"]) == (200, "image/gif", "no-store")
        assert picture.startswith(b"GIF89a")
        assert picture.endswith(b";")
        assert [type(event).__name__ for event in noted(client)] == ["Impression"]


@pytest.mark.rule("P-52")
@pytest.mark.rule("P-50")
async def test_no_key_of_a_user_is_written_for_a_contextual_bid(tmp_path, store, client):
    async with running(tmp_path, store) as bidder:
        with client.monitor() as monitor:
            found = urls(await bidder.a_bid(body(device={"ifa": IFA, "lmt": 1, "geo": {"country": "USA"}})))
            for kind in ("win", "billing", "impression", "click"):
                await bidder.get(found[kind])
            client.set("end", 1)
            seen = []
            for command in monitor.listen():
                seen.append(command["command"])
                if command["command"].startswith("SET end"):
                    break
        assert len(seen) > 5
        assert not [text for text in seen if any(part in text for part in ("prof:", "fc:", "aud:", "seen:"))]
        assert all(event.uid is None for event in noted(client))


async def test_with_the_store_standing_still_notices_are_503_and_the_retry_counts(tmp_path, monkeypatch):
    monkeypatch.setenv("TAGBID_STORE", "embedded")
    with open_store(DmpConfig(data_dir=str(tmp_path / "data"))) as own:
        async with running(tmp_path, own) as bidder:
            found = urls(await bidder.a_bid())
            own.server.send_signal(signal.SIGSTOP)
            try:
                assert (await bidder.get(found["billing"]))[0] == 503
                assert (await bidder.get(found["impression"]))[0] == 200  # no browser asks again: it is kept
                assert (await bidder.get(found["click"]))[0] == 302  # a person is waiting
            finally:
                own.server.send_signal(signal.SIGCONT)
            async with asyncio.timeout(30):
                while (await bidder.get(found["billing"]))[0] != 204:  # noqa: ASYNC110 - as an exchange does
                    await asyncio.sleep(0.02)
            await bidder.get(found["billing"])
            client = own.sync()
            assert spent(client) == 1_500
            assert len([event for event in noted(client) if isinstance(event, events.Billing)]) == 1
            async with asyncio.timeout(30):
                while not any(isinstance(event, events.Impression) for event in noted(client)):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            client.close()


async def test_a_campaign_that_has_left_is_still_billed(tmp_path, store, client):
    async with running(tmp_path, store, CAMPAIGNS + CAPPED) as bidder:
        found = urls(await bidder.a_bid(body_of_user()))
        (tmp_path / "campaigns.toml").write_text(CAMPAIGNS)
        bidder.service.budgets.configure({"acme": 10**9})
        assert (await bidder.get(found["billing"]))[0] == 204
        assert spent(client, "capped") == 1_500
