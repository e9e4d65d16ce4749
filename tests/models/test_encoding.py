from math import isnan, log1p

import numpy as np
import pytest

from models import encoding, features, frames
from models.context import Ad, Context
from models.dataset import Rows
from models.encoding import PRIOR_ROWS
from tests.models.factories import BORN_US, DAY_US, impressions, over_days

FIRST_DAY = BORN_US // DAY_US
AD = Ad("c", "x", "a")


def a_log(days_and_clicks, tagid="top", ad=AD):
    items = [(Context("e", "d", tagid=tagid), None, ad, BORN_US + day * DAY_US) for day, _ in days_and_clicks]
    n = len(items)
    clicks = np.array([float(click) for _, click in days_and_clicks])
    return Rows(items, clicks, [None] * n, [f"{i}" for i in range(n)], True, {})


def daily(rows):
    frame = frames.of_rows(rows)
    return encoding.daily(frame, np.ones(len(frame), bool))


def test_a_rate_is_shrunk_to_its_parents_up_to_the_rate_of_everything():
    # Day 0: 100 impressions at "top" with 10 clicks, 100 at "low" with none; all else they have in common.
    found = daily(a_log([(0, i < 10) for i in range(100)] + [(1, 0)]))
    low = a_log([(0, 0)] * 100, tagid="low")
    both = a_log([(0, i < 10) for i in range(100)])
    both = Rows(both.items + low.items, np.concatenate((both.clicks, low.clicks)), [None] * 200, ["k"] * 200, True, {})
    assert found.of(FIRST_DAY + 1).places["e", "d", "top"][0] == pytest.approx(0.1)  # alone, it is its own parent
    counts = encoding.Counts()
    counts.add(frames.table_of(both))
    places = counts.rates().places
    assert places[()] == (0.05, log1p(200))
    assert places["e", "d"][0] == pytest.approx(0.05)
    assert places["e", "d", "top"] == (pytest.approx((10 + PRIOR_ROWS * 0.05) / (100 + PRIOR_ROWS)), log1p(100))
    assert places["e", "d", "low"][0] == pytest.approx((PRIOR_ROWS * 0.05) / (100 + PRIOR_ROWS))


def test_beyond_a_thousand_impressions_a_rate_is_as_sure_as_it_gets():
    counts = encoding.Counts()
    counts.add(frames.table_of(a_log([(0, 0)] * 1_500)))
    assert counts.rates().ads[()][1] == log1p(1_000)


def test_counts_halve_in_a_week():
    found = daily(a_log([(0, 1)] * 4 + [(7, 0)] * 2))
    assert isnan(features.rate_of(found.of(FIRST_DAY).ads, ("a", "c", "x"))[0])
    assert found.of(FIRST_DAY + 7).ads[()] == (1.0, pytest.approx(log1p(2)))
    # On day 8: 2 of 4 clicks left, a day older, and 2 impressions of day 7, a day old.
    day = 0.5 ** (1 / 7)
    assert found.of(FIRST_DAY + 8).ads[()] == (pytest.approx(2 / 4), pytest.approx(log1p(4 * day)))


def test_no_label_of_a_row_or_of_its_day_is_in_its_own_rates():
    rows = over_days(impressions(600), 3)
    turned = Rows(rows.items, rows.clicks.copy(), rows.uids, rows.keys, True, {})
    last = [i for i, item in enumerate(rows.items) if item[3] // DAY_US == FIRST_DAY + 2]
    turned.clicks[last] = 1 - turned.clicks[last]
    one, other = daily(rows), daily(turned)
    assert all(one.of(FIRST_DAY + day) == other.of(FIRST_DAY + day) for day in range(3))
    assert one.last != other.last


def test_the_encoder_gives_each_day_what_was_known_that_morning():
    rows = over_days(impressions(900), 3)
    frame = frames.of_rows(rows)
    encoder = encoding.fit(frame, np.ones(900, bool))
    X = encoder.matrix(frames.table_of(rows))
    for day in range(3):
        items = rows.items[300 * day : 300 * day + 300]
        vocabulary = encoder.vocabulary.with_rates(encoder.rates.of(FIRST_DAY + day))
        assert np.array_equal(X[300 * day : 300 * day + 300], features.matrix(vocabulary, items), equal_nan=True)
    assert np.isnan(X[:300, features.NAMES.index("ad_rate")]).all()


def test_rows_without_time_have_no_rates():
    rows = impressions(50)
    frame = frames.in_memory(frames.table_of(rows), timed=False)
    assert encoding.daily(frame, np.ones(50, bool)).of(FIRST_DAY).places == {}
