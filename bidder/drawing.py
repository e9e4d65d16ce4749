"""Who is ranked first, by Thompson's rule: each minute a campaign's click ratio is drawn from what is known of it.

g ~ Gamma(C + k0, rate P + k0), C clicks seen where P were predicted (`models.live`). The draw decides which ad is
offered; what is bid for it remains its mean, as exploring is worth winning an auction but not overpaying for it
(decision science 4). A draw comes by hash of campaign, minute and seed, so every worker has the same and a replay
too, and no request pays for it: factors are made once a minute and looked up. A campaign that is learning ranks by its
mean once a tenth of the day's budget is spent or at stake.

Only campaigns paid by results are drawn: what a fixed price is worth does not depend on clicks.
"""

import math
from collections.abc import Collection, Iterable, Mapping
from statistics import NormalDist

from bidder.buckets import place
from bidder.budget import Account
from bidder.campaigns import Campaign
from models import live
from models.live import Ratio

SHARE = 0.10
"""Of a learning campaign's budget of the day; counted on all it spends, so what exploring costs is less."""
LOW, HIGH = live.LOW, live.HIGH
MINUTE_S = 60
_NORMAL = NormalDist()


def factors(
    campaigns: Iterable[Campaign],
    states: Mapping[str, Ratio],
    minute: int,
    seed: int,
    spent: Collection[str] = (),
) -> dict[str, float]:
    """{campaign id: drawn ratio over its mean}, to rank worths by; {} where no state was ever kept.

    states: per campaign; one without is new, and what is known of it is the prior alone. spent: learning campaigns
    whose share for exploring is spent. What jumped (`Ratio.frozen`) is not drawn: it is not known what it is.
    """
    if not states:
        return {}
    now_us = minute * MINUTE_S * 1_000_000
    found = {}
    for campaign in campaigns:
        state = states.get(campaign.id)
        if campaign.goal == "cpm" or campaign.id in spent or (state is not None and state.frozen):
            continue
        shape = live.LEARNING_PRIOR if state is None else state.clicks + live.prior(state, now_us)
        found[campaign.id] = draw(shape, place(b"thompson", f"{seed}|{minute}|{campaign.id}".encode()))
    return found


def draw(shape: float, u: float) -> float:
    """The u-quantile of Gamma(shape) over its mean, within [1/3, 3]; shape: at least 5.

    By the cube of a normal (Wilson and Hilferty, 1931), which is good to a hundredth from there on.

    >>> round(draw(400.0, 0.8413447), 3), round(draw(5.0, 0.5), 2)
    (1.05, 0.93)
    """
    z = _NORMAL.inv_cdf(min(max(u, 1e-9), 1 - 1e-9))
    root = 1 - 1 / (9 * shape) + z / (3 * math.sqrt(shape))
    return min(HIGH, max(LOW, max(root, 0.0) ** 3))


def spent_out(accounts: Iterable[Account], states: Mapping[str, Ratio], now_us: int) -> frozenset[str]:
    """Learning campaigns that have spent, or put at stake, what may go into exploring today.

    Of stakes a worker sees its own, and takes the others to have as much.
    """
    return frozenset(
        account.campaign
        for account in accounts
        if account.spent + account.pending * account.workers >= SHARE * account.budget
        and _learning(states, account.campaign, now_us)
    )


def _learning(states: Mapping[str, Ratio], campaign: str, now_us: int) -> bool:
    state = states.get(campaign)
    return state is None or live.learning(state, now_us)


class Drawer:
    """The factors of the running minute. seed: every seed is another history of draws."""

    def __init__(self, seed: int) -> None:
        self.of: Mapping[str, float] = {}
        self._seed = seed
        self._made: tuple[int, object, object, frozenset[str]] = (-1, None, None, frozenset())

    def tick(
        self, accounts: Iterable[Account], campaigns: Mapping[str, Campaign], states: Mapping[str, Ratio], now_s: float
    ) -> None:
        """Once a second; draws when the minute, the campaigns, what is known of them or who may explore has changed."""
        minute = int(now_s // MINUTE_S)
        spent = spent_out(accounts, states, int(now_s * 1e6)) if states else frozenset()
        at, of_campaigns, of_states, before = self._made
        if (minute, spent) != (at, before) or of_campaigns is not campaigns or of_states is not states:
            self._made = minute, campaigns, states, spent
            self.of = factors(campaigns.values(), states, minute, self._seed, spent)
