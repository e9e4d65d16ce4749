import numpy as np
import pytest

from models import boosting, encoding, frames
from models.forest import sigmoid
from tests.models.factories import impressions


def halves(n):
    order = np.arange(n)
    return order < n * 3 // 4, order >= n * 3 // 4


def test_streamed_rows_give_the_model_a_matrix_gives(monkeypatch):
    """Parts of 1,000 rows, of which LightGBM sees only what the mask keeps, or one matrix: the same trees."""
    import lightgbm

    from models import features

    monkeypatch.setattr(frames, "PART_ROWS", 1_000)
    rows = impressions(6_000)
    frame = frames.of_rows(rows)
    assert len(frame.sizes) == 6
    train = halves(6_000)[0]
    encoder = encoding.fit(frame, train)
    params = boosting.parameters(4_500, 200, 1)
    named = {"categorical_feature": list(features.CATEGORICAL)}
    streamed = lightgbm.train(
        params,
        lightgbm.Dataset(
            boosting.sequences(frame, train, encoder),
            rows.clicks[train],
            categorical_feature=list(features.CATEGORICAL),
        ),
        5,
    )
    X = encoder.matrix(frames.table_of(rows))[train]
    whole = lightgbm.train(params, lightgbm.Dataset(X, rows.clicks[train], **named), 5)
    assert np.array_equal(streamed.predict(X), whole.predict(X))


def test_leaving_out_negatives_is_made_up_for_in_the_logit():
    rows = impressions(30_000)
    frame = frames.of_rows(rows)
    train, valid = halves(30_000)
    encoder = encoding.fit(frame, train)
    params = boosting.parameters(int(train.sum()), 1_000, 1)

    def predicted(negatives):
        booster = boosting.fit(frame, encoder, train, valid, rows.clicks, params, negatives=negatives)
        return sigmoid(boosting.raw_scores(booster, frame, valid, encoder, 1))

    clicks = rows.clicks[valid].sum()
    for negatives in (1.0, 0.1):
        # ~375 clicks: a sum of probabilities within three standard errors of them.
        assert predicted(negatives).sum() == pytest.approx(clicks, abs=3 * np.sqrt(clicks)), negatives


@pytest.mark.parametrize(
    ("rows", "clicks", "share"),
    [
        (9_000_000, 99_999, 1.0),  # few clicks: every impression tells something
        (5_100_000, 100_000, 0.1),  # five to a click: 500,000 of 5,000,000
        (7_000_000, 250_000, 1_250_000 / 6_750_000),
        (600_000, 110_000, 1.0),  # fewer than five to a click: all of them
    ],
)
def test_five_impressions_without_a_click_train_to_each_click_when_those_are_plenty(rows, clicks, share):
    assert boosting.share_of_negatives(rows, clicks) == pytest.approx(share)
