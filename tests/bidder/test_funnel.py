import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import targeting
from bidder.decide import decide
from bidder.funnel import Funnel
from bidder.metrics import Metrics
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from bidder.view import view
from dmp import keys, realtime
from dmp.realtime import Parts
from loadtest.scrape import parse
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request, a_snapshot
from tests.bidder.running import CAMPAIGNS, IFA, body, body_of_user, running, urls

PAGE_BOUND = """
[[campaign]]
id = "elsewhere"
advertiser = "acme"
adomain = "acme.example"
goal = "cpm"
price_micros = 9000000
daily_budget_micros = 1000000000
targeting = { domains = ["other.example"] }
creatives = [{id = "e-1", w = 300, h = 250, image_url = "https://cdn.example/a.png", landing_url = "https://acme.example/"}]
"""


def funnel(metrics, campaign):
    return {
        name.partition('step="')[2].partition('"')[0]: int(value)
        for name, value in metrics.items()
        if name.startswith(("tagbid_funnel_total", "tagbid_campaign_total")) and f'"{campaign}"' in name and value
    }


async def test_every_impression_of_a_campaign_ends_somewhere(tmp_path, store):
    async with running(tmp_path, store, CAMPAIGNS + PAGE_BOUND, funnel_every=1) as bidder:
        found = urls(await bidder.a_bid())
        await bidder.bid(body(imp={"banner": {"w": 1, "h": 1}}))
        await bidder.bid(body(site={"domain": "other.example"}, imp={"bidfloor": 50}))
        assert (await bidder.metrics())['tagbid_campaign_total{campaign="acme",step="sent"}'] == 1
        for kind in ("win", "billing", "click"):
            await bidder.get(found[kind])
        metrics = await bidder.metrics()
    assert metrics["tagbid_funnel_sampled_total"] == 3
    acme, elsewhere = funnel(metrics, "acme"), funnel(metrics, "elsewhere")
    assert acme == {"received": 3, "size": 1, "scored": 2, "priced": 1, "sent": 1, "won": 1, "billed": 1, "clicked": 1}
    assert elsewhere == {"received": 3, "inventory": 2, "scored": 1}


async def test_one_request_in_so_many_is_asked(tmp_path, store):
    async with running(tmp_path, store, funnel_every=3) as bidder:
        for _ in range(7):
            await bidder.bid(body())
        assert (await bidder.metrics())["tagbid_funnel_sampled_total"] == 3


DOMAINS, SIZES = ("news.example", "other.example", "third.example"), ((300, 250), (728, 90), (1, 1))
PORTFOLIOS = st.lists(
    st.tuples(
        st.sets(st.sampled_from(DOMAINS)),
        st.lists(st.sampled_from(SIZES), min_size=1, max_size=3),
        st.sampled_from([1_000, 2_000_000]),
    ),
    min_size=1,
    max_size=12,
)


def a_portfolio(drawn):
    """A campaign for each (domains it wants, sizes it has, price)."""
    return [
        a_campaign(
            id=f"c{i}",
            price_micros=price,
            targeting={"domains": sorted(domains)},
            creatives=[{"id": f"c{i}-{n}", "w": w, "h": h} for n, (w, h) in enumerate(sizes)],
        )
        for i, (domains, sizes, price) in enumerate(drawn)
    ]


def one_by_one(served, request, found):
    """(campaign, step) -> impressions, asked campaign by campaign and rule by rule: what the arrays must come to."""
    seen, told = view(request, None, NOW_US, EXCHANGE, "x", True), {}
    for i, imp in enumerate(request.imp):
        for campaign, left in served.campaign_bits.items():
            ends = ["received"]
            for reason, passing in targeting.answers(served.index, seen, imp):
                if left and not left & passing:
                    ends.append(reason.value)
                left &= passing
            ends += ["scored"] if left else []
            ends += ["priced"] if campaign in {served.names[offer.ad_index] for offer in found.offers[i]} else []
            for end in ends:
                told[campaign, end] = told.get((campaign, end), 0) + 1
    return told


