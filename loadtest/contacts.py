"""What the people of the world were shown, as the contact counters of the bidder would tell it, for millions at once.

Counts are kept per hour, as the real counters are, and a window covers the running clock hour and the whole hours
before that touch it (`models.features`).
"""

from collections import deque

import msgspec
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DAY_H, WEEK_H = 24, 168
_NEVER = -(10**6)


class Seen(msgspec.Struct, frozen=True):
    """Of one user and campaign per row. day, week: times shown. ago: hours since, NaN for never. any_day: of all."""

    day: Floats
    week: Floats
    ago: Floats
    any_day: Floats


class Contacts:
    """Rolling counts of every user and campaign."""

    def __init__(self, users: int, campaigns: int) -> None:
        self._campaigns = campaigns
        self._day, self._week = (np.zeros(users * campaigns, dtype=np.int32) for _ in range(2))
        self._last = np.full(users * campaigns, _NEVER, dtype=np.int32)
        self._of_day, self._of_week = deque[tuple[int, Ints]](), deque[tuple[int, Ints]]()

    def add(self, hour: int, user: Ints, campaign: Ints) -> None:
        """Impressions of one hour."""
        where = user * self._campaigns + campaign
        for counts, kept in ((self._day, self._of_day), (self._week, self._of_week)):
            np.add.at(counts, where, 1)
            kept.append((hour, where))
        self._last[where] = hour

    def seen(self, hour: int, user: Ints, campaign: Ints) -> Seen:
        """What these users had been shown of these campaigns; hours must not go back."""
        for counts, kept, window in ((self._day, self._of_day, DAY_H), (self._week, self._of_week, WEEK_H)):
            while kept and hour - kept[0][0] > window:
                np.subtract.at(counts, kept.popleft()[1], 1)
        where = user * self._campaigns + campaign
        ago = (hour - self._last[where]).astype(np.float64)
        return Seen(
            day=self._day[where].astype(np.float64),
            week=self._week[where].astype(np.float64),
            ago=np.where(self._last[where] == _NEVER, np.nan, ago),
            any_day=self._day.reshape(-1, self._campaigns).sum(axis=1)[user].astype(np.float64),
        )
