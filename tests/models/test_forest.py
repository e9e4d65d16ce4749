import re
from typing import Any

import lightgbm as lgb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from models.forest import Forest, kernel, sigmoid
from models.model_text import UnsupportedModel
from models.tables import ZERO, RowOf

QUIET = {"verbose": -1, "num_threads": 1, "min_data_in_bin": 1, "min_data_per_group": 1}


def trained(seed: int, *, rows: int = 300, numeric: int = 3, categorical: int = 2, **params: Any) -> lgb.Booster:
    """A small forest on random data with NaN, exact zeros and tiny values; the categorical columns come last."""
    rng = np.random.default_rng(seed)
    n = numeric + categorical
    X = np.round(rng.normal(size=(rows, n)), int(rng.integers(0, 4)))
    X[:, numeric:] = rng.integers(0, int(rng.integers(2, 90)), size=(rows, categorical))
    X[rng.random(X.shape) < params.pop("missing", 0.1)] = np.nan
    X[rng.random(X.shape) < 0.05] = 0.0
    X[:, :numeric][rng.random((rows, numeric)) < 0.05] = 1e-36
    y = (np.nan_to_num(X[:, 0]) + (np.nan_to_num(X[:, -1]) % 3) + rng.normal(size=rows) > 1).astype(float)
    data = lgb.Dataset(X, y, categorical_feature=list(range(numeric, n)))
    return lgb.train({**QUIET, "objective": "binary", **params}, data, params.pop("trees", 5))


def awkward(text: str, n: int, seed: int, rows: int = 200) -> np.ndarray:
    """Query rows around every threshold, with zeros, infinities, NaN, unseen, negative and fractional categories."""
    rng = np.random.default_rng(seed)
    thresholds = [float(t) for line in re.findall(r"^threshold=(.*)$", text, re.MULTILINE) for t in line.split()] or [
        0.0
    ]
    some = rng.choice(thresholds, size=40)
    edges = [
        0.0,
        -0.0,
        1e-36,
        -1e-36,
        ZERO,
        -ZERO,
        2e-35,
        1e300,
        -1e300,
        np.inf,
        -np.inf,
        np.nan,
        np.nan,
        31,
        32,
        63,
        64,
    ]
    edges += [-1, -0.5, -1.5, 0.5, 0.99, 1.5, 7.999, 89, 90, 5_000, 2**31 - 1]
    pool = np.concatenate((some, np.nextafter(some, np.inf), np.nextafter(some, -np.inf), edges, np.arange(12)))
    return rng.choice(pool, size=(rows, n))


def split_sides(booster: lgb.Booster, request: int, campaign: int) -> Forest:
    return Forest.from_model_text(booster.model_to_string(), request, campaign)


def difference(booster: lgb.Booster, X: np.ndarray, request: int, campaign: int) -> float:
    """Largest distance to LightGBM over the kernels that are here; the compiled one must not be off at all."""
    found = 0.0
    expected = booster.predict(X, raw_score=True)
    for name in ("numpy", "c"):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TAGBID_KERNEL", name)
            compiled = kernel()
            forest = split_sides(booster, request, campaign)
        masks = forest.campaign_masks(X[:, request : request + campaign])
        pairs = X[:, request + campaign :].tolist()
        ours = [
            forest.candidate_scores((forest.request_mask(row[:request].tolist()),), masks, [i], pairs[i])[0]
            for i, row in enumerate(X)
        ]
        off = float(np.abs(np.array(ours) - expected).max())
        assert compiled is None or off == 0.0
        found = max(found, off)
    return found


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    seed=st.integers(0, 10**6),
    numeric=st.integers(1, 4),
    categorical=st.integers(0, 3),
    leaves=st.sampled_from([2, 3, 7, 31, 64]),
    min_leaf=st.integers(1, 40),
    one_hot=st.sampled_from([1, 4, 100]),
    missing=st.sampled_from([0.0, 0.01, 0.3]),
    use_missing=st.booleans(),
    from_average=st.booleans(),
    cut=st.tuples(st.integers(0, 7), st.integers(0, 7)),
)
def test_scores_are_those_of_lightgbm(
    seed, numeric, categorical, leaves, min_leaf, one_hot, missing, use_missing, from_average, cut
):
    booster = trained(
        seed, numeric=numeric, categorical=categorical, num_leaves=leaves, min_data_in_leaf=min_leaf,
        max_cat_to_onehot=one_hot, missing=missing, use_missing=use_missing, boost_from_average=from_average,
    )  # fmt: skip
    n = numeric + categorical
    request = min(cut[0], n)
    campaign = min(cut[1], n - request)
    X = awkward(booster.model_to_string(), n, seed)
    assert difference(booster, X, request, campaign) <= 1e-12


