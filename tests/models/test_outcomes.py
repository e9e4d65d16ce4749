import json

import numpy as np
import pyarrow as pa
import pytest

from models import boosting, card_page, features, frames, outcomes, registry
from models.context import Context
from models.frames import in_memory
from tests.models.factories import ADS, BORN_US, DAY_US, impressions, over_days

N, DAYS = 40_000, 10
END_US = BORN_US + DAYS * DAY_US


def planted(signal=True, seed=0):
    """Half of the impressions are clicked. Clicks of the travel campaign convert four times as often as those of the
    sports campaign (20 % and 5 %), after two days on average, and are worth 3 against 30. What would convert after the
    end of the log has not converted yet.
    """
    rng = np.random.default_rng(seed)
    rows = over_days(impressions(N, seed), DAYS)
    travel = np.array([ad.campaign == "travel" for _, _, ad, _ in rows.items])
    clicked = rng.random(N) < 0.5
    rate = np.where(travel, 0.2, 0.05) if signal else np.full(N, 0.125)
    time_us = np.array([item[3] for item in rows.items])
    converted_us = time_us + 1 + (rng.exponential(2, N) * DAY_US).astype(np.int64)
    truth = clicked & (rng.random(N) < rate) & (converted_us - time_us < 7 * DAY_US)
    seen = truth & (converted_us < END_US)
    value = np.where(travel, 3e6, 30e6) * rng.lognormal(0, 0.5, N)
    columns = {
        "clicked": clicked,
        "clicked_us": np.where(clicked, time_us, 0),
        "converted_us": np.where(seen, converted_us, 0),
        "value_micros": np.where(seen, value, 0).astype(np.int64),
    }
    table = frames.table_of(rows)
    for name, values in columns.items():
        at = table.schema.get_field_index(name)
        table = table.set_column(at, name, pa.array(values, table.schema.field(name).type))
    return in_memory(table)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    root, frame = tmp_path_factory.mktemp("models"), planted()
    found = {
        kind: outcomes.train(frame, root, kind, now_us=END_US, until_us=END_US, force=True) for kind in outcomes.KINDS
    }
    return root, frame, found


def predicted(root, kind, campaign):
    model = registry.load(root, kind)
    ad = next(ad for ad in ADS if ad.campaign == campaign)
    row = features.row(model.vocabulary, Context(exchange="x"), None, ad, END_US)
    return float(model.predicted(model.forest.predict(np.array([row])))[0])


def test_conversions_still_to_come_are_counted_in(trained):
    root, _, found = trained
    assert found["conversion"].version is not None
    assert found["conversion"].gain.value > 3 * found["conversion"].gain.se
    # 97 % of conversions come within the window of 7 days: exp(-3.5) = 3 % are later. Calling young clicks "no" would
    # give less: over the 10 days of the log a third of the clicks is younger than the mean delay.
    assert predicted(root, "conversion", "travel") == pytest.approx(0.2 * 0.97, rel=0.15)
    assert predicted(root, "conversion", "sports") == pytest.approx(0.05 * 0.97, rel=0.3)


def test_values_follow_the_campaign_on_the_scale_of_money(trained):
    root, _, found = trained
    assert found["value"].gain.value > 3 * found["value"].gain.se
    mean = np.exp(0.5**2 / 2)  # of a lognormal of median 1 and spread .5
    assert predicted(root, "value", "travel") == pytest.approx(3 * mean, rel=0.15)
    # A fifth of the conversions, and winsorised: the dearest 2.5 % of them are told as less.
    assert predicted(root, "value", "sports") == pytest.approx(30 * mean, rel=0.25)
    assert registry.load(root, "value").manifest.link == "log"


def card_of(trained, kind):
    root, _, found = trained
    return json.loads((root / kind / found[kind].version / "card.json").read_text())


def test_the_cards_tell_what_drives_conversions_and_their_value_by_campaign(trained):
    card = card_of(trained, "conversion")
    assert {line["feature"] for lines in card["drivers"].values() for line in lines[:3]} & {
        "campaign", "creative", "advertiser", "ad_category"
    }  # fmt: skip
    assert sum(line["rows"] for line in card["calibration_curve"]) == card["test"]["rows"]
    assert card["slices"]["campaign"].keys() == {"travel", "sports"}
    value = card_of(trained, "value")
    assert "slices" not in value  # an amount has no rate
    assert value["test"]["mean_predicted"] == pytest.approx(value["test"]["mean_observed"], rel=0.5)


def test_the_cards_are_pages_in_their_own_words(trained):
    page = card_page.page(card_of(trained, "conversion"), "v")
    assert "observed conversion rate" in page
    assert "What drives conversions, by campaign" in page
    assert "click" not in page.split("<h2>On rows")[1].split("<h2>What the model")[0]
    page = card_page.page(card_of(trained, "value"), "v")
    assert "Calibration</h2>" not in page
    assert "the amount" in page


def test_nothing_converts_without_a_click_so_there_is_nothing_to_learn_of_views(trained):
    found = trained[2]["view"]
    assert found.version is None
    assert "0 conversions in training" in found.why


def test_noise_is_refused_with_its_numbers(tmp_path):
    found = outcomes.train(planted(signal=False), tmp_path, "conversion", now_us=END_US, until_us=END_US)
    assert found.version is None
    assert "gain over the constant" in found.why
    assert registry.current(tmp_path, "conversion") is None


def test_models_of_one_training_read_the_same_numbers(trained):
    root = trained[0]
    one, other = (registry.load(root, kind).vocabulary for kind in ("conversion", "value"))
    assert one.same(other)
    assert not one.same(features.Vocabulary({}))


def test_the_deviance_is_least_at_the_mean():
    values = np.array([0.0, 1.0, 5.0])
    at = {mean: outcomes.deviance(values, np.full(3, mean)).sum() for mean in (1.5, 2.0, 2.5)}
    assert min(at, key=at.get) == 2.0


def test_few_conversions_end_the_boosting_as_few_clicks_do(tmp_path, monkeypatch):
    asked = []
    fit = boosting.fit

    def watched(*args, **kwargs):
        asked.append((int(args[2].sum()), kwargs["patience"]))
        return fit(*args, **kwargs)

    monkeypatch.setattr(boosting, "fit", watched)
    for kind in outcomes.KINDS:
        outcomes.train(planted(), tmp_path, kind, now_us=END_US, until_us=END_US)
    few = boosting.tier(50).patience
    # About 1,500 of the 15,000 clicks that train convert: a conversion model has no 2,000, nor has the values' one.
    assert {patience for _, patience in asked} == {few}
    assert few < boosting.PATIENCE
    assert len(asked) >= 3
