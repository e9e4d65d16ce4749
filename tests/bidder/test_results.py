"""Campaigns that pay for conversions or for revenue: valued by the models of what follows a click."""

import msgspec
import numpy as np
import pytest

from bidder import results, snapshot
from bidder.campaigns import Portfolio
from bidder.config import BidderConfig
from bidder.decide import decide
from bidder.privacy import decide as decide_privacy
from bidder.privacy import policy
from bidder.reasons import Reason
from dmp.schema import NOBODY
from models import features, registry
from models.forest import sigmoid
from tests.bidder.factories import EXCHANGE, NOW_US, a_campaign, a_request
from tests.models.test_registry import BORN_US, an_artefact

PRICE = {"cpa": 40_000_000, "roas": 4_000_000}


def decided(made):
    request = a_request()
    privacy = decide_privacy(request, policy(made.settings))
    return decide(request, privacy, NOBODY, made, NOW_US, EXCHANGE, "x", 0)


@pytest.fixture
def models(tmp_path):
    """A click model and what follows, of one training; knots keep them small and in order."""
    kinds = {"response": {"knots_y": [0.0, 0.001, 0.004]}, "conversion": {}, "view": {"knots_y": [0.0, 1e-5, 1e-4]},
             "value": {"link": "log", "knots_x": [], "knots_y": []}}  # fmt: skip
    for seed, (kind, changes) in enumerate(kinds.items()):
        registry.publish(tmp_path, kind, an_artefact(seed, **changes))
    return tmp_path, registry.load(tmp_path, "response")


def built(models, goal, **without):
    root, clicks = models
    outcomes = {kind: model for kind, model in results.load(root, clicks).items() if kind not in without}
    campaign = a_campaign(goal=goal, price_micros=PRICE[goal])
    return snapshot.build(
        Portfolio((campaign,)), clicks, msgspec.convert({"max_price_micros": 10**12}, BidderConfig), "test",
        outcomes=outcomes,
    )  # fmt: skip


def worked_out(models, offer, goal):
    """Straight from the formula, on the whole logged vector, by another path of the scorer."""
    root, clicks = models
    x = np.array([offer.row])
    p, q, w, v = (
        float(model.predicted(model.forest.predict(x))[0])
        for model in (clicks, *(registry.load(root, kind) for kind in results.KINDS))
    )
    conversions = p * q + (1 - p) * w
    if goal == "cpa":
        return 1000 * conversions * PRICE["cpa"]
    return 1000 * conversions * v * 1e6 / (PRICE["roas"] / 1e6)


@pytest.mark.parametrize("goal", ["cpa", "roas"])
def test_an_impression_is_worth_what_it_is_expected_to_bring(models, goal):
    made = built(models, goal)
    offer = decided(made).offers[0][0]
    assert offer.value_micros == pytest.approx(worked_out(models, offer, goal), rel=1e-9, abs=1)
    assert offer.pctr == pytest.approx(
        float(models[1].calibrate(sigmoid(models[1].forest.predict(np.array([offer.row]))))[0])
    )
    assert offer.value_micros <= made.bounds[0]


def test_without_a_conversion_model_such_a_campaign_does_not_bid(models):
    found = decided(built(models, "cpa", conversion=None, view=None))
    assert found.offers == ((),)
    assert found.reason is Reason.BELOW_FLOOR
    nothing = snapshot.build(Portfolio((a_campaign(goal="cpa"),)), None, BidderConfig(), "test")
    assert decided(nothing).offers == ((),)


def test_models_of_another_training_are_left_out_and_told(models, caplog):
    root, clicks = models
    registry.publish(
        root, "conversion", an_artefact(9, created_us=BORN_US + 1, vocabulary=features.Vocabulary({"site": ["b"]}))
    )
    assert set(results.load(root, clicks)) == {"view", "value"}
    assert "comes from another training" in caplog.text
    assert results.load(root, None) == {}


def test_a_damaged_model_is_left_out_and_the_others_serve(models, caplog):
    root, clicks = models
    version = registry.current(root, "value")
    (root / "value" / version / "model.txt").write_text("tree")
    assert set(results.load(root, clicks)) == {"conversion", "view"}
    assert "model.txt was changed" in caplog.text
