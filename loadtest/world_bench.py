"""Click models on the seeded world, where the truth is known: a part of `tagbid models bench`.

Ten seeds, each a world of its own with `DEFAULT_ROWS` impressions (`--rows` for more, 10,000,000 at the full size) over
eight days. A seed gives one number per metric; the error is that of the mean over seeds. Beside the gain over hashed
logistic regression stands what can be gained at all: the entropy of the true probabilities knows everybody's
hidden interest and temper, which no feature shows, so no model can reach it.
"""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from loadtest import world_rows
from models import evaluate, response
from models.figures import Figure, Options, mean_se

PART, LEAK_PART = "world", "leak"
SEEDS = 10
DEFAULT_ROWS = 400_000
GAIN, CALIBRATION, ECE = 0.03, 0.02, 0.05


def figures(options: Options) -> Iterator[Figure]:
    """Normalised entropy of our model, the baseline and the truth; calibration; all over ten seeds."""
    rows = options.rows or DEFAULT_ROWS
    found = [_one(options.seed + n, rows) for n in range(SEEDS)]
    data = f"world, {rows:,} rows x {SEEDS} seeds"
    goals: dict[str, tuple[str, Callable[[float], bool]]] = {
        "normalised-entropy gain over hashed logistic regression": (f"at least {GAIN}", lambda v: v >= GAIN),
        "global calibration": (f"1 +- {CALIBRATION}", lambda v: abs(v - 1) <= CALIBRATION),
        "expected calibration error over the base rate": (f"at most {ECE}", lambda v: v <= ECE),
    }
    for metric in found[0]:
        value, se = mean_se([one[metric] for one in found])
        goal, reached = goals.get(metric, ("", lambda v: True))
        yield Figure(
            part=PART, data=data, metric=metric, value=value, se=se, goal=goal, met=reached(value) if goal else None,
            about={"seeds": [round(one[metric], 6) for one in found]},
        )  # fmt: skip


def _one(seed: int, rows: int) -> dict[str, float]:
    """The figures of one world."""
    with tempfile.TemporaryDirectory(prefix="tagbid-world-") as folder:
        world = world_rows.build(seed, rows)
        frame, truth = world_rows.write(world, world_rows.audience(world), Path(folder), rows)
        test = response.split(frame)[2]
        ours, linear = response.predictions(frame, seed=seed)
        clicks, truth = frame.column("clicked")[test].astype(np.float64), truth[test]
    base = np.full(len(clicks), clicks.mean())
    p, lr, best, flat = (evaluate.measure(clicks, q) for q in (ours, linear, truth, base))
    reachable = flat.log_loss - best.log_loss
    return {
        "normalised-entropy gain over hashed logistic regression": 1 - p.log_loss / lr.log_loss,
        "normalised entropy, ours": p.log_loss / flat.log_loss,
        "normalised entropy, hashed logistic regression": lr.log_loss / flat.log_loss,
        "normalised entropy of the true probabilities": best.log_loss / flat.log_loss,
        "share of the reachable gain, ours": (flat.log_loss - p.log_loss) / reachable,
        "share of the reachable gain, hashed logistic regression": (flat.log_loss - lr.log_loss) / reachable,
        "global calibration": p.calibration or 0.0,
        "global calibration of the true probabilities": best.calibration or 0.0,
        "expected calibration error over the base rate": p.ece or 0.0,
        "expected calibration error of the true probabilities": best.ece or 0.0,
    }


def leak(options: Options) -> Iterator[Figure]:
    """AUC of a model of labels that were dealt out at random within each day: anything but .5 is a leak."""
    rows = options.rows or DEFAULT_ROWS
    found = []
    for n in range(3):
        with tempfile.TemporaryDirectory(prefix="tagbid-leak-") as folder:
            world = world_rows.build(options.seed + n, rows)
            frame, _ = world_rows.write(world, world_rows.audience(world), Path(folder), rows, shuffle=True)
            test = response.split(frame)[2]
            ours, _ = response.predictions(frame, seed=1, baseline=False)
            ranked = evaluate.auc(frame.column("clicked")[test].astype(np.float64), ours)
        found.append(0.5 if ranked is None else ranked[0])
    value, se = mean_se(found)
    yield Figure(
        part=LEAK_PART, data=f"world, {rows:,} rows x 3 seeds", metric="AUC with labels shuffled within the day",
        value=value, se=se, goal="0.5 +- 0.01", met=abs(value - 0.5) <= 0.01, about={"seeds": found},
    )  # fmt: skip
