"""How good click probabilities are, and how sure that is (`models.gate` says whether they may be published).

Formulas: NE and its base as in He et al. (ADKDD 2014); standard error of AUC by DeLong, DeLong & Clarke-Pearson
(Biometrics 1988). Gains are paired: both models judged on the same rows, so their difference has a small error.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

TINY = 1e-12
GATE_Z = 1.64  # a gain must be this many standard errors above none: one-sided 5 %


class Gain(msgspec.Struct, frozen=True):
    """Relative reduction of log loss against another model, 0.03 = 3 % less, with its standard error."""

    value: float
    se: float


class Metrics(msgspec.Struct, frozen=True):
    """Quality on held-out rows. log_loss in nats per row. ne: log loss over the entropy of the rows' own click rate;
    rig = 1 - ne. calibration: sum of probabilities over clicks, 1 is right. ece: mean |predicted - observed| of 20
    equal-mass bins over the click rate. Undefined values (no clicks, only clicks) are None.
    """

    rows: int
    clicks: int
    log_loss: float
    auc: float | None
    auc_se: float | None
    ne: float | None
    rig: float | None
    calibration: float | None
    ece: float | None


def told(metrics: Metrics) -> dict[str, float]:
    """Those that are defined, for manifests and cards."""
    return {name: float(value) for name, value in msgspec.structs.asdict(metrics).items() if value is not None}


def losses(clicks: Floats, p: Floats) -> Floats:
    """Log loss per row, nats. clicks: 0, 1, or the probability that there was or will be one."""
    p = np.clip(p, TINY, 1 - TINY)
    return -(clicks * np.log(p) + (1 - clicks) * np.log1p(-p))


def measure(clicks: Floats, p: Floats) -> Metrics:
    """clicks: float64 (n,) of 0 and 1, n >= 1. p: probabilities (n,)."""
    rate = float(clicks.mean())
    loss = float(losses(clicks, p).mean())
    entropy = 0.0 if rate in (0.0, 1.0) else -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
    ranked = auc(clicks, p)
    return Metrics(
        rows=len(clicks),
        clicks=int(clicks.sum()),
        log_loss=loss,
        auc=None if ranked is None else ranked[0],
        auc_se=None if ranked is None else ranked[1],
        ne=loss / entropy if entropy else None,
        rig=1 - loss / entropy if entropy else None,
        calibration=float(p.sum() / clicks.sum()) if rate else None,
        ece=_ece(clicks, p) if rate else None,
    )


def auc(clicks: Floats, p: Floats) -> tuple[float, float] | None:
    """Area under the ROC curve (ties count half) and its standard error; None unless both classes are there."""
    up, down = p[clicks > 0], p[clicks == 0]
    if not len(up) or not len(down):
        return None
    # Share of the other class ranked below each row: DeLong's structural components.
    above = _share_below(up, down)
    below = 1 - _share_below(down, up)
    variance = (above.var(ddof=1) / len(up) if len(up) > 1 else 0.25) + (
        below.var(ddof=1) / len(down) if len(down) > 1 else 0.25
    )
    return float(above.mean()), math.sqrt(variance)


def _share_below(of: Floats, others: Floats) -> Floats:
    ordered = np.sort(others)
    return (np.searchsorted(ordered, of, "left") + np.searchsorted(ordered, of, "right")) / (2 * len(others))


def gain(clicks: Floats, p: Floats, other: Floats) -> Gain:
    """How much smaller the log loss of `p` is than that of `other`, relative to the latter.

    The standard error treats rows as independent; rows of one user are not quite, so it is a little too small.
    """
    theirs = losses(clicks, other)
    difference = theirs - losses(clicks, p)
    mean = float(theirs.mean())
    se = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else math.inf
    return Gain(float(difference.mean()) / mean, se / mean)


def _ece(clicks: Floats, p: Floats) -> float:
    order = np.argsort(p, kind="stable")
    bins = [b for b in np.array_split(order, 20) if len(b)]
    error = sum(abs(float(p[b].sum() - clicks[b].sum())) for b in bins)
    return error / float(clicks.sum())