@pytest.mark.long
@pytest.mark.parametrize("seed", range(300))
def test_scores_are_those_of_lightgbm_over_many_forests(seed):
    rng = np.random.default_rng(seed)
    booster = trained(
        seed, rows=2000, numeric=5, categorical=4, trees=30, missing=0.05, min_data_in_leaf=2,
        num_leaves=int(rng.integers(2, 65)), learning_rate=float(rng.uniform(0.01, 0.5)),
    )  # fmt: skip
    assert difference(booster, awkward(booster.model_to_string(), 9, seed, rows=500), 4, 2) <= 1e-12


@pytest.mark.parametrize("y", [np.zeros(100), np.ones(100), np.arange(100) % 2])
def test_a_forest_of_one_leaf_trees_gives_the_base_score_to_everyone(y):
    booster = lgb.train({**QUIET, "objective": "binary"}, lgb.Dataset(np.zeros((100, 3)), y), 3)
    X = np.array([[0.0, np.nan, 5.0], [1.0, 2.0, np.inf]])
    assert difference(booster, X, 1, 1) == 0


def test_values_at_a_threshold_go_left_and_just_above_go_right():
    X = np.array([[1.0], [2.0]] * 50)
    booster = lgb.train({**QUIET, "objective": "regression"}, lgb.Dataset(X, X[:, 0]), 1)
    (threshold,) = re.findall(r"^threshold=(.*)$", booster.model_to_string(), re.MULTILINE)
    forest = split_sides(booster, 1, 0)
    at, above = forest.predict(np.array([[float(threshold)], [np.nextafter(float(threshold), 9)]]))
    assert at < above


def test_many_candidates_score_as_each_alone_and_several_requests_as_one_call():
    booster = trained(3, numeric=3, categorical=2, num_leaves=15, min_data_in_leaf=3)
    forest = split_sides(booster, 2, 1)
    X = awkward(booster.model_to_string(), 5, 3, rows=20)
    masks = forest.campaign_masks(X[:, 2:3])
    request = forest.request_mask(X[0, :2].tolist())
    together = forest.scores(request, masks, X[:, 3:])
    alone = [forest.scores(request, masks[i : i + 1], X[i : i + 1, 3:])[0] for i in range(20)]
    assert together.tolist() == alone
    two = np.stack([request, forest.request_mask(X[1, :2].tolist())])
    both = forest.scores(two, masks[:2], X[:2, 3:])
    assert both.tolist() == [together[0], forest.predict(X[1:2])[0]]
    assert forest.scores(request, masks[:0], X[:0, 3:]).tolist() == []


