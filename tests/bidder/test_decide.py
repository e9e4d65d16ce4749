import functools
from types import SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bidder.decide import decide
from bidder.privacy import PrivacyDecision
from bidder.reasons import Reason
from dmp import keys
from dmp.schema import NOBODY, Contact, User
from dmp.taxonomy import tag_id
from models import features
from models.context import Context
from models.forest import Forest, probabilities
from models.pairs import row_of
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request, a_snapshot, decision

CAP = {"caps": [{"limit": 3, "window_s": 3_600}]}


def uncalibrated(forest: Any, vocabulary: features.Vocabulary) -> Any:
    return SimpleNamespace(
        forest=forest, vocabulary=vocabulary, version="v1",
        calibrate=lambda chances: chances, chances=probabilities,
    )  # fmt: skip


def a_model(logit: Any) -> Any:
    """A model whose raw score is a function of the pair features (k, N_PAIR): its truth is known."""
    forest = SimpleNamespace(
        campaign_masks=lambda X: np.zeros((len(X), 1), np.uint64),
        upper_bounds=lambda masks: np.full(len(masks), np.inf),
        trees=1,
        request_mask=lambda *_: np.zeros(1, np.uint64),
        candidate_scores=lambda request, masks, candidates, pairs, columns, values: logit(
            np.array([row_of(pairs, i) for i in range(len(candidates))])
        ).tolist(),
    )
    return uncalibrated(forest, features.Vocabulary({}))


def interest_logit(pairs: Any) -> Any:
    """Click probability 0.01 at interest score 0 and 0.5 at 100."""
    chance = 0.01 + 0.49 * np.nan_to_num(pairs[:, 0]) / 100
    return np.log(chance / (1 - chance))


def test_the_model_decides_between_campaigns_that_pay_per_click() -> None:
    travel = a_campaign(id="travel", goal="cpc", price_micros=100_000, interest="interest.travel")
    food = a_campaign(id="food", goal="cpc", price_micros=100_000, interest="interest.food")
    made = a_snapshot(travel, food, model=a_model(interest_logit))
    for likes, best in (("interest.travel", "travel"), ("interest.food", "food")):
        user = User(tags={tag_id(likes): 100})
        found = decide(a_request(at=2), PrivacyDecision(), user, made, NOW_US, EXCHANGE, "x")
        offer = found.offers[0][0]
        assert made.by_ad[offer.ad_index].id == best
        assert offer.pctr == pytest.approx(0.5)
        assert offer.price_micros == 50_000_000  # 0.10 a click, 500 clicks per thousand


