"""When campaigns run: between their dates, and at the hours of the week they want."""

from collections.abc import Sequence

from bidder.bits import mask_of
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
    wanted: list[set[int] | None] = []
    for campaign, _ in rows:
        t = campaign.targeting
        if not t.hours and not t.weekdays:
            wanted.append(None)
            continue
        days, hours = t.weekdays or range(7), t.hours or range(24)
        wanted.append({day * 24 + hour for day in days for hour in hours})
    bound = [(i, slots, rows[i][0].targeting.utc_offset_min) for i, slots in enumerate(wanted) if slots is not None]
    free = mask_of((i for i, slots in enumerate(wanted) if slots is None), n)
    if not bound:
        return (free,) * WEEK_HOURS, (free,) * (WEEK_HOURS * 4)
    local = tuple(free | mask_of((i for i, slots, _ in bound if slot in slots), n) for slot in range(WEEK_HOURS))
    by_utc = tuple(
        free | mask_of((i for i, slots, offset in bound if (quarter * 15 + offset) // 60 % WEEK_HOURS in slots), n)
        for quarter in range(WEEK_HOURS * 4)
    )
    return local, by_utc
