from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bidder import snapshot
from bidder.campaigns import Portfolio
from bidder.config import BidderConfig
from bidder.decide import decide
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from bidder.snapshot import ad_of
from dmp import keys
from dmp.taxonomy import tag_id
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request, a_snapshot
from tests.bidder.test_decide import a_model, interest_logit


def test_ads_stand_by_the_most_they_can_be_worth() -> None:
    made = a_snapshot(
        a_campaign(id="low", price_micros=1_000_000),
        a_campaign(id="click", goal="cpc", price_micros=1_000_000),
        a_campaign(id="high", price_micros=2_500_000, creatives=[{}, {}]),
        prior_ctr=0.002,
    )
    assert [made.by_ad[i].id for i in range(4)] == ["high", "high", "click", "low"]
    assert made.bounds == (2_500_000, 2_500_000, 2_000_000, 1_000_000)
    assert [creative.id for creative in made.creatives[:2]] == ["high-0", "high-1"]
    assert [made.portfolio.campaigns[owner].id for owner in made.owners] == ["high", "high", "click", "low"]


def test_the_parts_of_a_snapshot_line_up_with_its_ads() -> None:
    made = a_snapshot(
        *(a_campaign(id=f"c{i}", price_micros=10**6 * (i + 1)) for i in range(5)), model=a_model(interest_logit)
    )
    assert made.masks is not None
    assert len(made.ads) == len(made.values) == len(made.masks) == len(made.creatives) == 5
    assert [ad.campaign for ad in made.ads] == [campaign.id for campaign in made.by_ad]
    assert [ad.creative for ad in made.ads] == [creative.id for creative in made.creatives]
    assert made.masks.dtype == np.uint64


def test_the_mask_of_campaigns_covers_all_their_ads_and_ignores_strangers() -> None:
    made = a_snapshot(a_campaign(id="a", creatives=[{}, {}]), a_campaign(id="b", price_micros=1))
    assert made.mask_of(["a"]) == 0b011
    assert made.mask_of(["b", "nobody"]) == 0b100
    assert made.mask_of([]) == 0


def test_an_ad_tells_the_models_about_campaign_and_creative() -> None:
    campaign = a_campaign(
        id="a", advertiser="acme", cat=["IAB20-3", "IAB1"], interest="interest.travel",
        targeting={"tags": {"interest.food": 30}, "audiences": ["acme/buyers"]}, creatives=[{"w": 728, "h": 90}],
    )  # fmt: skip
    ad = ad_of(campaign, campaign.creatives[0])
    assert (ad.campaign, ad.creative, ad.advertiser, ad.category) == ("a", "a-0", "acme", "IAB20-3")
    assert (ad.width, ad.height, ad.interest) == (728, 90, tag_id("interest.travel"))
    assert ad.target_tags == (tag_id("interest.food"),)
    assert ad.audiences == {keys.number("acme/buyers")}


def test_a_snapshot_cannot_be_changed() -> None:
    made = a_snapshot(a_campaign())
    with pytest.raises(AttributeError):
        made.version = "other"  # type: ignore[misc]
    with pytest.raises(AttributeError):
        made.index.everything = 0  # type: ignore[misc]
    assert msgspec.structs.replace(made, version="other").version == "other"


RATIOS = st.dictionaries(st.sampled_from([f"c{i}" for i in range(8)]), st.floats(0.25, 4.0))


@given(
    prices=st.lists(st.integers(50_000, 2_000_000), min_size=1, max_size=8),
    before=RATIOS,
    after=RATIOS,
    most=st.integers(1, 3),
)
def test_other_ratios_change_no_decision_from_what_building_anew_would_make_it(
    prices: list[int], before: dict[str, float], after: dict[str, float], most: int
) -> None:
    """However few ads are scored at a time: none that could be best is passed over."""
    goals = ("cpc", "cpm")
    interests = ("interest.travel", "interest.food", "")
    campaigns = tuple(
        a_campaign(id=f"c{i}", goal=goals[i % 2], price_micros=price, interest=interests[i % 3])
        for i, price in enumerate(prices)
    )
    settings = msgspec.convert({"max_candidates": most}, BidderConfig)

    def built(ratios: dict[str, float]) -> snapshot.Snapshot:
        model: Any = a_model(interest_logit)
        return snapshot.build(Portfolio(campaigns), model, settings, "test", ratios=ratios)

    old, anew = built(before), built(after)
    turned = snapshot.recalibrated(old, after)
    assert turned.index is old.index
    assert turned.masks is old.masks
    bounds = dict(zip(anew.names, anew.bounds, strict=True))
    assert all(bound >= bounds[name] for name, bound in zip(turned.names, turned.bounds, strict=True))
    assert list(turned.bounds) == sorted(turned.bounds, reverse=True)
    assert turned.ratios == (tuple(after.get(name, 1.0) for name in turned.names) if after else None)
    request = a_request()
    privacy = decide_privacy(request, policy(settings))
    of_turned, of_anew = (
        decide(request, privacy, None, served, NOW_US, EXCHANGE, "x").offers[0][0] for served in (turned, anew)
    )
    assert of_turned.value_micros == of_anew.value_micros
    assert of_turned.price_micros == of_anew.price_micros
