"""When campaigns run: between their dates, and at the hours of the week they want."""

from collections.abc import Sequence

import numpy as np

from bidder.bits import mask_from, mask_of
from bidder.campaigns import Campaign
from bidder.creatives import Creative
from bidder.view import WEEK_HOURS

Rows = Sequence[tuple[Campaign, Creative]]


def running_of(rows: Rows, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Times in µs at which the set of running ads changes, the first before all time, and the set from each on."""
    spans = [
        (
            0 if campaign.start is None else int(campaign.start.timestamp() * 1e6),
            None if campaign.end is None else int(campaign.end.timestamp() * 1e6),
            campaign.status == "active",
        )
        for campaign, _ in rows
    ]
    changes = sorted({0} | {time for start, end, _ in spans for time in (start, end) if time is not None})
    running = tuple(
        mask_of(
            (i for i, (start, end, on) in enumerate(spans) if on and start <= time and (end is None or time < end)), n
        )
        for time in changes
    )
    return tuple(changes), running


def schedule_of(rows: Rows, n: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ads by hour of the week on the user's clock, and by UTC quarter hour on each campaign's own clock."""
    wanted = np.zeros((n, WEEK_HOURS), np.bool_)
    bound: list[int] = []
    offsets: list[int] = []
    for i, (campaign, _) in enumerate(rows):
        t = campaign.targeting
        if t.hours or t.weekdays:
            bound.append(i)
            offsets.append(t.utc_offset_min)
            wanted[i, [day * 24 + hour for day in t.weekdays or range(7) for hour in t.hours or range(24)]] = True
        else:
            wanted[i] = True
    if not bound:
        free = (1 << n) - 1
        return (free,) * WEEK_HOURS, (free,) * (WEEK_HOURS * 4)
    ids, minutes = np.array(bound), np.array(offsets)
    always = np.ones(n, np.bool_)
    by_utc = []
    for quarter in range(WEEK_HOURS * 4):
        always[ids] = wanted[ids, (quarter * 15 + minutes) // 60 % WEEK_HOURS]
        by_utc.append(mask_from(always))
    return tuple(map(mask_from, wanted.T)), tuple(by_utc)
