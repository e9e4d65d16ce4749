"""What boosting adds to the trees it starts from has to prove itself on rows that already chose how much is added."""

import lightgbm
import numpy as np

from models import starting

PARAMS = {"objective": "binary", "num_leaves": 7, "learning_rate": 0.1, "num_threads": 1, "verbosity": -1, "seed": 1}
ROWS = 1_000


def kept_trees(seed: int, effect: float) -> tuple[int, int, int]:
    """(trees kept, started from, best number) of a forest grown from a constant; effect: of one column, in log-odds."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(2 * ROWS, 5))
    clicks = (rng.random(2 * ROWS) < 1 / (1 + np.exp(2 - effect * X[:, 0]))).astype(float)
    data = lightgbm.Dataset(X[:ROWS], clicks[:ROWS], params=PARAMS, free_raw_data=False)
    constant = PARAMS | {"num_leaves": 2, "min_data_in_leaf": ROWS}
    start = lightgbm.train(constant, lightgbm.Dataset(X[:ROWS], clicks[:ROWS], params=constant), 1)
    valid = data.create_valid(X[ROWS:], clicks[ROWS:])
    stop = lightgbm.early_stopping(20, verbose=False)
    grown = lightgbm.train(PARAMS, data, 100, valid_sets=[valid], init_model=start, callbacks=[stop])
    found = starting.grown_or_start(grown, grown.best_iteration, start.num_trees(), X[ROWS:], clicks[ROWS:])
    return found.num_trees(), start.num_trees(), grown.best_iteration


def test_trees_that_fit_noise_are_left_out_though_the_best_number_of_them_was_picked():
    found = [kept_trees(seed, effect=0.0) for seed in range(40)]
    gaining = sum(best > start for _, start, best in found)
    kept = sum(kept > start for kept, start, _ in found)
    assert gaining >= 10  # picking the best number finds some gain in noise
    assert kept <= 3


def test_trees_that_find_something_stay():
    found = [kept_trees(seed, effect=0.8) for seed in range(5)]
    assert all(kept == best > start for kept, start, best in found)
