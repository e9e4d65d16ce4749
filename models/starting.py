"""What a forest starts from when there is little to learn from: a logistic regression, written as trees.

With a few hundred clicks, many weak effects of rare values are worth more than interactions, and hashed logistic
regression finds them where trees do not. Its score is a sum of one term per feature, so trees of one feature each can
say the same (distilled by least squares; R^2 above .99 on real logs). Boosting goes on from there, and what it adds
stays only if it is worth more than `evaluate.GATE_Z` standard errors on the validation rows: those rows also chose how
many trees are added, which finds about one where there is nothing to find. The scorer sees one forest.
"""

import lightgbm
import numpy as np
import numpy.typing as npt

from models import evaluate, features, logistic
from models.forest import sigmoid

Floats = npt.NDArray[np.float64]

TREES = 80
LEAVES = 63


def linear(
    X: Floats, clicks: Floats, valid_X: Floats, valid_clicks: Floats, blanked: Floats, seed: int = 1
) -> lightgbm.Booster:
    """A booster whose raw scores are those of the hashed logistic regression fitted on X, float64 (n, features).

    blanked: the same rows, some without their user; the trees are fitted to the regression's scores on both, so that
    they know what it says of a contextual bid.
    """
    cuts = logistic.buckets(X)
    slots, valid_slots = (logistic.tokens(part, features.CATEGORICAL, cuts) for part in (X, valid_X))
    weights = logistic.fit(slots, clicks, valid_slots, valid_clicks, seed)
    params = {
        "objective": "regression",
        "num_leaves": LEAVES,
        "learning_rate": 0.5,
        "min_data_in_leaf": 1,
        "min_sum_hessian_in_leaf": 0.0,
        "min_data_per_group": 1,
        "cat_smooth": 0.0,
        "cat_l2": 0.0,
        "max_cat_threshold": features.MAX_CATEGORIES,
        "interaction_constraints": [[i] for i in range(X.shape[1])],
        "num_threads": 1,
        "seed": seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
    }
    both = np.concatenate((slots, logistic.tokens(blanked, features.CATEGORICAL, cuts)))
    data = lightgbm.Dataset(
        np.concatenate((X, blanked)),
        weights[both].sum(axis=1) + weights[-1],
        feature_name=list(features.NAMES),
        categorical_feature=list(features.CATEGORICAL),
        params=params,
    )
    return lightgbm.train(params, data, TREES)


def grown_or_start(
    grown: lightgbm.Booster, trees: int, start_trees: int, valid_X: Floats, valid_clicks: Floats
) -> lightgbm.Booster:
    """The grown forest of so many trees, or only the trees it started from when the others bring no certain gain."""
    one, other = (
        sigmoid(np.asarray(grown.predict(valid_X, raw_score=True, num_iteration=n, num_threads=1)))
        for n in (trees, start_trees)
    )
    gain = evaluate.gain(valid_clicks, one, other)
    kept = trees if gain.value > evaluate.GATE_Z * gain.se else start_trees
    return lightgbm.Booster(model_str=grown.model_to_string(num_iteration=kept))
