"""Exchanges that take several bids for an impression get the best ones, however few ads are scored at first."""

from hypothesis import given
from hypothesis import strategies as st

from bidder.config import ExchangeConfig
from bidder.decide import decide
from bidder.privacy import PrivacyDecision
from dmp.schema import User
from dmp.taxonomy import tag_id
from tests.bidder.factories import NOW_US, a_campaign, a_request, a_snapshot
from tests.bidder.test_decide import a_trained_model


@given(
    ads=st.lists(st.tuples(st.booleans(), st.integers(1, 10**6), st.booleans()), min_size=1, max_size=30),
    limit=st.integers(1, 10),
    wanted=st.integers(1, 10),
    interest=st.integers(0, 100),
)
def test_the_best_bids_of_few_scored_are_those_of_all_scored(
    ads: list[tuple[bool, int, bool]], limit: int, wanted: int, interest: int
) -> None:
    campaigns = [
        a_campaign(
            id=f"c{i}",
            goal="cpc" if cpc else "cpm",
            price_micros=price,
            interest="interest.travel" if travel else "interest.food",
        )
        for i, (cpc, price, travel) in enumerate(ads)
    ]
    user = User(tags={tag_id("interest.travel"): interest})
    exchange = ExchangeConfig(open_bids=wanted)
    found = []
    for most in (limit, 1_000):
        made = a_snapshot(*campaigns, model=a_trained_model(), max_candidates=most)
        offers = decide(a_request(at=2), PrivacyDecision(), user, made, NOW_US, exchange, "x").offers[0]
        found.append([offer.value_micros for offer in offers[:wanted]])
    assert found[0] == found[1]
    assert len(found[0]) == min(wanted, sum(value > 0 for value in found[1])) or len(found[1]) < wanted
