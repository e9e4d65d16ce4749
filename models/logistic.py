"""Hashed logistic regression on the same features: the baseline a tree model has to beat.

Every feature becomes one token, "feature = value" for categories, "feature in bucket" for numbers (deciles of the
training rows) and "feature missing"; tokens are hashed into 2^16 weights and learnt with AdaGrad (Duchi et al., 2011),
the epoch chosen on the validation slice. That is what a careful engineer runs before trying trees.
"""

import numpy as np
import numpy.typing as npt

from models import calibration, features, frames
from models.encoding import Encoder
from models.evaluate import losses
from models.forest import sigmoid
from models.frames import Frame

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Tokens = npt.NDArray[np.uint16]

SLOTS = 1 << 16
EPOCHS = 15
_STEPS = 400_000  # of one fit: with millions of rows a few epochs do what fifteen do with thousands
_BATCH = 256
_RATE = 0.1
_L2 = 1e-4
_BUCKETS = 10
_BUCKET_ROWS = 131_072  # training rows that bucket bounds are taken from


def tokens(X: Floats, categorical: tuple[int, ...], cuts: list[Floats]) -> Tokens:
    """uint16 (n, features): the slot of each row's token per feature. cuts: bucket bounds per column (`buckets`)."""
    codes = np.empty(X.shape, dtype=np.int64)
    for column, bounds in enumerate(cuts):
        values = X[:, column]
        known = values if column in categorical else np.searchsorted(bounds, values).astype(np.float64)
        codes[:, column] = np.where(np.isnan(values), -1, np.nan_to_num(known)).astype(np.int64)
    mixed = (codes + 1) * 40_503 + np.arange(X.shape[1], dtype=np.int64) * 2_654_435_761
    mixed ^= mixed >> 15
    mixed *= 2_246_822_519
    return ((mixed ^ mixed >> 13) & (SLOTS - 1)).astype(np.uint16)


def baseline(frame: Frame, slices: tuple[Bools, Bools, Bools], encoder: Encoder, seed: int = 1) -> Floats:
    """Test probabilities of the hashed logistic regression on the rows and features of a model, calibrated alike."""
    train, valid, test = slices
    clicks = frame.column("clicked").astype(np.float64)
    # From all days: the first hours would say that nobody was ever shown anything.
    picked = train & (np.random.default_rng([seed, 1]).random(len(train)) < _BUCKET_ROWS / max(1, int(train.sum())))
    cuts = buckets(np.concatenate([encoder.matrix(part) for _, part in frames.chunks(frame, picked)]))

    def slots(keep: Bools) -> Tokens:
        found = [tokens(encoder.matrix(part), features.CATEGORICAL, cuts) for _, part in frames.chunks(frame, keep)]
        return np.concatenate(found)

    valid_slots = slots(valid)
    weights = fit(slots(train), clicks[train], valid_slots, clicks[valid], seed)
    x, y, _ = calibration.fit(predict(weights, valid_slots), clicks[valid])
    return np.interp(predict(weights, slots(test)), x, y)


def buckets(X: Floats) -> list[Floats]:
    """Bucket bounds of every column from its known values."""
    shares = np.linspace(0, 1, _BUCKETS + 1)[1:-1]
    return [
        np.unique(np.quantile(column[~np.isnan(column)], shares)) if (~np.isnan(column)).any() else np.empty(0)
        for column in X.T
    ]


def fit(slots: Tokens, clicks: Floats, valid_slots: Tokens, valid_clicks: Floats, seed: int = 1) -> Floats:
    """Weights float64 (SLOTS + 1,), the last is the intercept, of the epoch with the least validation loss."""
    rng = np.random.default_rng(seed)
    rate = min(max(float(clicks.mean()), 1e-6), 1 - 1e-6)
    # Few slots are used: all arrays are of those, and what a batch does not touch has no gradient.
    used = _used(slots, valid_slots)
    place = np.zeros(SLOTS, dtype=np.intp)
    place[used] = np.arange(len(used))
    weights, squares = np.zeros(len(used) + 1), np.full(len(used) + 1, 1e-8)
    weights[-1] = np.log(rate / (1 - rate))
    best, best_loss = _whole(weights, used), np.inf
    for epoch in range(1 + max(1, min(EPOCHS, _STEPS * _BATCH // max(1, len(slots))))):
        order = rng.permutation(len(slots)) if epoch else np.empty(0, dtype=np.intp)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            own = place[slots[batch]]
            error = sigmoid(weights[own].sum(axis=1) + weights[-1]) - clicks[batch]
            flat = own.ravel()
            gradient = np.bincount(flat, np.repeat(error, own.shape[1]), len(used)) / len(batch)
            gradient += _L2 * np.where(np.bincount(flat, minlength=len(used)) > 0, weights[:-1], 0.0)
            squares[:-1] += gradient**2
            weights[:-1] -= _RATE * gradient / np.sqrt(squares[:-1])
            squares[-1] += error.mean() ** 2
            weights[-1] -= _RATE * 0.1 * error.mean() / np.sqrt(squares[-1])
        found = _whole(weights, used)
        loss = float(losses(valid_clicks, predict(found, valid_slots)).mean())
        if loss < best_loss:
            best, best_loss = found, loss
    return best


def _used(*of: Tokens) -> npt.NDArray[np.intp]:
    """The slots that occur."""
    seen = np.zeros(SLOTS, dtype=bool)
    for slots in of:
        seen[slots.ravel()] = True
    return np.flatnonzero(seen)


def _whole(weights: Floats, used: npt.NDArray[np.intp]) -> Floats:
    """Weights of the slots that occur, as weights of all."""
    found = np.zeros(SLOTS + 1)
    found[used], found[-1] = weights[:-1], weights[-1]
    return found


def predict(weights: Floats, slots: Tokens) -> Floats:
    """Probabilities float64 (n,)."""
    scores = np.empty(len(slots))
    for start in range(0, len(slots), frames.PART_ROWS):
        scores[start : start + frames.PART_ROWS] = weights[slots[start : start + frames.PART_ROWS]].sum(axis=1)
    return sigmoid(scores + weights[-1])
