"""How a campaign's clicks compare with what was predicted for it, kept live: the second layer of calibration.

The ratio is Gamma-Poisson (decision science 1.4): g ~ Gamma(k0, k0), so with C clicks seen and P predicted, both fading
with a half-life of a day, E[g] = (C + k0) / (P + k0), clipped to [1/3, 3]. Only impressions that are old enough to have
been clicked count, otherwise g would be low by construction. When g moves by more than a quarter within an hour,
tracking is more likely to have broken than people to have changed: the last good g is served on, and `frozen` says so.

A campaign is learning until its fiftieth click or for three days; its prior counts for five predicted clicks only, so
that it adapts. A campaign nothing was counted for yet has the ratio of its advertiser's others (decision science 4).
"""

import math
from collections.abc import Iterable, Mapping

import msgspec

PRIOR = 20.0  # predicted clicks the prior counts for
HALF_LIFE_US = 24 * 3_600_000_000
LOW, HIGH = 1 / 3, 3.0
JUMP = 0.25
HOUR_US = 3_600_000_000
LEARNING_PRIOR = 5.0
LEARNING_CLICKS = 50
LEARNING_US = 3 * HALF_LIFE_US


class Ratio(msgspec.Struct, frozen=True, array_like=True):
    """State of one campaign; stored as a MessagePack array, extended only at the end with defaults.

    clicks, predicted: faded sums as of as_of_us. served: the ratio bids are multiplied with. hour_ago, hour_us: what
    was served when the hour began that a jump is measured over. frozen: `served` is an old one because g jumped.
    since_us: when counting began, 0 = longer ago than anybody remembers. seen: clicks since then, not faded.
    """

    clicks: float = 0.0
    predicted: float = 0.0
    as_of_us: int = 0
    served: float = 1.0
    hour_ago: float = 1.0
    hour_us: int = 0
    frozen: bool = False
    since_us: int = 0
    seen: float = 0.0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ratio)


def encode(ratio: Ratio) -> bytes:
    """The value of `dmp.keys.calibration`."""
    return _encoder.encode(ratio)


def decode(data: bytes) -> Ratio:
    """Read it back; raises msgspec.DecodeError on anything else."""
    return _decoder.decode(data)


class Cost(msgspec.Struct, frozen=True, array_like=True):
    """What a campaign's day has cost and brought so far; stored as a MessagePack array, extended only at the end.

    spent_micros: of impressions billed since midnight UTC. conversions: of those, projected (`models.costs`).
    """

    spent_micros: float
    conversions: float
    as_of_us: int


_cost_decoder = msgspec.msgpack.Decoder(Cost)


def encode_cost(cost: Cost) -> bytes:
    """The value of `dmp.keys.cost`."""
    return _encoder.encode(cost)


def read_costs(states: Mapping[str, bytes | None]) -> dict[str, Cost]:
    """What can be read of costs as stored; absent and damaged ones are left out."""
    found = {}
    for campaign, data in states.items():
        try:
            cost = None if data is None else _cost_decoder.decode(data)
        except msgspec.DecodeError:
            continue
        if cost is not None and 0 <= cost.spent_micros < math.inf and 0 <= cost.conversions < math.inf:
            found[campaign] = cost
    return found


def mean(clicks: float, predicted: float, prior: float = PRIOR) -> float:
    """Expected ratio of clicks to prediction.

    >>> mean(0, 0), mean(40, 20), mean(1000, 10)
    (1.0, 1.5, 3.0)
    """
    return min(HIGH, max(LOW, (clicks + prior) / (predicted + prior)))


def learning(ratio: Ratio, now_us: int) -> bool:
    """Whether too little is known of a campaign to hold on to the forest's opinion of it."""
    return ratio.seen < LEARNING_CLICKS and ratio.since_us > 0 and now_us - ratio.since_us < LEARNING_US


def prior(ratio: Ratio, now_us: int) -> float:
    """Predicted clicks that the prior of a campaign counts for."""
    return LEARNING_PRIOR if learning(ratio, now_us) else PRIOR


def updated(ratio: Ratio, clicks: float, predicted: float, now_us: int) -> Ratio:
    """The state after more ripe impressions: clicks seen, and the sum of probabilities they were bid with.

    A jump freezes `served` for as long as g stays more than `JUMP` away from it within the running hour; the next hour
    measures against what is served, so that a real change is taken up by a quarter an hour.
    """
    left = 0.5 ** (max(0, now_us - ratio.as_of_us) / HALF_LIFE_US) if ratio.as_of_us else 0.0
    new = clicks
    clicks += ratio.clicks * left
    predicted += ratio.predicted * left
    since_us = ratio.since_us or (0 if ratio.as_of_us else now_us)
    state = Ratio(clicks, predicted, since_us=since_us, seen=ratio.seen + new)
    found = mean(clicks, predicted, prior(state, now_us))
    before, hour_ago, hour_us = ratio.served, ratio.hour_ago, ratio.hour_us
    if now_us - hour_us >= HOUR_US:
        hour_ago, hour_us = before, now_us
        if ratio.frozen:  # it has stayed away for an hour: go there by as much as one hour may
            before = min(max(found, hour_ago * (1 - JUMP)), hour_ago * (1 + JUMP))
    frozen = abs(found / hour_ago - 1) > JUMP
    kept = before if frozen else found
    as_of_us = max(now_us, ratio.as_of_us)
    return Ratio(clicks, predicted, as_of_us, kept, hour_ago, hour_us, frozen, state.since_us, state.seen)


def read(states: Mapping[str, bytes | None]) -> dict[str, Ratio]:
    """What can be read of states as stored; absent and damaged ones are left out."""
    found = {}
    for campaign, data in states.items():
        try:
            ratio = None if data is None else decode(data)
        except msgspec.DecodeError:
            continue
        if ratio is not None and LOW <= ratio.served <= HIGH:
            found[campaign] = ratio
    return found


def served(states: Mapping[str, Ratio], advertisers: Mapping[str, str]) -> dict[str, float]:
    """{campaign: ratio to multiply its click probabilities with}; what is 1 is left out.

    advertisers: campaign -> advertiser, of all there are. A campaign without a state has the ratio that its
    advertiser's others have together, shrunk to 1 as a campaign's own.
    """
    sums: dict[str, tuple[float, float]] = {}
    for campaign, state in states.items():
        advertiser = advertisers.get(campaign)
        if advertiser is not None and not state.frozen:
            clicks, predicted = sums.get(advertiser, (0.0, 0.0))
            sums[advertiser] = clicks + state.clicks, predicted + state.predicted
    found = {campaign: state.served for campaign, state in states.items()}
    for campaign, advertiser in advertisers.items():
        if campaign not in states and advertiser in sums:
            found[campaign] = mean(*sums[advertiser])
    return {campaign: ratio for campaign, ratio in found.items() if ratio != 1.0}


def ripe(
    impressions: Iterable[tuple[str, float, int, bool]], since_us: int, until_us: int
) -> dict[str, tuple[float, float]]:
    """{campaign: (clicks, predicted)} of impressions shown after since_us and up to until_us.

    impressions: (campaign, click probability it was bid with, when shown in µs, clicked).
    """
    sums: dict[str, tuple[float, float]] = {}
    for campaign, chance, shown_us, clicked in impressions:
        if since_us < shown_us <= until_us and chance > 0:
            clicks, predicted = sums.get(campaign, (0.0, 0.0))
            sums[campaign] = clicks + clicked, predicted + chance
    return sums