def test_the_vector_of_an_offer_is_the_row_the_trainer_would_fill() -> None:
    campaign = a_campaign(goal="cpc", interest="interest.travel", targeting={"tags": {"interest.travel": 10}})
    made = a_snapshot(campaign, model=a_model(interest_logit))
    user = User(
        tags={tag_id("interest.travel"): 60}, contacts=(Contact(keys.number("acme"), NOW_US // 3_600_000_000, 2),)
    )
    found = decide(a_request(), PrivacyDecision(), user, made, NOW_US, EXCHANGE, "x")
    offer, where = found.offers[0][0], found.contexts[0]
    assert where is not None
    expected = features.row(made.model.vocabulary, where, user, made.ads[offer.ad_index], NOW_US)  # type: ignore[union-attr]
    np.testing.assert_array_equal(offer.row, expected)
    assert len(expected) == len(features.FEATURES)


def test_the_probability_of_an_offer_is_what_lightgbm_says_about_its_logged_vector() -> None:
    rng = np.random.default_rng(7)
    X = rng.normal(size=(2_000, len(features.FEATURES))) * 50
    X[:, list(features.CATEGORICAL)] = rng.integers(0, 5, (2_000, len(features.CATEGORICAL)))
    y = X[:, features.NAMES.index("interest_score")] + X[:, features.NAMES.index("floor_micros")] > 20
    parameters = {"objective": "binary", "num_leaves": 15, "verbose": -1, "num_threads": 1}
    data = lightgbm.Dataset(X, y, categorical_feature=list(features.CATEGORICAL))
    booster = lightgbm.train(parameters, data, 20)
    forest = Forest.from_model_text(booster.model_to_string(), features.N_REQUEST, features.N_CAMPAIGN)
    vocabulary = features.Vocabulary({"campaign": ["a", "b"], "country": ["USA"], "exchange": ["x"]})
    model = uncalibrated(forest, vocabulary)
    campaigns = [a_campaign(id=name, goal="cpc", interest="interest.travel") for name in ("a", "b", "c")]
    made = a_snapshot(*campaigns, model=model)
    user = User(tags={tag_id("interest.travel"): 70})
    offers = decide(a_request(), PrivacyDecision(), user, made, NOW_US, EXCHANGE, "x").offers[0]
    assert len(offers) == 3
    for offer in offers:
        expected = booster.predict(np.array([offer.row]), num_threads=1)
        assert offer.pctr == pytest.approx(float(expected[0]), abs=1e-12)


def test_without_a_model_the_prior_prices_and_there_is_no_vector() -> None:
    offer = decision(a_request(at=2), a_campaign(goal="cpc", price_micros=1_000_000), prior_ctr=0.003).offers[0][0]
    assert (offer.pctr, offer.value_micros, offer.row) == (0.003, 3_000_000, [])


def test_switching_tags_off_hides_them_from_targeting_and_model_but_caps_hold() -> None:
    campaign = a_campaign(goal="cpc", interest="interest.travel", **CAP)
    model = a_model(interest_logit)
    fan = User(tags={tag_id("interest.travel"): 100})
    chances = []
    for use_tags in (True, False):
        made = a_snapshot(campaign, model=model, use_tags=use_tags)
        chances.append(decide(a_request(), PrivacyDecision(), fan, made, NOW_US, EXCHANGE, "x").offers[0][0].pctr)
    assert chances == [pytest.approx(0.5), pytest.approx(0.01)]
    capped = User(contacts=(Contact(keys.number("acme"), NOW_US // 3_600_000_000, 3),))
    assert decision(a_request(), campaign, user=capped, use_tags=False).reason is Reason.FREQUENCY_CAP


def test_a_user_that_privacy_keeps_back_changes_nothing() -> None:
    made = a_snapshot(a_campaign(goal="cpc", interest="interest.travel"), model=a_model(interest_logit))
    fan = User(tags={tag_id("interest.travel"): 100})
    request = a_request(regs={"gdpr": 1})
    contextual = PrivacyDecision(use_ids=False, lookup_tags=False, personalise=False, precise_geo=False)
    found = [decide(request, contextual, user, made, NOW_US, EXCHANGE, "x") for user in (fan, NOBODY, None)]
    assert found[0] == found[1] == found[2]
    assert np.isnan(found[0].offers[0][0].row[next(iter(features.USER_COLUMNS))])


def test_the_context_tells_the_models_where_and_when() -> None:
    request = a_request(
        imp={"banner": {"pos": 1, "format": [{"w": 300, "h": 250}]}, "tagid": "top", "bidfloor": 0.5, "instl": 1},
        site={"domain": "www.News.example", "cat": ["IAB12-3"]},
        device={
            "ua": "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Version/17.0 Mobile/15E148 Safari/604.1",
            "language": "en-US",
            "connectiontype": 2,
            "geo": {"country": "US", "region": "CA", "city": "Los Angeles", "utcoffset": -480},
        },
    )
    assert decision(request).contexts[0] == Context(
        exchange="x",
        domain="news.example",
        category="IAB12-3",
        tagid="top",
        width=300,
        height=250,
        position=1,
        instl=1,
        device_type=4,
        os="ios",
        browser="safari",
        connection=2,
        language="en",
        country="USA",
        region="USA-CA",
        city="USA-los angeles",
        floor_micros=500_000,
        at=1,
        hour=4,
        weekday=0,
        n_imps=1,
    )


def test_offers_fall_in_value_and_name_a_campaign_once() -> None:
    campaigns = [a_campaign(id=f"c{i}", price_micros=1_000_000 + 100_000 * i, creatives=[{}, {}]) for i in range(8)]
    made = a_snapshot(*campaigns)
    offers = decision(a_request(), *campaigns).offers[0]
    assert [made.by_ad[offer.ad_index].id for offer in offers] == ["c7", "c6", "c5", "c4", "c3"]
    assert len(decision(a_request(), *campaigns, offers=50).offers[0]) == 8


def test_any_choice_of_offers_shows_a_capped_campaign_once() -> None:
    """The second imp pays the same, so the first keeps it; a better imp takes it over."""
    campaigns = [a_campaign(id="a", **CAP), a_campaign(id="b", price_micros=1_500_000, **CAP), a_campaign(id="c")]
    made = a_snapshot(*campaigns)
    found = decision(a_request(imp=[{}, {}, {}]), *campaigns)
    shown = [made.by_ad[offer.ad_index].id for offers in found.offers for offer in offers]
    assert sorted(shown) == ["a", "b", "c", "c", "c"]


@settings(deadline=None)  # a busy machine is no defect
@given(
    st.lists(st.integers(1, 10**7), min_size=1, max_size=80, unique=True),
    st.integers(1, 10),
    st.lists(st.booleans(), min_size=80, max_size=80),
    st.sampled_from([1, 2]),
)
def test_the_candidate_cap_never_loses_the_best(prices: list[int], limit: int, cpc: list[bool], at: int) -> None:
    """Bounds are exact without a model, so the best of any number of ads is among the first `max_candidates`."""
    campaigns = [
        a_campaign(id=f"c{i}", goal="cpc" if cpc[i] else "cpm", price_micros=price) for i, price in enumerate(prices)
    ]
    few = decision(a_request(at=at), *campaigns, max_candidates=limit, prior_ctr=0.001, offers=1)
    every = decision(a_request(at=at), *campaigns, max_candidates=1_000, prior_ctr=0.001, offers=1)
    assert [o.value_micros for o in few.offers[0]] == [o.value_micros for o in every.offers[0]]


@functools.cache
def a_trained_model() -> Any:
    """A small forest over campaign, interest score and floor, in which no campaign is the best for everyone."""
    rng = np.random.default_rng(5)
    X = np.full((4_000, len(features.FEATURES)), np.nan)
    campaign, interest = rng.integers(0, 30, 4_000), rng.integers(0, 101, 4_000)
    X[:, features.NAMES.index("campaign")] = campaign
    X[:, features.NAMES.index("interest_score")] = interest
    X[:, features.NAMES.index("floor_micros")] = rng.integers(0, 2, 4_000) * 100_000
    y = rng.random(4_000) < 0.02 + 0.4 * (campaign % 5 / 5) * (interest / 100)
    data = lightgbm.Dataset(X, y, categorical_feature=list(features.CATEGORICAL))
    booster = lightgbm.train(
        {"objective": "binary", "verbose": -1, "num_threads": 1, "max_cat_to_onehot": 40}, data, 20
    )
    forest = Forest.from_model_text(booster.model_to_string(), features.N_REQUEST, features.N_CAMPAIGN)
    vocabulary = features.Vocabulary({"campaign": [f"c{i}" for i in range(30)]})
    return uncalibrated(forest, vocabulary)


@given(
    ads=st.lists(st.tuples(st.booleans(), st.integers(1, 10**6), st.booleans()), min_size=1, max_size=30),
    limit=st.integers(1, 10),
    interest=st.integers(0, 100),
    floor=st.sampled_from([0.0, 0.1]),
    at=st.sampled_from([1, 2]),
)
def test_with_a_model_scoring_few_ads_offers_what_scoring_all_would(
    ads: list[tuple[bool, int, bool]], limit: int, interest: int, floor: float, at: int
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
    best = []
    for most in (limit, 1_000):
        made = a_snapshot(*campaigns, model=a_trained_model(), max_candidates=most)
        assert list(made.bounds) == sorted(made.bounds, reverse=True)
        request = a_request(at=at, imp={"bidfloor": floor})
        offers = decide(request, PrivacyDecision(), user, made, NOW_US, EXCHANGE, "x").offers[0]
        assert all(offer.value_micros <= made.bounds[offer.ad_index] for offer in offers)
        alone = decide(request, PrivacyDecision(), user, made, NOW_US, EXCHANGE, "x", best_only=True).offers[0]
        assert alone == offers[:1]
        best.append([(offer.ad_index, offer.value_micros, offer.price_micros) for offer in offers[:1]])
    assert best[0] == best[1]


def test_ads_that_cannot_beat_the_best_are_not_scored() -> None:
    scored = []

    def logit(pairs: Any) -> Any:
        scored.append(len(pairs))
        return np.zeros(len(pairs))

    sure = [a_campaign(id=f"sure{i}", price_micros=9_000_000 - i) for i in range(2)]
    click = [a_campaign(id=f"click{i}", goal="cpc", price_micros=8_000) for i in range(10)]  # at most 8_000_000
    made = a_snapshot(*sure, *click, model=a_model(logit), max_candidates=2)
    decide(a_request(), PrivacyDecision(), NOBODY, made, NOW_US, EXCHANGE, "x")
    assert scored == [2]
    made = a_snapshot(*click, model=a_model(logit), max_candidates=2)  # half of what they can be worth
    decide(a_request(), PrivacyDecision(), NOBODY, made, NOW_US, EXCHANGE, "x")
    assert scored == [2, 2, 2, 4, 2]


def test_a_floor_no_candidate_can_reach_costs_no_scoring() -> None:
    def never(pairs: Any) -> Any:
        raise AssertionError("scored")

    made = a_snapshot(a_campaign(), model=a_model(never))
    found = decide(a_request(imp={"bidfloor": 3.0}), PrivacyDecision(), NOBODY, made, NOW_US, EXCHANGE, "x")
    assert found.reason is Reason.BELOW_FLOOR


@pytest.mark.parametrize(
    ("imps", "reason"),
    [
        ([{"banner": None}, {"bidfloor": "x"}], Reason.NO_MEDIA_FIT),
        ([{"banner": None}, {"banner": {"w": 1, "h": 1}}], Reason.SIZE),
        ([{"bidfloor": 9}, {"banner": {"w": 1, "h": 1}}], Reason.BELOW_FLOOR),
        ([{"banner": None}, {}], Reason.BID),
    ],
)
def test_the_reason_of_a_request_is_that_of_the_imp_that_came_furthest(imps: list[Any], reason: Reason) -> None:
    assert decision(a_request(imp=imps)).reason is reason


def test_an_empty_portfolio_is_a_reason() -> None:
    made = a_snapshot()
    assert decide(a_request(), PrivacyDecision(), NOBODY, made, NOW_US, EXCHANGE, "x").reason is Reason.NO_CAMPAIGNS


def test_privacy_can_forbid_any_bid() -> None:
    made = a_snapshot(a_campaign())
    found = decide(a_request(), PrivacyDecision(bid=False), NOBODY, made, NOW_US, EXCHANGE, "x")
    assert found.reason is Reason.PRIVACY


def test_equal_inputs_give_equal_decisions() -> None:
    request = a_request(imp=[{}, {}])
    campaigns = [a_campaign(id=f"c{i}") for i in range(5)]
    assert decision(request, *campaigns) == decision(request, *campaigns)
