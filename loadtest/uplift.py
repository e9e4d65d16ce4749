"""What one arm earned against another on the same requests, with the standard error of the comparison.

The measure is clicks per unit of spend, a ratio of two sums, and the uplift is the ratio of two such ratios. Its
standard error comes from the delta method: to first order, the logarithm of an arm's ratio is a sum over requests
of `clicks/all clicks - spend/all spend`. Requests of one user are not independent, so the terms are summed per user
before they are squared (cluster-robust variance).

The two arms are treated as independent although they saw the same requests. Pairing them would give a smaller error
for the same two models on other requests; but each arm's model was learnt from a chance log with chance splits,
which pairing does not see. In repeated worlds a pure placebo missed zero by up to six paired standard errors, and
stayed within two of these.
"""

import math

import msgspec
import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]


class Uplift(msgspec.Struct, frozen=True):
    """value: relative gain, 0.2 = 20 % more clicks per unit of spend. standard_error: same unit."""

    value: float
    standard_error: float

    @property
    def errors(self) -> float:
        """How many standard errors away from no difference."""
        return self.value / self.standard_error if self.standard_error else math.copysign(math.inf, self.value)


def per_spend(clicks: int, spend_micros: int) -> float | None:
    """Clicks per dollar, None when nothing was spent.

    >>> per_spend(30, 15_000_000)
    2.0
    """
    return clicks / (spend_micros / 1e6) if spend_micros else None


def uplift(a_clicks: Ints, a_spend: Ints, b_clicks: Ints, b_spend: Ints, users: Ints) -> Uplift | None:
    """Arm a against arm b; all arrays are (n,), one entry per request, users say whose request it was.

    None when an arm has no click or no spend: a ratio of nothing.
    """
    totals = [int(part.sum()) for part in (a_clicks, a_spend, b_clicks, b_spend)]
    if not all(totals):
        return None
    ca, sa, cb, sb = totals
    ratio = (ca / sa) / (cb / sb)
    owner = np.unique(users, return_inverse=True)[1]
    variance = sum(
        float((np.bincount(owner, weights=clicks / all_clicks - spend / all_spend) ** 2).sum())
        for clicks, all_clicks, spend, all_spend in ((a_clicks, ca, a_spend, sa), (b_clicks, cb, b_spend, sb))
    )
    return Uplift(ratio - 1, ratio * math.sqrt(variance))
