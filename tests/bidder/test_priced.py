"""What `offers.priced` offers, held against the rules written down one after the other, without order or early end."""

import math
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder.offers import Auction, Offer, best_first, priced
from bidder.openrtb import Deal, Imp
from bidder.pacing import FULL, Pace
from bidder.pricing import floor_micros, length_floor, price_micros, value_micros
from bidder.quoting import Quotes
from bidder.scoring import Scores
from bidder.shortlist import POD_CHOICES, guidance
from bidder.snapshot import Snapshot
from bidder.targeting import deals_of
from models.context import Context
from tests.bidder.factories import a_campaign, a_request, a_snapshot, decision

RATES = {"USD": 1.0, "EUR": 1.25, "JPY": 0.008, "KWD": 3.3}
LENGTHS = (10, 15, 30)
WHERE = Context(exchange="x", width=300, height=250)


def a_clip(medium: str, length_s: float) -> dict[str, Any]:
    kind = "video/mp4" if medium == "video" else "audio/mpeg"
    picture = {"w": 640, "h": 360} if medium == "video" else {}
    file = {"url": "https://c.example/a", "mime": kind, "kbps": 128, **picture}
    return {"image_url": "", "w": 0, "h": 0, medium: {"duration_s": length_s, "files": [file]}}


creatives = st.one_of(
    st.just({}),
    st.builds(a_clip, st.sampled_from(["video", "audio"]), st.sampled_from(LENGTHS)),
)
campaigns = st.fixed_dictionaries(
    {
        "goal": st.sampled_from(["cpm", "cpc"]),
        "price_micros": st.sampled_from([1, 900, 1_000_000, 1_000_001, 1_500_000, 3_000_000, 40_000_000]),
        "creatives": st.lists(creatives, min_size=1, max_size=3),
        "deals": st.sets(st.sampled_from(["d1", "d2", "d3"]), max_size=2).map(sorted),
        "agreed_cpm_micros": st.sampled_from([0, 1_500_000, 3_500_000, 40_000_000]),
    }
)
paces = st.one_of(
    st.none(), st.builds(Pace, st.floats(0, 1), st.just(1.0)), st.builds(Pace, st.just(1.0), st.floats(0, 1))
)
floors = st.sampled_from([None, 0.0, 0.5, 1.0, 1.5, 3.5])
ranges = st.fixed_dictionaries(
    {}, optional={"mindur": st.sampled_from(LENGTHS), "maxdur": st.sampled_from(LENGTHS), "bidfloor": floors}
)
by_length = st.one_of(
    st.just({}),
    st.builds(lambda x: {"mincpmpersec": x}, st.sampled_from([0.02, 0.1])),
    st.builds(lambda x: {"durfloors": x}, st.lists(ranges, min_size=1, max_size=3)),
)
currencies = st.sampled_from([None, "USD", "EUR", "JPY", "ZZZ"])
deals = st.builds(
    lambda name, floor, currency, at, guar, more: {
        "id": name, "bidfloor": floor, "bidfloorcur": currency, "at": at, "guar": guar, **more
    },
    st.sampled_from(["d1", "d2", "d3"]), floors, currencies, st.sampled_from([None, 1, 2, 3, 501]),
    st.sampled_from([None, 0, 1]), by_length,
)  # fmt: skip
imps = st.builds(
    lambda floor, currency, video, audio, pod, offered: {
        "id": "1", "bidfloor": floor, "bidfloorcur": currency, "banner": {"w": 300, "h": 250},
        "video": video and {"mimes": ["video/mp4"], **video[0], **({"poddur": 60} if pod else {})},
        "audio": audio and {"mimes": ["audio/mpeg"], **audio[0]},
        "pmp": offered and {"deals": offered},
    },
    floors, currencies, st.one_of(st.none(), st.tuples(by_length)), st.one_of(st.none(), st.tuples(by_length)),
    st.booleans(), st.one_of(st.none(), st.lists(deals, min_size=1, max_size=3)),
)  # fmt: skip


