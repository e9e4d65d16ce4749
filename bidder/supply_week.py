"""When in a week auctions come: learnt from the bid log by night, followed by the spend plans of paced campaigns.

A file holds, per weekday and hour (UTC), how many auctions we bid in, averaged over weeks with a half-life of two: a
budget spread evenly over a day buys dear at night and is late at noon (decision science 3.1). Only whole days count,
each once. An hour in which all budgets were gone looks empty; the fifth of every plan that is flat keeps it alive.
Without the file, or with one that cannot be read, plans are flat.

    <models_dir>/supply.json     `Week`, replaced atomically; extended only at the end, with defaults
"""

import logging
import os
from pathlib import Path

import msgspec

from bidder import pacing
from dmp import events
from dmp.errors import BadEvents
from dmp.events import Bid

log = logging.getLogger("tagbid.bidder")
FILE = "supply.json"
VERSION = 1
HOUR_US, DAY_US = 3_600_000_000, 86_400_000_000
WEIGHT = 1 - 2**-0.5  # of a new day among those of its weekday: half-life two weeks
PER_HOUR = pacing.SLOTS // 24


class Week(msgspec.Struct, frozen=True):
    """until_day: days since 1970 that have been counted, exclusive. hours: [weekday, 0 = Monday][hour], () unknown."""

    version: int = VERSION
    until_day: int = 0
    hours: tuple[tuple[float, ...], ...] = ((),) * 7


NOTHING = Week()


def load(models_dir: Path) -> Week:
    """What was learnt; nothing where there is no such file or it is damaged, which is told."""
    try:
        week = msgspec.json.decode((models_dir / FILE).read_bytes(), type=Week)
    except FileNotFoundError:
        return NOTHING
    except (OSError, msgspec.DecodeError) as error:
        log.error("plans are flat: %s cannot be read (%s)", models_dir / FILE, error)  # noqa: TRY400 - for its reader
        return NOTHING
    fits = (
        week.version == VERSION
        and len(week.hours) == 7
        and all(len(day) in (0, 24) and all(0 <= n < float("inf") for n in day) for day in week.hours)
    )
    if not fits:
        log.error("plans are flat: %s is not a week of hours; `tagbid bidder supply` makes it again", models_dir / FILE)
    return week if fits else NOTHING


def save(models_dir: Path, week: Week) -> None:
    """Replace the file; whoever reads it sees the old one or the new one."""
    models_dir.mkdir(parents=True, exist_ok=True)
    draft = models_dir / f".{FILE}.{os.getpid()}"
    draft.write_bytes(msgspec.json.encode(week))
    draft.replace(models_dir / FILE)


def weekday(day: int) -> int:
    """Of days since 1970, which began on a Thursday.

    >>> weekday(0), weekday(4)
    (3, 0)
    """
    return (day + 3) % 7


def slots(week: Week, day: int) -> tuple[float, ...]:
    """Supply of a day for `pacing.plan`; () where nothing is known of its weekday."""
    return tuple(n / PER_HOUR for n in week.hours[weekday(day)] for _ in range(PER_HOUR))


def learn(week: Week, bidlog: Path, now_us: int) -> Week:
    """The week after the whole days of a bid log that are news to it. Raises BadEvents when there is no log."""
    paths = sorted(bidlog.glob("*.mpk"))
    if not paths:
        raise BadEvents(f"{bidlog}: no *.mpk bid log files; run the bidder first or name its bidlog directory")
    today = now_us // DAY_US
    auctions: dict[int, list[set[str]]] = {}
    for path in paths:
        for event in events.read_file(path):
            day = event.time_us // DAY_US
            if isinstance(event, Bid) and week.until_day <= day < today:
                hours = auctions.setdefault(day, [set() for _ in range(24)])
                hours[event.time_us % DAY_US // HOUR_US].add(event.auction_id)
    learnt = list(week.hours)
    for day, hours in sorted(auctions.items()):
        at = weekday(day)
        learnt[at] = pacing.learnt(learnt[at], [float(len(names)) for names in hours], WEIGHT)
    return Week(VERSION, max(week.until_day, today) if auctions else week.until_day, tuple(learnt))
