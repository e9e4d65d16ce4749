"""Conversions that are still to come: how long they take, and what a young click without one is worth as a label.

The delay's distribution G comes from clicks, not from conversions alone, because short delays are seen first: the
Kaplan-Meier curve of time to conversion, with clicks that have not converted censored at their age, levels off at the
conversion rate, and G is its shape. A campaign's curve is shrunk to that of its vertical, and that to everybody's, with
n / (n + 50). A click aged e that has not converted, q its expected conversion rate, still will with probability
s = q (1 - G(e)) / (1 - q G(e)): it trains twice, as a conversion with weight s and as none with weight 1 - s. As q
comes from the model being trained, this is an EM iteration; two passes suffice (Chapelle, KDD 2014, models the same
censoring with an exponential delay).
"""

from collections.abc import Callable, Mapping, Sequence

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

WINDOW_S = 30 * 86_400.0
SHRINK = 50.0  # conversions the vertical's curve counts for in a campaign's
POINTS = 200
PASSES = 2
YOUNG_S = 1.0


def grid(window_s: float) -> Floats:
    """Ages at which curves are kept, seconds: dense where most conversions happen; float64 (POINTS,)."""
    return np.concatenate(([0.0], np.geomspace(YOUNG_S, window_s, POINTS - 1)))


class Curve(msgspec.Struct, frozen=True):
    """A delay's distribution function on `grid(window_s)`. conversions: how many it was made of."""

    window_s: float
    cdf: Floats
    conversions: float

    def at(self, age_s: Floats) -> Floats:
        """Share of a click's conversions that have come at an age; 1 beyond the window."""
        return np.interp(age_s, grid(self.window_s), self.cdf)


class Delays(msgspec.Struct, frozen=True):
    """Curves per campaign and per vertical, already shrunk, and everybody's."""

    campaigns: Mapping[str, Curve]
    verticals: Mapping[str, Curve]
    overall: Curve

    def of(self, campaign: str, vertical: str = "") -> Curve:
        """The nearest curve that is known."""
        return self.campaigns.get(campaign) or self.verticals.get(vertical) or self.overall


def kaplan_meier(delay_s: Floats, age_s: Floats, window_s: float = WINDOW_S) -> Curve:
    """The delay's distribution from n clicks. delay_s: time to conversion, NaN for none yet. age_s: of the click now.

    Without a conversion the curve is that of no delay at all, so that nothing is expected still to come.

    >>> kaplan_meier(np.array([10.0, np.nan]), np.array([100.0, 100.0]), 1_000.0).at(np.array([5.0, 20.0])).tolist()
    [0.0, 1.0]
    """
    ages = grid(window_s)
    happened = delay_s <= np.minimum(age_s, window_s)
    until = np.where(happened, delay_s, np.minimum(age_s, window_s))
    order = np.argsort(until, kind="stable")
    until, event = until[order], happened[order]
    if not event.any():
        return Curve(window_s, np.ones(POINTS), 0.0)
    at_risk = len(until) - np.arange(len(until))
    # Of clicks converting and censored at one age, the conversion came first; ties are otherwise one by one, the same.
    surviving = np.cumprod(np.where(event, 1 - 1 / at_risk, 1.0))
    converted = 1 - surviving
    place = np.searchsorted(until, ages, "right") - 1
    share = np.where(place >= 0, converted[np.maximum(place, 0)], 0.0) / converted[-1]
    return Curve(window_s, share, float(event.sum()))


def shrunk(own: Curve, parent: Curve) -> Curve:
    """A curve between its own and its parent's, n / (n + 50) of its own."""
    weight = own.conversions / (own.conversions + SHRINK)
    return Curve(own.window_s, weight * own.cdf + (1 - weight) * parent.cdf, own.conversions)


def fit(
    delay_s: Floats, age_s: Floats, campaigns: Sequence[str], verticals: Sequence[str], window_s: float = WINDOW_S
) -> Delays:
    """Curves of all campaigns; the arguments line up, one entry a click."""
    overall = kaplan_meier(delay_s, age_s, window_s)

    def curves(names: npt.NDArray[np.str_], parent: Callable[[Bools], Curve]) -> dict[str, Curve]:
        found = {}
        for name in np.unique(names).tolist():
            own = names == name
            found[name] = shrunk(kaplan_meier(delay_s[own], age_s[own], window_s), parent(own))
        return found

    vertical_of = np.array(verticals)
    by_vertical = curves(vertical_of, lambda _: overall)
    by_campaign = curves(np.array(campaigns), lambda own: by_vertical[str(vertical_of[own][0])])
    return Delays(by_campaign, by_vertical, overall)


def elapsed(delays: Delays, campaigns: Sequence[str], verticals: Sequence[str], age_s: Floats) -> Floats:
    """G of each click at its age, float64 (n,)."""
    found = np.empty(len(age_s))
    names = np.array([f"{campaign}\0{vertical}" for campaign, vertical in zip(campaigns, verticals, strict=True)])
    for name in np.unique(names).tolist():
        own = names == name
        campaign, _, vertical = name.partition("\0")
        found[own] = delays.of(campaign, vertical).at(age_s[own])
    return found


def still_to_come(q: Floats, g: Floats) -> Floats:
    """Probability that a click without a conversion will have one, given q and the share g of its delay behind it.

    >>> still_to_come(np.array([0.1, 0.1]), np.array([0.0, 1.0])).tolist()
    [0.1, 0.0]
    """
    return q * (1 - g) / np.maximum(1 - q * g, 1e-12)


class Labels(msgspec.Struct, frozen=True):
    """Training rows of soft labels. rows: intp, which click; label: 0 or 1; weight."""

    rows: npt.NDArray[np.intp]
    label: Floats
    weight: Floats


def soft_labels(converted: Bools, q: Floats, g: Floats) -> Labels:
    """Converted clicks once; others as no conversion, and those that may still have one as a conversion too."""
    s = np.where(converted, 1.0, still_to_come(q, g))
    positive, negative = np.flatnonzero(s > 0), np.flatnonzero(s < 1)
    return Labels(
        rows=np.concatenate((positive, negative)),
        label=np.concatenate((np.ones(len(positive)), np.zeros(len(negative)))),
        weight=np.concatenate((s[positive], 1 - s[negative])),
    )


def learn(
    train: Callable[[Labels], Floats], converted: Bools, g: Floats, q: Floats | None = None, passes: int = PASSES
) -> Floats:
    """EM over a model. train: fits on labels and returns its q of every click. q: a champion's, None to start from
    "converted so far / share of the delay behind". Returns q after the last pass.
    """
    if q is None:
        q = np.full(len(converted), min(0.99, float(converted.sum()) / max(float(g.sum()), 1.0)))
    for _ in range(passes):
        q = train(soft_labels(converted, q, g))
    return q


def projected(conversions: float, g: Floats, q: Floats, converted: Bools) -> float:
    """Conversions there will have been: those so far and what is still expected of the other clicks."""
    return conversions + float(still_to_come(q, g)[~converted].sum())
