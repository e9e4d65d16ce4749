"""What a conversion costs a campaign today: spend against conversions, those still to come included.

Of the conversions of today's clicks only the share has come that their ages allow: projected = seen / mean of G(age),
G the delay's distribution over all campaigns (`models.delay`). That share is taken for a fifth at least. Whatever is
not known makes conversions fewer or spend larger, so that a campaign bids less: delays longer than today are not
seen, and a price in another currency counts as all the impression was worth.
"""

import math
from collections import Counter
from pathlib import Path

import numpy as np

from dmp import events
from dmp.events import Bid, Billing, Click, Conversion
from models import delay
from models.live import Cost

DAY_US = 86_400_000_000
LEAST_SHARE = 0.2
SLACK_S = 3_600.0  # bids are logged before what comes of them; older files hold nothing of today


def today(bidlog: Path, now_us: int) -> dict[str, Cost]:
    """{campaign: what it spent and what that brings} of impressions bid on since midnight UTC."""
    midnight_us = now_us // DAY_US * DAY_US
    bids: dict[tuple[str, str], tuple[str, float, bool]] = {}
    billed: dict[tuple[str, str], float] = {}
    clicked: dict[str, int] = {}
    converted: dict[str, tuple[str, int]] = {}
    for path in sorted(p for p in bidlog.glob("*.mpk") if p.stat().st_mtime >= midnight_us / 1e6 - SLACK_S):
        for event in events.read_file(path):
            if event.time_us < midnight_us:
                continue
            if isinstance(event, Bid):
                known = event.currency == "USD"
                most = event.price_micros if known else max(event.worth_micros, event.price_micros)
                bids[event.event_id, event.imp_id] = event.campaign, most / 1000, known
            elif isinstance(event, Billing):
                billed.setdefault((event.bid_id, event.imp_id), event.price_micros / 1000)
            elif isinstance(event, Click):
                clicked[event.bid_id] = min(event.time_us, clicked.get(event.bid_id, event.time_us))
            elif isinstance(event, Conversion) and event.bid_id:
                converted.setdefault(event.event_id, (event.bid_id, event.time_us))
    campaign_of = {bid_id: campaign for (bid_id, _), (campaign, _, _) in bids.items()}
    spent: dict[str, float] = {}
    for key, price in billed.items():
        if key in bids:
            campaign, worth, known = bids[key]
            spent[campaign] = spent.get(campaign, 0.0) + (min(price, worth) if price and known else worth)
    first: dict[str, int] = {}
    seen: Counter[str] = Counter()
    for bid_id, at_us in converted.values():
        if bid_id in campaign_of:
            seen[campaign_of[bid_id]] += 1
            first[bid_id] = min(at_us, first.get(bid_id, at_us))
    due = _due(clicked, first, campaign_of, now_us)
    return {
        campaign: Cost(spent.get(campaign, 0.0), seen[campaign] / max(LEAST_SHARE, due.get(campaign, 1.0)), now_us)
        for campaign in set(campaign_of.values())
    }


def _due(clicked: dict[str, int], first: dict[str, int], campaign_of: dict[str, str], now_us: int) -> dict[str, float]:
    """Share of each campaign's conversions of clicks that should have come by now."""
    names = [bid_id for bid_id in clicked if bid_id in campaign_of]
    if not names:
        return {}
    at = np.array([clicked[name] for name in names], dtype=np.float64)
    delay_s = (np.array([first.get(name, math.nan) for name in names]) - at) / 1e6
    age_s = (now_us - at) / 1e6
    come = delay.kaplan_meier(np.maximum(delay_s, delay.YOUNG_S), age_s, DAY_US / 1e6).at(age_s)
    of = np.array([campaign_of[name] for name in names])
    return {str(campaign): float(come[of == campaign].mean()) for campaign in np.unique(of)}
