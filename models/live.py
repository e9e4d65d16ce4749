"""How a campaign's clicks compare with what was predicted for it, kept live: the second layer of calibration.

The ratio is Gamma-Poisson (decision science 1.4): g ~ Gamma(k0, k0), so with C clicks seen and P predicted, both fading
with a half-life of a day, E[g] = (C + k0) / (P + k0), clipped to [1/3, 3]. Only impressions that are old enough to have
been clicked count, otherwise g would be low by construction. When g moves by more than a quarter within an hour,
tracking is more likely to have broken than people to have changed: the last good g is served on, and `frozen` says so.
"""

from collections.abc import Iterable, Mapping

import msgspec

PRIOR = 20.0  # predicted clicks the prior counts for
HALF_LIFE_US = 24 * 3_600_000_000
LOW, HIGH = 1 / 3, 3.0
JUMP = 0.25
HOUR_US = 3_600_000_000


class Ratio(msgspec.Struct, frozen=True, array_like=True):
    """State of one campaign; stored as a MessagePack array, extended only at the end with defaults.

    clicks, predicted: faded sums as of as_of_us. served: the ratio bids are multiplied with. hour_ago, hour_us: what
    was served when the hour began that a jump is measured over. frozen: `served` is an old one because g jumped.
    """

    clicks: float = 0.0
    predicted: float = 0.0
    as_of_us: int = 0
    served: float = 1.0
    hour_ago: float = 1.0
    hour_us: int = 0
    frozen: bool = False


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Ratio)


def encode(ratio: Ratio) -> bytes:
    """The value of `dmp.keys.calibration`."""
    return _encoder.encode(ratio)


def decode(data: bytes) -> Ratio:
    """Read it back; raises msgspec.DecodeError on anything else."""
    return _decoder.decode(data)


def mean(clicks: float, predicted: float, prior: float = PRIOR) -> float:
    """Expected ratio of clicks to prediction.

    >>> mean(0, 0), mean(40, 20), mean(1000, 10)
    (1.0, 1.5, 3.0)
    """
    return min(HIGH, max(LOW, (clicks + prior) / (predicted + prior)))


def updated(ratio: Ratio, clicks: float, predicted: float, now_us: int) -> Ratio:
    """The state after more ripe impressions: clicks seen, and the sum of probabilities they were bid with.

    A jump freezes `served` for as long as g stays more than `JUMP` away from it within the running hour; the next hour
    measures against what is served, so that a real change is taken up by a quarter an hour.
    """
    left = 0.5 ** (max(0, now_us - ratio.as_of_us) / HALF_LIFE_US) if ratio.as_of_us else 0.0
    clicks += ratio.clicks * left
    predicted += ratio.predicted * left
    found = mean(clicks, predicted)
    before, hour_ago, hour_us = ratio.served, ratio.hour_ago, ratio.hour_us
    if now_us - hour_us >= HOUR_US:
        hour_ago, hour_us = before, now_us
        if ratio.frozen:  # it has stayed away for an hour: go there by as much as one hour may
            before = min(max(found, hour_ago * (1 - JUMP)), hour_ago * (1 + JUMP))
    frozen = abs(found / hour_ago - 1) > JUMP
    kept = before if frozen else found
    return Ratio(clicks, predicted, max(now_us, ratio.as_of_us), kept, hour_ago, hour_us, frozen)


def served(states: Mapping[str, bytes | None]) -> dict[str, float]:
    """{campaign: ratio to multiply its click probabilities with}; what is absent or damaged is 1 and left out."""
    found = {}
    for campaign, data in states.items():
        try:
            ratio = None if data is None else decode(data)
        except msgspec.DecodeError:
            continue
        if ratio is not None and LOW <= ratio.served <= HIGH and ratio.served != 1.0:
            found[campaign] = ratio.served
    return found


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
