"""Event detection: trigger rules (`dmp.rules`) over what the stream just put into a user's record.

`triggers` is a function of the record and the profile, never of the order in which events came: each of the latest
events of a user (the record keeps MAX_RECENT) is a moment, and a rule is asked whether it held there, looking back
from it. What it raises ends a stated time after the last moment that met it. A moment whose window reaches back
before the events that are remembered cannot be judged again: for it the earlier answer stands.

"No purchase" may be answered too early, before a purchase that comes late: then its tag is withdrawn when that comes.
An audience, once entered, is left when its time is over.

A region is remembered as a tag of its own kind in the record (`region_tag`), raised for a day by each event from there.
"""

import time
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from operator import ge, gt, le, lt

import msgspec
import redis

from dmp import audiences, keys, store
from dmp.events import Behaviour
from dmp.realtime import DAY_US, MAX_RECENT, Parts, Recent, parts
from dmp.rules import ANY, HOT, Acted, All, Any, At, Condition, InRegion, Not, Rule, Rules, Scored, parts_of
from dmp.schema import Realtime, Uid
from dmp.trends import Hot, published

REGION_US = DAY_US
HOT_LOOK_S = 5.0  # how often the hot topics of the store are read
_COMPARE: dict[str, Callable[[int, int], bool]] = {">=": ge, ">": gt, "<=": le, "<": lt}
Profile = Callable[[], Mapping[int, int]]
"""Reads the user's long-term tags when somebody asks."""


def region_tag(region: str) -> int:
    """The number under which a region is remembered; the highest bit keeps it apart from every standard tag."""
    return keys.number(f"!region:{region}") | 1 << 31


def triggers(
    rules: Rules, record: Parts, profile: Profile, hot: Sequence[Hot] = ()
) -> tuple[dict[int, int], dict[str, int]]:
    """({tag: unix second it ends, 0 for withdrawn}, {audience: unix second it ends}) as of this record."""
    zone = zoneinfo.ZoneInfo(rules.zone)
    tags: dict[int, int] = {}
    entered: dict[str, int] = {}
    for rule in rules.rules:
        moments = (event.time_us for event in record.recent)
        last_us = next((at for at in moments if holds(rule.when, at, record, profile, zone, hot)), None)  # newest first
        until_s = 0 if last_us is None else (last_us + rule.for_us) // 1_000_000
        if rule.audience:
            if until_s:
                entered[rule.audience] = max(until_s, entered.get(rule.audience, 0))
            continue
        before_s = record.raised.get(rule.tag, 0)
        if before_s and not judged(rule, record.recent, before_s * 1_000_000 - rule.for_us):
            until_s = max(until_s, before_s)
        if until_s or before_s:
            tags[rule.tag] = max(until_s, tags.get(rule.tag, 0))
    return tags, entered


def judged(rule: Rule, recent: Sequence[Recent], moment_us: int) -> bool:
    """Whether all that counts for a moment is still among the remembered events."""
    if len(recent) < MAX_RECENT:
        return True
    window_us = max((part.window_us for part in parts_of(rule.when) if isinstance(part, Acted)), default=0)
    return moment_us - window_us > recent[-1].time_us


def holds(
    when: Condition,
    now_us: int,
    record: Parts,
    profile: Profile,
    zone: zoneinfo.ZoneInfo,
    hot: Sequence[Hot] = (),
) -> bool:
    """Whether a condition held at a moment, which may be before the newest event of the record."""

    def met(part: Condition) -> bool:
        match part:
            case Acted(kind, tag, times, window_us):
                found = sum(
                    now_us - window_us < event.time_us <= now_us
                    and kind in (ANY, event.kind)
                    and (was_hot(event, hot) if tag == HOT else tag in (0, event.tag))
                    for event in record.recent
                )
                return found >= times
            case InRegion(region):
                return now_us <= record.raised.get(region_tag(region), 0) * 1_000_000
            case At(days, first, end):
                local = datetime.fromtimestamp(now_us // 1_000_000, zone)
                return local.weekday() in days and first <= local.hour < end
            case Scored(tag, compare, score):
                return _COMPARE[compare](profile().get(tag, 0), score)
            case Not(inner):
                return not met(inner)
            case All(inner):
                return all(map(met, inner))
            case Any(inner):
                return any(map(met, inner))

    return met(when)


def was_hot(event: Recent, hot: Sequence[Hot]) -> bool:
    """Whether an event was about a topic that was hot at its time."""
    return any(event.tag == one.tag != 0 and one.since_us <= event.time_us < one.until_us for one in hot)


def watcher(rules: Rules, client: redis.Redis) -> Callable[[Uid, Realtime, Sequence[Behaviour]], Mapping[int, int]]:
    """The rules as `dmp.stream.Watch`: puts users into audiences, and returns the tags to hold and when they end."""
    regions = {part.region for rule in rules.rules for part in parts_of(rule.when) if isinstance(part, InRegion)}

    wants_hot = any(isinstance(part, Acted) and part.tag == HOT for rule in rules.rules for part in parts_of(rule.when))
    hot: list[Hot] = []
    looked_s = -HOT_LOOK_S

    def hot_now() -> list[Hot]:
        nonlocal hot, looked_s
        if wants_hot and time.monotonic() - looked_s >= HOT_LOOK_S:
            hot, looked_s = published(client), time.monotonic()
        return hot

    def watch(uid: Uid, realtime: Realtime, happened: Sequence[Behaviour]) -> Mapping[int, int]:
        record = parts(realtime)
        seen: dict[int, int] = {}
        for event in happened:
            if event.region in regions:
                tag = region_tag(event.region)
                before_s = max(seen.get(tag, 0), record.raised.get(tag, 0))
                seen[tag] = max(before_s, (event.time_us + REGION_US) // 1_000_000)
        known: list[Mapping[int, int]] = []

        def profile() -> Mapping[int, int]:
            if not known:
                known.append(store.read_users(client, [uid], int(time.time()))[0].tags)
            return known[0]

        with_regions = msgspec.structs.replace(record, raised={**record.raised, **seen})
        tags, entered = triggers(rules, with_regions, profile, hot_now())
        for audience, until_s in entered.items():
            audiences.add_members(client, audience, [uid], until_s)
        return {**seen, **tags}

    return watch