@given(st.lists(PORTFOLIOS, min_size=1, max_size=3), st.data())
def test_all_campaigns_at_once_are_counted_as_one_by_one_whatever_snapshots_come_and_go(portfolios, data):
    metrics, expected = Metrics(), {}
    funnel = Funnel(metrics, every=1)
    snapshots = [a_snapshot(*a_portfolio(drawn)) for drawn in portfolios]
    for served in data.draw(st.lists(st.sampled_from(snapshots), min_size=1, max_size=6)):
        sizes = data.draw(st.lists(st.sampled_from(SIZES), min_size=1, max_size=3))
        request = a_request(
            site={"domain": data.draw(st.sampled_from(DOMAINS))},
            imp=[{"banner": {"w": w, "h": h}, "bidfloor": 0.5} for w, h in sizes],
        )
        privacy = decide_privacy(request, policy(served.settings))
        found = decide(request, privacy, None, served, NOW_US, EXCHANGE, "x")
        funnel.ask(request, privacy, None, served, NOW_US, EXCHANGE, "x", found)
        for key, count in one_by_one(served, request, found).items():
            expected[key] = expected.get(key, 0) + count
    page = parse(metrics.expose())
    told = {name: count for name, count in page.items() if name.startswith("tagbid_funnel_total")}
    assert told == {
        f'tagbid_funnel_total{{campaign="{campaign}",step="{step}"}}': count
        for (campaign, step), count in expected.items()
    }


async def traced(bidder, data, **headers):
    async with bidder.http.post(f"{bidder.url}/trace/x", data=data, headers=headers) as answer:
        return answer.status, await answer.read()


@pytest.mark.rule("S-27")
@pytest.mark.parametrize("token", ["", "a secret of the operator"])
async def test_only_who_knows_the_secret_gets_a_trace(tmp_path, store, client, token):
    async with running(tmp_path, store, trace_token=token) as bidder:
        assert (await traced(bidder, body()))[0] == 404
        assert (await traced(bidder, body(), **{"X-Tagbid-Trace": "guess"}))[0] == 404
        status, answer = await traced(bidder, body(), **{"X-Tagbid-Trace": token})
        assert status == (200 if token else 404)
        if token:
            found = json.loads(answer)
            assert [step["step"] for step in found["steps"]] == ["decode", "privacy", "user", "explain"]
            assert found["explanation"]["reason"] == "bid"
            assert (await traced(bidder, b"{", **{"X-Tagbid-Trace": token}))[0] == 400
        assert bidder.service.budgets.accounts()[0].pending == 0
    assert not list((tmp_path / "data" / "bidlog").glob("*.mpk"))


async def test_a_trace_tells_nothing_that_names_the_user(tmp_path, store):
    ids = {
        "device": {"ifa": "6d92078a-8246-4ba4-ae5b-76104861e7dc", "ip": "198.51.100.213"},
        "user": {"id": "u-canary"},
    }
    async with running(tmp_path, store, trace_token="secret") as bidder:
        status, answer = await traced(bidder, body(**ids), **{"X-Tagbid-Trace": "secret"})
    assert status == 200
    assert json.loads(answer)["user"] == "unknown"
    assert not [name for name in (b"6d92078a", b"198.51.100", b"u-canary") if name in answer]


async def test_who_is_known_by_what_they_do_now_is_known(tmp_path, store, client):
    async with running(tmp_path, store, trace_token="secret") as bidder:
        client.set(
            keys.realtime(bidder.service.ring.uid("device", IFA)), realtime.encode(Parts(nonce=bytes(8), newest_us=1))
        )
        status, answer = await traced(bidder, body_of_user(), **{"X-Tagbid-Trace": "secret"})
    assert (status, json.loads(answer)["user"]) == (200, "read")


async def test_a_test_is_nobodys_bid(tmp_path, store):
    async with running(tmp_path, store) as bidder:
        await bidder.a_bid(body(test=1))
        assert funnel(await bidder.metrics(), "acme").get("sent", 0) == 0
