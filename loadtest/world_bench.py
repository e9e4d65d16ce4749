"""Click models on the seeded world, where the truth is known: parts of `tagbid models bench`.

Ten seeds, each a world of its own with `DEFAULT_ROWS` impressions (`--rows` for more, 10,000,000 at the full size) over
eight days. A seed gives one number per metric; the error is that of the mean over seeds. Beside the gain over hashed
logistic regression stands what can be gained at all: the entropy of the true probabilities knows everybody's
hidden interest and temper, which no feature shows, so no model can reach it. A finished seed is a line of
`world.jsonl` in the working folder, and is not measured again.

The world's laws are of two things together (`world_rows.CROSSED`). `additive` measures a world without those, in which
log-odds are a sum of single effects as a logistic regression has them: there trees have next to nothing to find.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import lightgbm
import msgspec
import numpy as np

from loadtest import behaviour, contacts, market, world, world_now, world_rows
from models import (
    boosting,
    calibration,
    columns,
    encoding,
    evaluate,
    features,
    frames,
    logistic,
    pairs,
    response,
    starting,
    vocabulary,
)
from models.figures import Figure, Options, mean_se

PART, ADDITIVE_PART, LEAK_PART = "world", "additive", "leak"
SEEDS, FEW_SEEDS = 10, 3
DEFAULT_ROWS = 400_000
LEAK_ROWS = 2_000_000
MEASURED = (
    behaviour, contacts, market, world, world_now, world_rows,
    boosting, calibration, columns, encoding, evaluate, features, frames, logistic, pairs, response, starting,
    vocabulary,
)  # fmt: skip
"""The modules a seed's figures are made by."""
GAIN, CALIBRATION, ECE, LEAK = 0.03, 0.02, 0.05, 0.01


class Seed(msgspec.Struct, frozen=True):
    """What one world gave, as kept in the working folder. made_by: what must be the same for it to count."""

    made_by: str
    seed: int
    rows: int
    seconds: float
    found: dict[str, float]


def figures(options: Options) -> Iterator[Figure]:
    """Normalised entropy of our model, the baseline and the truth; calibration; all over ten seeds."""
    goals: dict[str, tuple[str, Callable[[float], bool]]] = {
        "normalised-entropy gain over hashed logistic regression": (f"at least {GAIN}", lambda v: v >= GAIN),
        "global calibration": (f"1 +- {CALIBRATION}", lambda v: abs(v - 1) <= CALIBRATION),
        "expected calibration error over the base rate": (f"at most {ECE}", lambda v: v <= ECE),
    }
    rows = options.rows or DEFAULT_ROWS
    yield from _told(PART, rows, _measured(options, rows, options.seeds or SEEDS, crossed=True), goals)


def additive(options: Options) -> Iterator[Figure]:
    """The same in a world whose log-odds add up, which nothing is asked of."""
    rows = options.rows or DEFAULT_ROWS
    yield from _told(ADDITIVE_PART, rows, _measured(options, rows, options.seeds or FEW_SEEDS, crossed=False), {})


def _told(
    part: str, rows: int, found: list[Seed], goals: dict[str, tuple[str, Callable[[float], bool]]]
) -> Iterator[Figure]:
    for metric in found[0].found:
        value, se = mean_se([one.found[metric] for one in found])
        goal, reached = goals.get(metric, ("", lambda v: True))
        yield Figure(
            part=part, data=f"world, {rows:,} rows x {len(found)} seeds", metric=metric, value=value, se=se,
            goal=goal, met=reached(value) if goal else None,
            about={"seeds": [round(one.found[metric], 6) for one in found]},
        )  # fmt: skip


