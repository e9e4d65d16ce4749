import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import buckets
from bidder.pacing import Pace
from bidder.privacy import PrivacyDecision
from bidder.quoting import WIDTH, Quote, Quotes
from bidder.record import bid_record
from bidder.snapshot import Snapshot
from dmp import events
from dmp.pseudonym import KeyRing
from dmp.schema import NOBODY
from models.context import Context
from tests.bidder.factories import a_call, a_campaign, a_request, a_snapshot, decision, logged_bid

WHERE = Context(exchange="x", width=300, height=250)


def paced(snapshot: Snapshot, **of: Pace) -> Snapshot:
    snapshot.paces.of = of
    return snapshot


def quotes(snapshot: Snapshot, request: str = "r1") -> Quotes:
    return Quotes(snapshot, WHERE, [0.001], request)


def test_a_campaign_at_full_pace_is_worth_its_value() -> None:
    assert quotes(a_snapshot(a_campaign())).worth(0, 2_000_000) == 2_000_000


def test_a_multiplier_lowers_the_worth_and_the_shading_follows() -> None:
    made = quotes(paced(a_snapshot(a_campaign(), explore_share=0.0), acme=Pace(0.5, 1.0)))
    worth = made.worth(0, 2_000_000)
    found = made.quote(0, worth, 1)
    assert (worth, found.pace, found.how) == (1_000_000, 0.5, "constant")
    assert found.bid == pytest.approx(850_000)


def test_a_second_price_bid_is_the_paced_worth() -> None:
    made = quotes(paced(a_snapshot(a_campaign()), acme=Pace(0.5, 1.0)))
    assert made.quote(0, 1_000_000.0, 2) == Quote(1_000_000.0, 0.5, 1_000_000.0)


def test_a_share_of_the_requests_is_passed_up_the_same_ones_every_time() -> None:
    snapshot = paced(a_snapshot(a_campaign()), acme=Pace(1.0, 0.3))
    passed = [quotes(snapshot, f"r{i}").worth(0, 100) > 0 for i in range(5_000)]
    assert sum(passed) / 5_000 == pytest.approx(0.3, abs=0.02)
    assert passed == [quotes(snapshot, f"r{i}").worth(0, 100) > 0 for i in range(5_000)]
    more = paced(a_snapshot(a_campaign()), acme=Pace(1.0, 0.5))
    assert all(quotes(more, f"r{i}").worth(0, 100) > 0 for i in range(5_000) if passed[i])


def test_a_stopped_campaign_does_not_bid() -> None:
    snapshot = paced(a_snapshot(a_campaign()), acme=Pace(0.0, 0.0))
    assert quotes(snapshot).worth(0, 2_000_000) == 0


def test_a_hundredth_of_first_prices_is_varied_within_bounds_and_logged() -> None:
    snapshot = a_snapshot(a_campaign())
    found = [quotes(snapshot, f"r{i}").quote(0, 2e6, 1) for i in range(20_000)]
    varied = [one for one in found if one.explored]
    assert len(varied) == pytest.approx(200, abs=50)
    assert {one.propensity for one in varied} == {0.01}
    assert {one.propensity for one in found if not one.explored} == {0.99}
    for one in varied:
        assert abs(one.explored) <= WIDTH
        assert one.bid == pytest.approx(min(2e6, 1.7e6 * math.exp(one.explored)))
    assert max(one.bid for one in varied) <= 2e6
    assert min(one.explored for one in varied) < -0.2 < 0.2 < max(one.explored for one in varied)


def test_exploration_can_be_switched_off() -> None:
    snapshot = a_snapshot(a_campaign(), explore_share=0.0)
    assert all(not quotes(snapshot, f"r{i}").quote(0, 2e6, 1).explored for i in range(2_000))


@given(st.text(max_size=40), st.text(max_size=40))
def test_places_are_uniform_and_salted(a: str, b: str) -> None:
    unit = f"{a}|{b}".encode()
    assert 0 <= buckets.place(b"pace", unit) < 1
    assert 0 <= buckets.bucket(b"pace", unit) < buckets.BUCKETS
    assert buckets.place(b"pace", unit) != buckets.place(b"explore", unit)


# ---- in a decision


def test_the_paced_campaign_loses_to_one_that_is_worth_less() -> None:
    rich, poor = a_campaign(id="rich", price_micros=3_000_000), a_campaign(id="poor", price_micros=2_000_000)
    assert decision(a_request(at=2), rich, poor).offers[0][0].price_micros == 3_000_000
    found = decision(a_request(at=2), rich, poor, paces={"rich": Pace(0.5, 1.0)})
    assert [offer.price_micros for offer in found.offers[0]] == [2_000_000, 1_500_000]


def test_a_bid_paced_below_the_floor_is_not_made() -> None:
    request = a_request(imp={"bidfloor": 1.5}, at=2)
    assert decision(request, paces={"acme": Pace(0.7, 1.0)}).offers == ((),)
    assert decision(request, paces={"acme": Pace(0.8, 1.0)}).offers[0][0].price_micros == 1_600_000


def test_what_made_a_bid_goes_with_the_offer() -> None:
    offer = decision(a_request(), paces={"acme": Pace(0.5, 1.0)}, explore_share=0.0).offers[0][0]
    assert offer.value_micros == 2_000_000
    assert offer.worth_micros == 1_000_000
    assert offer.quote is not None
    assert (offer.quote.how, offer.quote.pace) == ("constant", 0.5)
    assert msgspec.structs.asdict(offer.quote)["propensity"] == 1.0


@pytest.mark.rule("P-16")
def test_what_scores_say_of_a_user_is_not_logged_for_one_who_may_not_train() -> None:
    request = a_request(id="r")
    found = decision(request)
    quote = Quote(1e6, 1.0, 1e6, "constant", quality=-5.0)
    offer = msgspec.structs.replace(found.offers[0][0], quote=quote)
    calls = [a_call(request, a_snapshot(a_campaign()), NOBODY, PrivacyDecision(train=train)) for train in (False, True)]
    logged = [logged_bid(bid_record(b"b", call, found, offer, "", KeyRing(bytes(32)))) for call in calls]
    assert [bid.quality for bid in logged] == [0.0, -5.0]
    assert logged[1].shading == "constant"


def test_records_of_before_still_read_with_the_new_fields_at_their_defaults() -> None:
    written = msgspec.msgpack.encode(
        {"kind": "bid", "event_id": "b", "time_us": 1, "exchange": "x", "auction_id": "a", "imp_id": "1",
         "campaign": "c", "creative": "k", "price_micros": 5}
    )  # fmt: skip
    found = events.decode(written)
    assert isinstance(found, events.Bid)
    assert (found.pace, found.propensity, found.worth_micros, found.shading) == (1.0, 1.0, 0, "")
