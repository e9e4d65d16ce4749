"""Where a campaign's traffic goes: how many impressions each rule took from it, and what became of the rest.

Asking every rule for every campaign costs more than a bid, so it is done for one request in `every`; those counts are
a sample (`tagbid_funnel_sampled_total` tells its size). What is sent, won, billed and clicked is counted whole.
"""

from collections.abc import Iterable

from bidder import targeting
from bidder.config import ExchangeConfig
from bidder.decide import Decision, usable
from bidder.metrics import Metrics
from bidder.openrtb import Request
from bidder.privacy import PrivacyDecision
from bidder.redact import strip
from bidder.snapshot import Snapshot
from bidder.view import view
from dmp.schema import User
from models.lookups import ones

RECEIVED, SCORED, PRICED = "received", "scored", "priced"
"""Steps of the sample besides the rules' names: an impression was offered, an ad passed all rules, it got a price."""

SENT, WON, BILLED, CLICKED = "sent", "won", "billed", "clicked"
"""Steps that are counted whole."""


class Funnel:
    """Counts by campaign and step. every: one request in so many is asked in full, 0 for none."""

    def __init__(self, metrics: Metrics, every: int = 0) -> None:
        self._metrics = metrics
        self._every = every
        self._left = 1
        self._sampled = metrics.slot("tagbid_funnel_sampled_total")
        self._slots: dict[tuple[str, str, str], int] = {}

    def count(self, campaign: str, step: str) -> None:
        """One more bid of a campaign that was sent, won, billed or clicked."""
        self._add("tagbid_campaign_total", campaign, step)

    def wants(self) -> bool:
        """Whether it is the next request's turn."""
        if not self._every:
            return False
        self._left -= 1
        if self._left:
            return False
        self._left = self._every
        return True

    def ask(
        self,
        request: Request,
        privacy: PrivacyDecision,
        user: User | None,
        snapshot: Snapshot,
        now_us: int,
        exchange: ExchangeConfig,
        name: str,
        decision: Decision,
    ) -> None:
        """Ask every rule about one decided request. Arguments as of `bidder.decide.decide`."""
        self._metrics.counts[self._sampled] += 1
        user = usable(user, privacy, snapshot.settings)
        seen = view(strip(request, privacy), user, now_us, exchange, name, privacy.frequency_cap)
        names, ads_of = snapshot.names, snapshot.campaign_bits
        for i, imp in enumerate(request.imp):
            left = snapshot.index.everything
            self._step(RECEIVED, ads_of)
            for reason, passing in targeting.answers(snapshot.index, seen, imp):
                gone = left & ~passing
                if gone:
                    left ^= gone
                    touched = {names[ad] for ad in ones(gone, len(names))}
                    self._step(reason.value, (name for name in touched if not ads_of[name] & left))
            self._step(SCORED, {names[ad] for ad in ones(left, len(names))})
            self._step(PRICED, {names[offer.ad_index] for offer in decision.offers[i]})

    def _step(self, step: str, campaigns: Iterable[str]) -> None:
        for campaign in campaigns:
            self._add("tagbid_funnel_total", campaign, step)

    def _add(self, series: str, campaign: str, step: str) -> None:
        key = (series, campaign, step)
        slot = self._slots.get(key)
        if slot is None:
            slot = self._slots[key] = self._metrics.slot(series, campaign=campaign, step=step)
        self._metrics.counts[slot] += 1
