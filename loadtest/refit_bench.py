"""Whether refitting every hour wears a model out: a part of `tagbid models bench`.

A model of the world's first days has its leaves refitted hour by hour over the following ones, each time from the
leaves of the hour before and without the gate, which would stop what goes wrong. Every hour is predicted before it is
learnt from. Once in the world as it is, where there is nothing new to learn and a chain of refits can only lose; once
with click rates that rise after the training, where it must follow. Labels are drawn from the true probabilities.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import lightgbm
import numpy as np
import numpy.typing as npt

from loadtest import world_rows
from models import evaluate, frames, leaves, response
from models.figures import Figure, Options
from models.forest import sigmoid
from models.frames import Frame
from models.response import Trained

Floats = npt.NDArray[np.float64]

PART = "refit"
DEFAULT_ROWS = 400_000
TRAIN_DAYS = 5  # the last of them validates
EVERY_H = 1
RISE = 0.4  # added to the log-odds of a click after the training
LOSS, CALIBRATED = 0.002, (0.97, 1.03)


def figures(options: Options) -> Iterator[Figure]:
    """Log loss over the last days by the model left alone and by its chain of refits."""
    rows = options.rows or DEFAULT_ROWS
    with tempfile.TemporaryDirectory(prefix="tagbid-refit-") as folder:
        world = world_rows.build(options.seed, rows)
        frame, truth = world_rows.write(world, world_rows.audience(world), Path(folder), rows)
        clicks = frame.column("clicked").astype(np.float64)
        day = frame.column("time_us") // frames.DAY_US
        first = int(day[0])
        slices = day < first + TRAIN_DAYS - 1, day == first + TRAIN_DAYS - 1, day >= first + TRAIN_DAYS
        trained = response.fitted(frame, seed=options.seed, baseline=False, slices=slices)
        later = slices[2]
        risen = sigmoid(np.log(truth / (1 - truth)) + RISE)
        drawn = np.random.default_rng([options.seed, 12]).random(len(truth)) < risen
        for name, labels, best in (("the same world", clicks, truth), ("rates risen", drawn.astype(np.float64), risen)):
            refitted, n = chain(frame, later, labels, trained)
            yield from _told(f"{name}, {rows:,} rows, {n} refits", labels[later], refitted, trained.p, best[later])


def chain(frame: Frame, later: npt.NDArray[np.bool_], labels: Floats, trained: Trained) -> tuple[Floats, int]:
    """Probabilities of the rows `later` marks, each by the model as the hours before it left it; how many refits."""
    hour = frame.column("time_us") // (EVERY_H * world_rows.HOUR_US)
    vocabulary = trained.encoder.frozen()
    text, n = trained.booster.model_to_string(), 0
    found = []
    for one in np.unique(hour[later]):
        keep = later & (hour == one)
        X = np.concatenate([frames.matrix(vocabulary, part) for _, part in frames.chunks(frame, keep)])
        raw = np.asarray(lightgbm.Booster(model_str=text).predict(X, raw_score=True, num_threads=1))
        found.append(np.interp(sigmoid(raw), trained.knots_x, trained.knots_y))
        refitted = leaves.refreshed(text, X, labels[keep], np.ones(len(X)), found[-1], EVERY_H / 24)
        text, n = refitted.model_to_string(), n + 1
    return np.concatenate(found), n


def _told(data: str, clicks: Floats, refitted: Floats, alone: Floats, truth: Floats) -> Iterator[Figure]:
    gain = evaluate.gain(clicks, refitted, alone)
    rising = "rates risen" in data
    found, best = evaluate.measure(clicks, refitted), evaluate.measure(clicks, truth)
    met = gain.value > 2 * gain.se if rising else gain.value > -LOSS
    yield Figure(
        part=PART, data=data, metric="log-loss gain of hourly refits over the model left alone", value=gain.value,
        se=gain.se, goal="> 2 standard errors" if rising else f"above {-LOSS}", met=met,
        about={"log_loss": found.log_loss, "log_loss_of_the_truth": best.log_loss},
    )  # fmt: skip
    last = slice(-len(clicks) // 3, None)
    ratio, se = float(refitted[last].sum() / clicks[last].sum()), 1 / float(np.sqrt(clicks[last].sum()))
    low, high = CALIBRATED
    yield Figure(
        part=PART, data=data, metric="calibration in the last third", value=ratio, se=se,
        goal=f"{low} to {high}, within 2 standard errors", met=low - 2 * se <= ratio <= high + 2 * se,
        about={"calibration_of_the_model_left_alone": float(alone[last].sum() / clicks[last].sum())},
    )  # fmt: skip