@pytest.mark.parametrize("name", ["numpy", "c"])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    candidates=st.lists(st.integers(0, 19), max_size=11),
    shared=st.lists(st.booleans(), min_size=3, max_size=3),
    parts=st.permutations([0, 1]),
)
def test_what_candidates_share_changes_no_score_and_a_request_may_be_folded_in_parts(
    name: str, seed: int, candidates: list[int], shared: list[bool], parts: list[int]
) -> None:
    booster = trained(seed % 50, numeric=4, categorical=2, num_leaves=31, min_data_in_leaf=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGBID_KERNEL", name)
        forest = split_sides(booster, 2, 1)
    X = awkward(booster.model_to_string(), 6, seed, rows=20)
    masks = forest.campaign_masks(X[:, 2:3])
    first = X[0].tolist()
    one, other = (forest.request_mask([first[column]], (column,)) for column in parts)
    request = forest.request_mask(first[:2])
    assert (one & other).tolist() == request.tolist()
    rows = X[candidates][:, 3:]
    for column, same in enumerate(shared):
        if same:
            rows[:, column] = first[3 + column]
    columns = [first[3 + column] if same else rows[:, column].tolist() for column, same in enumerate(shared)]
    found = forest.candidate_scores((request,), masks, candidates, columns)
    alone = [
        forest.candidate_scores((request,), masks, [ad], row.tolist())[0]
        for ad, row in zip(candidates, rows, strict=True)
    ]
    assert found == alone
    full = np.column_stack((np.tile(X[0, :2], (len(rows), 1)), X[candidates][:, 2:3], rows))
    expected = booster.predict(full, raw_score=True) if candidates else []
    assert found == pytest.approx(list(expected), abs=1e-12)


@pytest.mark.parametrize("name", ["numpy", "c"])
@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    trees=st.integers(1, 30),
    leaves=st.sampled_from([2, 3, 8, 64]),
    candidates=st.lists(st.integers(0, 29), min_size=1, max_size=13),
    folded=st.integers(0, 4),
)
def test_a_request_folded_in_part_scores_as_lightgbm_whatever_trees_look_at_a_feature(
    name: str, seed: int, trees: int, leaves: int, candidates: list[int], folded: int
) -> None:
    # Small trees over many columns: some features are looked at by every tree, some by one, some by none.
    booster = trained(seed % 80, rows=400, numeric=6, categorical=4, trees=trees, num_leaves=leaves, min_data_in_leaf=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGBID_KERNEL", name)
        forest = split_sides(booster, 4, 2)
        compiled = kernel()
    X = awkward(booster.model_to_string(), 10, seed, rows=30)
    masks, row = forest.campaign_masks(X[:, 4:6]), X[0].tolist()
    columns = tuple(range(folded))
    known = [forest.request_mask([row[column]], (column,)) for column in range(folded, 4)] or [
        forest.request_mask([], ())
    ]
    pairs = [X[candidates, 6 + column].tolist() for column in range(4)]
    found = forest.candidate_scores(tuple(known), masks, candidates, pairs, columns, row[:folded])
    full = np.column_stack((np.tile(X[0, :4], (len(candidates), 1)), X[candidates, 4:]))
    off = np.abs(np.array(found) - booster.predict(full, raw_score=True)).max()
    assert off <= (1e-12 if compiled is None else 0.0)


@pytest.mark.parametrize("name", ["numpy", "c"])
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), leaves=st.sampled_from([2, 7, 64]), request=st.integers(0, 3))
def test_no_row_scores_above_the_bound_of_its_campaign_side(name, seed, leaves, request):
    booster = trained(seed, num_leaves=leaves, min_data_in_leaf=3, trees=20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGBID_KERNEL", name)
        forest = split_sides(booster, request, 1)
    X = awkward(booster.model_to_string(), 5, seed)
    masks = forest.campaign_masks(X[:, request : request + 1])
    bounds, pairs = forest.upper_bounds(masks), X[:, request + 1 :].tolist()
    for i, row in enumerate(X[:50]):
        mask = forest.request_mask(row[:request].tolist())
        assert forest.candidate_scores((mask,), masks, [i], pairs[i])[0] <= bounds[i]


def test_the_bound_is_reached_when_the_campaign_side_is_all_there_is():
    booster = trained(6, numeric=2, categorical=1, num_leaves=15, min_data_in_leaf=3)
    forest = split_sides(booster, 0, 3)
    X = awkward(booster.model_to_string(), 3, 6)
    bounds = forest.upper_bounds(forest.campaign_masks(X))
    assert bounds.tolist() == pytest.approx(booster.predict(X, raw_score=True).tolist(), abs=1e-12)
    assert forest.upper_bounds(forest.campaign_masks(X[:0])).tolist() == []


def test_inputs_are_left_as_they_were():
    booster = trained(4, num_leaves=15, min_data_in_leaf=3)
    forest = split_sides(booster, 2, 1)
    X = awkward(booster.model_to_string(), 5, 4, rows=8)
    request, masks = forest.request_mask(X[0, :2].tolist()), forest.campaign_masks(X[:, 2:3])
    before = request.copy(), masks.copy(), X.copy()
    forest.scores(request, masks, X[:, 3:])
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(before, (request, masks, X), strict=True))


