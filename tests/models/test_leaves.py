"""Leaves refreshed from new rows, by hand: a stump of 400 rows a side with 40 and 120 clicks, grown from even odds of
one in five, so that M is 400 * .2 * .8 = 64 in either leaf."""

import lightgbm
import numpy as np
import pytest

from models import distributed, leaves

SIDES = np.array([[0.0], [1.0]])
HOUR = 1 / 24
PARAMS = {"objective": "binary", "num_leaves": 2, "lambda_l2": 5.0, "learning_rate": 0.1, "verbosity": -1,
          "num_threads": 1}  # fmt: skip


def side(value, rows, clicks):
    return np.full((rows, 1), value), (np.arange(rows) < clicks).astype(float)


def both(zero, one):
    return tuple(np.concatenate(parts) for parts in zip(side(0.0, *zero), side(1.0, *one), strict=True))


def grown(trees):
    X, y = both((400, 40), (400, 120))
    return lightgbm.train(PARAMS, lightgbm.Dataset(X, y, params=PARAMS), trees).model_to_string()


def raw(forest):
    forest = lightgbm.Booster(model_str=forest) if isinstance(forest, str) else forest
    return forest.predict(SIDES, raw_score=True)


def refreshed(text, X, y, chances, days=0.0, weights=None):
    weights = np.ones(len(X)) if weights is None else weights
    return leaves.refreshed(text, X, y, weights, np.broadcast_to(chances, len(X)), days)


def moves(text, *args, **more):
    found = refreshed(text, *args, **more)
    return raw(found) - raw(text), leaves.evidence(found.model_to_string(), 0.16)[0]


# 30 and 10 clicks where 20 and 20 were expected leave the level alone. H = 100 * .2 * .8 = 16, RIDGE 5.
@pytest.mark.parametrize(("days", "mass"), [(0.0, 64.0), (7.0, 32.0), (14.0, 16.0)])
def test_a_leaf_moves_by_new_clicks_over_all_evidence_and_old_evidence_halves_in_a_week(days, mass):
    by, told = moves(grown(1), *both((100, 30), (100, 10)), 0.2, days)
    assert by == pytest.approx(np.array([1, -1]) * 0.1 * 10 / (mass + 16 + 5), rel=1e-5)
    assert told == pytest.approx([mass + 16, mass + 16], rel=1e-5)


def test_rows_count_by_their_weight():
    X, y = both((100, 30), (100, 10))
    once, twice = (moves(grown(1), X, y, 0.2, weights=np.full(200, weight)) for weight in (1.0, 2.0))
    assert once[0][0] == pytest.approx(0.1 * 10 / 85, rel=1e-5)
    assert twice[0][0] == pytest.approx(0.1 * 20 / 101, rel=1e-5)
    assert twice[1] == pytest.approx([96, 96], rel=1e-5)


def test_a_leaf_without_new_rows_moves_with_the_level_alone():
    by, told = moves(grown(1), *side(0.0, 100, 40), 0.2)
    level = by[1]
    # 100 p - 40 + .05 * 128 b = 0, where p has the odds 1/4 times e^b.
    assert 100 / (1 + 4 * np.exp(-level)) - 40 + 6.4 * level == pytest.approx(0, abs=1e-3)
    assert by[0] > level > 0.7
    assert told[1] == pytest.approx(64, rel=1e-5)


def test_many_trees_together_go_as_far_as_one_newton_step_and_no_further():
    text = grown(1)
    first = text[text.index("Tree=0") : text.index("end of trees")]
    more = "".join(first.replace("Tree=0", f"Tree={n}") for n in range(1, 100))
    many = "\n".join(
        line for line in text.replace("end of trees", more + "end of trees").split("\n") if "tree_sizes" not in line
    )
    found = refreshed(many, *both((100, 30), (100, 10)), 0.2)
    by = raw(found) - raw(many)
    for b, clicks in zip(by, (30, 10), strict=True):
        assert 100 / (1 + 4 * np.exp(-b)) - clicks + 64 * b == pytest.approx(0, abs=0.05)


def test_trees_fitted_to_squares_count_rows_twice():
    X, y = both((400, 40), (400, 120))
    params = PARAMS | {"objective": "regression"}
    twice = np.concatenate((X, X)), np.concatenate((y, y))
    text = lightgbm.train(params, lightgbm.Dataset(*twice, params=params), 1).model_to_string()
    assert leaves.evidence(text, 0.16)[0] == pytest.approx([64, 64])


def test_counts_are_known_although_lightgbm_rounds_them():
    rng = np.random.default_rng(0)
    X, y = rng.random((4_000, 4)), rng.normal(size=4_000)
    params = PARAMS | {"objective": "regression", "num_leaves": 8, "min_data_in_leaf": 1}
    text = lightgbm.train(params, lightgbm.Dataset(X, y, params=params), 5).model_to_string()
    assert ".999999" in "".join(line for line in text.splitlines() if line.startswith("leaf_weight="))
    assert [mass.sum() for mass in leaves.evidence(text, 0.02)] == pytest.approx([40.0] * 5)


def chain(text, rates, hours, rng, rows=200):
    for _ in range(hours):
        X = np.repeat(SIDES, rows, axis=0)
        y = (rng.random(len(X)) < np.repeat(rates, rows)).astype(float)
        chances = 1 / (1 + np.exp(-np.repeat(raw(text), rows)))
        text = refreshed(text, X, y, chances, HOUR).model_to_string()
    return text


def test_a_hundred_refits_in_the_same_world_lose_no_more_than_noise_and_a_new_level_is_followed():
    """Forty trees, so that the forest has said what its rows say before the chain begins."""
    rng = np.random.default_rng(5)
    rates = np.array([0.1, 0.3])
    stayed = chain(grown(40), rates, 100, rng)
    odds = np.log(rates / (1 - rates))
    # Half of 200 rows * (.09 + .21) * 24 h * 7 d * 1.44 * .05 is behind the level: an error of .05.
    assert np.abs(raw(stayed) - odds).max() < 0.2
    risen = 1 / (1 + np.exp(-odds - 1))
    followed = chain(stayed, risen, 40, rng)
    assert (1 / (1 + np.exp(-raw(followed)))).sum() == pytest.approx(risen.sum(), rel=0.08)


def test_a_model_trained_by_several_is_refitted_by_one():
    text = grown(1)
    told = text.replace("\nparameters:\n", "\nparameters:\n[machines: 127.0.0.1:1,127.0.0.1:2]\n[num_machines: 2]\n")
    assert told != text
    assert distributed.without_team(told) == distributed.without_team(text)
    assert "machines" not in distributed.without_team(told)