def _measured(options: Options, rows: int, seeds: int, *, crossed: bool) -> list[Seed]:
    """Every seed, those that are not in the working folder measured now."""
    laws = "crossed" if crossed else "additive"
    made_by = f"{laws} {code()}"
    kept = None if options.work is None else options.work / "world.jsonl"
    known: dict[int, Seed] = {}
    if kept is not None and kept.exists():
        lines = [msgspec.json.decode(line, type=Seed) for line in kept.read_bytes().splitlines()]
        known = {one.seed: one for one in lines if (one.made_by, one.rows) == (made_by, rows)}
    found = []
    for seed in range(options.seed, options.seed + seeds):
        one = known.get(seed)
        if one is None:
            began_s = time.monotonic()
            numbers = _one(seed, rows, crossed=crossed)
            one = Seed(made_by, seed, rows, round(time.monotonic() - began_s, 1), numbers)
            if kept is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                with kept.open("ab") as file:
                    file.write(msgspec.json.encode(one) + b"\n")
        found.append(one)
    return found


@cache
def code() -> str:
    """Stands for the code that makes a world's rows, learns from them and judges, and for the library it trains with.

    Of the sources, not of chosen parameters: a result by another one that was left out of a list would pass for new.
    """
    digest = hashlib.blake2b(lightgbm.__version__.encode(), digest_size=8)
    for module in MEASURED:
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest()


def _one(seed: int, rows: int, *, crossed: bool) -> dict[str, float]:
    """The figures of one world."""
    with tempfile.TemporaryDirectory(prefix="tagbid-world-") as folder:
        made = world_rows.build(seed, rows, crossed=crossed)
        frame, truth = world_rows.write(made, world_rows.audience(made), Path(folder), rows)
        test = response.split(frame)[2]
        trained = response.fitted(frame, seed=seed)
        ours, linear = trained.p, trained.linear
        clicks, truth = frame.column("clicked")[test].astype(np.float64), truth[test]
    base = np.full(len(clicks), clicks.mean())
    p, lr, best, flat = (evaluate.measure(clicks, q) for q in (ours, linear, truth, base))
    reachable = flat.log_loss - best.log_loss
    gained = evaluate.gain(clicks, ours, linear)
    return {
        "normalised-entropy gain over hashed logistic regression": gained.value,
        "standard error of that gain by rows": gained.se,
        "normalised entropy, ours": p.log_loss / flat.log_loss,
        "normalised entropy, hashed logistic regression": lr.log_loss / flat.log_loss,
        "normalised entropy of the true probabilities": best.log_loss / flat.log_loss,
        "gain of the true probabilities over hashed logistic regression": 1 - best.log_loss / lr.log_loss,
        "share of the reachable gain, ours": (flat.log_loss - p.log_loss) / reachable,
        "share of the reachable gain, hashed logistic regression": (flat.log_loss - lr.log_loss) / reachable,
        "global calibration": p.calibration or 0.0,
        "global calibration of the true probabilities": best.calibration or 0.0,
        "expected calibration error over the base rate": p.ece or 0.0,
        "expected calibration error of the true probabilities": best.ece or 0.0,
        "click rate": float(clicks.mean()),
        "trees": float(trained.booster.num_trees()),
        "share of the impressions without a click that trained ours (the regression had all)": trained.negatives,
    }


def leak(options: Options) -> Iterator[Figure]:
    """AUC of a model of labels that were dealt out at random within each day: anything but .5 is a leak."""
    rows, seeds = options.rows or LEAK_ROWS, options.seeds or FEW_SEEDS
    found = []
    for n in range(seeds):
        with tempfile.TemporaryDirectory(prefix="tagbid-leak-") as folder:
            made = world_rows.build(options.seed + n, rows)
            frame, _ = world_rows.write(made, world_rows.audience(made), Path(folder), rows, shuffle=True)
            test = response.split(frame)[2]
            ours = response.fitted(frame, seed=1, baseline=False).p
            ranked = evaluate.auc(frame.column("clicked")[test].astype(np.float64), ours)
        found.append(0.5 if ranked is None else ranked[0])
    value, se = mean_se(found)
    yield Figure(
        part=LEAK_PART, data=f"world, {rows:,} rows x {seeds} seeds", metric="AUC with labels shuffled within the day",
        value=value, se=se, goal=f"0.5 +- {LEAK}", met=abs(value - 0.5) <= LEAK, about={"seeds": found},
    )  # fmt: skip
