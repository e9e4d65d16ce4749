"""What a policy would have earned, told from the log of another one.

A log gives, per decision, the probability with which its policy chose what was shown (the propensity). Decisions are
weighted by how much likelier the policy in question makes them. SNIPS (Swaminathan & Joachims, NeurIPS 2015) divides by
the weights' own sum, so that it never leaves the range of what was observed; the doubly robust estimate (Dudik,
Langford & Li, ICML 2011) starts from a model of the rewards and corrects it where the log says otherwise. Both are
refused when the weights leave too few effective observations: the standard error itself is then a guess.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

from dmp.errors import TagbidError

Floats = npt.NDArray[np.float64]

MIN_EFFECTIVE = 200.0


class TooFewEffective(TagbidError):
    """The log and the policy in question have too little in common."""

    def __init__(self, effective: float, required: float) -> None:
        super().__init__(
            f"the weighted log is worth {effective:.0f} observations, {required:.0f} are needed; "
            f"log more exploration, or ask about a policy nearer to the logged one"
        )


class BadPropensities(TagbidError):
    """A log that cannot be weighted."""


class Estimate(msgspec.Struct, frozen=True):
    """value: mean reward of a decision, se: its standard error. effective: Kish's (sum w)^2 / sum w^2. rows: logged."""

    value: float
    se: float
    effective: float
    rows: int


def weights(propensities: Floats, target: Floats) -> Floats:
    """Importance weights, target / propensities, float64 (n,).

    Raises BadPropensities unless 0 < propensity <= 1 and 0 <= target <= 1.
    """
    if len(propensities) != len(target) or not len(target):
        raise BadPropensities(f"{len(propensities)} propensities for {len(target)} decisions; log one with each")
    if not ((propensities > 0) & (propensities <= 1)).all():
        raise BadPropensities("a logged propensity is not in (0, 1]; leave out decisions that were not drawn")
    if not ((target >= 0) & (target <= 1)).all():
        raise BadPropensities("a probability of the policy in question is not in [0, 1]")
    return target / propensities


def effective_size(w: Floats) -> float:
    """Kish's effective sample size; 0 when nothing has weight.

    >>> effective_size(np.ones(10)), effective_size(np.array([1.0, 0.0, 0.0]))
    (10.0, 1.0)
    """
    square = float((w**2).sum())
    return float(w.sum()) ** 2 / square if square else 0.0


def snips(rewards: Floats, propensities: Floats, target: Floats, required: float = MIN_EFFECTIVE) -> Estimate:
    """Self-normalised inverse propensity score; the standard error is that of a ratio (delta method).

    rewards: float64 (n,), what each logged decision earned. target: probability the policy in question gives to the
    logged choice. Raises TooFewEffective and BadPropensities.
    """
    w = weights(propensities, target)
    effective = _enough(w, required)
    total = float(w.sum())
    value = float((w * rewards).sum()) / total
    return Estimate(value, math.sqrt(float((w**2 * (rewards - value) ** 2).sum())) / total, effective, len(w))


def doubly_robust(
    rewards: Floats,
    propensities: Floats,
    target: Floats,
    predicted: Floats,
    expected: Floats,
    required: float = MIN_EFFECTIVE,
) -> Estimate:
    """Model plus weighted correction. Right when the model or the propensities are.

    predicted: what a model that did not see the row expects of the logged choice. expected: what it expects of the
    policy in question in the same situation, sum over choices of probability times prediction. Raises as `snips`.
    """
    w = weights(propensities, target)
    effective = _enough(w, required)
    scores = expected + w * (rewards - predicted)
    se = float(scores.std(ddof=1)) / math.sqrt(len(scores)) if len(scores) > 1 else math.inf
    return Estimate(float(scores.mean()), se, effective, len(w))


def _enough(w: Floats, required: float) -> float:
    effective = effective_size(w)
    if effective < required:
        raise TooFewEffective(effective, required)
    return effective