def test_sigmoid_is_the_probability_of_a_raw_score():
    assert sigmoid(np.array([0.0, np.log(3.0), -np.log(3.0)])).tolist() == pytest.approx([0.5, 0.75, 0.25])


def an_unsupported(**params: Any) -> str:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(2000, 3))
    y = (X[:, 0] > 0).astype(float)
    return lgb.train({**QUIET, "objective": "binary", **params}, lgb.Dataset(X, y), 2).model_to_string()


@pytest.mark.parametrize(
    ("params", "why"),
    [
        ({"num_leaves": 65, "min_data_in_leaf": 1}, "leaves"),
        ({"linear_tree": True}, "linear"),
        ({"zero_as_missing": True}, "zero"),
        ({"objective": "multiclass", "num_class": 2}, "num_class"),
        ({"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5}, "average"),
        ({"sigmoid": 2.0}, "sigmoid"),
    ],
)
def test_what_cannot_be_scored_exactly_is_refused(params, why):
    if "num_leaves" in params:
        rng = np.random.default_rng(0)
        X = rng.normal(size=(2000, 3))
        text = lgb.train({**QUIET, **params}, lgb.Dataset(X, rng.normal(size=2000)), 1).model_to_string()
    else:
        text = an_unsupported(**params)
    with pytest.raises(UnsupportedModel, match=why):
        Forest.from_model_text(text, 1, 1)


TEXT = an_unsupported(num_leaves=4)
CATEGORICAL_TEXT = trained(1, numeric=0, categorical=1, num_leaves=4).model_to_string()


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ("", "not a LightGBM model"),
        ("{}", "not a LightGBM model"),
        (TEXT[: TEXT.index("Tree=1")], "cut off"),
        (TEXT.replace("\nTree=1\n", "\nTrees=1\n"), "header names 2"),
        (re.sub(r"left_child=\d+", "left_child=0", TEXT), "child"),
        (re.sub(r"leaf_value=\S+ ", "leaf_value=", TEXT), "values where 4 belong"),
        (re.sub(r"leaf_value=\S+ ", "leaf_value=x ", TEXT), "cannot be read"),
        (re.sub(r"split_feature=\d+", "split_feature=9", TEXT), "feature 9 of 3"),
        (re.sub(r"\nthreshold=.*", "", TEXT), "cannot be read"),
        (re.sub(r"leaf_value=\S+ ", "leaf_value=nan ", TEXT), "nan where a number"),
        (re.sub(r"leaf_value=\S+ ", "leaf_value=-inf ", TEXT), "leaf without bounds"),
        (re.sub(r"threshold=\S+", "threshold=nan", TEXT), "nan where a number"),
        (re.sub(r"decision_type=\d+", "decision_type=1", TEXT), "no categories"),
        (re.sub(r"threshold=\S+", "threshold=-1", CATEGORICAL_TEXT), "no categories"),
        (TEXT.replace("sigmoid:1", "sigmoid:x"), "header cannot be read"),
        (re.sub(r"max_feature_idx=\d+", "max_feature_idx=\N{SUPERSCRIPT TWO}", TEXT), "header cannot be read"),
    ],
)
def test_a_damaged_model_text_is_refused_with_what_is_wrong(broken, why):
    with pytest.raises(UnsupportedModel, match=why):
        Forest.from_model_text(broken, 1, 1)


def test_a_model_of_fewer_features_than_the_sides_is_refused():
    with pytest.raises(UnsupportedModel, match="3 features"):
        Forest.from_model_text(TEXT, 2, 2)