def slowly(made: Snapshot, imp: Imp, at: int, currency: str, chances: list[float]) -> list[Offer]:
    """Every ad on every lot by the rules of sections 2.1 to 2.4, then one offer per campaign and lot, best first."""
    rate, settings = RATES[currency], made.settings
    quotes = Quotes(made, WHERE, chances, "r1")
    told_of = (imp.pmp.deals if imp.pmp else None) or []
    distinct = {deal.id: deal for deal in told_of if all(deal == other for other in told_of if other.id == deal.id)}
    offered: list[tuple[int, Deal | None]] = list(enumerate(distinct.values(), 1))
    found: list[tuple[float, int, int, Offer]] = []
    for ad, campaign in enumerate(made.by_ad):
        value = value_micros(campaign.goal, campaign.price_micros, chances[ad])
        worth = quotes.worth(ad, value)
        lots = [(lot, deal) for lot, deal in offered if deal is not None and deal.id in campaign.deals]
        for lot, deal in lots if campaign.deals else [(0, None)]:
            length = made.lengths[ad]
            if deal is not None:
                told, named = length_floor(deal, length, deal.bidfloor), deal.bidfloorcur
                kind = deal.at if deal.at in (1, 2, 3) else at
            else:
                medium = {"video": imp.video, "audio": imp.audio}.get(made.creatives[ad].media)
                told = imp.bidfloor if medium is None else length_floor(medium, length, imp.bidfloor)
                named, kind = imp.bidfloorcur, at
            least = floor_micros(told, named, currency, RATES)
            if least is None:
                continue
            quote = quotes.quote(ad, worth, kind)
            guaranteed = deal is not None and deal.guar and campaign.agreed_cpm_micros
            most = min(settings.max_price_micros, campaign.agreed_cpm_micros if guaranteed else 10**12)
            ceiling = math.floor(Fraction(most) / Fraction(str(rate)))
            price = price_micros(worth / rate, least, kind, quote.bid / rate, ceiling)
            if price is None and guaranteed and 0 < least <= ceiling:
                price = least
            if price is not None:
                offer = Offer(
                    0, ad, price, round(price * rate), value, least, currency, kind, deal.id if deal else "",
                    chances[ad], None, lot, quote,
                )  # fmt: skip
                found.append((-worth, ad, lot, offer))
    found.sort(key=lambda one: one[:3])
    best: dict[tuple[int, int], Offer] = {}
    for _, ad, lot, offer in found:
        best.setdefault((lot, made.owners[ad]), offer)
    return list(best.values())


@given(
    st.lists(st.tuples(campaigns, paces), min_size=1, max_size=8),
    imps,
    st.sampled_from([1, 2]),
    st.sampled_from(["USD", "EUR", "JPY", "KWD"]),
    st.sampled_from([0.0, 0.2]),
    st.sampled_from([1, 5]),
    st.sampled_from([1_200_000, 100_000_000]),
    st.data(),
)
def test_the_offers_are_those_of_the_rules_written_down_plainly(
    portfolio: list[tuple[dict[str, Any], Pace | None]],
    body: dict[str, Any],
    at: int,
    currency: str,
    explored: float,
    wanted: int,
    ceiling: int,
    data: st.DataObject,
) -> None:
    made = a_snapshot(
        *(a_campaign(id=f"c{i}", **fields) for i, (fields, _) in enumerate(portfolio)),
        rates=RATES, explore_share=explored, offers=wanted, max_price_micros=ceiling, prior_ctr=1.0,
    )  # fmt: skip
    made.paces.of = {f"c{i}": pace for i, (_, pace) in enumerate(portfolio) if pace is not None}
    imp = msgspec.convert({k: v for k, v in body.items() if v is not None}, Imp)
    count = len(made.ads)
    chances = data.draw(st.lists(st.sampled_from([1e-6, 0.001, 0.002, 1.0]), min_size=count, max_size=count))
    offered = tuple(deals_of(imp))
    floor = floor_micros(imp.bidfloor, imp.bidfloorcur, currency, RATES)
    scores = Scores(chances, chances, (), [])
    pod = imp.video is not None and imp.video.poddur
    auction = Auction(
        0, imp, at, currency, RATES[currency], floor, guidance(imp), WHERE, max(wanted, POD_CHOICES if pod else 0),
        offered,
    )  # fmt: skip
    found = priced(auction, list(range(count)), scores, "r1", made)
    expected = slowly(made, imp, at, currency, chances)
    if not offered:  # beside deals nothing is left out
        expected = expected[: auction.wanted]
    assert list(found) == expected
    for offer in found:
        pace = made.paces.of.get(made.by_ad[offer.ad_index].id, FULL)
        assert offer.price_micros > 0
        assert offer.floor_micros <= offer.price_micros
        agreed = made.by_ad[offer.ad_index].agreed_cpm_micros
        guaranteed = agreed and any(deal.id == offer.deal and deal.guar for deal in offered)
        most = agreed if guaranteed else offer.value_micros * pace.k
        assert offer.price_micros * RATES[currency] <= most + RATES[currency] / 2
        assert offer.price_usd_micros <= ceiling


@pytest.mark.parametrize("guided", ["video", "audio"])
def test_floors_by_length_of_one_medium_leave_the_other_its_own_floor(guided: str) -> None:
    both = [a_campaign(id=name, creatives=[a_clip(name, 15)]) for name in ("video", "audio")]
    imp: dict[str, Any] = {"banner": None, "video": {"mimes": ["video/mp4"]}, "audio": {"mimes": ["audio/mpeg"]}}
    imp[guided] |= {"mincpmpersec": 0.1}
    found = decision(a_request(imp=imp | {"bidfloor": 0.5}), *both)
    made = a_snapshot(*both)
    floors = {made.by_ad[offer.ad_index].id: offer.floor_micros for offer in found.offers[0]}
    assert floors == {"video": 500_000, "audio": 500_000} | {guided: 1_500_000}


@given(st.lists(st.one_of(st.integers(0, 5), st.floats(0, 5)), min_size=1, max_size=20))
def test_the_best_come_first_and_of_equals_the_one_with_the_better_bound(ranks: list[float]) -> None:
    assert [*best_first(ranks)] == sorted(range(len(ranks)), key=lambda i: (-ranks[i], i))
