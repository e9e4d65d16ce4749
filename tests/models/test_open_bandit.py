from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dmp.errors import BadEvents
from models.figures import Options
from models.open_bandit import campaign_figures, figures


def a_log(n: int, seed: int, lie: float = 0.0) -> pa.Table:
    """Two policies over four items at three positions; `random` is uniform, `bts` prefers item 3.

    lie: added to the clicks of `bts`, as if its users were others.
    """
    rng = np.random.default_rng(seed)
    rates = np.array([0.02, 0.04, 0.08, 0.20])
    columns: dict[str, list[np.ndarray]] = {
        "policy": [],
        "item_id": [],
        "position": [],
        "click": [],
        "propensity_score": [],
    }
    for policy, chances in (("random", np.full(4, 0.25)), ("bts", np.array([0.1, 0.1, 0.2, 0.6]))):
        item = rng.choice(4, n, p=chances)
        columns["policy"].append(np.full(n, policy, dtype=object))
        columns["item_id"].append(item)
        columns["position"].append(rng.integers(1, 4, n))
        columns["click"].append((rng.random(n) < rates[item] + lie * (policy == "bts")).astype(np.int8))
        columns["propensity_score"].append(chances[item])
    return pa.table({name: np.concatenate(parts) for name, parts in columns.items()})


def test_both_estimates_find_the_rate_of_the_other_policy() -> None:
    found = list(campaign_figures(a_log(20_000, seed=1), "made", seed=1))
    assert [figure.met for figure in found] == [True, True]
    assert found[0].value == pytest.approx(0.1 * 0.06 + 0.2 * 0.08 + 0.6 * 0.2, abs=4 * found[0].se)
    assert found[0].about["random_rate"] < 0.1  # the log's own rate would have been far off


def test_users_of_another_kind_are_noticed() -> None:
    assert [figure.met for figure in campaign_figures(a_log(20_000, seed=2, lie=0.05), "made", seed=1)] == [
        False,
        False,
    ]


def test_on_the_real_log_the_intervals_hold_the_observed_rate(shared: Path) -> None:
    found = list(figures(Options(shared / "data")))
    assert len(found) == 4
    assert all(figure.met for figure in found)
    assert all(figure.about["effective"] > 200 for figure in found)


def test_a_folder_without_the_log_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadEvents, match="open_bandit"):
        list(figures(Options(tmp_path)))