@settings(max_examples=300, deadline=None)
@given(data=st.data())
def test_a_model_text_with_another_number_somewhere_is_refused_or_scored_by_both_kernels_alike(
    data: st.DataObject,
) -> None:
    text = trained(2, numeric=2, categorical=2, trees=3, num_leaves=8, min_data_in_leaf=3).model_to_string()
    start, end = text.index("Tree=0"), text.index("end of trees")
    places = [found.span() for found in re.finditer(r"(?<=[= ])[-+.e\d]+(?=[ \n])", text[start:end])]
    first, last = data.draw(st.sampled_from(places))
    other = data.draw(
        st.sampled_from(["-1", "0", "1", "3", "7", "63", "64", "2.5", "1e300", "4294967295", "nan", "inf"])
    )
    broken = text[: start + first] + other + text[start + last :]
    try:
        kernels = []
        for name in ("numpy", "c"):
            with pytest.MonkeyPatch.context() as patch:
                patch.setenv("TAGBID_KERNEL", name)
                kernels.append(Forest.from_model_text(broken, 2, 1))
    except UnsupportedModel:
        return
    X = awkward(text, 4, 5, rows=20)
    masks = kernels[0].campaign_masks(X[:, 2:3])
    one, other_one = (
        forest.candidate_scores((forest.request_mask(X[0, :2].tolist()),), masks, [*range(20)], [X[:, 3].tolist()])
        for forest in kernels
    )
    assert one == pytest.approx(other_one, rel=1e-12)


class Odd:
    """Is no number, but runs code when it is asked for one."""

    def __init__(self, of: list[Any]) -> None:
        self.of = of

    def __float__(self) -> float:
        self.of.clear()
        return 0.0

    def __index__(self) -> int:
        self.of.clear()
        return 0


@pytest.mark.skipif(kernel() is None, reason="built without a compiler")
def test_the_compiled_kernel_runs_nobody_elses_code_while_it_reads_a_list() -> None:
    forest = split_sides(trained(3, numeric=3, categorical=1, num_leaves=15, min_data_in_leaf=3), 2, 0)
    masks, request = forest.campaign_masks(np.zeros((1, 0))), forest.request_mask([0.0, 1.0])
    values: list[Any] = [0.0] * 2
    values[0] = Odd(values)
    with pytest.raises(TypeError, match="not Odd"):
        forest.request_mask(values)
    column: list[Any] = [0.0] * 50
    column[0] = Odd(column)
    with pytest.raises(TypeError, match="not Odd"):
        forest.candidate_scores((request,), masks, [0] * 50, [column, 0.0])
    candidates: list[Any] = [0] * 50
    candidates[0] = Odd(candidates)
    with pytest.raises(TypeError, match="not Odd"):
        forest.candidate_scores((request,), masks, candidates, [0.0, 0.0])
    assert (len(values), len(column), len(candidates)) == (2, 50, 50)


@pytest.mark.parametrize("name", ["numpy", "c"])
@pytest.mark.parametrize("leaves", [2, 64])
def test_a_thousand_candidates_and_values_no_request_should_have_are_scored_as_lightgbm_does(
    name: str, leaves: int
) -> None:
    booster = trained(5, rows=3_000, numeric=3, categorical=2, num_leaves=leaves, min_data_in_leaf=2, trees=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TAGBID_KERNEL", name)
        forest = split_sides(booster, 1, 1)
    X = awkward(booster.model_to_string(), 5, 5, rows=1_000)
    X[:, 0] = -0.0
    masks = forest.campaign_masks(X[:, 1:2])
    columns = [X[:, column].tolist() for column in (2, 3, 4)]
    columns[1] = [int(value) if abs(value) < 2**60 else value for value in columns[1]]  # scores and counts are ints
    X[:, 3] = columns[1]
    found = forest.candidate_scores((forest.request_mask([-0.0]),), masks, [*range(1_000)], columns)
    assert found == pytest.approx(booster.predict(X, raw_score=True).tolist(), abs=1e-12)
    assert forest.candidate_scores((forest.request_mask([-0.0]),), masks, [], [[], [], []]) == []


@pytest.mark.skipif(kernel() is None, reason="built without a compiler")
def test_the_compiled_kernel_refuses_what_does_not_fit() -> None:
    booster = trained(3, numeric=3, categorical=1, num_leaves=15, min_data_in_leaf=3)
    forest = split_sides(booster, 2, 0)
    masks = forest.campaign_masks(np.zeros((2, 0)))
    request = forest.request_mask([0.0, 1.0])
    with pytest.raises(ValueError, match="floats"):
        forest.request_mask([0.0])
    with pytest.raises(IndexError, match="no such position"):
        forest.request_mask([0.0], (2,))
    with pytest.raises(TypeError, match="float is needed, not str"):
        forest.request_mask([0.0, "1"])  # type: ignore[list-item]
    for candidates, pairs in (([0, 1], [[0.0], 0.0]), ([0], [[0.0, 0.0], 0.0]), ([0], [0.0]), ([0], [0.0] * 3)):
        with pytest.raises(ValueError, match="fit together"):
            forest.candidate_scores((request,), masks, candidates, pairs)
    with pytest.raises(ValueError, match="fit together"):
        forest.candidate_scores((request[1:],), masks, [0], [0.0, 0.0])
    for pairs in ([["1"], 0.0], ["1", 0.0]):
        with pytest.raises(TypeError):
            forest.candidate_scores((request,), masks, [0], pairs)  # type: ignore[arg-type]
    for ad in (2, -1, 2**63):
        with pytest.raises((IndexError, OverflowError)):
            forest.candidate_scores((request,), masks, [ad], [0.0, 0.0])
    for parts in ((), (request, request[1:]), [request]):
        with pytest.raises(ValueError, match="request mask"):
            forest.candidate_scores(parts, masks, [0], [0.0, 0.0])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="floats"):
        forest.candidate_scores((request,), masks, [0], [0.0, 0.0], (0,), [])
    compiled = kernel()
    assert compiled is not None
    unmade = compiled.Forest.__new__(compiled.Forest)
    with pytest.raises(ValueError, match="not made"):
        unmade.scores((request,), masks, [0], [0.0, 0.0], (), [])
    with pytest.raises(ValueError, match="not made"):
        unmade.fold((), [], request)
    no_side = (*(np.zeros(0, np.intp) for _ in range(2)), np.zeros(1, np.intp), np.zeros(0))
    words, leaf = np.full(1, 3, np.uint64), np.zeros(1, np.intp)
    one = (np.zeros(1, np.intp), np.zeros(1, np.intp), np.array([0, 1]), np.array([np.inf]))
    compiled.Forest(one, no_side, 1, 0, np.full((2, 1), 3, np.uint64), words, np.zeros(2), leaf)
    for side, width, rows, first in (
        (one, 0, 2, 0), (one, 1, 1, 0), (one, 1, 2, 2), ((*one[:2], np.array([0, 2]), one[3]), 1, 2, 0),
        ((one[0] - 1, *one[1:]), 1, 2, 0), ((one[0], one[1] - 1, *one[2:]), 1, 2, 0),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="do not fit together"):
            compiled.Forest(side, no_side, width, 0, np.full((rows, 1), 3, np.uint64), words, np.zeros(2), leaf + first)


def test_values_come_back_to_the_row_they_had_when_many_others_were_asked_for() -> None:
    rows = RowOf([0.0, 1.0, float("inf")], 10)
    asked = [-1.0, 0.0, 0.5, 1.0, 2.0, float("inf"), float("nan")]
    expected = [10, 10, 11, 11, 12, 12, 13]
    assert [rows[value] for value in asked] == expected
    for value in range(3 * RowOf.MOST):
        assert rows[value + 2.5] == 12
        assert len(rows) <= RowOf.MOST
    assert [rows[value] for value in asked] == expected


@pytest.mark.skipif(kernel() is None, reason="built without a compiler")
def test_a_kernel_built_from_other_sources_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = kernel()
    monkeypatch.setattr(compiled, "VERSION", 1)
    assert kernel() is None
